"""Scaling laws fitted to points, by SciPy, with 95 % intervals; what the points cannot support is said, not hidden.

Sources: power laws of the best settings against compute, Singhi et al. (arXiv 2504.01005); the share of compute that
quantisation-aware training should have, arXiv 2509.22935.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agentgraph.errors import ConfigError

__all__ = ["QAT_A", "Fit", "power_law", "qat_fraction", "qat_law", "saturating"]

QAT_A: Final = 6.7297
"""The constant that arXiv 2509.22935 reports."""
_LEAST: Final = 4  # different x that a law needs
_SPAN: Final = 4.0  # factor between the smallest and the largest x
_LEVEL: Final = 0.95

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    Parameters
    ----------
    law
        As a formula.
    values, low, high
        Its constants with their 95 % intervals, by name.
    points
        How many were fitted.
    doubt
        Why the points do not support it; '' if they do.
    curve
        y at given x.
    """

    law: str
    values: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]
    points: int
    doubt: str
    curve: Callable[[Array], Array]

    def text(self) -> str:
        """The constants with their intervals, and what is doubtful."""
        parts = [
            f"{name} {value:.3g} [{self.low[name]:.3g}, {self.high[name]:.3g}]" for name, value in self.values.items()
        ]
        return ", ".join(parts) + (f" (doubtful: {self.doubt})" if self.doubt else "")


def power_law(x: Sequence[float], y: Sequence[float]) -> Fit:
    """``y = a x^b``, least squares of the logarithms; intervals by Student's t.

    Parameters
    ----------
    x, y
        Positive numbers.

    Raises
    ------
    ConfigError
        If there are fewer than three points, or one is not positive.
    """
    from scipy.stats import linregress, t

    xs, ys = _points(x, y, least=3)
    _positive(xs, "x")
    _positive(ys, "y")
    if len(np.unique(xs)) < 2:
        raise ConfigError(f"all {len(xs)} points have x={xs[0]:g}; a power law needs different ones")
    line = linregress(np.log(xs), np.log(ys))
    reach = float(t.ppf((1 + _LEVEL) / 2, len(xs) - 2))
    b, log_a = float(line.slope), float(line.intercept)
    wide_b, wide_a = reach * float(line.stderr), reach * float(line.intercept_stderr)
    return Fit(
        "y = a x^b",
        {"a": math.exp(log_a), "b": b},
        {"a": math.exp(log_a - wide_a), "b": b - wide_b},
        {"a": math.exp(log_a + wide_a), "b": b + wide_b},
        len(xs),
        _doubt(xs),
        lambda at: np.exp(log_a) * at**b,
    )


def saturating(x: Sequence[float], y: Sequence[float]) -> Fit:
    """``y = top - (top - first) x^-rate``: accuracy of a vote against the number of samples, ``first`` that of one.

    Parameters
    ----------
    x
        Numbers of samples, >= 1.
    y
        Accuracies in [0, 1].

    Raises
    ------
    ConfigError
        If there are fewer than four points, or they are out of range.
    """
    xs, ys = _points(x, y, least=4)
    if (xs < 1).any() or (ys < 0).any() or (ys > 1).any():
        raise ConfigError(f"numbers of samples must be at least 1 and accuracies in [0, 1], got {list(x)}, {list(y)}")

    def curve(at: Array, top: float, first: float, rate: float) -> Array:
        return top - (top - first) * at**-rate

    guess = [float(ys.max()), float(ys[xs.argmin()]), 0.7]
    fit = _curve_fit(
        "y = top - (top - first) x^-rate", curve, ("top", "first", "rate"), xs, ys, guess, ([0, 0, 0.01], [1, 1, 5])
    )
    wide = fit.high["top"] - fit.low["top"]
    seen = float(ys.max() - ys.min())
    if not fit.doubt and (wide > 2 * max(seen, 0.01) or fit.values["rate"] < 0.02):
        return Fit(**{**vars(fit), "doubt": "the curve has not flattened within these points"})
    return fit


def qat_law(s: Array | float, a: float = QAT_A) -> Any:  # noqa: ANN401  an array for an array, a number for a number
    """Share of the tokens that quantisation-aware training should have, ``exp(-a / ln S)``.

    Parameters
    ----------
    s
        Tokens per byte of parameters, > 1.
    """
    return np.exp(-a / np.log(s))


def qat_fraction(s: Sequence[float], fraction: Sequence[float]) -> Fit:
    """``f = exp(-a / ln S)`` fitted to best shares found, for ``a`` of one's own.

    Parameters
    ----------
    s
        Tokens per byte of parameters, > 1.
    fraction
        Best share of quantisation-aware training, in (0, 1).
    """
    xs, ys = _points(s, fraction, least=2)
    if (xs <= 1).any() or (ys <= 0).any() or (ys >= 1).any():
        raise ConfigError(f"tokens per byte must be above 1 and shares in (0, 1), got {list(s)}, {list(fraction)}")
    fit = _curve_fit("f = exp(-a / ln S)", qat_law, ("a",), xs, ys, [QAT_A], ([0], [np.inf]))
    missed = float(np.square(ys - fit.curve(xs)).sum())
    if not fit.doubt and missed > float(np.square(ys - ys.mean()).sum()):
        return replace(fit, doubt=f"one share for all, {ys.mean():.2f}, fits better: these do not grow as the law's do")
    return fit


def _curve_fit(
    law: str,
    curve: Callable[..., Array],
    names: Sequence[str],
    xs: Array,
    ys: Array,
    guess: Sequence[float],
    bounds: tuple[Sequence[float], Sequence[float]],
) -> Fit:
    from scipy.optimize import curve_fit
    from scipy.stats import t

    found, covariance = curve_fit(curve, xs, ys, p0=np.clip(guess, *bounds), bounds=bounds, maxfev=20_000)
    free = len(xs) - len(names)
    reach = float(t.ppf((1 + _LEVEL) / 2, free)) if free > 0 else math.inf
    wide = reach * np.sqrt(np.maximum(np.diag(covariance), 0.0))
    doubt = _doubt(xs) if free > 0 else f"{len(xs)} points for {len(names)} constants"
    return Fit(
        law,
        dict(zip(names, map(float, found), strict=True)),
        dict(zip(names, map(float, np.maximum(found - wide, bounds[0])), strict=True)),
        dict(zip(names, map(float, np.minimum(found + wide, bounds[1])), strict=True)),
        len(xs),
        doubt,
        lambda at: np.asarray(curve(at, *found)),
    )


def _points(x: Sequence[float], y: Sequence[float], least: int) -> tuple[Array, Array]:
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if xs.shape != ys.shape or xs.ndim != 1 or not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise ConfigError(f"points must be two lists of finite numbers of one length, got {list(x)} and {list(y)}")
    if len(xs) < least:
        raise ConfigError(f"{len(xs)} points are too few for this law; give at least {least}")
    return xs, ys


def _positive(values: Array, name: str) -> None:
    if (values <= 0).any():
        raise ConfigError(f"{name}={values.min():g} must be positive for a power law")


def _doubt(xs: Array) -> str:
    different = len(np.unique(xs))
    if different < _LEAST:
        return f"only {different} different x"
    if xs.max() < _SPAN * xs.min():
        return f"x spans a factor of {xs.max() / xs.min():.2g} only"
    return ""
