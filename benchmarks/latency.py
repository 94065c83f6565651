"""Accuracy with latency: what a larger weight of latency chooses, the front of accuracy, cost and latency, and one pick.

    python benchmarks/latency.py [data=<folder of the tables>] [tasks=calc,recall] [worlds=mmlu,triviaqa] [rounds=12] [seed=0]

For each world: one search for accuracy alone, whose front validation scored; from it the plan that
accuracy - weight·seconds chooses, for weights from 0 up; what a search of its own with each weight finds; and the choice from
what all of these searches validated.
The worlds of llm_cascades (nine models, recorded seconds and dollars) need `data`; where it is absent, that is said.
Exit status 1 if a larger weight ever chose a slower plan from the front.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import agentgraph as ag
from agentgraph.front import Front, Point
from agentgraph.objectives.weighted import Weighted
from agentgraph.pick import pick
from agentgraph.report import table
from agentgraph.run import Result

STEPS = (0.0, 0.03, 0.1, 0.2, 0.4, 0.8, 2.0, 10.0)
"""Weights, as the accuracy that the latency of the plan chosen at weight 0 is worth."""
HEAD = f"{'accuracy':>8}{'s, price':>10}{'s, charge':>10}{'units':>9}{'$/1000':>9}  plan"
TRUTH = """The plan from the front is chosen by validation numbers from one set of plans, so a larger weight cannot choose a
slower one: if a is best at weight v and b at w > v, then u(a) - v·c(a) >= u(b) - v·c(b) and u(b) - w·c(b) >= u(a) - w·c(a),
and the sum is (w - v)·(c(a) - c(b)) >= 0. Searches of their own meet different plans by chance, so of them nothing of the
kind is promised: they are shown as they come out."""


@dataclass(frozen=True)
class World:
    """What to search: settings of `agentgraph.search`."""

    name: str
    task: str
    models: str
    units: float
    settings: dict[str, object]


def embedded(task: str) -> World:
    """A task of the embedded family; seconds by the rates in its yaml."""
    return World(f"{task}, embedded models", task, "embedded", 8.0, {"max_nodes": 10})


def recorded(table_: str, data: Path, folder: Path) -> World | None:
    """A world of llm_cascades, or ``None`` with a word on why not."""
    from recorded import llm_cascades

    name = f"llm_cascades-{table_}"
    if not (data / "llm_cascades").is_dir():
        print(f"skipped {name}: {data / 'llm_cascades'} is not there")
        return None
    found = [world for world in llm_cascades.worlds(data) if world.name == name]
    if not found:
        print(f"skipped {name}: there are {', '.join(llm_cascades.TASKS)}")
        return None
    whole = found[0].complete()
    votes = "" if whole.marks_only else ",vote,confidence_vote"
    settings = {
        "task.path": whole.write(folder / name),
        "max_nodes": 6,
        "role": f"[assistant,keep{votes}]",
    }
    return World(f"{name}, recorded replies", "recorded", "recorded", 600.0, settings)


def find(world: World, folder: Path, weight: float, shared: dict[str, object]) -> Result:
    """One search with that weight of latency."""
    objective = {"objective": "weighted", "objective.seconds": f"{weight:.6g}"}
    settings = {**world.settings, **shared, **objective}
    return ag.search(world.task, world.models, budget_units=world.units, folder=folder, watch=False, **settings)


def best(front: Front, folder: Path, weight: float) -> Point:
    """The point of the front in a folder that has the highest accuracy - weight·seconds."""
    plan = pick(folder, {}, Weighted(seconds=weight)).plan.plan()
    return next(point for point in front.points if point.plan.plan() == plan)


def show_point(point: Point) -> str:
    """Accuracy, latency in price and charge, cost, and nodes of a point."""
    seen, unit = point.believed, point.plan.budget.unit_flops
    shape = " ".join(sorted({node.role for graph in point.plan.plan().stages for node in graph.nodes}))
    return (
        f"{seen.accuracy:8.3f}{point.price.seconds:10.4f}{seen.charge.seconds:10.4f}{seen.charge.flops / unit:9.2f}"
        f"{1000 * seen.charge.usd:9.3f}  {point.plan.plan().id} {point.plan.plan().nodes} nodes: {shape}"
    )


def choices(front: Front, folder: Path, weights: list[float], title: str) -> bool:
    """Print what each weight chooses from a front, which is written to the folder; whether none chose a slower plan."""
    folder.mkdir(exist_ok=True)
    front.write(folder / "front.json")
    print(f"{'weight':>9}  {title}\n{'per s':>9}  {HEAD}")
    points = [best(front, folder, weight) for weight in weights]
    for weight, point in zip(weights, points, strict=True):
        print(f"{weight:9.3g}  {show_point(point)}")
    seconds = [point.believed.charge.seconds for point in points]
    good = seconds == sorted(seconds, reverse=True)
    print(f"A larger weight never chose a slower plan: {good}\n", flush=True)
    return good


def one(world: World, folder: Path, shared: dict[str, object]) -> bool:
    """Search, choose and print; whether no larger weight chose a slower plan."""
    began = time.monotonic()
    print(f"\n=== {world.name}: budget {world.units:g} units ===")
    first = find(world, folder / "0", 0.0, shared)
    base = best(first.front, folder / "0", 0.0).believed.charge.seconds
    weights = [step / base for step in STEPS]
    validated = sum(point.validated is not None for point in first.front.points)
    print(
        f"One search: {len(first.archive)} plans, {first.summary['calls_made']:,} calls; front of "
        f"{len(first.front.points)} points, {validated} of them validated.\n"
        "Accuracy is that on validation questions, costs are those of a question.\n"
    )
    good = choices(first.front, folder / "0", weights, "chosen from the front of the one search")
    print(f"{'weight':>9}  found by a search of its own with that weight\n{'per s':>9}  {HEAD}")
    results = [first]
    for number, weight in enumerate(weights):
        if number:
            results.append(find(world, folder / str(number), weight, shared))
        print(f"{weight:9.3g}  {show_point(best(results[-1].front, folder / str(number), weight))}", flush=True)
    every = Front.of(point for result in results for point in result.front.points)
    print()
    good &= choices(every, folder / "all", weights, "chosen from the fronts of all these searches together")

    quick = min(max(point.price.seconds, point.believed.charge.seconds) for point in every.points)
    print(
        "The front of all together, its validated points; picked halfway between the quickest and the most accurate plan:"
    )
    picked = pick(folder / "all", {"seconds": (quick + max(base, quick)) / 2})
    table(picked.rows, sys.stdout)
    print(f"{picked.plan.found.optimizer}; {time.monotonic() - began:.0f} s for this world", flush=True)
    return good


def main(arguments: list[str]) -> int:
    """Run each world and print."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    known = {"data": "", "tasks": "calc", "worlds": "mmlu,triviaqa", "rounds": "12", "seed": "0"}
    if set(given) - set(known):
        print(f"unknown: {', '.join(sorted(set(given) - set(known)))}; there are {', '.join(known)}")
        return 2
    asked = {**known, **given}
    shared: dict[str, object] = {"rounds": int(asked["rounds"]), "seed": int(asked["seed"])}
    print(TRUTH)
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worlds: list[World | None] = [embedded(task) for task in asked["tasks"].split(",") if task]
        if not asked["data"]:
            print("skipped llm_cascades: give data=<folder of the tables>")
        else:
            data = Path(asked["data"]).expanduser()
            worlds += [recorded(table_, data, folder) for table_ in asked["worlds"].split(",") if table_]
        for number, world in enumerate(world for world in worlds if world):
            good &= one(world, folder / f"world {number}", shared)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
