"""What every agent promises: text that parses. What an optimizer does with text that does not: asks again, then goes on."""

import importlib
import json
import pkgutil

import numpy as np
import pytest
import torch
from fakes import POOL, ROLES, backend, optimizer, setup

import agentgraph.agents
from agentgraph.agents.base import Agent, Evidence
from agentgraph.agents.feedback import Choice, Feedback, parse, parse_choice, schema, step
from agentgraph.agents.language_model import LanguageModel
from agentgraph.agents.rule_based import RuleBased
from agentgraph.backends.scripted import Scripted
from agentgraph.budget import Budget, Cost
from agentgraph.distribution import Distribution
from agentgraph.errors import BackendRefused, ConfigError, FeedbackError
from agentgraph.execute import Executor
from agentgraph.graph import Graph, Node
from agentgraph.model import Model
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.agent_reinforce import AgentReinforce
from agentgraph.plan import Plan
from agentgraph.run import run
from agentgraph.space import Space, StageSpace
from agentgraph.store import ReplyStore
from agentgraph.tasks.calc import Calc, CalcStage
from agentgraph.trial import Answer, Trial

STAGE = StageSpace("calc", ROLES, POOL, 5, CalcStage.lengths)
SPACE = Space((STAGE,), Budget(16 * STAGE.cheapest, STAGE.cheapest))
MIXES = [(4, 4, 0, 0, 0, 0), (0, 0, 2, 0, 0, 0), (1, 0, 0, 1, 0, 0)]
GOOD = json.dumps(
    {
        "critique": "votes did well",
        "nudges": [
            {"table": "role", "slot": 0, "option": "vote", "by": 1.5, "expect": 0.1, "because": "it did"},
            {"table": "edge", "slot": 2, "option": "0", "by": -0.5},
            {"table": "model", "slot": 1, "option": "a-small", "by": 3},
        ],
    }
)
CHOICE = json.dumps({"critique": "complementary", "mixes": [2, 0]})


def nudge(**changes):
    entry = {"table": "role", "slot": 0, "option": "vote", "by": 1.0, **changes}
    return json.dumps({"critique": "", "nudges": [entry]})


BAD = {
    "empty": ("", r"expected a JSON object, got ''"),
    "prose": ("Sure! I would raise the edge.", r"expected a JSON object, got 'Sure! I would"),
    "a list": ("[1, 2]", r"expected a JSON object, got '\[1, 2\]'"),
    "cut": (GOOD[:-30], "expected a JSON object"),
    "not JSON": ("{critique: none}", r"expected a JSON object, got '\{critique: none\}'"),
    "braces only": ("}{", "expected a JSON object"),
    "too deep": ('{"a":' * 100_000 + "1" + "}" * 100_000, "expected a JSON object"),
    "nothing": ("{}", "at 'critique': Field required"),
    "no nudges": ('{"critique": "x"}', "at 'nudges': Field required"),
    "other format": ('{"critique": "x", "nudges": [], "graph": {}}', "at 'graph': Extra inputs"),
    "nudges no list": ('{"critique": "x", "nudges": 7}', "at 'nudges': .* got '7'"),
    "unknown table": (nudge(table="seed"), r"at 'nudges\.0\.table': .*got 'seed'"),
    "unknown role": (nudge(option="judge"), "role nudge names 'judge'; there are assistant"),
    "unknown model": (nudge(table="model", option="gpt"), "model nudge names 'gpt'; there are a-small"),
    "unknown slot": (nudge(slot=5), "nudge names slot 5; slots are 0 to 4"),
    "negative slot": (nudge(slot=-1), r"at 'nudges\.0\.slot': .*got '-1'"),
    "unknown stage": (nudge(stage=1), "nudge names stage 1; stages are 0 to 0"),
    "by too large": (nudge(by=3.01), r"at 'nudges\.0\.by': .*got '3.01'"),
    "by too small": (nudge(by=-30), r"at 'nudges\.0\.by': .*got '-30'"),
    "by is NaN": (nudge(by=float("nan")), r"at 'nudges\.0\.by'"),
    "by is infinite": (nudge(by=float("inf")), r"at 'nudges\.0\.by'"),
    "by is a word": (nudge(by="much"), r"at 'nudges\.0\.by': .*got 'much'"),
    "edge up": (nudge(table="edge", slot=1, option="3"), "edge nudge from slot 1 to '3'; it must go to a slot below"),
    "edge to itself": (nudge(table="edge", slot=1, option="1"), "edge nudge from slot 1 to '1'"),
    "edge to a word": (nudge(table="edge", slot=1, option="sink"), "edge nudge from slot 1 to 'sink'"),
    "edge from the sink": (nudge(table="edge", slot=0, option="0"), "edge nudge from slot 0 to '0'"),
    "huge number": ('{"critique": "", "nudges": [' + "9" * 10_000 + "]}", "expected a JSON object"),
    "surrogate": ("\ud800 {", "expected a JSON object"),
}


# ---- the format


