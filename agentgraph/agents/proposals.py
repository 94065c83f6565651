"""Whole plans as an agent writes them, and the check of each against the space."""

from __future__ import annotations

import json
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from agentgraph.agents.reading import Reading, entry, sole_object, tally
from agentgraph.errors import BudgetError, FeedbackError, GraphError, SpaceError
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan
from agentgraph.space import Space, StageSpace

__all__ = ["FORM", "Proposal", "ProposedNode", "ProposedPlan", "as_written", "parse_plans", "read_plans", "written"]

FORM: Final = (
    "A plan is a list of graphs, one per stage; a graph is a list of nodes; 'parents' are the numbers (from 0, in the order "
    "of the list) of the nodes whose messages a node reads. Exactly one node is nobody's parent: the sink, whose message "
    "is the answer. Nodes may not form a cycle."
)


class ProposedNode(BaseModel):
    """A node; ``parents`` are numbers of nodes whose messages it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    model: str = ""
    parents: tuple[int, ...] = ()


ProposedPlan = list[list[ProposedNode]]
"""A graph for each stage; each a list of nodes."""


class Proposal(BaseModel):
    """Plans; each is a list of graphs, one per stage; each graph a list of nodes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plans: list[ProposedPlan] = Field(default_factory=list)


def parse_plans(text: str, space: Space, *, cut: bool = False) -> Reading[list[Plan]]:
    """The valid plans of a reply that holds nothing but plans.

    Raises
    ------
    FeedbackError
        If none can be used.
    """
    found = sole_object(text, ("plans",), cut=cut)
    plans, errors = read_plans(found.value["plans"], space)
    return tally(plans, errors, found.flaw, usable=bool(plans))


def read_plans(entries: object, space: Space) -> tuple[list[Plan], list[FeedbackError]]:
    """Valid plans of a list of entries, and what is wrong with each of the others."""
    if not isinstance(entries, list):
        return [], [FeedbackError(f"'plans' must be a list, got {str(entries)[:60]!r}")]
    plans, errors = [], []
    for i, raw in enumerate(entries):
        try:
            plans.append(_plan(raw, space, f"plans.{i}"))
        except FeedbackError as error:
            errors.append(error)
    return plans, errors


def _plan(raw: object, space: Space, where: str) -> Plan:
    if not isinstance(raw, list) or not all(isinstance(nodes, list) for nodes in raw):
        raise FeedbackError(f"{where} must be a list of graphs, each a list of nodes, got {str(raw)[:60]!r}")
    if len(raw) != len(space.stages):
        raise FeedbackError(
            f"{where} has {len(raw)} graphs, the task has {len(space.stages)} stages", kind="invalid plan"
        )
    graphs = [_graph(nodes, stage, where) for nodes, stage in zip(raw, space.stages, strict=True)]
    plan = Plan(tuple(graphs))
    try:
        space.check(plan)
    except BudgetError as error:
        raise FeedbackError(f"{where}: {error}", kind="over budget") from error
    except (GraphError, SpaceError) as error:
        raise FeedbackError(f"{where}: {error}", kind="invalid plan") from error
    return plan


def _graph(raw: Sequence[object], stage: StageSpace, where: str) -> Graph:
    if not 1 <= len(raw) <= stage.max_nodes:  # before the canonical form, which is slow on large graphs
        raise FeedbackError(
            f"{where}: stage {stage.name!r} has {len(raw)} nodes, 1 to {stage.max_nodes} are allowed",
            kind="invalid plan",
        )
    nodes = [entry(one, ProposedNode, f"{where}.nodes.{i}") for i, one in enumerate(raw)]
    for i, node in enumerate(nodes):
        _check_names(node, stage, len(nodes), f"{where}, node {i}")
    try:
        TopologicalSorter({i: node.parents for i, node in enumerate(nodes)}).prepare()
    except CycleError as error:
        cycle = " -> ".join(map(str, reversed(error.args[1])))
        raise FeedbackError(f"{where}: the nodes {cycle} form a cycle", kind="cycle") from error
    made = [Node(node.role, node.model if stage.role(node.role).needs_model else "") for node in nodes]
    try:
        return Graph.from_any_order(made, [(parent, i) for i, node in enumerate(nodes) for parent in node.parents])
    except GraphError as error:
        raise FeedbackError(f"{where}: {error}", kind="invalid plan") from error


def _check_names(node: ProposedNode, stage: StageSpace, count: int, where: str) -> None:
    if node.role not in stage.by_name:
        raise FeedbackError(
            f"{where} has the role {node.role!r}; there are {', '.join(stage.by_name)}", kind="unknown id"
        )
    if node.model not in stage.pool.names and stage.role(node.role).needs_model:
        raise FeedbackError(
            f"{where} has the model {node.model!r}; there are {', '.join(stage.pool.names)}", kind="unknown id"
        )
    strangers = [parent for parent in node.parents if not 0 <= parent < count]
    if strangers:
        raise FeedbackError(f"{where} has the parents {strangers}; nodes are 0 to {count - 1}", kind="unknown id")


def written(plan: Plan) -> str:
    """A plan as a reply has it, as text."""
    return json.dumps(as_written(plan))


def as_written(plan: Plan) -> list[Any]:
    """A plan as a reply has it."""
    return [
        [
            {"role": node.role, "model": node.model, "parents": parents}
            for node, parents in zip(graph.nodes, graph.parents, strict=True)
        ]
        for graph in plan.stages
    ]
