"""What every optimizer promises: plans of the space within the budget, none twice, and a state to go on from."""

import dataclasses
import importlib
import json
import pkgutil

import numpy as np
import pytest
from fakes import POOL, ROLES
from spaces import SHORT

import agentgraph.optimizers
from agentgraph.agents.language_model import LanguageModel
from agentgraph.agents.rule_based import RuleBased
from agentgraph.budget import Budget, Cost
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.base import Optimizer
from agentgraph.request import Reply
from agentgraph.space import Space, StageSpace
from agentgraph.tasks.calc import CalcStage
from agentgraph.trial import Answer, Trial


def members():
    for module in pkgutil.iter_modules(agentgraph.optimizers.__path__):
        if module.name != "base":
            loaded = importlib.import_module(f"agentgraph.optimizers.{module.name}")
            for value in vars(loaded).values():
                if isinstance(value, type) and issubclass(value, Optimizer) and value.__module__ == loaded.__name__:
                    yield value


MEMBERS = sorted(members(), key=lambda cls: cls.__name__)


def space(units, *, nodes=6, stages=1, roles=ROLES, lengths=CalcStage.lengths):
    made = tuple(StageSpace(f"s{s}", tuple(roles), POOL, nodes, lengths) for s in range(stages))
    unit = Space.unit(made)
    return Space(made, Budget(units * unit, unit))


AGENTS = {"AgentReinforce": RuleBased(), "AgentTTS": RuleBased(), "ZeroShot": LanguageModel(POOL[0])}


def no_model(request, backend):
    raise AssertionError((request, backend))


def no_plans(request, backend):
    return Reply(f"{backend} cannot think of any, asked {len(request.messages)} things.", 1, 1)


def new(cls, inside, rounds=6):
    arguments = {"agent": AGENTS[cls.__name__]} if cls.__name__ in AGENTS else {}
    optimizer = cls(**arguments)
    optimizer.setup(inside, Accuracy(), rounds=rounds, call=no_plans if cls.__name__ == "ZeroShot" else no_model)
    return optimizer


class Archive:
    """Trials in the order drawn, with marks that depend on nothing but plan and question."""

    def __init__(self, inside):
        self.space, self.trials = inside, []

    def add(self, plans, round_):
        fresh = []
        for plan in plans:
            trial = next((trial for trial in self.trials if trial.plan == plan), None)
            if trial is None:
                trial = Trial(len(self.trials), plan, round_, self.space.price(plan))
                self.trials.append(trial)
            rng = np.random.default_rng(int(plan.id, 16))
            skill = rng.random()
            for q in range(16):
                trial.add(Answer(f"q{(16 * round_ + q) % 64}", float(rng.random() < skill), Cost(trial.price.flops)))
            fresh.append(trial)
        return fresh


def rounds(optimizer, archive, first, last, k=5):
    asked = []
    for round_ in range(first, last):
        plans = optimizer.ask(k, np.random.default_rng((3, round_)))
        asked.append(plans)
        optimizer.tell(archive.add(plans, round_))
    return asked


def copied(trials):
    return [dataclasses.replace(trial, marks=dict(trial.marks)) for trial in trials]


SPACES = {
    "usual": {"units": 8},
    "one call": {"units": 1},
    "one node": {"units": 8, "nodes": 1},
    "two nodes": {"units": 30, "nodes": 2},
    "large": {"units": 40, "nodes": 12},
    "assistants only": {"units": 8, "roles": ROLES[:1]},
    "no confidence": {"units": 8, "roles": [role for role in ROLES if not role.needs_confidence]},
    "two stages": {"units": 6, "stages": 2},
    "estimates": {"units": 9.7, "lengths": SHORT},
}


@pytest.mark.parametrize("cls", MEMBERS)
@pytest.mark.parametrize("which", SPACES)
def test_plans_are_in_the_space_and_none_twice_in_a_round(cls, which):
    inside = space(**SPACES[which])
    archive = Archive(inside)
    for plans in rounds(new(cls, inside), archive, 0, 6):
        for plan in plans:
            inside.check(plan)
        assert len({plan.id for plan in plans}) == len(plans)
    assert archive.trials


@pytest.mark.parametrize("cls", MEMBERS)
@pytest.mark.parametrize(("stop", "which"), [(1, "usual"), (2, "usual"), (4, "usual"), (3, "two stages")])
def test_goes_on_from_its_state(cls, stop, which):
    inside = space(**SPACES[which])
    archive = Archive(inside)
    optimizer = new(cls, inside)
    rounds(optimizer, archive, 0, stop)
    state = json.loads(json.dumps(optimizer.state()))
    again = new(cls, inside)
    copy = Archive(inside)
    copy.trials = copied(archive.trials)
    again.load_state(state, copy.trials)
    assert rounds(again, copy, stop, 7) == rounds(optimizer, archive, stop, 7)
    assert json.dumps(again.state()) == json.dumps(optimizer.state())
    assert again.report() == optimizer.report()


@pytest.mark.parametrize("cls", MEMBERS)
def test_same_seed_same_plans(cls):
    inside = space(40, nodes=12)
    one, two = (rounds(new(cls, inside), Archive(inside), 0, 5) for _ in range(2))
    assert one == two
    drawn = [new(cls, inside) for _ in range(2)]
    for optimizer in drawn:
        rounds(optimizer, Archive(inside), 0, 3)
    assert drawn[0].ask(5, np.random.default_rng(1)) != drawn[1].ask(5, np.random.default_rng(2))


@pytest.mark.parametrize("cls", MEMBERS)
def test_told_of_failures_only(cls):
    inside = space(8)
    optimizer = new(cls, inside)
    for round_ in range(4):
        plans = optimizer.ask(4, np.random.default_rng(round_))
        trials = [Trial(i, plan, round_, inside.price(plan)) for i, plan in enumerate(plans)]
        for trial in trials:
            trial.add(Answer("q", None))
        optimizer.tell(trials)
    assert isinstance(optimizer.headline(), str)
    assert "\n" not in optimizer.headline()


@pytest.mark.parametrize("cls", MEMBERS)
def test_learned_tables_are_exposed(cls):
    optimizer = new(cls, space(8))
    assert optimizer.distribution is None or optimizer.distribution.mode()
