"""Picking: the best point that fits, against brute force; validated before searched; every refusal in one line."""

import numpy as np
import pytest
from test_front import point

import agentgraph
from agentgraph.budget import Cost
from agentgraph.errors import BudgetError, ConfigError, RunError
from agentgraph.front import Front
from agentgraph.objectives.base import amount
from agentgraph.objectives.constrained import Constrained
from agentgraph.objectives.weighted import Weighted
from agentgraph.pick import BUDGETS, pick
from agentgraph.plan_file import PlanFile

UNIT = 1e9  # of the plan files that `point` makes


def random_cost(rng):
    flops, calls, tokens, usd, seconds, tts_units = rng.uniform(0.5, 8, 6).tolist()
    return Cost(flops * UNIT, calls, tokens, tokens, usd, seconds, tts_units)


def random_front(seed, count=30):
    rng = np.random.default_rng(seed)
    points = []
    for i in range(count):
        numbers = (float(rng.random()), random_cost(rng))
        points.append(point(i, numbers, numbers if rng.random() < 0.6 or not i else None))
    return Front.of(points)


def write(folder, front):
    front.write(folder / "front.json")
    return front


def measures(point):
    cost = point.believed.charge
    return {
        "units": cost.flops / UNIT,
        "flops": cost.flops,
        "calls": cost.calls,
        "tokens": cost.prompt_tokens + cost.output_tokens,
        "usd": cost.usd,
        "seconds": cost.seconds,
        "tts_units": cost.tts_units,
    }


@pytest.mark.parametrize("seed", range(40))
def test_the_best_that_fits(tmp_path, seed):
    rng = np.random.default_rng((seed, 1))
    front = write(tmp_path, random_front(seed))
    keys = rng.choice(list(BUDGETS), int(rng.integers(0, 4)), replace=False)
    some = measures(front.points[int(rng.integers(len(front.points)))])
    budget = {str(key): some[key] * rng.uniform(0.9, 3) for key in keys}
    fitting = [p for p in front.points if all(measures(p)[key] <= limit for key, limit in budget.items())]
    if not fitting:
        with pytest.raises(BudgetError):
            pick(tmp_path, budget)
        return
    best = max(
        fitting,
        key=lambda p: (p.validated is not None, p.believed.accuracy - (0 if p.validated else p.believed.stderr)),
    )
    picked = pick(tmp_path, budget)
    assert picked.plan.plan() == best.plan.plan()
    assert picked.plan.scores == best.plan.scores
    assert sum(row.found for row in picked.rows) == 1
    assert len(picked.rows) + picked.unvalidated == len(front.points)


@pytest.mark.parametrize("seed", range(20))
def test_a_larger_weight_of_latency_never_picks_a_slower_plan(tmp_path, seed):
    front = write(tmp_path, random_front(seed))
    by_plan = {p.plan.plan().id: measures(p)["seconds"] for p in front.points}
    picked = [pick(tmp_path, {}, Weighted(seconds=weight)) for weight in (0, 0.01, 0.03, 0.1, 0.3, 1, 10, 1000)]
    seconds = [by_plan[p.plan.plan().id] for p in picked]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[-1] == min(measures(p)["seconds"] for p in front.points if p.validated)


def test_price_and_charge_must_fit(tmp_path):
    cheap, dear = ((0.5, Cost(2 * UNIT)), (0.9, Cost(3 * UNIT)))
    points = [point(0, cheap, cheap), point(1, dear, dear)]
    points[1] = points[1].model_copy(update={"price": Cost(6 * UNIT)})
    write(tmp_path, Front.of(points))
    assert pick(tmp_path, {"units": 6}).plan.plan() == points[1].plan.plan()
    assert pick(tmp_path, {"units": 5}).plan.plan() == points[0].plan.plan()


