"""Draws under limits of every kind, several at once, and with few samples: valid, affordable, and as likely as they say."""

import random

import pytest
import torch
from spaces import POOL, PRICED, ROLES, SHORT, agrees, all_labelled, limited, random_tables, stage_space

from agentgraph.budget import NOT_FOR_SALE, RESOURCES, Budget, Rates, Tokens
from agentgraph.distribution import Distribution
from agentgraph.errors import AgentGraphError, BudgetError, SpaceError
from agentgraph.graph import Graph, Node
from agentgraph.model import Model, Pool
from agentgraph.plan import Plan
from agentgraph.space import Space, StageSpace
from agentgraph.tasks.base import Lengths
from agentgraph.tasks.calc import CalcStage

LONG = Lengths(prompt=300, output={"solve": 20}, edge=20, word={"refine": 3, "fuse": 4})
BRIEF = Lengths(prompt=300, output={"solve": 20, "refine": 5, "fuse": 30}, edge=10, word={"refine": 3, "fuse": 4})
FEW = ({}, {"small": 1, "medium": 1, "large": 1}, {"small": 2, "large": 1}, {"small": 0, "medium": 3})
SOME = (ROLES[0], ROLES[2], ROLES[3], ROLES[4])


class SolvesOnly(Lengths):
    """As in a recorded world: calls with parents cannot be had."""

    def tokens(self, word, candidates, model):
        return Tokens(NOT_FOR_SALE, 20) if candidates or word != "solve" else super().tokens(word, candidates, model)


ONLY = SolvesOnly(prompt=300, output={"solve": 20}, edge=20)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def random_space(seed):
    """A space of random size, lengths and samples, with one to six limits that buy a plan together."""
    choose = random.Random(seed)
    while True:
        names = choose.sample(RESOURCES, choose.choice((1, 2, 2, 3, len(RESOURCES))))
        settings = {
            "times": {name: choose.choice((1.3, 2.0, 4.0, 12.0)) for name in names},
            "stages": choose.choice((1, 1, 1, 2, 3)),
            "samples": choose.choice(FEW),
            "lengths": choose.choice((LONG, BRIEF, ONLY, CalcStage.lengths)),
        }
        try:
            return limited(choose.choice((1, 2, 3, 5, 8)), **settings)
        except BudgetError:
            continue


# ---- every draw is valid, affordable, priced and accounted for


@pytest.mark.parametrize("seed", range(80))
def test_draws_are_valid_and_affordable(seed):
    inside = random_space(seed)
    distribution = random_tables(inside, seed)
    draws = distribution.draw(40, generator(seed))
    plans = [distribution.plan(draws, row) for row in range(40)]
    for row, plan in enumerate(plans):
        inside.check(plan)
        assert inside.feasible(plan)
        flops = sum(float(draw.price[row]) for draw in draws)
        assert inside.price(plan).flops == pytest.approx(flops, rel=1e-9)
    assert agrees(distribution, draws)
    inside.check(distribution.mode())


@pytest.mark.parametrize("seed", range(40))
def test_any_numbers_name_a_valid_plan(seed):
    inside = random_space(seed)
    distribution = random_tables(inside, seed, spread=50.0)
    numbers = torch.rand(distribution.choices, 20, dtype=torch.float64, generator=generator(seed)).round() * (
        1 - 2**-53
    )
    draws = distribution.decode(numbers)
    for row in range(20):
        inside.check(distribution.plan(draws, row))


@pytest.mark.parametrize("seed", range(40))
def test_what_a_walk_says_it_took_is_the_price(seed):
    inside = random_space(seed)
    stage = random_tables(Space(inside.stages[:1], Budget()), seed).stages[0]
    names = tuple(RESOURCES)
    made = type(stage)(stage.space, names)
    for table in ("edge_logits", "role_logits", "model_logits"):
        setattr(made, table, getattr(stage, table))
    ceiling = torch.full((len(names), 30), 1e29, dtype=torch.float64)
    numbers = torch.rand(made.choices, 30, dtype=torch.float64, generator=generator(seed))
    draws, spent = made.walk(ceiling, uniforms=numbers)
    for row in range(30):
        price = made.space.price(made.graph(draws, row))
        gifts = [2.0 if name == "tts_units" else 0.0 for name in names]
        took = [float(amount) - gift for amount, gift in zip(spent[:, row], gifts, strict=True)]
        assert took == pytest.approx([getattr(price, name) for name in names], rel=1e-9, abs=1e-9)


# ---- against enumeration

