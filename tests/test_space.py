"""Search spaces: what is in them, what it costs, and what is refused."""

import numpy as np
import pytest
from spaces import POOL, ROLES, SHORT, space, stage_space

from agentgraph.budget import Budget, Cost
from agentgraph.errors import BudgetError, GraphError, SpaceError
from agentgraph.graph import Graph, Node
from agentgraph.model import Model, Pool
from agentgraph.plan import Plan
from agentgraph.request import Settings
from agentgraph.roles.assistant import Assistant
from agentgraph.roles.fuser import Fuser
from agentgraph.roles.vote import Vote
from agentgraph.space import Space

SMALL, LARGE = Node("assistant", "small"), Node("assistant", "large")
UNIT = stage_space(1).cheapest


def star(sink, *sources):
    return Graph((*sources, sink), tuple((i, len(sources)) for i in range(len(sources))))


# ---- prices


def test_unit_is_one_solve_by_the_cheapest_model():
    stage = stage_space(3)
    assert stage.price(Graph((SMALL,))).flops == stage.cheapest == Space.unit([stage])
    # 22 prompt and 20 output tokens: 2·28416·42 + 2·2·32·(22·23 + 20·65)
    assert stage.cheapest == 2 * 28416 * 42 + 128 * (22 * 23 + 20 * 65)


def test_unit_of_stages_is_the_dearest_ones():
    cheap, dear = stage_space(2, lengths=SHORT, name="cheap"), stage_space(2, name="dear")
    assert Space.unit([cheap, dear]) == dear.cheapest > cheap.cheapest
    both = Space((cheap, dear), Budget(10 * dear.cheapest, dear.cheapest))
    assert both.cheapest == cheap.cheapest + dear.cheapest
    plan = Plan((Graph((SMALL,)), Graph((LARGE,))))
    assert both.price(plan) == cheap.price(plan.stages[0]) + dear.price(plan.stages[1])


def test_votes_cost_nothing_and_keep_costs_a_solve():
    stage = stage_space(12)
    for d in range(1, 11):
        voted = stage.price(star(Node("vote"), *[SMALL] * d))
        assert voted.flops == pytest.approx(d * stage.cheapest)
        assert voted.calls == d
        kept = stage.price(star(Node("keep", "small"), *[SMALL] * d))
        assert kept.flops == pytest.approx((d + 1) * stage.cheapest)


def test_in_degree_and_model_enter_the_price():
    stage = stage_space(4, lengths=SHORT)
    fused = stage.node_cost(Node("fuser", "small"), 3)
    assert (fused.prompt_tokens, fused.output_tokens) == (5 + 4 + 3 * 2, 3)
    refined = stage.node_cost(Node("assistant", "large"), 2)
    assert (refined.prompt_tokens, refined.output_tokens) == (5 + 1 + 2 * 2, 3)  # 7 tokens are a large model's solve
    assert stage.node_cost(LARGE, 0).output_tokens == 7


def test_table_holds_the_price_of_every_node():
    stage = stage_space(5, lengths=SHORT)
    for r, role in enumerate(stage.roles):
        for m, model in enumerate(stage.pool):
            for d in range(5):
                node = Node(role.name, model.name if role.needs_model else "")
                expected = stage.node_cost(node, d).flops if d >= role.min_parents else 0.0
                assert stage.flops_table[r, m, d] == pytest.approx(expected)


def test_no_model_costs_no_flops():
    assert stage_space(3).node_cost(Node("vote"), 2) == Cost()


# ---- what is refused


def test_budget_that_buys_no_call():
    with pytest.raises(
        BudgetError, match=r"\(0\.5 units\) buys no call: .*'small' per stage, costs 2\.618e\+06 \(1 units\); raise"
    ):
        space(3, 0.5)
    with pytest.raises(BudgetError, match=r"\(1\.9 units\) buys no call.*\(2 units\)"):
        space(3, 1.9, stages=2)
    assert space(3, 2, stages=2).feasible(Plan((Graph((SMALL,)),) * 2))


@pytest.mark.parametrize(
    ("roles", "nodes", "expected"),
    [
        (ROLES, 0, "max_nodes=0 leaves no node; give at least 1"),
        ((*ROLES, Vote(name="vote")), 3, r"roles named twice: .*'vote'.*'vote'.*its own name"),
        ((Vote(name="v"), Fuser(name="f")), 3, r"roles \['v', 'f'\] cannot solve a question; add one"),
        ((), 3, r"roles \[\] cannot solve"),
    ],
)
def test_bad_stage(roles, nodes, expected):
    with pytest.raises(SpaceError, match=expected):
        stage_space(nodes, roles=roles)


@pytest.mark.parametrize(
    ("graphs", "error", "expected"),
    [
        ([Graph((SMALL,))] * 2, SpaceError, "the plan has 2 stages, the task has 1"),
        ([star(Node("vote"), *[SMALL] * 3)], SpaceError, "stage 'stage0' has 4 nodes, at most 3 are allowed"),
        ([Graph((Node("judge", "small"),))], SpaceError, "no role 'judge'; it has assistant, greedy, .*add it"),
        ([Graph((Node("assistant", "huge"),))], SpaceError, r"no model 'huge'; .*replace\.huge=<name in the pool>"),
        ([Graph((Node("fuser", "small"),))], GraphError, r"node 0 \(fuser\(small\)\) has 0 parents, .*at least 1"),
        ([Graph((Node("vote", "small"),))], GraphError, "node 0 .*has 0 parents"),
        ([star(Node("vote"), LARGE)], BudgetError, r"plan [0-9a-f]{12} costs 11\.2 of 4 units, more than the budget"),
    ],
)
def test_plan_outside(graphs, error, expected):
    with pytest.raises(error, match=expected):
        space(3, 4).check(Plan(tuple(graphs)))


def test_plan_inside():
    inside = space(3, 3)
    plan = Plan((star(Node("vote"), SMALL, SMALL),))
    inside.check(plan)
    assert inside.feasible(plan)
    assert not space(3, 1.99).feasible(plan)


def test_pool_is_found_by_name():
    with pytest.raises(Exception, match="the model pool is empty"):
        Pool([])
    with pytest.raises(Exception, match="models named twice in the pool: small; give each its own name"):
        Pool([*POOL, Model("small", 1.0)])
    assert POOL.named("large") is POOL[2]
    assert POOL.names == ("small", "medium", "large")


def test_cheapest_is_by_price_not_by_parameters():
    # the larger model says less, so it is the cheaper one
    lengths = type(SHORT)(prompt=5, output={"solve": 100, "solve/medium": 1}, edge=2)
    stage = stage_space(2, lengths=lengths, roles=(Assistant(name="a", settings=Settings()),))
    prices = [stage.price(Graph((Node("a", name),))).flops for name in POOL.names]
    assert stage.cheapest == min(prices) == prices[1]
    assert np.argmin(prices) == 1
