"""What every objective promises: a number for any trial, the same for the same trial, larger for more right answers."""

import importlib
import math
import pkgutil

import pytest
from generators import random_plan

import agentgraph.objectives
from agentgraph.budget import Cost
from agentgraph.objectives.base import Objective
from agentgraph.trial import Answer, Trial

FILES = sorted(m.name for m in pkgutil.iter_modules(agentgraph.objectives.__path__) if m.name != "base")


@pytest.fixture(params=FILES)
def objective(request):
    module = importlib.import_module(f"agentgraph.objectives.{request.param}")
    classes = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Objective)]
    (cls,) = [cls for cls in classes if cls is not Objective]
    return cls()


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
