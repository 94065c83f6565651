"""Mutations give graphs, children are valid plans, and the best have the children."""

import numpy as np
import pytest
from spaces import SHORT, random_tables, space

from agentgraph.errors import ConfigError
from agentgraph.mutation import mutated
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.evolution import Evolution
from agentgraph.trial import Answer, Trial


def optimizer(inside, **settings):
    made = Evolution(**settings)
    made.setup(inside, Accuracy(), rounds=10, call=None)
    return made


def told(inside, plans, mark, first=0):
    trials = [Trial(first + i, plan, 0, inside.price(plan)) for i, plan in enumerate(plans)]
    for trial in trials:
        trial.add(Answer("q", mark(trial.plan)))
    return trials


def run(inside, made, mark, rounds, k=8):
    best = []
    for round_ in range(rounds):
        plans = made.ask(k, np.random.default_rng((0, round_)))
        for plan in plans:
            inside.check(plan)
        made.tell(told(inside, plans, mark, first=k * round_))
        best.append(max([mark(plan) for plan in plans], default=0.0))
    return best


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_mutations_keep_the_shape_of_a_graph(nodes):
    inside = space(nodes, 50)
    rng = np.random.default_rng(0)
    seen = set()
    for plan in random_tables(inside, 1).sample(40, 0):
        graph = plan.stages[0]
        for _ in range(10):
            after = mutated(graph, inside.stages[0], rng)
            assert 1 <= len(after.nodes) <= nodes
            assert all(bool(node.model) == inside.stages[0].role(node.role).needs_model for node in after.nodes)
            seen.add(len(after.nodes) - len(graph.nodes))
            graph = after
    assert seen == ({0} if nodes == 1 else {-1, 0, 1})


@pytest.mark.parametrize(
    "settings", [{"units": 5}, {"units": 9.7, "lengths": SHORT}, {"units": 8, "stages": 2}, {"units": 100}]
)
def test_children_are_valid_and_new(settings):
    inside = space(6, **settings)
    made = optimizer(inside, parents=4, crossing=0.5)
    run(inside, made, lambda plan: int(plan.id, 16) % 100 / 100, 6)
    assert len(made._trials) == 48  # every round is full of plans never seen before


def test_the_best_have_the_children():
    inside = space(8, 16)
    made = optimizer(inside, parents=6)

    def mark(plan):
        graph = plan.stages[0]
        large = sum(node.model == "medium" for node in graph.nodes)
        return (large + graph.width + 2 * (graph.nodes[-1].role == "vote")) / 20

    best = run(inside, made, mark, 14)
    assert max(best[-4:]) > max(best[:2]) + 0.1
    assert f"best of 112 trials: {max(best):.3f}" in made.headline()


def test_a_small_space_is_used_up_and_then_there_is_nothing_to_ask():
    inside = space(1, 1)
    made = optimizer(inside, parents=1)
    run(inside, made, lambda _: 0.5, 3)
    assert len(made._trials) == 2
    assert made.ask(4, np.random.default_rng(0)) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"parents": 0}, "optimizer.parents=0 leaves nothing to change"),
        ({"crossing": 1.5}, r"optimizer.crossing=1.5 must be in \[0, 1\]"),
        ({"again": 1.0}, r"optimizer.again=1.0 in \[0, 1\)"),
    ],
)
def test_bad_settings(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        Evolution(**settings)
