"""Scaling laws of a finished search: how the best plan's size grows with the budget, and how votes saturate.

For each of several budgets the best trial within it is looked up; the settings of these plans are fitted against the budget, as
Singhi et al. do (arXiv 2504.01005). That is repeated on resampled questions: the exponent is the mean over them and its interval
the middle 95 %, so that the luck of one plan on few questions does not pass for a law.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from agentgraph.errors import ConfigError
from agentgraph.fit import Fit, power_law, saturating
from agentgraph.plan import Plan
from agentgraph.plan_file import PlanFile
from agentgraph.trial import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Law", "laws", "plot", "shares", "table"]

_LEVELS: Final = 8
_RESAMPLES: Final = 200
_DIFFERENT: Final = 4  # best plans that a law needs


@dataclass(frozen=True)
class Law:
    """A law of a search.

    Parameters
    ----------
    name
        What is fitted: 'nodes', 'width', 'depth' (with the stage's rank where there are several), or a vote.
    x_name
        What it is fitted against.
    x, y
        The points.
    fit
        What came out; ``None`` if nothing could be fitted.
    doubt
        Why not, or why not to trust it; '' if neither.
    """

    name: str
    x_name: str
    x: Sequence[float]
    y: Sequence[float]
    fit: Fit | None
    doubt: str


def laws(trials: Sequence[Trial], unit: float, *, seed: int = 0, resamples: int = _RESAMPLES) -> list[Law]:
    """Laws of the trials of a search.

    Parameters
    ----------
    trials
        With marks; those with fewer than half as many as the most marked trial are left out: they stopped early.
    unit
        FLOPs of the budget's unit.
    seed
        Of the resampling.

    Raises
    ------
    ConfigError
        If fewer than two trials are left.
    """
    most = max((len(trial.marks) for trial in trials), default=0)
    kept = [trial for trial in trials if most and len(trial.marks) >= most / 2]
    if len(kept) < 2:
        raise ConfigError(f"{len(kept)} trials with enough marks; a fit needs at least two, let the search run longer")
    return [*_growth(kept, unit, seed, resamples), *_votes(kept)]


def shares(plans: Sequence[PlanFile]) -> list[Law]:
    """How the share that each stage has of the price grows with the budget, over the plans found at several budgets.

    Raises
    ------
    ConfigError
        If there are fewer than two plans, they are of one stage or of different ones, or their budgets are not in FLOPs.
    """
    names = [[stage.name for stage in plan.stages] for plan in plans]
    if len(plans) < 2 or len(names[0]) < 2 or any(other != names[0] for other in names):
        raise ConfigError(
            f"shares need two or more plans of the same stages, two or more, got {names}; give runs of one task at several budgets"
        )
    limits = [plan.budget.flops for plan in plans]
    if any(limit is None for limit in limits):
        raise ConfigError("shares are fitted against a budget in FLOPs or units, which one of the runs does not have")
    x = [limit / plan.budget.unit_flops for limit, plan in zip(limits, plans, strict=True) if limit is not None]
    order = np.argsort(x, kind="stable")
    result = []
    for s, name in enumerate(names[0]):
        y = [plan.stages[s].share or 0.0 for plan in plans]
        at, share = [x[i] for i in order], [y[i] for i in order]
        if len(at) < 3 or len(set(at)) < 2 or min(share) <= 0:
            doubt = "a law needs three plans at two budgets, and no share of 0"
            result.append(Law(f"share of {name}", "budget, units", at, share, None, doubt))
            continue
        fit = power_law(at, share)
        flat = fit.low["b"] <= 0 <= fit.high["b"]
        doubt = fit.doubt or ("the exponent may as well be 0" if flat else "")
        result.append(Law(f"share of {name}", "budget, units", at, share, fit, doubt))
    return result


def _growth(trials: Sequence[Trial], unit: float, seed: int, resamples: int) -> list[Law]:
    prices = np.array([trial.price.flops / unit for trial in trials])
    budgets = np.unique(np.geomspace(prices.min(), prices.max(), _LEVELS))
    sizes = [_sizes(trial.plan) for trial in trials]
    accuracies = _resampled(trials, seed, resamples)  # (1 + resamples, trials); the first is as marked
    best = np.array([[_best(row, prices, budget) for budget in budgets] for row in accuracies])
    different = len(set(best[0]))
    result = []
    for name in sizes[0]:
        y = np.array([[sizes[i][name] for i in row] for row in best], float)
        if np.ptp(budgets) == 0:
            result.append(Law(name, "budget, units", budgets.tolist(), y[0].tolist(), None, "all plans have one price"))
            continue
        fits = [power_law(budgets.tolist(), row.tolist()) for row in y]
        slopes = np.array([fit.values["b"] for fit in fits[1:]] or [fits[0].values["b"]])
        shown = fits[0]
        fit = replace(
            shown,
            values={**shown.values, "b": float(slopes.mean())},
            low={**shown.low, "b": float(np.quantile(slopes, 0.025))},
            high={**shown.high, "b": float(np.quantile(slopes, 0.975))},
        )
        doubt = shown.doubt
        if different < _DIFFERENT:
            doubt = f"only {different} different best plans over {len(budgets)} budgets"
        elif len(set(y[0])) < _DIFFERENT - 1:
            doubt = f"only {len(set(y[0]))} different values"
        elif fit.low["b"] <= 0 <= fit.high["b"]:
            doubt = "the exponent may as well be 0"
        result.append(Law(name, "budget, units", budgets.tolist(), y[0].tolist(), fit, doubt))
    return result


def _sizes(plan: Plan) -> dict[str, int]:
    several = len(plan.stages) > 1
    sizes = dict[str, int]()
    for s, graph in enumerate(plan.stages, start=1):
        of = f" of stage {s}" if several else ""
        sizes |= {f"nodes{of}": len(graph.nodes), f"width{of}": graph.width, f"depth{of}": graph.depth}
    return sizes


def _resampled(trials: Sequence[Trial], seed: int, resamples: int) -> NDArray[np.float64]:
    """Accuracies on the questions as they are, and on questions drawn with replacement, shape (1 + resamples, trials)."""
    questions = {q: i for i, q in enumerate(dict.fromkeys(q for trial in trials for q in trial.marks))}
    marks = np.zeros((len(trials), len(questions)))
    there = np.zeros_like(marks)
    for t, trial in enumerate(trials):
        for q, mark in trial.marks.items():
            marks[t, questions[q]], there[t, questions[q]] = mark, 1.0
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(questions), np.full(len(questions), 1 / len(questions)), size=resamples)
    weights = np.vstack([np.ones(len(questions)), draws])
    counts = weights @ there.T
    return np.asarray(np.divide(weights @ (marks * there).T, counts, out=np.zeros_like(counts), where=counts > 0))


def _best(accuracies: NDArray[np.float64], prices: NDArray[np.float64], budget: float) -> int:
    """The best trial within a budget, the cheaper of equals."""
    allowed = np.flatnonzero(prices <= budget * (1 + 1e-9))
    return int(max(allowed, key=lambda i: (accuracies[i], -prices[i])))


def _votes(trials: Sequence[Trial]) -> list[Law]:
    """For each model, accuracy against the number of its samples under a vote."""
    curves: dict[str, dict[int, list[float]]] = {}
    for trial in trials:
        kind = _vote(trial.plan)
        if kind is not None:
            name, samples = kind
            curves.setdefault(name, {}).setdefault(samples, []).append(trial.accuracy)
    result = []
    for name, points in sorted(curves.items()):
        x = sorted(points)
        y = [float(np.mean(points[samples])) for samples in x]
        if len(x) < 2:
            continue
        if len(x) < _DIFFERENT + 1:
            result.append(Law(name, "samples", x, y, None, f"only {len(x)} numbers of samples were tried"))
        else:
            fit = saturating(x, y)
            result.append(Law(name, "samples", x, y, fit, fit.doubt))
    return result


def _vote(plan: Plan) -> tuple[str, int] | None:
    """Kind of vote and number of samples, if a plan is equal solves of one model under a sink that calls none."""
    if len(plan.stages) != 1:
        return None
    graph = plan.stages[0]
    *sources, sink = graph.nodes
    alike = len(set(sources)) == 1 and not any(graph.parents[:-1])
    return (
        (f"{sink.role} of {sources[0].role} by {sources[0].model}", len(sources)) if alike and not sink.model else None
    )


def plot(laws_: Sequence[Law], folder: Path) -> list[Path]:
    """Draw each law that has a fit as an SVG file; the files.

    Raises
    ------
    ConfigError
        If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            f'plots need matplotlib ({error}): pip install "agentgraph[report]", or plot=false'
        ) from error
    folder.mkdir(exist_ok=True)
    files = []
    for law in laws_:
        if law.fit is not None:
            figure = Figure(figsize=(4.5, 3.2), layout="constrained")
            _draw(figure.add_subplot(), law, law.fit)
            files.append(folder / f"{law.name.replace(' ', '_')}.svg")
            figure.savefig(files[-1])
    return files


def _draw(axes: Axes, law: Law, fit: Fit) -> None:
    from matplotlib.ticker import NullLocator

    at = np.geomspace(min(law.x), max(law.x), 100)
    axes.plot(law.x, law.y, "o", color="black", markersize=4)
    axes.plot(at, fit.curve(at), color="tab:blue")
    axes.set(xlabel=law.x_name, ylabel=law.name if "x^b" in fit.law else "accuracy", xscale="log")
    if "x^b" in fit.law:
        axes.set_yscale("log")
        ticks = sorted(set(law.y))
        axes.set_yticks(ticks, [f"{y:.3g}" for y in ticks])
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(law.x, [f"{x:.3g}" for x in law.x])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(f"{law.name}: {fit.law}" + (" (doubtful)" if law.doubt else ""), fontsize=9)


def table(laws_: Sequence[Law]) -> list[Mapping[str, str]]:
    """Rows for people: name, law, constants, doubt."""
    return [
        {
            "what": law.name,
            "law": law.fit.law if law.fit else "-",
            "constants": replace(law.fit, doubt="").text() if law.fit else "-",
            "points": str(len(law.x)),
            "doubt": law.doubt,
        }
        for law in laws_
    ]
