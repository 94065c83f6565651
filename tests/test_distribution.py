"""Draws are valid and affordable, and their log-probabilities are the truth: checked by enumeration and by counting."""

import itertools
import json

import numpy as np
import pytest
import torch
from spaces import ROLES, SHORT, agrees, all_labelled, random_tables, space

from agentgraph.distribution import Distribution
from agentgraph.errors import AgentGraphError
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan
from agentgraph.walk import pick

SIZES = (1, 2, 3, 8, 12)
BUDGETS = (1, 1.5, 2, 3, 4, 8, 16, 100)
PER_SPACE = 250  # draws for each of 40 spaces: 10,000 in all
TINY = [(1, 8.0, 1), (2, 1.0, 2), (2, 30.0, 3), (3, 2.0, 4), (3, 6.0, 5)]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def tiny(nodes, units, seed, **settings):
    distribution = random_tables(space(nodes, units, **settings), seed, spread=1.0)
    return distribution, all_labelled(distribution.stages[0].space)


# ---- every draw is valid, affordable, priced and accounted for


@pytest.mark.parametrize(("nodes", "units"), list(itertools.product(SIZES, BUDGETS)))
def test_draws_are_valid_and_affordable(nodes, units):
    distribution = random_tables(space(nodes, units), 100 * nodes + int(units))
    draws = distribution.draw(PER_SPACE, generator(1))
    for row in range(PER_SPACE):
        plan = distribution.plan(draws, row)
        distribution.space.check(plan)
        assert distribution.space.price(plan).flops == pytest.approx(float(draws[0].price[row]), rel=1e-9)
    assert draws[0].log_prob.isfinite().all()
    assert torch.allclose(distribution.log_prob(draws), draws[0].log_prob, atol=1e-9)
    distribution.space.check(distribution.mode())


def test_untrained_tables_draw_small_and_large_graphs():
    distribution = Distribution(space(8, 16))
    sizes = distribution.draw(1000, generator(0))[0].present.sum(1)
    shares = torch.bincount(sizes, minlength=9)[1:] / 1000
    assert (shares > 0.01).all()


@pytest.mark.parametrize("seed", range(5))
def test_stages_together_stay_within_the_budget(seed):
    distribution = random_tables(space(5, 3.0 + 4 * seed, stages=3), seed)
    draws = distribution.draw(300, generator(seed))
    for row in range(300):
        plan = distribution.plan(draws, row)
        distribution.space.check(plan)
    total = torch.stack([draw.price for draw in draws]).sum(0)
    assert float(total.max()) <= distribution.space.budget.flops * (1 + 1e-9)
    assert agrees(distribution, draws)


def test_shares_move_the_budget_between_stages():
    distribution = Distribution(space(8, 12, stages=2))
    distribution.share_logits = torch.tensor([3.0, -3.0], dtype=torch.float64)
    first, second = (draw.price.mean() for draw in distribution.draw(300, generator(0)))
    assert first > 2 * second
    distribution.share_logits = torch.tensor([-3.0, 3.0], dtype=torch.float64)
    first, second = (draw.price.mean() for draw in distribution.draw(300, generator(0)))
    assert second > 2 * first


# ---- against enumeration


@pytest.mark.parametrize(("nodes", "units", "seed"), TINY)
@pytest.mark.parametrize(
    "settings", [{"roles": ROLES[1:5]}, {"lengths": SHORT, "roles": (ROLES[0], *ROLES[2:4], ROLES[5])}]
)
def test_probabilities_sum_to_one_over_valid_and_affordable_graphs(nodes, units, seed, settings):
    distribution, labelled = tiny(nodes, units, seed, **settings)
    log_prob = distribution.log_prob([labelled])
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-9)
    possible = log_prob > -torch.inf
    for row in range(len(log_prob)):
        try:
            distribution.space.check(distribution.plan([labelled], row))
            valid = True
        except AgentGraphError:
            valid = False
        assert valid == bool(possible[row])
    assert possible.any()


