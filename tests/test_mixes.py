"""Mixes of models: the counts that follow from the published proxies, and graphs to try them in."""

import itertools

import numpy as np
import pytest
from fakes import POOL as SIX
from fakes import ROLES as ALL
from spaces import POOL, ROLES, SHORT, limited, stage_space

from agentgraph.budget import Budget, Rates
from agentgraph.model import Model, Pool
from agentgraph.optimizers.mixes import affordable, exact_spend, proxies, warm_up_graphs
from agentgraph.roles.assistant import Assistant
from agentgraph.roles.rules import check_roles
from agentgraph.space import Space, StageSpace
from agentgraph.tasks.base import Lengths
from agentgraph.tasks.calc import CalcStage

LLAMA, HUMAN_EVAL = (1, 3, 9, 81), (1, 4, 7, 81)
SEVEN, SEVEN_HUMAN_EVAL = (1, 3, 9, 81, 1, 3, 9), (1, 4, 7, 81, 1, 4, 7)


def mixes(prices, budget, *, max_nodes=100, seed=0):
    return exact_spend(prices, budget, max_nodes=max_nodes, rng=np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("prices", "budget", "count"),
    [
        (LLAMA, 8, 3),
        (LLAMA, 12, 7),
        (LLAMA, 18, 12),
        (HUMAN_EVAL, 12, 6),
        (SEVEN, 12, 87),
        (SEVEN_HUMAN_EVAL, 12, 70),
    ],
)
def test_published_counts_at_integer_costs(prices, budget, count):
    found = mixes(prices, budget)
    assert len(found) == len(set(found)) == count
    assert {sum(c * p for c, p in zip(mix, prices, strict=True)) for mix in found} == {budget}


def test_at_most_so_many_of_each_model():
    limited = exact_spend(LLAMA, 12, max_nodes=100, rng=np.random.default_rng(0), most=[3, 2, 1, 0])
    assert set(limited) == {
        mix for mix in mixes(LLAMA, 12) if all(c <= m for c, m in zip(mix, [3, 2, 1, 0], strict=True))
    }
    assert len(limited) > 1


def test_mixes_spend_the_budget_in_flops_where_these_are_limited():
    inside = limited(8, {"flops": 6, "calls": 4, "usd": 9}, lengths=SHORT)
    stage = inside.stages[0]
    assert affordable(inside, np.random.default_rng(0)) == mixes(proxies(stage), 6, max_nodes=8)


def test_mixes_spend_the_tightest_resource_where_flops_are_not_limited():
    inside = limited(8, {"usd": 7, "calls": 3, "seconds": 2}, lengths=SHORT)
    found = affordable(inside, np.random.default_rng(0))
    assert {sum(mix) for mix in found} == {3}  # three calls, whatever they cost in dollars
    assert len(found) == 10
    inside = limited(8, {"usd": 7, "calls": 20}, lengths=SHORT)
    prices = proxies(inside.stages[0], "usd")
    assert prices != proxies(inside.stages[0])
    assert {
        sum(c * p for c, p in zip(mix, prices, strict=True)) for mix in affordable(inside, np.random.default_rng(0))
    } == {7}


def test_mixes_fill_the_nodes_where_nothing_that_adds_up_is_limited():
    found = affordable(limited(5, {"seconds": 2}, lengths=SHORT), np.random.default_rng(0))
    assert {sum(mix) for mix in found} == {5}
    assert len(found) == 21


def test_mixes_ask_no_model_more_often_than_it_has_samples():
    inside = limited(8, {"flops": 6}, lengths=SHORT, samples={"small": 2, "medium": 0})
    assert {mix[:2] for mix in affordable(inside, np.random.default_rng(0))} == {(2, 0)}


def test_models_that_are_free_count_as_much_as_the_cheapest_that_is_not():
    pool = Pool([Model("own", 1e9), Model("bought", 1e9, usd=Rates(1.0)), Model("dear", 1e9, usd=Rates(3.0))])
    inside = Space((stage_space(6, pool=pool, lengths=SHORT),), Budget(usd=4.0))
    assert proxies(inside.stages[0], "usd") == (1, 1, 3)
    assert {c + b + 3 * d for c, b, d in affordable(inside, np.random.default_rng(0))} == {4}


