"""A plan: one graph per stage. A single-stage task has a plan of length one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from agentgraph.errors import GraphError
from agentgraph.graph import Graph

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """Graphs in the order of the task's stages, each put in canonical form.

    Two plans are equal if their graphs are; where a plan came from, what it costs and how it scored is not part of it.
    """

    stages: tuple[Graph, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise GraphError("a plan needs a graph for each stage, got none")
        object.__setattr__(self, "stages", tuple(graph.canonical for graph in self.stages))

    @cached_property
    def id(self) -> str:
        """12 hex digits that name the plan."""
        text = json.dumps(self.compact(), separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    @property
    def nodes(self) -> int:
        """Number of nodes of all stages."""
        return sum(len(graph.nodes) for graph in self.stages)

    def compact(self) -> list[Any]:
        """Graphs as JSON-able data."""
        return [graph.compact() for graph in self.stages]

    @classmethod
    def from_compact(cls, data: Sequence[Any]) -> Plan:
        """Inverse of `compact`."""
        return cls(tuple(Graph.from_compact(graph) for graph in data))
