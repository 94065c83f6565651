"""What the objectives make of accuracy and cost, to the number, and what a larger weight can do to a choice."""

import re

import numpy as np
import pytest
from generators import random_plan

from agentgraph.budget import Cost
from agentgraph.config import build, load
from agentgraph.errors import ConfigError
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.objectives.base import RESOURCES, amount
from agentgraph.objectives.constrained import Constrained
from agentgraph.objectives.weighted import Weighted
from agentgraph.trial import Answer, Trial

COST = Cost(flops=6e9, calls=3, prompt_tokens=40, output_tokens=60, usd=0.002, seconds=1.5)


def test_amounts():
    assert {resource: amount(COST, resource, 2e9) for resource in RESOURCES} == {
        "units": 3.0,
        "calls": 3,
        "tokens": 100,
        "usd": 0.002,
        "seconds": 1.5,
    }


def test_weighted():
    objective = Weighted(units=0.01, calls=0.02, tokens=0.001, usd=10, seconds=0.1).with_unit(2e9)
    assert objective.value(0.9, COST) == pytest.approx(0.9 - 0.03 - 0.06 - 0.1 - 0.02 - 0.15)
    assert objective.resources == RESOURCES
    assert Weighted(seconds=0.0).value(0.9, COST) == 0.9
    assert Weighted().value(0.9, COST) == Accuracy().value(0.9, COST) == 0.9
    assert (Weighted().resources, str(Weighted()), str(Accuracy())) == ((), "accuracy", "accuracy")
    assert str(Weighted(seconds=0.1, usd=20)) == "accuracy - 20·usd - 0.1·seconds"


def test_constrained():
    objective = Constrained(seconds=1.0, usd=0.001)
    assert objective.value(0.9, Cost(seconds=1.0, usd=0.001)) == 0.9
    assert objective.met(Cost(seconds=1.0 + 1e-12))
    assert objective.value(0.9, Cost(seconds=1.5)) == pytest.approx(0.9 - 1 - 0.5)
    assert objective.value(0.9, COST) == pytest.approx(0.9 - 1 - 0.5 - 1)
    assert not objective.met(COST)
    assert str(objective) == "accuracy, at most 0.001 usd, at most 1 seconds"
    assert Constrained(units=3).with_unit(2e9).met(COST)
    assert not Constrained(units=2.9).with_unit(2e9).met(COST)


@pytest.mark.parametrize("seed", range(20))
def test_what_exceeds_a_limit_is_never_best_and_less_excess_is_better(seed):
    rng = np.random.default_rng(seed)
    objective = Constrained(seconds=1.0, calls=4)
    points = [
        (
            float(rng.uniform(0, 1)),
            Cost(float(rng.uniform(1, 9)), float(rng.integers(1, 9)), seconds=rng.uniform(0.2, 3)),
        )
        for _ in range(30)
    ]
    best = max(points, key=lambda point: objective.rank(point[0], point[1], point[1]))
    within = [(accuracy, cost) for accuracy, cost in points if cost.seconds <= 1 and cost.calls <= 4]
    assert best == max(within, key=lambda point: point[0])
    exceeding = [point for point in points if point not in within]
    assert all(objective.value(*point) < 0 <= objective.value(*other) for point in exceeding for other in within)
    for times in (1.1, 2.0, 5.0):
        assert objective.value(0.7, Cost(seconds=times)) > objective.value(0.7, Cost(seconds=times * 1.01))


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("resource", RESOURCES)
def test_a_larger_weight_never_chooses_more_of_its_resource(seed, resource):
    rng = np.random.default_rng((seed, 7))
    count = int(rng.integers(1, 40))
    grid = rng.integers(0, 6, (count, 7)) / 5 if seed % 2 else rng.random((count, 7))  # ties, or none
    points = [(float(row[0]), Cost(*map(float, row[1:]))) for row in grid]
    weights = [0.0, *np.sort(rng.exponential(1, 8)), 1e3, 1e6]

    def chosen(weight):
        objective = Weighted(**{resource: float(weight)}, unit=0.7)
        _, cost = max(points, key=lambda point: objective.rank(*point, point[1]))
        return amount(cost, resource, 0.7)

    amounts = [chosen(weight) for weight in weights]
    assert amounts == sorted(amounts, reverse=True)
    assert amounts[-1] == min(amount(cost, resource, 0.7) for _, cost in points)


@pytest.mark.parametrize("objective", [Weighted(seconds=0.5), Constrained(seconds=1.0)])
def test_price_before_marks_and_charge_after(objective):
    trial = Trial(0, random_plan(0), 0, price=Cost(seconds=3.0))
    assert objective.utility(trial) == objective.value(0.0, Cost(seconds=3.0))
    trial.add(Answer("a", 1.0, Cost(seconds=0.5)))
    trial.add(Answer("b", 0.0, Cost(seconds=0.7)))
    assert objective.utility(trial) == objective.value(0.5, trial.charge)
    assert trial.charge.seconds == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("kind", "setting", "shows"),
    [
        ("weighted", "seconds=-1", "objective.seconds=-1 must be a number of at least 0, or null to leave it out"),
        ("weighted", "usd=much", "objective.usd='much' must be a number"),
        ("constrained", "seconds=0", "objective.seconds=0 must be a number above 0, or null to leave it out"),
        ("constrained", "calls=[1]", r"objective.calls=\[1\] must be a number above 0"),
        ("constrained", "units=inf", "objective.units=inf must be a number above 0"),
    ],
)
def test_bad_settings(kind, setting, shows):
    with pytest.raises(ConfigError, match=shows):
        build(load("search", [f"objective={kind}", f"objective.{setting}"]).objective)


def test_unknown_resource():
    with pytest.raises(ConfigError, match=re.escape("the key 'objective.second' is unknown")):
        load("search", ["objective=weighted", "objective.second=1"])
