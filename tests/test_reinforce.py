"""The step is the gradient, exactly; what it learns; what it cannot learn from."""

import json

import numpy as np
import pytest
import torch
from spaces import ROLES, all_labelled, random_tables, space

from agentgraph.distribution import Distribution
from agentgraph.errors import ConfigError
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.policy import policy_gradient
from agentgraph.optimizers.reinforce import Reinforce
from agentgraph.trial import Answer, Trial


def told(inside, plans, mark, questions=8):
    trials = [Trial(i, plan, 0, inside.price(plan)) for i, plan in enumerate(plans)]
    for trial in trials:
        for q in range(questions):
            trial.add(Answer(f"q{q}", mark(trial.plan)))
    return trials


def optimizer(inside, **settings):
    made = Reinforce(**settings)
    made.setup(inside, Accuracy(), rounds=10, call=None)
    return made


@pytest.mark.parametrize(("nodes", "units", "seed"), [(1, 8.0, 1), (2, 1.0, 2), (2, 6.0, 3)])
def test_expected_step_is_the_gradient_enumerated_over_the_distribution(nodes, units, seed):
    # Over all ordered pairs of draws: sum of P(a) P(b) × step(a, b) = gradient of sum of P(a) u(a).
    distribution = random_tables(space(nodes, units, roles=(ROLES[0], ROLES[4])), seed, spread=1.0)
    labelled = all_labelled(distribution.stages[0].space)
    log_prob = distribution.log_prob([labelled])
    labelled = labelled.rows((log_prob > -torch.inf).nonzero()[:, 0].tolist())
    prob = distribution.log_prob([labelled]).exp()
    utility = torch.rand(len(prob), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tables = distribution.stages[0].parameters()
    for table in tables:
        table.requires_grad_()
    exact = torch.autograd.grad(distribution.log_prob([labelled]).exp() @ utility, tables, materialize_grads=True)
    for table in tables:
        table.requires_grad_(False)
    expected = [torch.zeros_like(table) for table in tables]
    for a in range(len(prob)):
        for b in range(len(prob)):
            step = policy_gradient(distribution, [labelled.rows([a, b])], utility[[a, b]])
            expected = [total + prob[a] * prob[b] * part for total, part in zip(expected, step, strict=True)]
    for total, part in zip(expected, exact, strict=True):
        assert torch.allclose(total, part, atol=1e-12)
    assert max(float(part.abs().max()) for part in exact) > 1e-4
    assert not any(table.requires_grad for table in tables)


def test_learns_what_is_rewarded():
    inside = space(4, 8)
    made = optimizer(inside, rate=0.3)

    def mark(plan):
        return float(plan.stages[0].nodes[-1].role == "vote") * 0.5 + 0.5 * float(len(plan.stages[0].nodes) == 4)

    for round_ in range(25):
        plans = made.ask(16, np.random.default_rng(round_))
        made.tell(told(inside, plans, mark))
    graph = made.distribution.mode().stages[0]
    assert graph.nodes[-1].role == "vote"
    assert len(graph.nodes) == 4
    assert made.distribution.entropy() < Distribution(inside).entropy() - 1


def test_a_plan_drawn_twice_is_asked_for_once_and_counts_twice():
    inside = space(1, 1)
    made = optimizer(inside)
    plans = made.ask(30, np.random.default_rng(0))
    assert len({plan.id for plan in plans}) == len(plans) < 30
    made.tell(told(inside, plans, lambda plan: float(plan.stages[0].nodes[0].role == "greedy")))
    assert "over 30 draws of 2 plans" in made.headline()
    logits = made.tables.stages[0].role_logits[0]
    assert logits[1] == pytest.approx(0.1)  # Adam's first step is its rate
    assert logits[0] == pytest.approx(-0.1)


def test_without_marks_nothing_moves():
    inside = space(4, 8)
    made = optimizer(inside)
    before = made.tables.state()
    plans = made.ask(4, np.random.default_rng(0))
    made.tell([Trial(0, plans[0], 0, inside.price(plans[0]))])
    assert made.tables.state() == before
    assert "stay as they are" in made.headline()


def test_state_keeps_the_moments():
    inside = space(4, 8, stages=2)
    one = optimizer(inside)
    for round_ in range(3):
        one.tell(
            told(inside, one.ask(6, np.random.default_rng(round_)), lambda plan: float(len(plan.stages[0].nodes) > 1))
        )
    two = optimizer(inside)
    two.load_state(json.loads(json.dumps(one.state())), [])
    for made in (one, two):
        made.tell(
            told(inside, made.ask(6, np.random.default_rng(9)), lambda plan: float(len(plan.stages[1].nodes) > 1))
        )
    assert one.state() == two.state()
    assert {"step", "exp_avg", "exp_avg_sq"} == set(one.state()["ascent"][0])


def test_bad_rate():
    with pytest.raises(ConfigError, match=r"optimizer.rate=0 does not move the tables"):
        Reinforce(rate=0)
