"""Every vector names a valid plan; uniform vectors are random search; plans go there and back."""

import numpy as np
import pytest
import torch
from spaces import ROLES, SHORT, random_tables, space

from agentgraph.distribution import Distribution
from agentgraph.graph import Graph, Node
from agentgraph.optimizers.encoding import Encoding
from agentgraph.plan import Plan

SPACES = {
    "usual": space(8, 16),
    "tight": space(6, 2),
    "one call": space(4, 1),
    "one node": space(1, 8),
    "two stages": space(5, 7, stages=2),
    "estimates": space(6, 9.7, lengths=SHORT),
    "no vote": space(5, 9, roles=ROLES[:3]),
}


@pytest.mark.parametrize("which", SPACES)
def test_every_vector_names_a_valid_plan(which):
    encoding = Encoding(SPACES[which])
    rng = np.random.default_rng(0)
    width = len(encoding.names)
    corners = rng.integers(0, 2, (40, width)).astype(float)
    for vectors in (
        rng.random((60, width)),
        corners,
        np.zeros((1, width)),
        np.ones((1, width)),
        np.full((1, width), 0.5),
    ):
        for plan in encoding.decode(vectors):
            SPACES[which].check(plan)


@pytest.mark.parametrize("which", SPACES)
def test_plans_there_and_back(which):
    encoding = Encoding(SPACES[which])
    plans = random_tables(SPACES[which], 3).sample(60, 1)
    one, two = (encoding.encode(plans, np.random.default_rng(seed)) for seed in (1, 2))
    assert encoding.decode(one) == encoding.decode(two) == plans
    assert (one != two).all()
    assert ((one >= 0) & (one < 1)).all()


def test_uniform_vectors_are_random_search():
    encoding, distribution = Encoding(SPACES["usual"]), Distribution(SPACES["usual"])
    numbers = torch.rand(len(encoding.names), 50, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    drawn = distribution.draw(50, torch.Generator().manual_seed(5))
    assert encoding.decode(numbers.numpy().T) == [distribution.plan(drawn, row) for row in range(50)]


def test_a_number_means_the_same_where_the_budget_is_larger():
    tight, wide = Encoding(space(8, 30)), Encoding(space(8, 60))
    vectors = np.random.default_rng(0).random((200, len(tight.names)))
    same = sum(a == b for a, b in zip(tight.decode(vectors), wide.decode(vectors), strict=True))
    assert same > 100


def test_options_and_numbers():
    encoding = Encoding(SPACES["usual"])
    assert encoding.names[:6] == ["s0.role.0", "s0.model.0", "s0.edge.1>0", "s0.role.1", "s0.model.1", "s0.edge.2>0"]
    rng = np.random.default_rng(0)
    options = np.stack([rng.integers(0, len(ends), 100) for ends in encoding.ends], axis=1)
    for within in (0.0, 0.5, np.nextafter(1, 0)):
        assert (encoding.options(encoding.numbers(options, np.full(options.shape, within))) == options).all()


@pytest.mark.parametrize(
    "graph",
    [
        Graph((Node("assistant", "large"),) * 5, ((0, 4), (1, 4), (2, 4), (3, 4))),
        Graph((Node("vote"),)),
        Graph((Node("fuser", "small"), Node("fuser", "small"), Node("keep", "large")), ((0, 1), (1, 2))),
        Graph((Node("assistant", "small"), Node("vote"), Node("assistant", "small")), ((0, 1), (1, 2))),
    ],
    ids=["over budget", "no parent", "fuser above fuser", "vote inside"],
)
def test_what_is_not_valid_is_put_right(graph):
    inside = space(5, 6)
    encoding = Encoding(inside)
    found = encoding.decode(encoding.encode([Plan((graph,))] * 20, np.random.default_rng(0)))
    for plan in found:
        inside.check(plan)
        assert plan != Plan((graph,))
