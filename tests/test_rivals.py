"""Hand-wired plans: valid, affordable, as large as the budget pays, and of every kind the space has."""

import pytest
from fakes import POOL, ROLES
from spaces import SHORT, limited, space

from agentgraph.budget import Budget, Rates
from agentgraph.graph import Graph
from agentgraph.model import Model, Pool
from agentgraph.request import Settings
from agentgraph.rivals import hand_wired
from agentgraph.roles.rules import check_roles
from agentgraph.space import Space, StageSpace
from agentgraph.tasks.base import Lengths
from agentgraph.tasks.calc import CalcStage

LONG = Lengths(prompt=300, output={"solve": 20}, edge=20, word={"refine": 3, "fuse": 4})
KINDS = ["single call", "self-consistency", "confidence vote", "star + fuser", "refine chain", "keep chain"]


def inside(units, *, roles=ROLES, pool=POOL, lengths=CalcStage.lengths):
    stage = StageSpace("calc", tuple(roles), pool, 6, lengths)
    return Space((stage,), Budget(units * stage.cheapest, stage.cheapest))


def prices(space, rival):
    """Price of a rival, computed with its own roles."""
    (stage,) = space.stages
    own = StageSpace("calc", tuple(rival.roles.values()) + ROLES[:1], stage.pool, 64, stage.lengths)
    return own.price(rival.plan.stages[0])


@pytest.mark.parametrize("units", [1, 2.5, 8, 13, 40])
@pytest.mark.parametrize("lengths", [CalcStage.lengths, SHORT])
def test_valid_and_affordable(units, lengths):
    space = inside(units, lengths=lengths)
    rivals = hand_wired(space, "calc")
    assert rivals
    for rival in rivals:
        (graph,) = rival.plan.stages
        check_roles(graph, rival.roles)
        assert space.budget.allows(rival.price)
        assert rival.price == prices(space, rival)
        assert {node.role for node in graph.nodes} == set(rival.roles)
        assert len({node.model for node in graph.nodes if node.model}) == 1
    assert len({(rival.kind, rival.plan.id) for rival in rivals}) == len(rivals)


def test_every_kind():
    rivals = hand_wired(inside(20), "calc")
    assert list(dict.fromkeys(rival.kind for rival in rivals if "a-small" in str(rival.plan))) == KINDS
    without = [role for role in ROLES if not role.needs_confidence]
    assert {rival.kind for rival in hand_wired(inside(20, roles=without), "calc")} == set(KINDS) - {
        "confidence vote",
        "keep chain",
    }
    assert {rival.kind for rival in hand_wired(inside(20, roles=ROLES[:1]), "calc")} == {"single call", "refine chain"}


@pytest.mark.parametrize("units", [3, 8, 13.7])
def test_as_large_as_the_budget_pays(units):
    space = inside(units)
    unit = space.budget.unit
    for rival in hand_wired(space, "calc"):
        (graph,) = rival.plan.stages
        if rival.kind in ("self-consistency", "confidence vote"):
            solve = (
                space.stages[0].price(type(graph)((graph.nodes[0].__class__("assistant", graph.nodes[0].model),))).flops
            )
            assert graph.width == int(units * unit * (1 + 1e-9) / solve)
        if rival.kind == "keep chain" and graph.nodes[0].model.endswith("small"):
            assert graph.depth == int(units + 1e-9)
    if units == 8:  # more nodes than the search may use: rivals are held back by nothing but the budget
        assert max(len(rival.plan.stages[0].nodes) for rival in hand_wired(space, "calc")) == 9


def test_temperatures_come_from_the_card():
    pool = Pool([Model("m", 1e6, 2, 32, temperatures={"calc": 0.2, "default": 0.9})])
    rivals = hand_wired(inside(8, pool=pool), "calc")
    single = [rival for rival in rivals if rival.kind == "single call"]
    assert [role.settings for rival in single for role in rival.roles.values()] == [Settings(0.2)]
    votes = [
        role.settings for r in rivals if r.kind == "self-consistency" for role in r.roles.values() if role.needs_model
    ]
    assert votes == [Settings(0.2), Settings(1.0)]
    (other,) = [r for r in hand_wired(inside(8, pool=pool), "recall") if r.kind == "single call"]
    assert [role.settings.temperature for role in other.roles.values()] == [0.9]


