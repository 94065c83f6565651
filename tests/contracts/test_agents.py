"""What every agent promises: text that parses. What an optimizer does with text that does not: asks again, then goes on."""

import importlib
import json
import pkgutil

import numpy as np
import pytest
from fakes import POOL, ROLES, backend, optimizer, setup
from replies import BAD, BAD_PLANS, CHOICE, GOOD, SOLVE, nudge

import agentgraph.agents
from agentgraph.agents.base import Agent, Evidence
from agentgraph.agents.feedback import parse, parse_choice, step
from agentgraph.agents.language_model import LanguageModel
from agentgraph.agents.rule_based import RuleBased
from agentgraph.backends.scripted import Scripted
from agentgraph.budget import Budget, Cost
from agentgraph.distribution import Distribution
from agentgraph.errors import BackendRefused, ConfigError
from agentgraph.execute import Executor
from agentgraph.graph import Graph, Node
from agentgraph.model import Model
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.agent_reinforce import AgentReinforce
from agentgraph.plan import Plan
from agentgraph.request import Reply
from agentgraph.run import run
from agentgraph.space import Space, StageSpace
from agentgraph.store import ReplyStore
from agentgraph.tasks.calc import Calc, CalcStage
from agentgraph.trial import Answer, Trial

STAGE = StageSpace("calc", ROLES, POOL, 5, CalcStage.lengths)
SPACE = Space((STAGE,), Budget(16 * STAGE.cheapest, STAGE.cheapest))
MIXES = [(4, 4, 0, 0, 0, 0), (0, 0, 2, 0, 0, 0), (1, 0, 0, 1, 0, 0)]


# ---- every agent

AGENTS = {}
for module in pkgutil.iter_modules(agentgraph.agents.__path__):
    loaded = importlib.import_module(f"agentgraph.agents.{module.name}")
    for value in vars(loaded).values():
        if (
            isinstance(value, type)
            and issubclass(value, Agent)
            and value.__module__ == loaded.__name__ != Agent.__module__
        ):
            AGENTS[module.name] = value


def connected(cls):
    if cls is not LanguageModel:
        return cls()
    agent = LanguageModel(Model("writer", 1.0, backend="scripted"))

    def call(request, backend_name):
        assert backend_name == "scripted"
        text = request.messages[-1][1]
        served = Scripted([CHOICE if "Choose the" in text else GOOD])
        with Executor(Calc(), POOL, {}, {"scripted": served}, ReplyStore()) as running:
            return running.ask(request, backend_name)

    agent.connect(call)
    return agent


def evidence(distribution, trials, round_=3):
    ranked = sorted(trials, key=lambda t: (-t.accuracy, t.number))
    return Evidence(round_, 10, trials[-4:], ranked, distribution, 0.5, 0.1, -0.05)


def trials_of(plans, right):
    made = []
    for number, (plan, share) in enumerate(zip(plans, right, strict=True)):
        trial = Trial(number, plan, 0, SPACE.price(plan))
        for q in range(32):
            trial.add(Answer(f"q{q}", float(q < 32 * share), Cost(trial.price.flops)))
        made.append(trial)
    return made


@pytest.mark.parametrize("name", AGENTS)
def test_feedback_parses(name):
    distribution = Distribution(SPACE)
    agent = connected(AGENTS[name])
    assert agent.name == name
    for seed in range(5):
        trials = trials_of(distribution.sample(10, seed), np.random.default_rng(seed).random(10))
        reading = parse(agent.feedback(evidence(distribution, trials)), distribution)
        assert not reading.rejects
        feedback = reading.value.feedback
        assert feedback.critique
        step(distribution, feedback, 0.5)


@pytest.mark.parametrize("name", AGENTS)
def test_choice_parses(name):
    singles = [Plan((Graph((Node("assistant", model),)),)) for model in POOL.names]
    shown = evidence(Distribution(SPACE), trials_of(singles, np.linspace(0.2, 0.8, len(singles))), 0)
    for count in (2, 3):
        choice = parse_choice(connected(AGENTS[name]).choose(shown, MIXES, count), MIXES, count).value
        assert 1 <= len(choice.mixes) <= count


@pytest.mark.parametrize("name", AGENTS)
def test_same_evidence_same_text(name):
    distribution = Distribution(SPACE)
    trials = trials_of(distribution.sample(10, 0), np.linspace(0, 1, 10))
    one, two = (connected(AGENTS[name]).feedback(evidence(distribution, trials)) for _ in range(2))
    assert one == two


def test_without_any_marks():
    reading = parse(RuleBased().feedback(evidence(Distribution(SPACE), [])), Distribution(SPACE))
    assert reading.value.feedback.nudges == ()


@pytest.mark.parametrize("seed", range(5))
def test_rule_based_makes_the_planted_best_more_probable(seed):
    distribution = Distribution(SPACE)
    best, *others = distribution.sample(12, seed)
    others = [plan for plan in others if plan != best]
    trials = trials_of([best, *others], [0.9, *[0.3] * len(others)])
    label = distribution.label([best])
    chances = [float(distribution.log_prob(label))]
    for _ in range(6):
        said = parse(RuleBased().feedback(evidence(distribution, trials)), distribution).value
        step(distribution, said.feedback, 0.5)
        chances.append(float(distribution.log_prob(label)))
    assert chances == sorted(chances)
    assert chances[-1] > chances[0] + 1


