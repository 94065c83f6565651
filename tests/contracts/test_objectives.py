"""What every objective promises: a number for any trial, the same for the same trial, larger for more right answers."""

import importlib
import inspect
import math
import pkgutil

import pytest
from generators import random_plan

import agentgraph.objectives
from agentgraph.budget import Cost
from agentgraph.objectives.base import RESOURCES, Objective
from agentgraph.trial import Answer, Trial

FILES = sorted(m.name for m in pkgutil.iter_modules(agentgraph.objectives.__path__) if m.name != "base")


def member(file):
    loaded = importlib.import_module(f"agentgraph.objectives.{file}")
    (cls,) = [
        v for v in vars(loaded).values() if inspect.isclass(v) and issubclass(v, Objective) and v is not Objective
    ]
    return cls


CASES = [
    (file, resource)
    for file in FILES
    for resource in RESOURCES
    if resource in inspect.signature(member(file)).parameters
]


@pytest.fixture(params=[*((file, "") for file in FILES), *CASES], ids=" ".join)
def objective(request):
    """As its yaml has it, and with a number for each resource that it knows."""
    file, resource = request.param
    return member(file)(**({resource: 0.5} if resource else {}))


def trial(right, wrong, *, flops=10.0):
    made = Trial(0, random_plan(0), 0, Cost(flops))
    for i in range(right + wrong):
        made.add(Answer(f"q{i}", float(i < right), Cost(flops)))
    return made


def test_is_a_finite_number(objective):
    for made in (trial(0, 0), trial(0, 5), trial(5, 0), trial(1, 1, flops=0.0)):
        assert math.isfinite(objective.utility(made))
        assert objective.utility(made) == objective.utility(made)


def test_more_right_answers_are_better(objective):
    values = [objective.utility(trial(right, 10 - right)) for right in range(11)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_questions_that_failed_do_not_count(objective):
    made, failed = trial(3, 1), trial(3, 1)
    failed.add(Answer("lost", None))
    assert objective.utility(made) == objective.utility(failed)


def test_nothing_gets_better_by_costing_more(objective):
    low = {"flops": 1.0, "calls": 1.0, "prompt_tokens": 1.0, "output_tokens": 1.0, "usd": 1.0, "seconds": 1.0}
    for key in low:
        values = [objective.value(0.5, Cost(**{**low, key: more})) for more in (0.0, 0.25, 0.5, 1.0, 2.0, 9.0)]
        assert values == sorted(values, reverse=True)
    met = [objective.met(Cost(*[more] * 6)) for more in (0.0, 0.25, 0.5, 1.0, 2.0)]
    assert met == sorted(met, reverse=True)


def test_better_means_a_higher_rank_and_limits_come_first(objective):
    low, high = Cost(*[0.1] * 6), Cost(*[9.0] * 6)
    assert objective.rank(0.6, low, low) > objective.rank(0.5, low, low)
    assert objective.rank(0.5, low, low) > objective.rank(0.5, low, high)
    if not objective.met(high):
        assert objective.rank(0.0, low, low) > objective.rank(1.0, high, low)


def test_says_what_it_looks_at(objective):
    assert set(objective.resources) <= set(RESOURCES)
    assert all(resource in str(objective) for resource in objective.resources)
    for resource in objective.resources:
        costs = [
            Cost(*[x if resource == "units" else 0.0], *[x if resource != "units" else 0.0] * 5) for x in (0.1, 9.0)
        ]
        assert objective.value(0.5, costs[0]) > objective.value(0.5, costs[1])