@pytest.mark.parametrize(
    "times",
    [
        {"usd": 12},
        {"calls": 5},
        {"tokens": 9.5},
        {"tts_units": 9},
        {"seconds": 4, "usd": 30},
        {"flops": 40, "calls": 7},
    ],
)
def test_largest_that_fits_in_every_limit(times):
    inside = limited(6, times, lengths=LONG)
    (stage,) = inside.stages
    rivals = hand_wired(inside, "calc")
    assert rivals
    for rival in rivals:
        (graph,) = rival.plan.stages
        assert inside.budget.allows(rival.price)
        if rival.kind == "single call":
            continue
        solver, n = next(node for node in graph.nodes if node.role.startswith("assistant")), len(graph.nodes)
        if "chain" in rival.kind:
            larger = Graph((solver, graph.nodes[-1], *graph.nodes[1:]), tuple((i, i + 1) for i in range(n)))
        else:
            larger = Graph((solver, *graph.nodes), tuple((i, n) for i in range(n)))
        wide = StageSpace("calc", (*rival.roles.values(),), stage.pool, 64, stage.lengths)
        assert not inside.budget.allows(wide.price(larger))


def test_where_no_limit_ends_a_star_it_has_as_many_nodes_as_the_search_may_use():
    pool = Pool([Model("m", 1e9, seconds=Rates(call=1.0))])
    stage = StageSpace("calc", ROLES, pool, 6, LONG)
    sizes = {
        rival.kind: len(rival.plan.stages[0].nodes)
        for rival in hand_wired(Space((stage,), Budget(seconds=3.0)), "calc")
    }
    assert sizes["self-consistency"] == sizes["star + fuser"] == 6
    assert sizes["refine chain"] == sizes["keep chain"] == 3


def test_no_more_samples_than_there_are():
    stage = StageSpace("calc", ROLES, POOL, 6, SHORT, dict.fromkeys(POOL.names, 3))
    rivals = hand_wired(Space((stage,), Budget(40 * stage.cheapest, stage.cheapest)), "calc")
    solves = [
        graph.width + sum(node.role.startswith("keep") for node in graph.nodes)
        for rival in rivals
        for graph in rival.plan.stages
    ]
    assert max(solves) == 3
    assert max(rival.plan.stages[0].width for rival in rivals) == 3


def test_models_that_the_budget_does_not_pay_are_left_out():
    rivals = hand_wired(inside(2), "calc")
    assert {node.model for rival in rivals for node in rival.plan.stages[0].nodes if node.model} == {
        "a-small",
        "b-small",
    }


@pytest.mark.parametrize("units", [4, 16, 40])
def test_of_two_stages_each_has_an_even_part_and_one_model_in_the_same_wiring(units):
    both = space(6, units, stages=2)
    rivals = hand_wired(both, "task")
    assert rivals
    assert {rival.kind for rival in rivals} <= set(KINDS)
    assert units == 4 or {rival.kind for rival in rivals} == set(KINDS)
    for rival in rivals:
        check_roles(rival.plan.stages[0], rival.roles)
        assert both.budget.allows(rival.price)
        first, second = rival.plan.stages
        assert first == second  # the stages are alike
        assert len({node.model for graph in rival.plan.stages for node in graph.nodes if node.model}) == 1
    assert len({(rival.kind, rival.plan.id) for rival in rivals}) == len(rivals)


def test_a_stage_whose_part_pays_one_call_only_has_one_where_the_other_has_more():
    cheap = space(6, 8).stages[0]
    dear = StageSpace("dear", ROLES, POOL, 6, LONG)
    rivals = hand_wired(Space((cheap, dear), Budget(2.5 * dear.cheapest, dear.cheapest)), "task")
    votes = [rival for rival in rivals if rival.kind == "self-consistency"]
    assert votes
    for rival in votes:
        first, second = (len(graph.nodes) for graph in rival.plan.stages)
        assert first > 1
        assert second == 1