def test_draws_match_log_prob():
    distribution, labelled = tiny(3, 9.0, 3, roles=(ROLES[0], ROLES[2], ROLES[4]))
    prob = distribution.log_prob([labelled]).exp().numpy()
    count = 40_000
    draws = distribution.draw(count, generator(7))[0]

    def key(d, k):
        return (*d.edges[k].flatten().tolist(), *d.present[k].tolist(), *d.roles[k].tolist(), *d.models[k].tolist())

    place = {key(labelled, k): k for k in range(len(prob))}
    seen = np.bincount([place[key(draws, k)] for k in range(count)], minlength=len(prob))
    assert not seen[prob == 0].any()
    often = prob * count >= 5
    expected = np.append(prob[often] * count, prob[~often].sum() * count)
    observed = np.append(seen[often], seen[~often].sum())
    chi_square = float((((observed - expected) ** 2) / np.maximum(expected, 1e-12)).sum())
    freedom = len(expected) - 1
    z = ((chi_square / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / (2 / (9 * freedom)) ** 0.5  # Wilson and Hilferty
    assert abs(z) < 3.5
    assert often.sum() > 50  # a test of many cells, not of a few


def logits(distribution):
    tables = [table for stage in distribution.stages for table in stage.parameters()]
    for table in tables:
        table.requires_grad_()
    return tables


@pytest.mark.parametrize(("nodes", "units", "seed"), TINY)
def test_mean_of_the_score_is_zero(nodes, units, seed):
    # sum of p · grad log p = grad of sum of p = grad of 1
    distribution, labelled = tiny(nodes, units, seed, roles=ROLES[1:5])
    tables = logits(distribution)
    log_prob = distribution.log_prob([labelled])
    possible = log_prob > -torch.inf
    weight = torch.where(possible, log_prob, 0.0).exp().detach() * possible
    total = (weight[possible] * log_prob[possible]).sum()
    for gradient in torch.autograd.grad(total, tables, allow_unused=True):
        assert gradient is None or float(gradient.abs().max()) < 1e-12


def test_expected_reinforce_step_is_the_gradient_of_the_mean():
    distribution, labelled = tiny(3, 5.0, 9, roles=ROLES[1:5])
    utility = torch.rand(len(labelled.price), dtype=torch.float64, generator=generator(4))

    def mean_utility():
        log_prob = distribution.log_prob([labelled])
        return (torch.where(log_prob > -torch.inf, log_prob, -1e9).exp() * utility).sum()

    tables = logits(distribution)
    log_prob = distribution.log_prob([labelled])
    possible = log_prob > -torch.inf
    prob = log_prob.detach()[possible].exp()
    baseline = float((prob * utility[possible]).sum())
    surrogate = (prob * (utility[possible] - baseline) * log_prob[possible]).sum()
    steps = torch.autograd.grad(surrogate, tables)
    # the exact gradient, by central differences of the mean utility
    rng = np.random.default_rng(0)
    checked = 0
    with torch.no_grad():
        for table, step in zip(tables, steps, strict=True):
            flat, moves = table.view(-1), step.view(-1)
            for i in rng.permutation(flat.numel())[:6]:
                before = float(flat[i])
                flat[i] = before + 1e-5
                up = float(mean_utility())
                flat[i] = before - 1e-5
                down = float(mean_utility())
                flat[i] = before
                assert (up - down) / 2e-5 == pytest.approx(float(moves[i]), abs=1e-8)
                checked += abs(float(moves[i])) > 1e-6
    assert checked > 5


# ---- the most probable walk


@pytest.mark.parametrize("seed", range(20))
def test_mode_takes_the_best_option_at_each_choice(seed):
    # where one option of each choice has nearly all the probability, the mode is what is drawn
    distribution = random_tables(space(5, 20), seed, spread=1.0)
    for stage in distribution.stages:
        for table in stage.parameters():
            table.mul_(1e5)
    drawn = set(distribution.sample(20, seed))
    assert drawn == {distribution.mode()}


def test_mode_of_planted_tables():
    distribution = Distribution(space(4, 50))
    stage = distribution.stages[0]
    stage.edge_logits = torch.full((4, 4), -4.0, dtype=torch.float64)
    stage.edge_logits[1, 0] = stage.edge_logits[2, 0] = stage.edge_logits[3, 1] = 4.0
    for slot, (role, model) in enumerate([("fuser", "large"), ("keep", "small"), ("greedy", "medium"), ("greedy", 0)]):
        stage.role_logits[slot, [r.name for r in ROLES].index(role)] = 3.0
        stage.model_logits[slot, stage.space.pool.names.index(model) if model else 0] = 3.0
    nodes = (Node("greedy", "small"), Node("greedy", "medium"), Node("keep", "small"), Node("fuser", "large"))
    assert distribution.mode() == Plan((Graph(nodes, ((0, 2), (1, 3), (2, 3))),))


# ---- given graphs


def test_label_and_back():
    distribution = random_tables(space(6, 30), 5)
    plans = distribution.sample(100, 1)
    labelled = distribution.label(plans)
    assert [distribution.plan(labelled, row) for row in range(100)] == plans
    assert distribution.log_prob(labelled).exp().sum() <= len(set(plans))


@pytest.mark.parametrize(
    "graph",
    [
        Graph((Node("assistant", "large"),) * 2, ((0, 1),)),  # dearer than the budget
        Graph((Node("vote"),)),  # a vote without voters
        Graph((Node("assistant", "small"), Node("vote"), Node("assistant", "small")), ((0, 1), (1, 2))),
        Graph((Node("assistant", "small"), Node("fuser", "small"), Node("fuser", "small")), ((0, 1), (1, 2))),
    ],
    ids=["over budget", "no parent", "vote inside", "fuser above fuser"],
)
def test_impossible_graphs_have_no_probability(graph):
    distribution = random_tables(space(3, 9), 0)
    good = Plan((Graph((Node("assistant", "small"),)),))
    log_prob = distribution.log_prob(distribution.label([Plan((graph,)), good]))
    assert log_prob[0] == -torch.inf
    assert log_prob[1].isfinite()


# ---- numbers that name plans


@pytest.mark.parametrize("seed", range(4))
def test_numbers_name_the_option_whose_interval_they_fall_in(seed):
    distribution = random_tables(space(4, 1e6), seed)  # nothing is dear, so most options are allowed
    stage, numbers = distribution.stages[0], torch.rand(14, 500, dtype=torch.float64, generator=generator(seed))
    draws = distribution.decode(numbers)[0]
    role = torch.searchsorted(torch.softmax(stage.role_logits[0], 0).cumsum(0), numbers[0])
    assert torch.equal(draws.roles[:, 0], role)
    asks = torch.tensor([role.needs_model for role in ROLES])[role]
    model = torch.searchsorted(torch.softmax(stage.model_logits[0], 0).cumsum(0), numbers[1])
    assert torch.equal(draws.models[:, 0], torch.where(asks, model, 0))
    chosen = numbers[2] < torch.sigmoid(stage.edge_logits[1, 0])
    assert torch.equal(draws.edges[:, 1, 0], chosen)
    assert stage.choices == len(numbers)


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("units", [1, 2.5, 16])
def test_any_numbers_name_a_valid_plan(number, units):
    distribution = random_tables(space(6, units), 2, spread=200.0)
    draws = distribution.decode(torch.full((distribution.stages[0].choices, 1), number, dtype=torch.float64))
    distribution.space.check(distribution.plan(draws, 0))
    assert draws[0].log_prob.isfinite()


def test_options_keep_their_probabilities_where_some_are_not_allowed():
    # the remainder of a number that names a forbidden option is uniform again
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    allowed = torch.tensor([True, True, False, False, True])
    numbers = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    option = pick(logits, allowed[:, None].expand(-1, len(numbers)), numbers)
    found = torch.bincount(option, minlength=5) / len(numbers)
    wanted = torch.softmax(torch.where(allowed, logits, -torch.inf), 0)
    assert torch.allclose(found.double(), wanted, atol=1e-4)


# ---- state and seeds


def test_state_goes_through_json():
    distribution = random_tables(space(5, 12, stages=2), 3)
    again = Distribution(distribution.space)
    again.load_state(json.loads(json.dumps(distribution.state())))
    assert again.sample(50, 9) == distribution.sample(50, 9)
    assert again.state() == distribution.state()
    assert again.entropy() == distribution.entropy() > 0


def test_same_seed_same_draws():
    distribution = random_tables(space(8, 12), 3)
    assert distribution.sample(50, 1) == distribution.sample(50, 1)
    assert distribution.sample(50, 1) != distribution.sample(50, 2)


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Distribution(space(4, 4)).sample(10, 5)
    assert torch.equal(torch.get_rng_state(), before)
