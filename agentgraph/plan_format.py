"""The parts of a plan file: one frozen, validated entry for each object in it (`agentgraph.plan_file` is the whole)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal, TypeVar

import networkx as nx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agentgraph.budget import RESOURCES, Budget, Cost, Rates
from agentgraph.errors import GraphError
from agentgraph.graph import Graph, Node

__all__ = [
    "BudgetEntry",
    "Entry",
    "Found",
    "GraphEntry",
    "ModelEntry",
    "Name",
    "NodeEntry",
    "PriceEntry",
    "RoleEntry",
    "Score",
    "Sorted",
    "StageEntry",
]

T = TypeVar("T")
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


def _by_key(given: dict[str, T]) -> dict[str, T]:
    return dict(sorted(given.items()))


Sorted = Annotated[dict[str, T], AfterValidator(_by_key)]


class Entry(BaseModel):
    """What all parts share: frozen, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NodeEntry(Entry):
    """A node: a role by name, and a model by name or null where the role calls none."""

    id: Count
    role: Name
    model: Name | None


class EdgeEntry(Entry):
    """The message of the source goes to the target."""

    source: Count
    target: Count


class NoAttributes(Entry):
    """Always empty; there because networkx's node-link form has it."""


class GraphEntry(Entry):
    """A graph in networkx's node-link form; exactly one node has no edge that leaves it: the sink."""

    directed: Literal[True] = True
    multigraph: Literal[False] = False
    graph: NoAttributes = NoAttributes()
    nodes: Annotated[tuple[NodeEntry, ...], Field(min_length=1)]
    edges: tuple[EdgeEntry, ...]


class StageEntry(Entry):
    """One stage of the task: its graph, and where the task has several its share of the budget, and budget and price in FLOPs."""

    name: Name
    share: Share | None = None
    budget_flops: Positive | None = None
    price_flops: Amount | None = None
    graph: GraphEntry

    @classmethod
    def of(
        cls,
        name: str,
        graph: Graph,
        budget_flops: float | None = None,
        price_flops: float | None = None,
        share: float | None = None,
    ) -> StageEntry:
        """Entry of a graph."""
        nodes = tuple(NodeEntry(id=i, role=n.role, model=n.model or None) for i, n in enumerate(graph.nodes))
        edges = tuple(EdgeEntry(source=i, target=j) for i, j in graph.edges)
        entry = GraphEntry(nodes=nodes, edges=edges)
        return cls(name=name, share=share, budget_flops=budget_flops, price_flops=price_flops, graph=entry)

    def built(self) -> tuple[Graph, tuple[int, ...]]:
        """The graph, its nodes as near to the order of their ids as the edges allow, and the id of each node.

        Raises
        ------
        GraphError
            If ids or edges stand twice, an edge names no node, or the graph breaks a rule of graphs.
        """
        by_id = {node.id: Node(node.role, node.model or "") for node in self.graph.nodes}
        ids, edges = sorted(by_id), [(edge.source, edge.target) for edge in self.graph.edges]
        if len(ids) < len(self.graph.nodes):
            raise GraphError(f"stage {self.name!r}: two nodes have the same id; give each its own")
        for edge in edges:
            if not set(edge) <= set(ids):
                raise GraphError(f"stage {self.name!r}: edge {edge} names a node that is not there; nodes are {ids}")
            if edges.count(edge) > 1:
                raise GraphError(f"stage {self.name!r}: edge {edge} is listed twice; remove one")
        try:
            Graph.from_any_order([by_id[i] for i in ids], [(ids.index(i), ids.index(j)) for i, j in edges])
        except GraphError as error:
            counted = "" if ids == list(range(len(ids))) else f" (nodes counted from 0 in the order of the ids {ids})"
            raise GraphError(f"stage {self.name!r}: {error}{counted}") from error
        directed: nx.DiGraph[int] = nx.DiGraph()
        directed.add_nodes_from(ids)
        directed.add_edges_from(edges)
        order = tuple(nx.lexicographical_topological_sort(directed))
        return Graph(tuple(by_id[i] for i in order), tuple((order.index(i), order.index(j)) for i, j in edges)), order


class SettingsEntry(Entry):
    """How the calls of a role are sampled."""

    temperature: Annotated[float, Field(ge=0, le=5)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None


class RoleEntry(Entry):
    """A role: its kind, which names one that the reading version has, its sampling settings and its texts."""

    kind: Name
    settings: SettingsEntry
    instructions: Sorted[str]
    edge: Literal["answer", "text"]


class RatesEntry(Entry):
    """What a call takes: so much for the call itself, and for each token."""

    call: Amount
    prompt_token: Amount
    output_token: Amount

    def rates(self) -> Rates:
        """The rates."""
        return Rates(self.call, self.prompt_token, self.output_token)


class ModelEntry(Entry):
    """A model: its size, prompt form and rates in dollars and seconds, never where it runs."""

    parameters: Positive
    layers: Count
    hidden_size: Count
    prompt_form: Literal["chat", "embedded"]
    usd: RatesEntry | None = None
    seconds: RatesEntry | None = None


class BudgetEntry(Entry):
    """What the price of one question may not exceed, null where there is no limit.

    A unit is one solve by the cheapest model of the pool.
    """

    flops: Positive | None
    unit_flops: Positive
    units: Positive | None
    calls: Positive | None = None
    tokens: Positive | None = None
    usd: Positive | None = None
    seconds: Positive | None = None
    tts_units: Positive | None = None

    @classmethod
    def of(cls, budget: Budget) -> BudgetEntry:
        """Entry of a budget."""
        limits = budget.limits
        units = budget.units if "flops" in limits else None
        return cls(unit_flops=budget.unit, units=units, **{name: limits.get(name) for name in RESOURCES})

    def budget(self) -> Budget:
        """The budget."""
        limits = {name: getattr(self, name) for name in RESOURCES}
        return Budget(unit=self.unit_flops, **{name: limit for name, limit in limits.items() if limit is not None})


class PriceEntry(Entry):
    """Forecast cost of one question; AgentTTS units, which may be less than 0, where they are limited."""

    flops: Amount
    units: Amount
    calls: Amount
    prompt_tokens: Amount
    output_tokens: Amount
    usd: Amount | None = None
    seconds: Amount | None = None
    tts_units: float | None = None

    @classmethod
    def of(cls, price: Cost, budget: Budget) -> PriceEntry:
        """Entry of a price."""
        amounts = asdict(price)
        if "tts_units" not in budget.limits:
            del amounts["tts_units"]
        return cls(units=price.flops / budget.unit, **amounts)

    def cost(self) -> Cost:
        """The price."""
        return Cost(**{name: getattr(self, name) or 0.0 for name in Cost.__dataclass_fields__})


class Score(Entry):
    """Accuracy on one split with its 95 % interval, and the mean measured FLOPs, dollars and seconds of a question."""

    split: Literal["train", "validation", "test"]
    accuracy: Share
    low: Share
    high: Share
    questions: Annotated[int, Field(ge=1)]
    replicate: Count
    charge_flops: Amount
    charge_usd: Amount | None = None
    charge_seconds: Amount | None = None


class Found(Entry):
    """How the plan was found: optimizer, seed, rounds, number of different plans tried, version of agentgraph."""

    optimizer: Name
    seed: int
    rounds: Count
    plans: Count
    agentgraph: Name