# ---- the optimizer with a bad agent


class Muttering(Agent):
    """Says what it was told to say, and remembers the complaints."""

    name = "muttering"

    def __init__(self, *replies):
        self.replies, self.complaints = list(replies), []

    def feedback(self, evidence, complaint=""):
        del evidence
        self.complaints.append(complaint)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def choose(self, evidence, mixes, count, complaint="", *, stage=0):
        del mixes, count, stage
        return self.feedback(evidence, complaint)


def told(agent, rounds=3, **settings):
    optimizer = AgentReinforce(agent, **settings)
    optimizer.setup(SPACE, Accuracy(), rounds=rounds, call=lambda *_: None)
    for round_ in range(rounds):
        plans = optimizer.ask(4, np.random.default_rng(round_))
        optimizer.tell(trials_of(plans, np.random.default_rng(round_).random(len(plans))))
    return optimizer


@pytest.mark.parametrize("which", BAD)
def test_bad_replies_are_dropped_and_counted(which):
    agent = Muttering(BAD[which][0])
    optimizer = told(agent)
    assert optimizer.dropped == 3
    assert sum(optimizer.rejects.values()) == 9
    assert optimizer.rejects[BAD[which][2]] >= 6  # a choice of mixes has other faults than nudges have
    assert f"{BAD[which][2]}: {optimizer.rejects[BAD[which][2]]}" in optimizer.report()
    assert len(agent.complaints) == 9
    assert [bool(complaint) for complaint in agent.complaints] == [False, True, True] * 3
    assert "could not be used" in optimizer.headline()
    assert "\n" not in optimizer.headline()


def test_good_nudges_are_used_though_others_are_bad():
    mixed = json.loads(GOOD)
    mixed["nudges"].insert(1, json.loads(nudge(by=None, to=1.5))["nudges"][0])
    agent = Muttering(CHOICE, json.dumps(mixed), GOOD[:-30])
    optimizer = told(agent)
    assert agent.complaints == ["", "", ""]
    assert optimizer.dropped == 0
    assert optimizer.rejects == {"probability": 1, "cut off": 1}
    assert [one.nudge.option for one in optimizer.predictions] == ["vote", "0"]


def test_plans_that_are_proposed_are_tried_next():
    plans = [[[SOLVE, SOLVE, {"role": "vote", "parents": [0, 1]}]], [[{**SOLVE, "parents": [0]}]]]
    agent = Muttering(CHOICE, json.dumps({**json.loads(GOOD), "plans": plans}))
    optimizer = told(agent, rounds=2, mode="propose")
    assert optimizer.rejects == {"cycle": 1}
    assert "PLANS PROPOSED" in optimizer.report()
    state = json.loads(json.dumps(optimizer.state()))
    asked = optimizer.ask(4, np.random.default_rng(0))
    assert (
        sum([node.role for node in plan.stages[0].nodes] == ["assistant", "assistant", "vote"] for plan in asked) == 1
    )
    again = AgentReinforce(agent, mode="propose")
    again.setup(SPACE, Accuracy(), rounds=3, call=lambda *_: None)
    again.load_state(state, list(optimizer._trials.values()))
    assert again.ask(4, np.random.default_rng(0)) == asked


@pytest.mark.parametrize("which", BAD_PLANS)
def test_bad_plans_are_never_tried(which):
    text, _, kind = BAD_PLANS[which]
    optimizer = told(Muttering(CHOICE, text), mode="propose")
    if kind != "over budget":  # what is dear elsewhere is not here
        assert optimizer.rejects == {kind: 6}
        assert optimizer.proposed == []


def test_unknown_mode():
    with pytest.raises(ConfigError, match=r"optimizer.mode='guess' is unknown; use one of sample, propose"):
        AgentReinforce(RuleBased(), mode="guess")


def test_dropped_feedback_leaves_the_tables():
    agent = Muttering("{}")
    optimizer = told(agent, rounds=2)
    before = optimizer.tables.state()
    plans = optimizer.ask(4, np.random.default_rng(7))
    optimizer.tell(trials_of(plans, [0.5] * len(plans)))
    assert optimizer.tables.state() == before


def test_a_complaint_may_help():
    agent = Muttering("?", '{"critique": "", "mixes": [0]}', nudge(option="judge"), "[]", GOOD, GOOD)
    optimizer = told(agent)
    assert optimizer.dropped == 0
    assert len(agent.complaints) == 6
    assert "role nudge names 'judge'" in agent.complaints[3]
    assert optimizer.headline() == "votes did well"


# ---- a language model as agent


