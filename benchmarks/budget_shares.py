"""Which share of the budget should each stage of the embedded pipeline have? And does what one stage has change the next's?

For each budget: the best plan of the graphs of `stage_tables.py` (at most 3 nodes and 8 units a stage; chosen on the first half
of the questions, scored on the other), the best of AgentTTS's settings, and what searches found; the share of a stage is its part
of the plan's price. Then power laws of what each stage spends against the budget, and the paper's insight 3 (AgentTTS, arXiv
2508.00890: what an early stage has changes what is best for later ones).

    python benchmarks/budget_shares.py [budgets=3,4,6,8,12,16,24] [seeds=3] [trials=100]
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from quality.methods import Method
from quality.stage_run import stage_run
from quality.stage_worlds import kept, pipeline, pipeline_best, pipeline_space
from quality.stage_worlds import pipeline_table as table
from stage_tables import UNITS, sampled

from agentgraph.errors import ConfigError
from agentgraph.fit import power_law
from agentgraph.plan import Plan
from agentgraph.space import Space

BUDGETS: Final = (3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
FOUND_BY: Final = {"graphs": "agent_reinforce", "samples": "agent_tts"}
COUNTS: Final = (1, 2, 3, 4, 6, 8, 12, 16)


def best_at(kind: str, units: float) -> tuple[Space, Plan]:
    """The space of that budget, and its best plan on the first half."""
    space = pipeline_space(kind, units)
    return space, pipeline_best(table(), kept(table(), space, kind), units)


def shares(kind: str, budgets: Sequence[float], seeds: int, trials: int) -> Iterator[str]:
    """The best plans by budget, and what searches found."""
    yield (
        f"{kind}: {'budget':>6}{'first half':>12}{'second half':>13}{'recall':>9}{'calc':>8}{'share of recall':>17}"
        f"{'found: share':>14}{'regret':>8}  best plan"
    )
    spent: list[tuple[float, float, float]] = []
    for units in budgets:
        space, plan = best_at(kind, units)
        prices = [
            stage.price(graph).flops / space.budget.unit for stage, graph in zip(space.stages, plan.stages, strict=True)
        ]
        spent.append((units, *prices))
        first, second = table().value(plan)
        found, regret = searched(kind, units, seeds, trials)
        nodes = " | ".join(" ".join(_counted([str(node) for node in graph.nodes])) for graph in plan.stages)
        yield (
            f"{units:>{len(kind) + 8}g}{100 * first:>12.1f}{100 * second:>13.1f}{prices[0]:>9.2f}{prices[1]:>8.2f}"
            f"{100 * prices[0] / sum(prices):>15.0f} %{found:>14}{regret:>8}  {nodes}"
        )
    for s, name in enumerate(("recall", "calc"), start=1):
        yield f"  units of {name} = a budget^b: {_law([(row[0], row[s]) for row in spent])}"


def _counted(names: Sequence[str]) -> list[str]:
    """Equal names once, with how many they are."""
    return [f"{names.count(name)} {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)]


def searched(kind: str, units: float, seeds: int, trials: int) -> tuple[str, str]:
    """Mean share of the first stage of what searches of this budget found, and their mean regret; '-' without searches.

    Graphs of more units than a stage has in the table have no value, so that above these nothing is searched.
    """
    if not seeds or (kind == "graphs" and units > UNITS):
        return "-", "-"
    world = pipeline(kind, units)
    found, regret = [], []
    for seed in range(seeds):
        points = stage_run(world, Method.named(FOUND_BY[kind]), seed, trials)
        plan = Plan.from_compact(points["best"])
        found.append(world.space.split(plan)[0])
        regret.append(100 * (world.best.search - world.value(plan).search))
    return f"{100 * statistics.fmean(found):.0f} %", f"{statistics.fmean(regret):.1f}"


def _law(points: Sequence[tuple[float, float]]) -> str:
    try:
        return power_law(*zip(*points, strict=True)).text()
    except ConfigError as error:
        return f"no fit: {error}"


# Insight 3 -----------------------------------------------------------------------------------------------------------


def insight_3(model: str) -> Iterator[str]:
    """Marks at the end by the number of samples of the second stage, after a poor, a middling and a good first stage."""
    first, second = table().stages
    half = table().halves[0]
    level = first.rows[first.row][:, half].mean(1)
    rows = np.stack([second.right(sampled(model, n, "confidence_vote"))[half] for n in COUNTS])
    yield (
        f"calc {model}×n with a confidence vote, % of the first half; n = {', '.join(map(str, COUNTS))}; best n [its 90 % interval]"
    )
    reach: dict[str, tuple[int, int]] = {}
    for name, wanted in (("poor", 0.25), ("middling", 0.5), ("good", 1.0)):
        place = int(np.argmin(np.abs(level - wanted * level.max())))
        handed = first.rows[first.row[place], half]
        marks = 100 * (rows & handed).mean(1)
        low, high = reach[name] = _interval(rows & handed)
        shown = " ".join(f"{mark:5.1f}" for mark in marks)
        kept_right = [100 * (row & handed).sum() / handed.sum() for row in rows]
        yield (
            f"  {name:<9} recall {100 * handed.mean():5.1f} %: {shown}   best n {COUNTS[int(marks.argmax())]} [{low}, {high}]; of "
            f"what was recalled right, {kept_right[0]:.0f} % with n=1, {max(kept_right):.0f} % at best"
        )
    poor, good = reach["poor"], reach["good"]
    if good[1] < poor[0]:
        said = "yes, as in the paper: after a good first stage fewer samples are best"
    elif good[0] > poor[1]:
        said = "the other way round: after a good first stage more samples are best"
    else:
        said = "no: the intervals of the best n after a poor and after a good first stage meet"
    yield f"  does insight 3 show in the number of samples? {said}"


def _interval(marks: NDArray[np.bool_], draws: int = 1000) -> tuple[int, int]:
    """90 % interval of the best number of samples, by drawing questions again."""
    rng = np.random.default_rng(0)
    best = []
    for _ in range(draws):
        chosen = rng.integers(marks.shape[1], size=marks.shape[1])
        best.append(COUNTS[int(marks[:, chosen].mean(1).argmax())])
    low, high = np.quantile(best, (0.05, 0.95), method="nearest")
    return int(low), int(high)


def best_second(units: Sequence[float]) -> Iterator[str]:
    """The best graph of the second stage for a fixed budget of its own, after first stages that differ in kind."""
    first, second = table().stages
    half = table().halves[0]
    small = np.array([len(graph.nodes) <= 3 for graph in table().graphs[1]])
    by_family = {family: table().graphs[0].index(sampled(f"{family}-medium", 1, "vote").canonical) for family in "ab"}
    for limit in units:
        there = np.flatnonzero(small & (second.units <= limit * (1 + 1e-9)))
        for family, place in by_family.items():
            handed = first.rows[first.row[place], half]
            marks = (second.rows[second.row[there]][:, half] & handed).mean(1)
            best = table().graphs[1][int(there[marks.argmax()])]
            alone = second.rows[second.row[there]][:, half].mean(1)
            lost = 100 * (marks.max() - marks[alone.argmax()])
            nodes = " ".join(_counted([str(node) for node in best.nodes]))
            yield (
                f"  calc of {limit:g} units after recall {family}-medium: best {nodes}; the calc that is best after a perfect "
                f"recall has {lost:.1f} points less"
            )


def main(arguments: Sequence[str]) -> int:
    """Print everything."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    try:
        budgets = tuple(map(float, given.pop("budgets").split(","))) if "budgets" in given else BUDGETS
        seeds, trials = int(given.pop("seeds", 3)), int(given.pop("trials", 100))
    except ValueError as error:
        print(
            f"cannot read {' '.join(arguments)!r}: {error}; budgets are numbers with commas between, seeds and trials whole"
        )
        return 2
    if given or seeds < 0 or trials < 1 or min(budgets) <= 0:
        print(
            f"cannot read {' '.join(arguments)!r}; give budgets=3,4,6 (above 0), seeds=3 (0: no searches) and trials=100"
        )
        return 2
    for kind in FOUND_BY:
        for line in shares(kind, budgets, seeds, trials):
            print(line, flush=True)
    print("insight 3: does what the first stage has change what is best for the second?")
    for model in (f"{family}-small" for family in "ab"):
        for line in insight_3(model):
            print(line)
    for line in best_second((2.0, 4.0, 8.0)):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
