"""Optuna's samplers propose plans of the space, go on from the trials alone, and beat random search."""

import json

import numpy as np
import pytest
from spaces import space

from agentgraph.errors import ConfigError
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.optuna_search import OptunaSearch
from agentgraph.optimizers.random_search import RandomSearch
from agentgraph.trial import Answer, Trial

VARIANTS = {
    "tpe": {"sampler": "tpe", "settings": {"n_startup_trials": 4}},
    "tpe of options": {
        "sampler": "tpe",
        "categorical": True,
        "settings": {"n_startup_trials": 4, "multivariate": True},
    },
    "gp": {"sampler": "gp", "settings": {"n_startup_trials": 6}},
    "nsga2": {"sampler": "nsga2", "settings": {"population_size": 6}},
    "nsga2 of options": {"sampler": "nsga2", "categorical": True, "settings": {"population_size": 6}},
}


def new(inside, **settings):
    return setup(OptunaSearch(**settings), inside)


def setup(made, inside):
    made.setup(inside, Accuracy(), rounds=10, call=None)
    return made


def mark(plan):
    graph = plan.stages[0]
    return (
        graph.width + 3 * (graph.nodes[-1].role == "vote") + sum(node.model == "small" for node in graph.nodes)
    ) / 20


def run(inside, made, first, last, k=4, score=mark, trials=None):
    trials = [] if trials is None else trials
    asked = []
    for round_ in range(first, last):
        plans = made.ask(k, np.random.default_rng((0, round_)))
        fresh = []
        for plan in plans:
            inside.check(plan)
            fresh.append(Trial(len(trials) + len(fresh), plan, round_, inside.price(plan)))
            fresh[-1].add(Answer("q", score(plan)))
        trials += fresh
        made.tell(fresh)
        asked.append(plans)
    return asked, trials


@pytest.mark.parametrize("which", VARIANTS)
def test_goes_on_from_the_trials(which):
    inside = space(4, 8)
    made = new(inside, **VARIANTS[which])
    _, trials = run(inside, made, 0, 3, k=3)
    again = new(inside, **VARIANTS[which])
    again.load_state(json.loads(json.dumps(made.state())), trials)
    assert run(inside, again, 3, 4, trials=list(trials))[0] == run(inside, made, 3, 4, trials=list(trials))[0]
    assert json.dumps(again.state()) == json.dumps(made.state())
    assert len({trial.plan.id for trial in trials}) == len(trials) == 9


def test_generations_of_nsga2_go_on():
    inside = space(3, 6)
    made = new(inside, **VARIANTS["nsga2"])
    run(inside, made, 0, 6)
    generations = {next(iter(attrs.values())) for attrs in made.state()["attrs"].values() if attrs}
    assert generations == {0, 1, 2}


def test_the_same_plan_is_always_told_in_the_same_way():
    inside = space(4, 8)
    plan = new(inside).ask(1, np.random.default_rng(0))[0]
    told = [new(inside)._params(plan) for _ in range(2)]
    assert told[0] == told[1]


@pytest.mark.parametrize("which", ["tpe", "nsga2"])
def test_beats_random_search(which):
    inside = space(6, 8)
    settings = {"tpe": {"sampler": "tpe"}, "nsga2": {"sampler": "nsga2", "settings": {"population_size": 12}}}[which]

    def late_mean(made):
        return np.mean([mark(plan) for plans in run(inside, made, 0, 10, k=6)[0][7:] for plan in plans])

    assert late_mean(new(inside, **settings)) > late_mean(setup(RandomSearch(), inside)) + 0.1


def test_gp_says_when_it_ends():
    inside = space(3, 6)
    made = new(inside, sampler="gp", most_trials=4)
    run(inside, made, 0, 1)
    assert made.headline() == "gp ends at 4 trials; plans are now drawn at random"
    assert len(made.ask(5, np.random.default_rng(0))) == 5


def test_unmarked_trials_are_not_told():
    inside = space(3, 6)
    made = new(inside)
    plans = made.ask(2, np.random.default_rng(0))
    made.tell([Trial(i, plan, 0, inside.price(plan)) for i, plan in enumerate(plans)])
    assert not made._study(0, made._distributions()).trials


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sampler": "cmaes"}, "optimizer.sampler='cmaes' is unknown; use one of tpe, gp, nsga2"),
        ({"settings": {"startup": 3}}, r"optimizer.settings=\{'startup': 3\} do not fit Optuna's TPESampler"),
    ],
)
def test_bad_settings(settings, expected):
    inside = space(3, 6)
    with pytest.raises(ConfigError, match=expected):
        new(inside, **settings).ask(1, np.random.default_rng(0))
