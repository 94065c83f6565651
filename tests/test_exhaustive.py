"""The tables of all plans: whole, as an executor marks them, and read back as they were written."""

import importlib
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from spaces import all_labelled, random_tables

from agentgraph.backends.scripted import Scripted
from agentgraph.config import load_models, load_task
from agentgraph.distribution import Distribution
from agentgraph.errors import BudgetError, GraphError
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.model import Pool
from agentgraph.plan import Plan
from agentgraph.request import Reply
from agentgraph.space import Space
from agentgraph.store import ReplyStore

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
exhaustive = importlib.import_module("exhaustive")
Table, Marker = exhaustive.Table, exhaustive.Marker
each = pytest.mark.parametrize("name", exhaustive.TASKS)


def drawn(space, count, seed):
    """Random plans, half of them from tables far from uniform."""
    plans = {plan.id: plan for plan in Distribution(space).sample(count, seed)}
    plans |= {plan.id: plan for plan in random_tables(space, seed).sample(count, seed)}
    return list(plans.values())


def roles_of(plans):
    return {node.role for plan in plans for node in plan.stages[0].nodes}


def executed(task, space, backends, plans, questions):
    """Marks of an executor, plan by plan, and its replies."""
    store = ReplyStore()
    with Executor(task, space.stages[0].pool, space.stages[0].by_name, backends, store, seed=0) as executor:
        rows = executor.run([Job(plan, questions) for plan in plans])
    return np.array([[answer.mark for answer in row] for row in rows]), store


def marked(task, space, backends, plans, questions):
    """The same by a marker."""
    store = ReplyStore()
    marker = Marker(task, space.stages[0].pool, space.stages[0].by_name, backends, store)
    return marker.marks([plan.stages[0] for plan in plans], questions), store


@each
def test_a_marker_makes_the_requests_of_an_executor_and_gives_its_marks(name):
    task, (pool, backends) = load_task(name), load_models("embedded")
    space = exhaustive.space_of(name, pool)
    plans, questions = drawn(space, 30, 1), task.questions("train")[:12]
    assert len(plans) >= 40
    assert roles_of(plans) == set(exhaustive.ROLES)
    expected, wanted = executed(task, space, backends, plans, questions)
    found, store = marked(task, space, backends, plans, questions)
    assert found.shape == expected.shape
    assert (found == expected).all()
    assert 0 < expected.mean() < 1
    assert store._replies == wanted._replies


def unreliable(request):
    """Half of the replies, and all on some questions, cannot be read; what is sent depends on the request alone."""
    rng = random.Random(request.seed)
    question = request.messages[-1][1].split(":")[1]
    readable = rng.random() < 0.5 and question[-1] not in "123"
    return Reply(f"{rng.randrange(3):03d}" if readable else "what?", 1, 1, logprob=math.log(rng.random()))


def test_absent_parents_and_second_attempts_are_as_an_executor_has_them():
    task = load_task("calc")
    pool = Pool([replace(model, backend="scripted") for model in load_models("embedded")[0]])
    space = exhaustive.space_of("calc", pool)
    backends = {"scripted": Scripted(unreliable, has_logprobs=True)}
    plans = drawn(space, 60, 2)
    assert roles_of(plans) == set(exhaustive.ROLES)
    questions = [replace(question, gold="001") for question in task.questions("train")[:24]]
    expected, wanted = executed(task, space, backends, plans, questions)
    found, store = marked(task, space, backends, plans, questions)
    assert (found == expected).all()
    assert 0.1 < expected.mean() < 0.9
    assert store._replies == wanted._replies


@pytest.mark.slow
@each
def test_a_table_has_the_counts_of_an_executor(name):
    table, task, (_, backends) = Table.load(name), load_task(name), load_models("embedded")
    space, known = table.space(), {question.id: question for question in task.questions("train")}
    plans = [*drawn(space, 6, 3), *table.named.values()]
    marks, _ = executed(task, space, backends, plans, [known[id_] for half in table.halves for id_ in half])
    middle = len(table.halves[0])
    for plan, row in zip(plans, marks, strict=True):
        assert table.value(plan) == (row[:middle].mean(), row[middle:].mean())


@each
def test_a_table_has_every_plan_of_its_space_and_no_other(name):
    table = Table.load(name)
    space = table.space()
    for plan in drawn(space, 200, 4):
        assert all(0 <= value <= 1 for value in table.value(plan))
        assert table.value(plan.stages[0]) == table.value(plan)
    assert (np.diff(table.ids.astype(np.int64)) > 0).all()
    wider = exhaustive.space_of(name, space.stages[0].pool, max_nodes=6, budget_units=16)
    others = [plan for plan in drawn(wider, 100, 5) if plan.nodes > 4 or not space.feasible(plan)]
    assert others
    for plan in others:
        with pytest.raises(KeyError, match=f"at most {table.max_nodes} nodes and 8 units"):
            table.value(plan)


