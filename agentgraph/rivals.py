"""What a person would wire by hand at the same budget: plans with one model in each stage, to measure the search against."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Final

from agentgraph.budget import Budget, Cost, total
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
_ENDLESS: Final = 4096  # nodes


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
    """Rivals of every kind, model and temperature that the budget pays, largest that fits.

    Where no limit ends a kind (seconds do not end a star), it has as many nodes as the search may use.

    Each model is used at its best temperature for single calls according to its card, and, where several samples are
    combined, also at temperature 1: samples that do not differ are worth no more than one.

    Of several stages each has an even part of the budget, the same kind of wiring (a single call where its part does not pay that),
    and the model of the same rank by size: the smallest of each stage, the next of each, and so on.
    """
    if len(space.stages) == 1:
        return list(_of_stage(space.stages[0], space.budget, task).values())
    count = len(space.stages)
    part = Budget(unit=space.budget.unit, **{name: limit / count for name, limit in space.budget.limits.items()})
    found = [_of_stage(stage, part, stage.name) for stage in space.stages]
    names = [[model.name for model in sorted(stage.pool, key=_size)] for stage in space.stages]
    rivals: dict[str, Rival] = {}
    for (kind, _, _), rank, warm in product(_KINDS, range(max(map(len, names))), (False, True)):
        models = [own[min(rank, len(own) - 1)] for own in names]
        parts = [
            wired.get((kind, model, warm)) or wired.get(("single call", model, False))
            for wired, model in zip(found, models, strict=True)
        ]
        if None in parts or all(one.kind != kind for one in parts if one):
            continue
        chosen = [one for one in parts if one is not None]
        plan = Plan(tuple(one.plan.stages[0] for one in chosen))
        price = total(one.price for one in chosen)
        if space.budget.allows(price):
            used = {name: role for one in chosen for name, role in one.roles.items()}
            rivals.setdefault(f"{kind} {plan.id}", Rival(kind, plan, price, used))
    return list(rivals.values())


def _size(model: Model) -> float:
    return model.parameters


def _of_stage(stage: StageSpace, budget: Budget, task: str) -> dict[tuple[str, str, bool], Rival]:
    """Rivals of one stage by kind, model, and whether at temperature 1 instead of the best."""
    rivals: dict[tuple[str, str, bool], Rival] = {}
    for model in stage.pool:
        best = model.best_temperature(task)
        for temperature in dict.fromkeys((best, 1.0)):
            warm = replace(stage, roles=_at(stage, temperature, sink=best))
            for kind, graph in _wirings(warm, model, budget, single=temperature == best):
                used = {node.role: warm.by_name[node.role] for node in graph.nodes}
                rivals[kind, model.name, temperature != best] = Rival(kind, Plan((graph,)), warm.price(graph), used)
    return rivals


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
    """The largest graph of each kind that the budget pays, and that there are samples for."""
    by_kind = {role.kind: role for role in stage.roles}
    if "assistant" not in by_kind:
        return
    solver = Node(by_kind["assistant"].name, model.name)

    def lone(role: Role, size: int) -> Graph:
        del role, size
        return Graph((solver,))

    def star(role: Role, size: int) -> Graph:
        sink, width = Node(role.name, model.name if role.needs_model else ""), size - 1
        return Graph((*[solver] * width, sink), tuple((i, width) for i in range(width)))

    def chain(role: Role, size: int) -> Graph:
        links = [Node(role.name, model.name)] * (size - 1)
        return Graph((solver, *links), tuple((i, i + 1) for i in range(size - 1)))

    def fits(graph: Graph) -> bool:
        return not stage.overdrawn(graph) and budget.allows(stage.price(graph))

    shapes = {"single": (lone, 1), "star": (star, 3), "chain": (chain, 2)}
    for name, kind, shape in _KINDS:
        if kind in by_kind and (single or shape != "single"):
            make, least = shapes[shape]
            wired = partial(make, by_kind[kind])
            size = least if shape == "single" else _largest(lambda n: fits(wired(n)), least, stage.max_nodes)  # noqa: B023
            if size >= least and fits(wired(size)):
                yield name, wired(size)


def _largest(fits: Callable[[int], bool], least: int, otherwise: int) -> int:
    """The largest size that fits, or ``least`` if not even that does; ``otherwise`` if no limit is in sight.

    A size costs at least as much as the one before.
    """
    low, high = least, 2 * least
    while fits(high):
        low, high = high, 2 * high
        if high > _ENDLESS:
            return otherwise
    return low + bisect_left(range(low + 1, high), True, key=lambda size: not fits(size))