@pytest.mark.parametrize("seed", range(30))
def test_all_that_spend_exactly(seed):
    rng = np.random.default_rng(seed)
    prices = tuple(int(p) for p in rng.integers(1, 7, rng.integers(1, 4)))
    budget, nodes = int(rng.integers(1, 14)), int(rng.integers(1, 6))
    reachable = {}
    for mix in itertools.product(range(nodes + 1), repeat=len(prices)):
        spend = sum(c * p for c, p in zip(mix, prices, strict=True))
        if 0 < sum(mix) <= nodes and spend <= budget:
            reachable.setdefault(spend, set()).add(mix)
    found = mixes(prices, budget, max_nodes=nodes)
    assert len(found) == len(set(found))
    assert set(found) == (reachable[max(reachable)] if reachable else set())


def test_a_thousand_at_most():
    prices = (1, 2, 3, 4, 5, 6, 7)
    found, again, other = (mixes(prices, 40, seed=seed) for seed in (0, 0, 1))
    assert len(found) == len(set(found)) == 1000
    assert {sum(c * p for c, p in zip(mix, prices, strict=True)) for mix in found} == {40}
    assert found == again != other


@pytest.mark.parametrize("budget", [10**3, 10**6, 10**12])
def test_more_budget_than_the_nodes_can_spend(budget):
    assert mixes((1, 3), budget, max_nodes=4) == [(0, 4)]


def test_a_large_pool():
    prices = tuple(1 + i % 5 for i in range(50))
    found = mixes(prices, 30, max_nodes=12)
    assert len(found) == len(set(found)) == 1000
    assert {sum(c * p for c, p in zip(mix, prices, strict=True)) for mix in found} == {30}
    assert max(map(sum, found)) <= 12
    used = np.array(found).sum(0)
    assert (used > 0).all()  # a fair sample, not the first thousand


def test_proxies_are_rounded_prices():
    models = [
        Model("1B", 1e9, 16, 2048),
        Model("3B", 3e9, 28, 3072),
        Model("8B", 8e9, 32, 4096),
        Model("70B", 70e9, 80, 8192),
    ]
    stage = StageSpace(
        "a", (Assistant(name="a"),), Pool(models), 3, Lengths(prompt=202, output={"solve": 275}, edge=275)
    )
    assert proxies(stage) == (1, 3, 8, 69)
    assert proxies(stage_space(3)) == (1, 4, 11)
    cheap = {"solve": 100, "solve/medium": 1}  # the medium model says so little that it is the cheapest
    assert min(proxies(stage_space(3, lengths=Lengths(prompt=5, output=cheap, edge=2)))) == 1


@pytest.mark.parametrize("lengths", [CalcStage.lengths, SHORT])
@pytest.mark.parametrize("roles", [ALL, ALL[:1], [role for role in ALL if not role.needs_confidence]])
@pytest.mark.parametrize("units", [1, 4, 9.5, 20])
def test_warm_up_graphs_are_valid_affordable_and_differ(units, roles, lengths):
    stage = StageSpace("calc", tuple(roles), SIX, 7, lengths)
    ceiling = units * stage.cheapest * (1 + 1e-9)
    for mix in exact_spend(proxies(stage), int(units), max_nodes=7, rng=np.random.default_rng(0))[::5]:
        graphs = warm_up_graphs(stage, mix, ["assistant"] * 6, lambda graph: stage.price(graph).flops <= ceiling)
        assert len({graph.id for graph in graphs}) == len(graphs)
        for graph in graphs:
            check_roles(graph, stage.by_name)
            assert len(graph.nodes) <= 7
            assert stage.price(graph).flops <= ceiling
            used = [sum(node.model == name for node in graph.nodes) for name in SIX.names]
            assert all(u <= c for u, c in zip(used, mix, strict=True))
        assert graphs or lengths is SHORT


def test_shapes_of_a_mix():
    stage = stage_space(8)
    graphs = warm_up_graphs(stage, (4, 0, 0), ["greedy", "assistant", "assistant"], lambda graph: len(graph.nodes) <= 8)
    shapes = {(graph.width, graph.depth, graph.nodes[-1].role) for graph in graphs}
    assert (4, 2, "vote") in shapes
    assert (3, 2, "fuser") in shapes
    assert (3, 2, "keep") in shapes
    assert (1, 4, "keep") in shapes
    assert (2, 3, "confidence_vote") in shapes
    sources = {graph.nodes[i].role for graph in graphs for i in range(len(graph.nodes)) if not graph.parents[i]}
    assert sources == {"greedy"}  # the role in which the model solves best
    assert len(ROLES) == 6
    assert POOL.names[0] == "small"
