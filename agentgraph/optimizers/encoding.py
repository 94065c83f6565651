"""Plans as vectors of numbers in [0, 1), one for each choice of the walk: every vector names a valid plan in budget.

A number names an option of its choice's table as it stands before any learning; where that option is not allowed, it
names an allowed one (see `agentgraph.distribution`). So uniform vectors decode to what random search draws, nothing is
rejected, and a number means the same wherever its option is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from agentgraph.distribution import Distribution, StageDistribution
from agentgraph.plan import Plan
from agentgraph.space import Space
from agentgraph.walk import Draws, first_choice

__all__ = ["Encoding"]

Vectors = NDArray[np.float64]


class Encoding:
    """Plans of a space to vectors and back.

    Parameters
    ----------
    space
        The plans.

    Attributes
    ----------
    names
        What each of the C entries chooses, such as ``s0.edge.2>1`` or ``s0.role.0``; of several stages first the ``split``.
    ends
        For each entry where its options' intervals end, ascending, the last at 1; an edge's first option is to be there.
    slots
        Stage and slot of each entry, shape (C, 2); the split goes with the first.
    """

    def __init__(self, space: Space) -> None:
        self.tables = Distribution(space)
        self.names: list[str] = []
        self.ends: list[Vectors] = []
        places: list[tuple[int, int]] = []
        if len(space.stages) > 1:
            self.names.append("split")
            self.ends.append(_ends(self.tables.log_splits()))
            places.append((0, 0))
        for s, stage in enumerate(self.tables.stages):
            for slot in range(stage.space.max_nodes):
                chances = torch.sigmoid(stage.edge_logits[slot, :slot]).tolist()
                self.names += [f"s{s}.edge.{slot}>{t}" for t in range(slot)]
                self.names += [f"s{s}.role.{slot}", f"s{s}.model.{slot}"]
                self.ends += [np.array([chance, 1.0]) for chance in chances]
                self.ends += [_ends(stage.role_logits[slot]), _ends(stage.model_logits[slot])]
                places += [(s, slot)] * (slot + 2)
        self.slots = np.array(places)

    def decode(self, vectors: Vectors) -> list[Plan]:
        """Plans that vectors name, shape (K, C); any vectors with entries in [0, 1] are valid."""
        numbers = np.clip(vectors, 0.0, np.nextafter(1.0, 0.0))
        draws = self.tables.decode(torch.from_numpy(np.ascontiguousarray(numbers.T)))
        return [self.tables.plan(draws, row) for row in range(len(vectors))]

    def encode(self, plans: Sequence[Plan], rng: np.random.Generator) -> Vectors:
        """Random vectors that name these plans, option by option, shape (K, C); entries that do not count are uniform.

        A plan that is not valid or not within the budget gives vectors that name what is nearest on the walk.
        """
        draws = self.tables.label(plans)
        options = [_options(*pair) for pair in zip(self.tables.stages, draws, strict=True)]
        if len(draws) > 1:
            options.insert(0, self._split(draws, rng)[:, None])
        return self.numbers(np.concatenate(options, axis=1), rng.random((len(plans), len(self.names))))

    def _split(self, draws: Sequence[Draws], rng: np.random.Generator) -> NDArray[np.int64]:
        """Splits by which labelled draws may have been drawn, shape (K,), as probable as they are; else any."""
        chances = torch.softmax(self.tables.log_probs(draws).nan_to_num(neginf=-1e9), 0).cumsum(0).numpy()
        drawn: NDArray[np.int64] = (chances <= rng.random(chances.shape[1]) * chances[-1]).sum(0)
        return np.minimum(drawn, len(chances) - 1)

    def options(self, vectors: Vectors) -> NDArray[np.int64]:
        """Option that each entry names, shape (K, C)."""
        columns = [
            np.searchsorted(ends[:-1], column, "right") for ends, column in zip(self.ends, vectors.T, strict=True)
        ]
        return np.stack(columns, axis=1)

    def numbers(self, options: NDArray[np.int64], within: Vectors) -> Vectors:
        """Vectors that name options, both of shape (K, C), at the part ``within`` of their intervals; -1 names none."""
        low, high = self._bounds
        entry = np.arange(options.shape[1])
        start, end = low[entry, options], high[entry, options]
        numbers = np.minimum(start + within * (end - start), np.nextafter(end, 0.0))
        return np.where(options < 0, within, numbers)

    @cached_property
    def _bounds(self) -> tuple[Vectors, Vectors]:
        """Where each option's interval starts and ends, shape (C, most options)."""
        high = np.ones((len(self.ends), max(map(len, self.ends))))
        for row, ends in zip(high, self.ends, strict=True):
            row[: len(ends)] = ends
        low = np.concatenate([np.zeros((len(high), 1)), high[:, :-1]], axis=1)
        return low, high


def _ends(logits: torch.Tensor) -> Vectors:
    ends: Vectors = torch.softmax(logits, 0).cumsum(0).numpy()
    ends[-1] = 1.0
    return ends


def _options(stage: StageDistribution, draws: Draws) -> NDArray[np.int64]:
    """Option of each choice of labelled graphs, shape (K, choices); -1 where a choice does not count."""
    needs_model = np.array([role.needs_model for role in stage.space.roles])
    present, roles, models = draws.present.numpy(), draws.roles.numpy(), draws.models.numpy()
    edges = draws.edges.numpy()
    options = np.full((len(present), stage.choices), -1, dtype=np.int64)
    for slot in range(stage.space.max_nodes):
        at, there = first_choice(slot), present[:, slot]
        options[:, at : at + slot] = np.where(present[:, :slot], ~edges[:, slot, :slot], -1)
        options[:, at + slot] = np.where(there, roles[:, slot], -1)
        options[:, at + slot + 1] = np.where(there & needs_model[roles[:, slot]], models[:, slot], -1)
    return options