def test_a_plan_of_two_stages_is_in_no_table():
    graph = Graph((Node("assistant", "a-small"),))
    table = Table.load("recall")
    assert table.value(Plan((graph,)))
    with pytest.raises(KeyError, match="one stage"):
        table.value(Plan((graph, graph)))


def test_graphs_are_those_that_the_space_admits():
    pool = Pool([model for model in load_models("embedded")[0] if model.name in ("a-small", "b-medium")])
    roles = ("assistant", "fuser", "keep", "confidence_vote")
    space = exhaustive.space_of("calc", pool, roles, 3, 6.2)
    draws = all_labelled(space.stages[0])
    admitted = set()
    for row in range(len(draws.present)):
        graph = Distribution(space).stages[0].graph(draws, row)
        try:
            space.check(Plan((graph,)))
        except (GraphError, BudgetError):
            continue
        admitted.add(graph.id)
    graphs = exhaustive.graphs_of(space)
    assert [graph.id for graph in graphs] == sorted(admitted)
    assert all(graph == graph.canonical for graph in graphs)


@each
def test_what_a_table_says_of_itself_is_so(name):
    table, task = Table.load(name), load_task(name)
    first, second = table.halves
    assert len(first) == len(second) >= 96
    assert [*first, *second] == [question.id for question in task.questions("train")][: len(table.questions)]
    assert dict(table.models) == {model.name: model.identity for model in load_models("embedded")[0]}
    assert table.plans == len(table.ids) == len(table.right)
    best = table.best()
    assert best.first == table.marks[:, 0].max()
    assert table.value(best.plan) == (best.first, best.second)
    assert table.best("best on the second half").second == table.marks[:, 1].max()
    for shape, wanted in exhaustive.SHAPES.items():
        found = table.best(f"best {shape}")
        assert wanted(found.plan.stages[0])
        assert found.first <= best.first
    assert exhaustive.file_of(name).stat().st_size < 2_000_000


@each
def test_the_best_single_call_is_the_best_of_all_single_calls(name):
    table = Table.load(name)
    singles = []
    for role in ("assistant", "assistant_greedy"):
        for model in ("a-small", "b-small", "a-medium", "b-medium"):
            singles.append(table.value(Graph((Node(role, model),))))
    assert table.best("best single call").first == max(first for first, _ in singles)


def test_a_table_is_read_back_as_it_was_written(tmp_path):
    rng = np.random.default_rng(0)
    plan = Plan((Graph((Node("assistant", "a-small"),)),))
    ids = np.array(sorted({0, 2**48 - 1, int(plan.stages[0].id, 16), *rng.integers(0, 2**48, 500).tolist()}), np.uint64)
    table = Table(
        task="recall",
        max_nodes=1,
        budget_units=2.5,
        roles=("assistant",),
        models={"a-small": "x"},
        questions=("p", "q", "r", "s"),
        ids=ids,
        right=rng.integers(0, 3, (len(ids), 2)).astype(np.uint8),
        named={"best on the first half": plan},
    )
    assert table.save(tmp_path / "tables") == tmp_path / "tables" / "recall.xz"
    again = Table.load("recall", tmp_path / "tables")
    assert (again.ids == table.ids).all()
    assert (again.right == table.right).all()
    rest = {"ids": None, "right": None}
    assert replace(again, **rest) == replace(table, **rest)
    assert again.halves == (("p", "q"), ("r", "s"))
    assert again.best() == (plan, *again.value(plan))
    assert again.space().stages[0].max_nodes == 1
    assert isinstance(again.space(), Space)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there are: none; make it with make=calc"):
        Table.load("calc", tmp_path)


def test_blocks_that_are_there_are_not_made_again(tmp_path):
    making = exhaustive.Making("recall", tmp_path)
    right = np.zeros((3, exhaustive.BLOCK), np.bool_)
    right[1, 5] = right[2, 63] = True
    np.save(tmp_path / "recall-64.npy", np.packbits(right, axis=1))
    assert (making.block(64) == right).all()


def test_the_printed_figures_are_the_tables(capsys):
    assert exhaustive.main([]) == 0
    out = capsys.readouterr().out
    for name in exhaustive.TASKS:
        table = Table.load(name)
        assert f"{name}: {table.plans:,} plans of at most {table.max_nodes} nodes and 8 units" in out
        assert f"{100 * table.best().first:.2f}" in out
    assert out.count("best star") == len(exhaustive.TASKS)


@pytest.mark.parametrize(
    "given", [["make=calc"], ["work=x"], ["make=none", "work=x"], ["mak=calc"], ["make=calc", "work=x", "block=7"]]
)
def test_bad_arguments(given, capsys):
    assert exhaustive.main(given) == 2
    assert "give nothing, or make=" in capsys.readouterr().out