def test_validated_before_searched(tmp_path):
    good, lucky = (0.6, Cost(2 * UNIT)), (0.95, Cost(1 * UNIT))
    points = [point(0, good, good), point(1, lucky, None)]
    write(tmp_path, Front.of(points))
    assert pick(tmp_path, {"units": 3}).plan.plan() == points[0].plan.plan()
    picked = pick(tmp_path, {"units": 1.5})
    assert picked.plan.plan() == points[1].plan.plan()
    assert picked.rows[0].name.endswith("(search only)")
    constrained = pick(tmp_path, {}, Constrained(units=1.5))
    assert constrained.plan.plan() == points[1].plan.plan()


def test_the_plan_file_says_how_it_was_found(tmp_path):
    front = write(tmp_path, random_front(0))
    limit = 1.2 * min(measures(p)["units"] for p in front.points)
    plan = agentgraph.pick(tmp_path, units=limit, seconds=100)
    assert plan.budget.units == pytest.approx(limit)
    assert plan.budget.flops == pytest.approx(limit * UNIT)
    assert plan.found.optimizer == f"agent_reinforce, picked from its front budget.units={limit:g} budget.seconds=100"
    plan.write(tmp_path / "picked.json")
    assert PlanFile.read(tmp_path / "picked.json") == plan
    assert agentgraph.pick(tmp_path, seconds=100).budget.flops == 3e10  # the run's own


def test_what_is_newly_limited_stands_in_budget_and_price(tmp_path):
    front = write(tmp_path, random_front(0))
    plan = agentgraph.pick(tmp_path, tts_units=100)
    picked = next(p for p in front.points if p.plan.plan() == plan.plan())
    assert picked.plan.budget.tts_units is None
    assert picked.plan.price.tts_units is None
    assert (plan.budget.tts_units, plan.price.cost()) == (100, picked.price)


def test_nothing_is_written(tmp_path):
    write(tmp_path, random_front(0))
    pick(tmp_path, {"units": 8})
    assert [path.name for path in tmp_path.iterdir()] == ["front.json"]


def test_columns(tmp_path):
    write(tmp_path, random_front(0))
    row = pick(tmp_path, {}, Weighted(calls=0.01, units=0.01)).rows[0]
    assert list(row.amounts) == ["calls", "usd", "seconds"]
    assert row.utility == pytest.approx(row.accuracy - 0.01 * row.amounts["calls"] - 0.01 * row.charge_units)


# ---- refusals


def test_no_point_fits(tmp_path):
    front = write(tmp_path, random_front(3))
    units = min(measures(p)["units"] for p in front.points)
    seconds = min(measures(p)["seconds"] for p in front.points)
    with pytest.raises(BudgetError) as caught:
        pick(tmp_path, {"units": 0.001})
    assert str(caught.value) == (
        f"no point of the front of {tmp_path} fits budget.units=0.001: the cheapest costs {units:.3g} units; allow more"
    )
    with pytest.raises(BudgetError) as caught:
        pick(tmp_path, {"seconds": 0.001}, Constrained(units=0.1))
    assert f"fits budget.seconds=0.001 (accuracy, at most 0.1 units): the cheapest costs {seconds:.3g} seconds" in str(
        caught.value
    )
    assert f"{units:.3g} units, not all of one point" in str(caught.value)


@pytest.mark.parametrize(
    ("budget", "error", "shows"),
    [
        (
            {"unit": 3},
            ConfigError,
            "budget.unit is unknown; a budget may limit flops, units, calls, tokens, usd, seconds, tts_units",
        ),
        ({"units": "x"}, ConfigError, "budget.units='x' must be a number above 0, or null"),
        ({"seconds": 0}, ConfigError, "budget.seconds=0 must be a number above 0"),
    ],
)
def test_bad_budget(tmp_path, budget, error, shows):
    write(tmp_path, random_front(0))
    with pytest.raises(error, match=shows):
        pick(tmp_path, budget)


def test_no_run(tmp_path):
    with pytest.raises(ConfigError, match="nowhere is no run folder; name the folder of a finished search"):
        pick(tmp_path / "nowhere", {})
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(RunError, match=r"is not finished: it has no front.json; go on with: agentgraph search run="):
        pick(tmp_path, {})


def test_amount_of_flops_is_in_units():
    assert amount(Cost(3 * UNIT), "units", UNIT) == 3
