"""Forecast of utilities: what the trials so far say of plans not yet tried.

A Gaussian process over what the three insights of Agent-REINFORCE (arXiv 2511.00086) say matters: how many nodes of
each model and role there are (insight 1), width and depth (insight 2), and whether the two depend on each other
(insight 3). It knows nothing of the task. Counts enter as logarithms: a fifth node of a model changes less than a second.

Shapes: n trials, K plans, F features.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.spatial.distance import cdist

from agentgraph.graph import Graph
from agentgraph.plan import Plan
from agentgraph.space import Space, StageSpace

__all__ = ["INSIGHTS", "Forecast"]

INSIGHTS: Final = (1, 2, 3)
Values = NDArray[np.float64]
_LENGTHS: Final = (0.7, 1.4, 2.8, 5.6)  # of the kernel, in features
_SPREADS: Final = (0.03, 0.1, 0.3)  # standard deviation of utilities over plans
_MISFIT: Final = 0.02  # what features leave unsaid of a plan, as a standard deviation
_MOST: Final = 300  # trials that are fitted: the latest
_SHAPE: Final = 2  # features of a graph that say its shape: they come first


class Forecast:
    """Mean and standard deviation of the utility of any plan of a space.

    Parameters
    ----------
    space
        The plans.
    insights
        Which of the insights 1, 2 and 3 to use; without any of them only the number of nodes is left.
    """

    def __init__(self, space: Space, insights: Collection[int] = INSIGHTS) -> None:
        self.space, self.insights = space, frozenset(insights)
        self._features: dict[str, Values] = {}
        sizes = [_SHAPE + 3 + (1 in self.insights) * (1 + 2 * (len(s.pool) + len(s.roles))) for s in space.stages]
        starts = np.cumsum([0, *sizes[:-1]])
        place = np.concatenate([np.arange(size) for size in sizes])
        # Columns of depth, of width, and all others.
        self._parts = (starts, starts + 1, np.flatnonzero(place >= _SHAPE))
        self._x = np.zeros((0, 1))
        self._mean, self._length, self._spread = 0.5, _LENGTHS[1], _SPREADS[1]
        self._weights = np.zeros(0)
        self._factor: tuple[Values, bool] | None = None

    def fit(self, plans: Sequence[Plan], utilities: Values, errors: Values) -> None:
        """Learn from trials: their plans, utilities and standard errors, shapes (n,)."""
        plans, y, noise = plans[-_MOST:], utilities[-_MOST:], errors[-_MOST:] ** 2 + _MISFIT**2
        self._factor = None
        if not len(plans):
            return
        self._x = self._matrix(plans)
        self._mean = float(np.average(y, weights=1 / (noise + 0.1**2)))
        best = -np.inf
        for length, spread in product(_LENGTHS, _SPREADS):
            kernel = self._kernel(self._x, self._x, length, spread) + np.diag(noise)
            try:
                factor = cho_factor(kernel, lower=True)
            except LinAlgError:
                continue
            weights = cho_solve(factor, y - self._mean)
            evidence = -0.5 * float((y - self._mean) @ weights) - float(np.log(np.diag(factor[0])).sum())
            if evidence > best:
                best, self._length, self._spread = evidence, length, spread
                self._factor, self._weights = factor, weights

    def predict(self, plans: Sequence[Plan]) -> tuple[Values, Values]:
        """Mean, shape (K,), and covariance, shape (K, K), of the utilities of plans; before any fit a wide guess."""
        x = self._matrix(plans)
        own = self._kernel(x, x, self._length, self._spread)
        if self._factor is None:
            return np.full(len(plans), self._mean), own
        cross = self._kernel(x, self._x, self._length, self._spread)
        mean = self._mean + cross @ self._weights
        covariance = own - cross @ cho_solve(self._factor, cross.T)
        return mean, covariance + _MISFIT**2 * np.eye(len(plans))

    def _matrix(self, plans: Sequence[Plan]) -> Values:
        for plan in plans:
            if plan.id not in self._features:
                self._features[plan.id] = np.concatenate(
                    [self._of_graph(stage, graph) for stage, graph in zip(self.space.stages, plan.stages, strict=True)]
                )
        return np.array([self._features[plan.id] for plan in plans])

    def _of_graph(self, stage: StageSpace, graph: Graph) -> Values:
        """Features of a graph: depth and width first, then counts."""
        sink = graph.nodes[-1]
        shape = [np.log2(graph.depth), np.log2(graph.width)] if 2 in self.insights else [0.0, 0.0]
        counts = [np.log2(1 + len(graph.nodes)), np.log2(1 + len(graph.parents[-1])), np.log2(1 + len(graph.edges))]
        if 1 in self.insights:
            models = [node.model for node in graph.nodes]
            mixed = sum(models[i] != models[j] for i, j in graph.edges if models[i] and models[j])
            counts.append(np.log2(1 + mixed))  # messages from one model to another
            counts += [np.log2(1 + sum(n.model == name for n in graph.nodes)) for name in stage.pool.names]
            counts += [float(sink.model == name) / 2 for name in stage.pool.names]
            for role in stage.by_name:
                counts.append(np.log2(1 + sum(n.role == role for n in graph.nodes)))
                counts.append(float(sink.role == role) / 2)
        return np.array([*shape, *counts])

    def _kernel(self, a: Values, b: Values, length: float, spread: float) -> Values:
        """Covariance of utilities; without insight 3 width and depth add up instead of depending on each other."""
        depth, width, rest = (cdist(a[:, part], b[:, part], "sqeuclidean") for part in self._parts)
        scale = -0.5 / length**2
        if 3 in self.insights:
            kernel: Values = spread**2 * np.exp(scale * (rest + depth + width))
        else:
            kernel = spread**2 * (np.exp(scale * (rest + width)) + np.exp(scale * (rest + depth))) / 2
        return kernel
