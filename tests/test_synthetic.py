"""Planted optima are what they are said to be: by exact sums, by throwing the dice, and against random plans."""

import asyncio
import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentgraph.backends.synthetic import Synthetic
from agentgraph.cli import main
from agentgraph.config import load_models, load_task
from agentgraph.distribution import Distribution
from agentgraph.errors import BackendError, BackendRefused, TaskError
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan
from agentgraph.request import Request, Settings
from agentgraph.store import ReplyStore
from agentgraph.tasks.synthetic import BUDGET_UNITS, LANDSCAPES, MAX_NODES
from agentgraph.tasks.synthetic import Synthetic as SyntheticTask

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
landscapes = importlib.import_module("landscapes")
SPACE = landscapes.space()
ROLES = SPACE.stages[0].by_name
each = pytest.mark.parametrize("name", list(LANDSCAPES))


def thrown(name, plans, count):
    """Marks of plans, row by row, with dice."""
    task, (pool, backends) = SyntheticTask(name), load_models("synthetic")
    with Executor(task, pool, ROLES, backends, ReplyStore(), seed=3) as executor:
        rows = executor.run([Job(plan, task.questions("test")[:count]) for plan in plans])
    assert all(answer.charge.flops == SPACE.price(plans[0]).flops for answer in rows[0])  # price is charge
    return [[answer.mark for answer in row] for row in rows]


def close(marks, expected, errors):
    n = len(marks)
    spread = math.sqrt(max(expected * (1 - expected), 0.01) / n)
    assert abs(sum(marks) / n - expected) < errors * spread


@each
def test_stated_value_is_exact_and_what_the_dice_give(name):
    planted = LANDSCAPES[name]
    SPACE.check(planted.optimum)
    assert landscapes.Exact(planted, ROLES).score(planted.optimum.stages[0]) == pytest.approx(planted.value, abs=1e-12)
    close(thrown(name, [planted.optimum], 1000)[0], planted.value, 3)


@each
def test_no_random_plan_beats_the_optimum(name):
    planted = LANDSCAPES[name]
    exact = landscapes.Exact(planted, ROLES)
    plans = {plan.id: plan for plan in Distribution(SPACE).sample(300, seed=5)}
    scores = {id_: exact.score(plan.stages[0]) for id_, plan in plans.items()}
    assert max(scores.values()) <= planted.value + 1e-9
    largest = sorted(plans.values(), key=lambda plan: -len(plan.stages[0].nodes))[:4]
    for plan, marks in zip(largest, thrown(name, largest, 200), strict=True):
        close(marks, scores[plan.id], 4)


def test_landscapes_want_what_they_are_named_for():
    width, depth, mix = (LANDSCAPES[name].optimum.stages[0] for name in ("width", "depth", "mix"))
    assert width.width >= 4
    assert width.depth == 2
    assert depth.width == 1
    assert depth.depth >= 4
    assert len({node.model for node in mix.nodes if node.model}) == 2
    exact = landscapes.Exact(LANDSCAPES["mix"], ROLES)
    for model in ("east", "west"):  # tall ones would be over budget
        renamed = Graph(tuple(Node(node.role, model if node.model else "") for node in mix.nodes), mix.edges)
        assert exact.score(renamed) < LANDSCAPES["mix"].value - 0.05


def test_exact_scores_by_hand():
    exact = landscapes.Exact(LANDSCAPES["width"], ROLES)
    assert exact.score(Graph((Node("assistant", "tall"),))) == pytest.approx(0.6)
    # Right if both are, or if the first is: the second agrees with no wrong answer.
    pair = Plan((Graph((Node("assistant", "east"), Node("assistant", "west"), Node("vote")), ((0, 2), (1, 2))),))
    assert exact.score(pair.stages[0]) == pytest.approx(0.5)
    deep = landscapes.Exact(LANDSCAPES["depth"], ROLES)
    chain = Graph((Node("assistant", "east"), Node("assistant", "east")), ((0, 1),))
    assert deep.score(chain) == pytest.approx(0.35 * 0.97 + 0.65 * 0.35)


def test_every_plan_is_listed_once():
    stage = replace(SPACE.stages[0], max_nodes=3)
    small = landscapes.Space((stage,), landscapes.Budget(3.2 * SPACE.budget.unit, SPACE.budget.unit))
    found = [graph.id for graph in landscapes.plans(small)]
    assert len(set(found)) == len(found)
    assert {plan.stages[0].id for plan in Distribution(small).sample(1000, seed=1)} <= set(found)


def test_search_needs_no_model(tmp_path, capsys, monkeypatch):
    settings = ["task=synthetic", "task.landscape=depth", "models=synthetic", "rounds=3", "plans_per_round=4"]
    settings += [f"budget.units={BUDGET_UNITS}", f"max_nodes={MAX_NODES}", "questions_per_round=16"]
    settings += [f"task.sizes.{split}=32" for split in ("train", "validation", "test")]
    monkeypatch.setattr(sys, "argv", ["agentgraph", "search", *settings, f"hydra.run.dir={tmp_path}"])
    main()
    assert (tmp_path / "best.json").exists()
    assert "synthetic" in capsys.readouterr().out


def test_bad_input():
    with pytest.raises(TaskError, match=r"task.landscape='height' is unknown; use one of width, depth, mix"):
        load_task("synthetic", landscape="height")

    def ask(text, model="east"):
        request = Request(model, model, (("user", text),), Settings(max_tokens=9))
        return asyncio.run(Synthetic().reply(request))

    with pytest.raises(BackendError, match="cannot read 'What is 6 times 7\\?'.*task=synthetic"):
        ask("What is 6 times 7?")
    task = SyntheticTask("mix")
    asked = task.asked(0, task.questions("train")[0], "")
    assert ask(f"SL:{asked}").output_tokens == 10
    with pytest.raises(BackendRefused, match=r"skills of \['east', 'west', 'tall'\], not 'north'"):
        ask(f"SL:{asked}", "north")
