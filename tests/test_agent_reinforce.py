"""What the settings of Agent-REINFORCE switch: insights, gradients, modes, screening."""

import numpy as np
import pytest
from fakes import FEW, ROLES

from agentgraph.agents.rule_based import RuleBased
from agentgraph.budget import Budget, Cost
from agentgraph.lookup import Known
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.agent_reinforce import AgentReinforce
from agentgraph.space import Space, StageSpace
from agentgraph.tasks.calc import CalcStage
from agentgraph.trial import Answer, Trial

STAGE = StageSpace("calc", ROLES, FEW, 5, CalcStage.lengths)
SPACE = Space((STAGE,), Budget(6 * STAGE.cheapest, STAGE.cheapest))


class Counting(RuleBased):
    """Counts what it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def feedback(self, evidence, complaint=""):
        self.asked.append("feedback")
        return super().feedback(evidence, complaint)

    def choose(self, evidence, mixes, count, complaint="", *, stage=0):
        self.asked.append("choose")
        return super().choose(evidence, mixes, count, complaint, stage=stage)


def played(rounds=5, k=6, look=None, value=None, races=False, **settings):
    """An optimizer after some rounds, its agent, and the plans of each round; b-medium is the model to have."""
    agent = Counting()
    optimizer = AgentReinforce(agent, **settings)
    optimizer.races = races
    optimizer.setup(SPACE, Accuracy(), rounds=rounds, call=None, look=look)
    trials, asked = {}, []
    for round_ in range(rounds):
        plans = optimizer.ask(k, np.random.default_rng((1, round_)))
        asked.append(plans)
        for plan in plans:
            trial = trials.setdefault(plan.id, Trial(len(trials), plan, round_, SPACE.price(plan)))
            skill = (value or _value)(plan)
            for q in range(16 * round_, 16 * round_ + 16):
                right = np.random.default_rng((q, int(plan.id, 16))).random() < skill
                trial.add(Answer(f"q{q}", float(right), Cost(trial.price.flops)))
        optimizer.tell([trials[plan.id] for plan in plans])
    return optimizer, agent, asked


def _value(plan):
    return 0.3 + 0.5 * any(node.model == "b-medium" for node in plan.stages[0].nodes)


def _even(plan):
    del plan
    return 0.5


def changed(optimizer):
    """Whether the tables are not those of a fresh optimizer."""
    fresh = AgentReinforce(RuleBased())
    fresh.setup(SPACE, Accuracy(), rounds=1, call=None)
    return any(
        not np.allclose(a.numpy(), b.numpy())
        for mine, theirs in zip(optimizer.tables.stages, fresh.tables.stages, strict=True)
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("gradient", "asked"),
    [("text", 4), ("numeric", 0), ("both", 4), ("turns", 2)],
)
def test_gradient(gradient, asked):
    optimizer, agent, _ = played(gradient=gradient)
    assert agent.asked.count("feedback") == asked
    assert changed(optimizer)
    if asked < 4:
        assert f"not asked: gradient={gradient}" in optimizer.report() or gradient == "turns"


def test_numeric_gradient_raises_what_did_well():
    def value(plan):
        return 0.9 if plan.stages[0].nodes[-1].role == "vote" else 0.1

    optimizer, _, _ = played(rounds=12, gradient="numeric", mixes=0, candidates=0, revisit=0, step=0.3, value=value)
    sink = optimizer.tables.stages[0].role_logits[0]
    names = [role.name for role in ROLES]
    assert names[int(sink.argmax())] == "vote"


def test_without_insight_one_no_probes_and_the_agent_chooses_no_mix():
    _, agent, asked = played(insights=[2, 3])
    assert "choose" not in agent.asked
    assert any(len(plan.stages[0].nodes) > 1 for plan in asked[0])
    _, agent, asked = played()
    assert agent.asked[0] == "choose"
    assert all(len(plan.stages[0].nodes) == 1 for plan in asked[0])


def test_without_insight_two_each_mix_is_tried_in_one_shape():
    assert len(played(insights=[1])[2][1]) <= 3 < len(played()[2][1])


def test_no_mixes_no_warm_up():
    _, agent, asked = played(mixes=0)
    assert "choose" not in agent.asked
    assert len(asked[0]) == len(asked[1]) == 6


def test_plans_are_proposed_only_in_mode_propose():
    proposing, sampling = played(mode="propose")[0], played(mode="sample")[0]
    assert proposing.proposed
    assert not sampling.proposed
    assert "PLANS PROPOSED" in proposing.report()
    assert "PLANS PROPOSED" not in sampling.report()


def test_the_screen_prefers_what_the_trials_speak_for():
    _, _, asked = played(rounds=7, revisit=0, mode="sample", boldness=0.0)
    late = [plan for plans in asked[3:] for plan in plans]
    assert np.mean([_value(plan) > 0.5 for plan in late]) > 0.9


def test_free_plans_are_preferred_and_counted():
    """Two thirds of the plans share nothing; the others are known to be good, for nothing."""

    def look(plan, questions):
        free = int(plan.id, 16) % 3 == 0
        marks = np.full(len(questions), 0.95 if free else np.nan)
        return Known(marks, 0 if free else 4 * len(questions), 4 * len(questions))

    optimizer, _, asked = played(rounds=6, look=look, revisit=0, mode="sample", value=_even)
    late = [plan for plans in asked[3:] for plan in plans]
    assert np.mean([int(plan.id, 16) % 3 == 0 for plan in late]) > 0.8
    assert "need no new call" in optimizer.report()
    blind, _, asked = played(rounds=6, look=look, free=False, revisit=0, mode="sample", value=_even)
    late = [plan for plans in asked[3:] for plan in plans]
    assert np.mean([int(plan.id, 16) % 3 == 0 for plan in late]) < 0.7
    assert "of these 0 need no new call" in blind.report()


def test_contenders_are_at_most_half_of_a_round():
    _, _, asked = played(rounds=6, revisit=100)
    seen = {plan.id for plans in asked[:3] for plan in plans}
    for plans in asked[3:]:
        assert 0 < sum(plan.id in seen for plan in plans) <= 3
        seen |= {plan.id for plan in plans}


@pytest.mark.parametrize(("contend", "count"), [(0.5, 3), (0, 6), (0.99, 2)])
def test_where_plans_race_part_of_a_round_is_left_to_close_contenders(contend, count):
    assert {len(plans) for plans in played(races=True, contend=contend)[2][2:]} == {count}
    assert {len(plans) for plans in played(contend=contend)[2][2:]} == {6}


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"mode": "guess"}, "optimizer.mode='guess' is unknown; use one of sample, propose"),
        ({"gradient": "up"}, "optimizer.gradient='up' is unknown; use one of text, numeric, both, turns"),
        ({"insights": [4]}, r"optimizer.insights=\[4\] must be some of"),
        ({"candidates": -1}, "optimizer.candidates=-1 must be a whole number"),
        ({"contend": 1}, "optimizer.contend=1 must be at least 0 and below 1"),
    ],
)
def test_bad_settings(settings, shown):
    with pytest.raises(ValueError, match=shown):
        AgentReinforce(RuleBased(), **settings)
