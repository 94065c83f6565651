"""Marks to numbers with an interval: the mean of one plan, and the difference of two on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agentgraph.errors import TaskError

__all__ = ["interval", "paired_difference"]

Z: Final = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % on each side."""


def interval(marks: Sequence[float]) -> tuple[float, float, float]:
    """Mean of marks with its 95 % interval.

    Parameters
    ----------
    marks
        One mark in [0, 1] for each question, at least one.

    Returns
    -------
    mean, low, high
        All in [0, 1], low <= mean <= high.

    Raises
    ------
    TaskError
        If there is no mark, or one outside [0, 1].

    Notes
    -----
    Marks of 0 and 1: Wilson's interval (1927), which is sound at small numbers and at 0 and 1. Others: normal
    approximation, clipped to [0, 1]; where marks do not vary there is nothing to estimate their spread from, and
    Wilson's, which assumes the widest spread that the mean allows, is taken again.
    """
    values = _checked(marks)
    mean, n = float(values.mean()), len(values)
    spread = float(values.std(ddof=1)) if n > 1 else 0.0
    if spread == 0 or np.isin(values, (0.0, 1.0)).all():
        low, high = _wilson(mean, n)
    else:
        low, high = mean - Z * spread / sqrt(n), mean + Z * spread / sqrt(n)
    return mean, min(mean, max(0.0, low)), max(mean, min(1.0, high))


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Mean of ``a - b`` with its 95 % interval, for marks of two plans on the same questions.

    Parameters
    ----------
    a, b
        Marks in [0, 1], question by question, of equal length, at least one.

    Returns
    -------
    mean, low, high
        In [-1, 1]: normal interval on the differences, clipped; of a single question (-1, 1).

    Raises
    ------
    TaskError
        If the lengths differ, there is no mark, or one is outside [0, 1].
    """
    if len(a) != len(b):
        raise TaskError(f"marks to compare must be of the same questions, got {len(a)} and {len(b)} marks")
    differences = _checked(a) - _checked(b)
    mean, n = float(differences.mean()), len(differences)
    if n == 1:
        return mean, -1.0, 1.0
    half = Z * float(differences.std(ddof=1)) / sqrt(n)
    return mean, max(-1.0, mean - half), min(1.0, mean + half)


def _checked(marks: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(marks, dtype=np.float64)
    if values.size == 0:
        raise TaskError("there are no marks to average; at least one question must have been answered")
    outside = values[~((values >= 0) & (values <= 1))]
    if outside.size:
        raise TaskError(f"marks must be in [0, 1], got {float(outside[0])}; correct the task's mark()")
    return values


def _wilson(mean: float, n: int) -> tuple[float, float]:
    centre = (mean + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n))
    return centre - half, centre + half
