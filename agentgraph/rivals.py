"""What a person would wire by hand at the same budget: plans of one model each, to measure the search against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

from agentgraph.budget import Budget, Cost
from agentgraph.graph import Graph, Node
from agentgraph.model import Model
from agentgraph.plan import Plan
from agentgraph.request import Settings
from agentgraph.roles.base import Role
from agentgraph.space import Space, StageSpace

__all__ = ["Rival", "hand_wired"]

_KINDS: Final = (
    ("single call", "assistant", "single"),
    ("self-consistency", "vote", "star"),
    ("confidence vote", "confidence_vote", "star"),
    ("star + fuser", "fuser", "star"),
    ("refine chain", "assistant", "chain"),
    ("keep chain", "keep", "chain"),
)


@dataclass(frozen=True)
class Rival:
    """A hand-wired plan.

    Parameters
    ----------
    kind
        'single call', 'self-consistency', 'confidence vote', 'refine chain', 'keep chain' or 'star + fuser'.
    plan
        As many nodes as the budget pays.
    price
        Forecast cost of one question.
    roles
        The roles it uses, by name: the space's kinds at the model's own temperature.
    """

    kind: str
    plan: Plan
    price: Cost
    roles: Mapping[str, Role]


def hand_wired(space: Space, task: str) -> list[Rival]:
    """Rivals of every kind, model and temperature that the budget pays, largest that fits; single-stage spaces only.

    Each model is used at its best temperature for single calls according to its card, and, where several samples are
    combined, also at temperature 1: samples that do not differ are worth no more than one.
    """
    if len(space.stages) != 1:
        return []
    stage = space.stages[0]
    most = max(stage.max_nodes, int(space.budget.flops / stage.cheapest) + 1)
    rivals: dict[tuple[str, str], Rival] = {}
    for model in stage.pool:
        best = model.best_temperature(task)
        for temperature in dict.fromkeys((best, 1.0)):
            wide = replace(stage, roles=_at(stage, temperature, sink=best), max_nodes=most)
            for kind, graph in _wirings(wide, model, space.budget, single=temperature == best):
                used = {node.role: wide.by_name[node.role] for node in graph.nodes}
                rivals.setdefault((kind, graph.id), Rival(kind, Plan((graph,)), wide.price(graph), used))
    return list(rivals.values())


def _at(stage: StageSpace, temperature: float, *, sink: float) -> tuple[Role, ...]:
    """One role of each kind at a temperature; the fuser, which writes the answer, at the best one."""
    kinds: dict[str, Role] = {}
    for role in stage.roles:
        kinds.setdefault(role.kind, role)
    result = []
    for kind, role in kinds.items():
        if role.needs_model:
            warmth = sink if kind == "fuser" else temperature
            settings = Settings(warmth, role.settings.top_p, role.settings.max_tokens)
            result.append(replace(role, name=f"{kind}@{warmth:g}", settings=settings))
        else:
            result.append(role)
    return tuple(result)


def _wirings(stage: StageSpace, model: Model, budget: Budget, *, single: bool) -> Iterator[tuple[str, Graph]]:
    """The largest graph of each kind that the budget pays."""
    by_kind = {role.kind: role for role in stage.roles}
    if "assistant" not in by_kind:
        return
    solver = Node(by_kind["assistant"].name, model.name)

    def largest(graphs: Iterator[Graph]) -> Iterator[Graph]:
        """The last one that fits: each costs at least as much as the one before."""
        fitting = list(takewhile(lambda graph: budget.allows(stage.price(graph).flops), graphs))
        yield from fitting[-1:]

    def stars(role: Role) -> Iterator[Graph]:
        sink = Node(role.name, model.name if role.needs_model else "")
        for width in range(2, stage.max_nodes):
            yield Graph((*[solver] * width, sink), tuple((i, width) for i in range(width)))

    def chains(role: Role) -> Iterator[Graph]:
        for length in range(2, stage.max_nodes + 1):
            links = [Node(role.name, model.name)] * (length - 1)
            yield Graph((solver, *links), tuple((i, i + 1) for i in range(length - 1)))

    shapes = {"single": lambda _: iter([Graph((solver,))]), "star": stars, "chain": chains}
    for name, kind, shape in _KINDS:
        if kind in by_kind and (single or shape != "single"):
            yield from ((name, graph) for graph in largest(shapes[shape](by_kind[kind])))