TINY = [
    ({"usd": 2.5}, {}, LONG),
    ({"seconds": 2.5}, {}, LONG),
    ({"seconds": 1.5}, {}, LONG),
    ({"calls": 2}, {}, LONG),
    ({"tokens": 3}, {}, LONG),
    ({"tts_units": 2}, {}, LONG),
    ({"tts_units": 1.2}, {}, LONG),
    ({"flops": 12}, FEW[1], ONLY),
    ({"usd": 8}, FEW[2], ONLY),
    ({"seconds": 4}, FEW[1], ONLY),
    ({"flops": 6, "usd": 6}, {}, LONG),
    ({"flops": 30, "seconds": 4}, {}, LONG),
    ({"usd": 4, "seconds": 4, "tts_units": 30}, FEW[1], BRIEF),
    ({"usd": 4, "seconds": 3, "calls": 3}, FEW[2], BRIEF),
    ({"tts_units": 9}, FEW[1], BRIEF),
]


@pytest.mark.parametrize(("times", "samples", "lengths"), TINY)
def test_probabilities_sum_to_one(times, samples, lengths):
    inside = limited(3, times, samples=samples, lengths=lengths, roles=SOME)
    labelled = all_labelled(inside.stages[0])
    distribution = random_tables(inside, 1, spread=1.0)
    log_prob = distribution.log_prob([labelled])
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-9)
    possible = log_prob > -torch.inf
    valid = torch.tensor([valid_in(inside, distribution.plan([labelled], row)) for row in range(len(possible))])
    assert possible.any()
    assert not (possible & ~valid).any()
    if len(times) == 1 and lengths is not BRIEF:  # then nothing that is valid is out of reach
        assert torch.equal(possible, valid)


def valid_in(space, plan):
    try:
        space.check(plan)
    except AgentGraphError:
        return False
    return True