def test_good_feedback():
    distribution = Distribution(SPACE)
    feedback = parse(GOOD, distribution)
    assert [n.option for n in feedback.nudges] == ["vote", "0", "a-small"]
    stage = distribution.stages[0]
    before = stage.role_logits[0].clone(), stage.edge_logits[2, 0].clone(), stage.model_logits[1].clone()
    step(distribution, feedback, 0.5)
    assert stage.role_logits[0, 4] == before[0][4] + 0.75
    assert stage.edge_logits[2, 0] == before[1] - 0.25
    assert stage.model_logits[1, 0] == before[2][0] + 1.5
    assert torch.equal(stage.role_logits[0, :4], before[0][:4])
    for _ in range(20):
        step(distribution, feedback, 1.0)
    assert stage.role_logits.max() == 5
    assert stage.edge_logits[2, 0] == -5


@pytest.mark.parametrize(
    "wrapped",
    [
        f"```json\n{GOOD}\n```",
        f"Here is what I think.\n{GOOD}\nGood luck!",
        GOOD.replace("]}", ",]}"),
        GOOD.replace("}]", "},]"),
    ],
)
def test_repaired_feedback(wrapped):
    assert parse(wrapped, Distribution(SPACE)) == parse(GOOD, Distribution(SPACE))


@pytest.mark.parametrize("which", BAD)
def test_bad_feedback(which):
    text, expected = BAD[which]
    with pytest.raises(FeedbackError, match=expected):
        parse(text, Distribution(SPACE))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none of them", "expected a JSON object, got 'none of them'"),
        ('{"critique": "", "mixes": []}', r"expected 1 to 2 numbers from 0 to 2 in 'mixes', got \(\)"),
        ('{"critique": "", "mixes": [0, 3]}', r"got \(0, 3\)"),
        ('{"critique": "", "mixes": [0, 1, 2]}', r"got \(0, 1, 2\)"),
        ('{"critique": "", "mixes": [-1]}', r"at 'mixes\.0': .*got '-1'"),
        ('{"mixes": [0]}', "at 'critique': Field required"),
    ],
)
def test_bad_choice(text, expected):
    with pytest.raises(FeedbackError, match=expected):
        parse_choice(text, MIXES, 2)


def test_good_choice():
    assert parse_choice(CHOICE, MIXES, 2).mixes == (2, 0)
    assert parse_choice('{"critique": "", "mixes": [1, 1]}', MIXES, 1).mixes == (1,)


def test_schemas_are_json_schemas():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(GOOD), schema(Feedback))
    jsonschema.validate(json.loads(CHOICE), schema(Choice))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(nudge(table="seed")), schema(Feedback))


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
        feedback = parse(agent.feedback(evidence(distribution, trials)), distribution)
        assert feedback.critique
        step(distribution, feedback, 0.5)


@pytest.mark.parametrize("name", AGENTS)
def test_choice_parses(name):
    singles = [Plan((Graph((Node("assistant", model),)),)) for model in POOL.names]
    shown = evidence(Distribution(SPACE), trials_of(singles, np.linspace(0.2, 0.8, len(singles))), 0)
    for count in (2, 3):
        choice = parse_choice(connected(AGENTS[name]).choose(shown, MIXES, count), MIXES, count)
        assert 1 <= len(choice.mixes) <= count


@pytest.mark.parametrize("name", AGENTS)
def test_same_evidence_same_text(name):
    distribution = Distribution(SPACE)
    trials = trials_of(distribution.sample(10, 0), np.linspace(0, 1, 10))
    one, two = (connected(AGENTS[name]).feedback(evidence(distribution, trials)) for _ in range(2))
    assert one == two


def test_without_any_marks():
    feedback = parse(RuleBased().feedback(evidence(Distribution(SPACE), [])), Distribution(SPACE))
    assert feedback.nudges == ()


@pytest.mark.parametrize("seed", range(5))
def test_rule_based_makes_the_planted_best_more_probable(seed):
    distribution = Distribution(SPACE)
    best, *others = distribution.sample(12, seed)
    others = [plan for plan in others if plan != best]
    trials = trials_of([best, *others], [0.9, *[0.3] * len(others)])
    label = distribution.label([best])
    chances = [float(distribution.log_prob(label))]
    for _ in range(6):
        step(distribution, parse(RuleBased().feedback(evidence(distribution, trials)), distribution), 0.5)
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

    def choose(self, evidence, mixes, count, complaint=""):
        del mixes, count
        return self.feedback(evidence, complaint)


def told(agent, rounds=3):
    optimizer = AgentReinforce(agent)
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
    assert len(agent.complaints) == 9
    assert [bool(complaint) for complaint in agent.complaints] == [False, True, True] * 3
    assert "could not be used" in optimizer.headline()
    assert "\n" not in optimizer.headline()


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
    shown = "".join(content for request in asked for _, content in request.messages)
    assert "calc" not in shown.replace("stage calc;", "")  # it knows nothing of the task


def test_language_model_is_told_what_was_wrong():
    replies = ["no", CHOICE.replace("[2, 0]", "[99]"), '{"critique": "", "mixes": [0]}', *[GOOD] * 9]
    seen = []

    def script(request):
        seen.append(request.messages[-1][1])
        return replies[len(seen) - 1]

    agent = LanguageModel(Model("writer", 1.0, backend="talk"), insights=False)
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


def test_not_connected():
    with pytest.raises(ConfigError, match="the agent is not connected to a model"):
        LanguageModel(Model("writer", 1.0)).feedback(evidence(Distribution(SPACE), []))


def test_default_agent_needs_no_model():
    assert optimizer().agent.name == "rule_based"