def test_language_model_in_a_search():
    asked = []

    def script(request):
        asked.append(request)
        choose = "Choose the" in request.messages[-1][1]
        return '{"critique": "c", "mixes": [0]}' if choose else nudge(table="model", slot=1, option="b-medium")

    agent = LanguageModel(Model("writer", 1.0, backend="talk", fingerprint="w"), max_tokens=99)
    served = {"scripted": backend(), "talk": Scripted(script, name="talk")}
    found = run(
        setup(
            task=Calc(sizes={"train": 16, "validation": 8, "test": 8}),
            backends=served,
            optimizer=AgentReinforce(agent),
            rounds=3,
        )
    )
    assert len(asked) == 3
    assert {request.settings.max_tokens for request in asked} == {99}
    assert found.summary["agent_calls"] == 3
    first = asked[0].messages
    assert first[0][0] == "system"
    assert "What is known" in first[0][1]
    assert "a-small" in first[1][1]
    assert len({request.key for request in asked}) == len(asked)
    assert "Task calc." in first[1][1]
    assert asked[0].schema["title"] == "Choice"
    assert asked[1].schema["title"] == "Feedback"
    assert "What you said in round 0" in asked[1].messages[1][1]
    assert "One by one; realised is" in asked[2].messages[1][1]


def test_language_model_is_told_what_was_wrong():
    replies = ["no", CHOICE.replace("[2, 0]", "[99]"), '{"critique": "", "mixes": [0]}', *[GOOD] * 9]
    seen = []

    def script(request):
        seen.append(request.messages[-1][1])
        return replies[len(seen) - 1]

    agent = LanguageModel(Model("writer", 1.0, backend="talk"), insights=[])
    optimizer_ = AgentReinforce(agent)
    served = {"scripted": backend(), "talk": Scripted(script, name="talk")}
    run(
        setup(
            task=Calc(sizes={"train": 16, "validation": 8, "test": 8}), backends=served, optimizer=optimizer_, rounds=2
        )
    )
    assert "Your last answer could not be used: expected a JSON object, got 'no'" in seen[1]
    assert "got (99,)" in seen[2]
    assert optimizer_.dropped == 0


def test_agents_server_that_is_gone_stops_the_run():
    def script(_):
        raise BackendRefused("http://127.0.0.1:9/v1 does not listen")

    agent = LanguageModel(Model("writer", 1.0, backend="talk"))
    served = {"scripted": backend(), "talk": Scripted(script, name="talk")}
    with pytest.raises(BackendRefused, match="does not listen"):
        run(
            setup(
                task=Calc(sizes={"train": 16, "validation": 8, "test": 8}),
                backends=served,
                optimizer=AgentReinforce(agent),
                rounds=2,
            )
        )


@pytest.mark.parametrize(
    ("insights", "told_of"), [(True, [1, 2, 3]), (False, []), ([], []), ([3, 1], [1, 3]), ((2,), [2])]
)
def test_each_insight_is_a_switch(insights, told_of):
    asked = []
    agent = LanguageModel(Model("writer", 1.0), insights=insights)
    agent.connect(lambda request, _: asked.append(request) or Reply(GOOD, 1, 1))
    agent.feedback(evidence(Distribution(SPACE), []))
    system = asked[0].messages[0][1]
    assert [number for number in (1, 2, 3) if f"({number}) " in system] == told_of
    assert ("What is known" in system) == bool(told_of)


@pytest.mark.parametrize("insights", [[0], [4], ["1"], [True], "12", 2, None])
def test_unknown_insight(insights):
    with pytest.raises(ConfigError, match="agent.insights=.* must be a list of some of 1, 2, 3"):
        LanguageModel(Model("writer", 1.0), insights=insights)


@pytest.mark.parametrize("history", [-1, 1.5, True, "2"])
def test_bad_history(history):
    with pytest.raises(ConfigError, match="agent.history=.* must be a whole number of at least 0"):
        LanguageModel(Model("writer", 1.0), history=history)


@pytest.mark.parametrize("history", [0, 1, 2])
def test_history_is_what_the_agent_wants_to_be_shown(history):
    agent = Muttering(CHOICE, *[nudge().replace('""', f'"round {i}"') for i in range(1, 5)])
    agent.history = history
    optimizer = told(agent, rounds=4)
    assert [note.critique for note in optimizer.notes] == ["round 1", "round 2", "round 3"][3 - history :]


def test_a_reply_cut_at_the_limit_is_cut_off():
    agent = LanguageModel(Model("writer", 1.0))
    agent.connect(lambda *_: Reply("Let me first think of", 1, 99, "length"))
    optimizer = told_by_model(agent)
    assert optimizer.rejects == {"cut off": 3}


def told_by_model(agent):
    optimizer, call = AgentReinforce(agent), agent._call
    optimizer.setup(SPACE, Accuracy(), rounds=1, call=call)
    plans = optimizer.ask(4, np.random.default_rng(0))
    optimizer.tell(trials_of(plans, np.random.default_rng(0).random(len(plans))))
    return optimizer


def test_not_connected():
    with pytest.raises(ConfigError, match="the agent is not connected to a model"):
        LanguageModel(Model("writer", 1.0)).feedback(evidence(Distribution(SPACE), []))


def test_default_agent_needs_no_model():
    assert optimizer().agent.name == "rule_based"