@pytest.mark.parametrize(("times", "samples", "lengths"), TINY[::3])
def test_draws_match_log_prob(times, samples, lengths):
    inside = limited(3, times, samples=samples, lengths=lengths, roles=SOME)
    distribution = random_tables(inside, 2, spread=0.5)
    count = 20_000
    draws = distribution.draw(count, generator(3))[0]
    rows = torch.cat([draws.edges.flatten(1), draws.present, draws.roles, draws.models], 1).long()
    _, place, seen = rows.unique(dim=0, return_inverse=True, return_counts=True)
    prob = torch.zeros(len(seen), dtype=torch.float64)
    prob[place] = draws.log_prob.exp()
    often = prob * count >= 5
    expected, observed = prob[often] * count, seen[often].double()
    freedom = int(often.sum())  # the rest is a cell of its own
    rest = max(count - float(expected.sum()), 1e-9)
    chi_square = float((((observed - expected) ** 2) / expected).sum())
    chi_square += (count - float(observed.sum()) - rest) ** 2 / max(rest, 5.0)
    z = ((chi_square / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / (2 / (9 * freedom)) ** 0.5  # Wilson and Hilferty
    assert freedom > 2
    assert z < 3.5


def test_mean_of_the_score_is_zero():
    distribution = random_tables(limited(3, {"usd": 4, "seconds": 3, "flops": 30}, lengths=LONG, roles=SOME), 1)
    labelled = all_labelled(distribution.stages[0].space)
    tables = [table.requires_grad_() for table in distribution.stages[0].parameters()]
    log_prob = distribution.log_prob([labelled])
    possible = log_prob > -torch.inf
    weighted = (log_prob[possible].exp().detach() * log_prob[possible]).sum()
    for gradient in torch.autograd.grad(weighted, tables, materialize_grads=True):
        assert float(gradient.abs().max()) < 1e-12


# ---- what each limit does


def test_flops_alone_and_flops_with_limits_that_do_not_bind_draw_the_same():
    stage = stage_space(8, pool=PRICED, lengths=LONG)
    alone = Space((stage,), Budget(9 * stage.cheapest, stage.cheapest))
    rich = {"calls": 1e6, "tokens": 1e9, "usd": 1e9, "seconds": 1e9, "tts_units": 1e9}
    many = Space((stage,), Budget(9 * stage.cheapest, stage.cheapest, **rich))
    ample = Space((with_samples(stage, dict.fromkeys(PRICED.names, 8)),), alone.budget)
    plans = random_tables(alone, 4).sample(300, 5)
    assert random_tables(many, 4).sample(300, 5) == plans
    assert random_tables(ample, 4).sample(300, 5) == plans


def with_samples(stage, samples):
    return StageSpace(stage.name, stage.roles, stage.pool, stage.max_nodes, stage.lengths, samples)


def test_seconds_limit_the_depth_and_not_the_width():
    pool = Pool([Model("m", 1e9, seconds=Rates(call=1.0))])
    stage = stage_space(8, pool=pool, roles=(ROLES[0], ROLES[4]), lengths=SHORT)
    graphs = [plan.stages[0] for plan in Distribution(Space((stage,), Budget(seconds=2.0))).sample(500, 1)]
    depth = [graph.longest_path([float(bool(node.model)) for node in graph.nodes]) for graph in graphs]
    assert set(depth) == {1.0, 2.0}
    assert max(graph.width for graph in graphs) >= 5


def test_calls_are_counted():
    stage = stage_space(6, lengths=SHORT)
    plans = Distribution(Space((stage,), Budget(calls=3))).sample(400, 1)
    calls = {sum(bool(node.model) for node in plan.stages[0].nodes) for plan in plans}
    assert calls == {1, 2, 3}


def test_stars_share_their_prompt_in_tts_units():
    # what AgentTTS calls S samples of one model: as many as the budget buys, to the last one
    pool = Pool([Model("7B", 7e9), Model("32B", 32e9)])
    lengths = Lengths(prompt=2048, output={"solve": 128}, edge=10)
    stage = stage_space(16, pool=pool, roles=(ROLES[0], ROLES[4]), lengths=lengths)
    distribution = Distribution(Space((stage,), Budget(tts_units=500.0)))
    table = distribution.stages[0]
    table.model_logits[:, 1], table.role_logits[0, 1], table.edge_logits[1:, 0] = 9.0, 9.0, 9.0
    table.edge_logits[:, 1:] = -9.0
    widths = [
        plan.stages[0].width
        for plan in distribution.sample(200, 0)
        if set(plan.stages[0].nodes[:-1]) == {Node("assistant", "32B")}
    ]
    assert max(widths) == int((500 - 360.67) / 21.33) + 1 == 7


@pytest.mark.parametrize("samples", [{"small": 1, "medium": 1, "large": 1}, {"small": 3, "medium": 1, "large": 2}])
def test_no_model_solves_more_often_than_it_has_samples(samples):
    inside = limited(8, {"flops": 500}, samples=samples, lengths=ONLY)
    used = [inside.stages[0].solves(plan.stages[0]) for plan in Distribution(inside).sample(500, 1)]
    assert {name: max(count[name] for count in used) for name in samples} == samples
    assert max(count.total() for count in used) == sum(samples.values())


def test_shares_give_each_stage_its_part_of_every_limit():
    inside = limited(6, {"usd": 10, "calls": 4}, stages=2, lengths=LONG)
    distribution = Distribution(inside)
    taken = []
    for lean in (3.0, -3.0):
        distribution.share_logits = torch.tensor([lean, -lean], dtype=torch.float64)
        prices = [inside.stages[0].price(plan.stages[0]) for plan in distribution.sample(300, 0)]
        taken.append((sum(price.usd for price in prices), sum(price.calls for price in prices)))
    (usd, calls), (less_usd, less_calls) = taken
    assert usd > 1.5 * less_usd
    assert calls > 1.5 * less_calls


# ---- what is refused


@pytest.mark.parametrize(
    ("limits", "shows"),
    [
        (
            {"usd": 0.5},
            r"budget\.usd=0\.5 buys no call: the cheapest plan, one solve by 'medium' per stage, costs 1\.6; raise",
        ),
        (
            {"seconds": 1},
            r"budget\.seconds=1 buys no call: the cheapest plan, one solve by 'large' per stage, costs 5\.1",
        ),
        (
            {"calls": 0.5},
            r"budget\.calls=0\.5 buys no call: .* costs 1; raise the budget or add a model that takes less",
        ),
        ({"tokens": 10}, r"budget\.tokens=10 buys no call: .* costs 320; "),
        ({"tts_units": 1}, r"budget\.tts_units=1 buys no call: .*'small' per stage, costs 3; "),
        (
            {"usd": 2, "seconds": 6},
            r"a budget of 2 USD, 6 s buys no plan: .* one solve per stage by 'small', takes 3\.5 of 2 USD, 7 of 6 s; raise",
        ),
    ],
)
def test_budget_that_buys_no_plan(limits, shows):
    stage = stage_space(3, pool=PRICED, lengths=LONG)
    with pytest.raises(BudgetError, match=shows) as caught:
        Space((stage,), Budget(**limits))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["usd", "seconds"])
def test_limit_that_limits_nothing(name):
    with pytest.raises(
        BudgetError, match=rf"budget\.{name}=3 limits nothing: no model .*'{name}: {{call: .*in the models' yaml"
    ):
        Space((stage_space(3, pool=POOL),), Budget(**{name: 3.0}))


def test_plans_from_elsewhere():
    inside = limited(4, {"flops": 500}, samples={"small": 2}, lengths=ONLY)
    solver, vote = Node("assistant", "small"), Node("vote")
    star = Plan((Graph((*[solver] * 3, vote), ((0, 3), (1, 3), (2, 3))),))
    with pytest.raises(SpaceError, match="asks 3 samples of 'small', 2 were recorded; use this model at most 2 times"):
        inside.check(star)
    assert not inside.feasible(star)
    with pytest.raises(BudgetError, match="needs a call that cannot be had at any price"):
        inside.check(Plan((Graph((solver, solver), ((0, 1),)),)))
    with pytest.raises(
        SpaceError, match="no model can be asked: of small, medium, large every question needs an answer"
    ):
        limited(4, {"flops": 9}, samples=dict.fromkeys(PRICED.names, 0))
