"""Takes another point of a run's front for another budget: no search, no call to a model, no need of the models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentgraph.budget import Budget, Cost
from agentgraph.errors import BudgetError, ConfigError, RunError
from agentgraph.front import Front, Point
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.objectives.base import RESOURCES, Objective, amount, numbers
from agentgraph.plan_file import PlanFile
from agentgraph.plan_format import BudgetEntry, PriceEntry
from agentgraph.report import Row
from agentgraph.run_folder import RunFolder

__all__ = ["BUDGETS", "Picked", "pick"]

BUDGETS: Final = ("flops", *RESOURCES, "tts_units")
"""What a budget may limit, several at once."""


@dataclass(frozen=True)
class Picked:
    """A point of a front.

    Parameters
    ----------
    plan
        The picked plan with its scores, for the new budget.
    rows
        The front as a table: the picked point, then the other validated ones from cheap to dear.
    unvalidated
        How many points are not in the table because the search alone saw them.
    """

    plan: PlanFile
    rows: list[Row]
    unvalidated: int


def pick(run: Path, budget: Mapping[str, float | None], objective: Objective | None = None) -> Picked:
    """The best point of a run's front within a budget.

    Parameters
    ----------
    run
        Folder of a finished search.
    budget
        Limits of price and charge of a question by name, see `BUDGETS`; ``None`` sets none.
    objective
        What is best; ``None`` takes accuracy.

    Raises
    ------
    ConfigError
        If there is no such run, or a limit is no number or unknown.
    RunError
        If the run is not finished, or its front cannot be read.
    BudgetError
        If no point fits.

    Notes
    -----
    Validated points are preferred: what the search alone saw is picked only where nothing else fits, by its utility less
    one standard error.
    """
    strange = sorted(set(budget) - set(BUDGETS))
    if strange:
        raise ConfigError(f"budget.{strange[0]} is unknown; a budget may limit {', '.join(BUDGETS)}")
    numbers(budget, "budget")
    limits = {key: float(value) for key, value in budget.items() if value is not None}
    front = _front(run)
    unit = front.points[0].plan.budget.unit_flops
    objective = (objective or Accuracy()).with_unit(unit)

    def fits(point: Point) -> bool:
        costs = (point.price, point.believed.charge)
        within = all(_amount(cost, key, unit) <= limit * (1 + 1e-9) for key, limit in limits.items() for cost in costs)
        return within and objective.met(point.believed.charge)

    def rank(point: Point) -> tuple[float, ...]:
        seen = point.believed
        accuracy = seen.accuracy if point.validated else seen.accuracy - seen.stderr
        return (
            point.validated is not None,
            *objective.rank(accuracy, seen.charge, point.price),
            -point.plan.plan().nodes,
        )

    best = max(filter(fits, front.points), key=rank, default=None)
    asked = " ".join(f"budget.{key}={value:g}" for key, value in limits.items())
    if best is None:
        raise BudgetError(_too_little(run, front, asked, [*limits, *objective.resources], objective))
    others = [point for point in front.points if point.validated and point is not best]
    rows = [_row(point, objective, picked=point is best) for point in (best, *others)]
    unvalidated = len(front.points) - len(others) - (best.validated is not None)
    return Picked(_plan(best, limits, asked), rows, unvalidated)


def _front(run: Path) -> Front:
    if not run.is_dir():
        raise ConfigError(f"run={run} is no run folder; name the folder of a finished search")
    path = RunFolder(run).front
    if not path.exists():
        raise RunError(f"run={run} is not finished: it has no front.json; go on with: agentgraph search run={run}")
    return Front.read(path)


def _amount(cost: Cost, key: str, unit: float) -> float:
    return cost.flops if key == "flops" else amount(cost, key, unit)


def _too_little(run: Path, front: Front, asked: str, keys: list[str], objective: Objective) -> str:
    """What the cheapest point costs: by each limit alone, so that it is seen which one is too low."""
    unit = front.points[0].plan.budget.unit_flops
    least = {
        key: min(max(_amount(cost, key, unit) for cost in (p.price, p.believed.charge)) for p in front.points)
        for key in dict.fromkeys(keys)
    }
    limits = asked + (f" ({objective})" if objective.resources else "")
    cheapest = ", ".join(f"{value:.3g} {key}" for key, value in least.items())
    apart = "" if len(least) == 1 else ", not all of one point"
    return f"no point of the front of {run} fits {limits.strip()}: the cheapest costs {cheapest}{apart}; allow more"


def _plan(point: Point, limits: Mapping[str, float], asked: str) -> PlanFile:
    """The plan file with what is newly limited in its budget and price, and how it was picked."""
    plan, unit = point.plan, point.plan.budget.unit_flops
    given = {key: limit for key, limit in limits.items() if key != "units"}
    if "units" in limits:
        given["flops"] = min(limits["units"] * unit, given.get("flops", float("inf")))
    budget = Budget(unit=unit, **{**plan.budget.budget().limits, **given})
    found = plan.found.model_copy(
        update={"optimizer": f"{plan.found.optimizer}, picked from its front {asked}".strip()}
    )
    price = PriceEntry.of(point.price, budget)
    return plan.model_copy(update={"budget": BudgetEntry.of(budget), "price": price, "found": found})


def _row(point: Point, objective: Objective, *, picked: bool) -> Row:
    seen, unit, graphs = point.believed, point.plan.budget.unit_flops, point.plan.plan()
    models = sorted({node.model for graph in graphs.stages for node in graph.nodes if node.model})
    shown = [key for key in ("usd", "seconds") if getattr(seen.charge, key)]
    keys = dict.fromkeys([*(key for key in objective.resources if key != "units"), *shown])
    return Row(
        name=f"{graphs.id}: {graphs.nodes} nodes, {len(models)} models{'' if point.validated else ' (search only)'}",
        accuracy=seen.accuracy,
        low=seen.low,
        high=seen.high,
        price_units=point.price.flops / unit,
        charge_units=seen.charge.flops / unit,
        found=picked,
        amounts={key: amount(seen.charge, key, unit) for key in keys},
        utility=objective.value(seen.accuracy, seen.charge) if objective.resources else None,
    )
