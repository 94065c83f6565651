"""Distribution over plans: logits of edges, roles and models, drawn so that every plan is valid and affordable.

Source: Agent-REINFORCE (arXiv 2511.00086), the relaxation P(G) = edges × roles × models. Departures, all to make
each draw valid by construction and its log-probability exact: graphs are drawn slot by slot (`agentgraph.walk` says how),
never rejected or pruned; and for several stages, softmax shares give each stage's ceiling: its cheapest graph and its
share of what is left over after the cheapest graphs of the later stages, of each limited resource alike.

Shapes: K draws, N slots, R roles, M models, C = N(N-1)/2 + 2N choices; logits float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from agentgraph.budget import TTS_REFERENCE
from agentgraph.graph import Graph, Node
from agentgraph.many_limits import ManyLimits, ManyRules, takes_many
from agentgraph.plan import Plan
from agentgraph.walk import Draws, Rules, Walk, first_choice

if TYPE_CHECKING:
    from agentgraph.space import Space, StageSpace

__all__ = ["Distribution", "StageDistribution"]


class StageDistribution:
    """Tables of one stage.

    Parameters
    ----------
    space
        The stage's graphs.
    resources
        What is limited, of `agentgraph.budget.RESOURCES`, in their order; at least one.

    Attributes
    ----------
    edge_logits
        Shape (N, N); entry [s, t], t < s, is the edge from slot s to slot t.
    role_logits, model_logits
        Shapes (N, R) and (N, M).
    """

    def __init__(self, space: StageSpace, resources: Sequence[str] = ("flops",)) -> None:
        self.space = space
        n = space.max_nodes
        slots = torch.arange(n, dtype=torch.float64)
        # About one edge to the sink's side per slot, so that small and large graphs are both drawn at first.
        start = torch.clamp(1.2 / (slots + 1), max=0.5).unsqueeze(1).expand(n, n)
        self.edge_logits = torch.logit(start).tril(-1).clone()
        self.role_logits = torch.zeros(n, len(space.roles), dtype=torch.float64)
        self.model_logits = torch.zeros(n, len(space.pool), dtype=torch.float64)
        self._rules = ManyRules(space, resources) if takes_many(space, resources) else Rules(space, resources[0])

    @property
    def choices(self) -> int:
        """C, how many choices a walk makes: for each slot its edges, its role, its model."""
        return first_choice(self.space.max_nodes)

    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Edge, role and model logits."""
        return self.edge_logits, self.role_logits, self.model_logits

    def walk(
        self,
        ceiling: Tensor,
        *,
        given: Draws | None = None,
        uniforms: Tensor | None = None,
        mode: bool = False,
    ) -> tuple[Draws, Tensor]:
        """Draw K graphs, or go through given ones; either way with their exact log-probability.

        Returns the draws, and what each takes of every limited resource, shape (L, K).

        Parameters
        ----------
        ceiling
            Shape (L, K), what each graph may take of every limited resource; at least what the solve that is kept in
            reserve takes. In AgentTTS units without the reference prompt.
        given
            Graphs whose log-probability is wanted; one that cannot be drawn has -inf.
        uniforms
            Shape (C, K), in [0, 1): one number for each choice; uniform ones draw by the tables.
        mode
            Take the most probable option at each choice instead of drawing.
        """
        rules, tables = self._rules, self.parameters()
        if isinstance(rules, ManyRules):
            walk: Walk = ManyLimits(rules, tables, ceiling, given=given, uniforms=uniforms, mode=mode)
        else:
            walk = Walk(rules, tables, ceiling, given=given, uniforms=uniforms, mode=mode)
        draws = walk.run()
        return draws, walk.spent()

    def graph(self, draws: Draws, k: int) -> Graph:
        """Graph of draw ``k``."""
        present, roles, models = (column[k].tolist() for column in (draws.present, draws.roles, draws.models))
        slots = [s for s in reversed(range(self.space.max_nodes)) if present[s]]
        place = {slot: i for i, slot in enumerate(slots)}
        nodes = []
        for slot in slots:
            role = self.space.roles[roles[slot]]
            model = self.space.pool.names[models[slot]] if role.needs_model else ""
            nodes.append(Node(role.name, model))
        pairs = draws.edges[k].nonzero().tolist()
        return Graph(tuple(nodes), tuple((place[s], place[t]) for s, t in pairs))

    def label(self, graphs: Sequence[Graph]) -> Draws:
        """Graphs as labelled draws: node i of n takes slot n - 1 - i; log-probabilities are not filled in."""
        k, n = len(graphs), self.space.max_nodes
        edges = torch.zeros(k, n, n, dtype=torch.bool)
        present = torch.zeros(k, n, dtype=torch.bool)
        roles = torch.zeros(k, n, dtype=torch.int64)
        models = torch.zeros(k, n, dtype=torch.int64)
        role_index = {role.name: r for r, role in enumerate(self.space.roles)}
        model_index = {name: m for m, name in enumerate(self.space.pool.names)}
        for row, graph in enumerate(graphs):
            last = graph.sink
            for i, node in enumerate(graph.nodes):
                present[row, last - i] = True
                roles[row, last - i] = role_index[node.role]
                models[row, last - i] = model_index.get(node.model, 0)
            for i, j in graph.edges:
                edges[row, last - i, last - j] = True
        price = torch.tensor([self.space.price(graph).flops for graph in graphs], dtype=torch.float64)
        return Draws(edges, present, roles, models, torch.zeros(k, dtype=torch.float64), price)


class Distribution:
    """Tables of all stages and the shares of the budget.

    Parameters
    ----------
    space
        The plans.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._resources = tuple(space.budget.limits) or ("flops",)
        self.stages = tuple(StageDistribution(stage, self._resources) for stage in space.stages)
        self.share_logits = torch.zeros(len(space.stages), dtype=torch.float64)

    def sample(self, k: int, seed: int) -> list[Plan]:
        """Draw ``k`` plans; the same seed draws the same plans."""
        draws = self.draw(k, generator=torch.Generator().manual_seed(seed))
        return [self.plan(draws, row) for row in range(k)]

    def draw(self, k: int, generator: torch.Generator) -> tuple[Draws, ...]:
        """Draw ``k`` plans as tensors, one `Draws` per stage."""
        choices = sum(stage.choices for stage in self.stages)
        return self.decode(torch.rand(choices, k, dtype=torch.float64, generator=generator))

    def decode(self, uniforms: Tensor) -> tuple[Draws, ...]:
        """The plans that numbers in [0, 1) name, shape (choices of all stages, K): any numbers name valid plans.

        Uniform numbers name plans with the probabilities of the tables.
        """
        parts = torch.split(uniforms, [stage.choices for stage in self.stages])
        return self._walk(uniforms.shape[1], uniforms=parts)

    def mode(self) -> Plan:
        """The plan that takes the most probable option at each choice."""
        return self.plan(self._walk(1, mode=True), 0)

    def plan(self, draws: Sequence[Draws], row: int) -> Plan:
        """Plan of one row of the draws."""
        return Plan(tuple(stage.graph(draw, row) for stage, draw in zip(self.stages, draws, strict=True)))

    def label(self, plans: Sequence[Plan]) -> tuple[Draws, ...]:
        """Plans as labelled draws, in canonical order."""
        return tuple(stage.label([plan.stages[s] for plan in plans]) for s, stage in enumerate(self.stages))

    def log_prob(self, draws: Sequence[Draws]) -> Tensor:
        """Log-probability of labelled draws, shape (K,), nats; carries gradients to every logit that was used."""
        walked = self._walk(draws[0].edges.shape[0], given=draws)
        return torch.stack([draw.log_prob for draw in walked]).sum(0)

    def entropy(self, k: int = 256, seed: int = 0) -> float:
        """Monte-Carlo estimate of the entropy of labelled draws, nats, from ``k`` draws."""
        draws = self.draw(k, torch.Generator().manual_seed(seed))
        return float(-torch.stack([draw.log_prob for draw in draws]).sum(0).mean())

    def state(self) -> dict[str, Any]:
        """All logits as JSON-able data."""
        return {
            "share_logits": self.share_logits.tolist(),
            "stages": [
                {
                    "edge_logits": stage.edge_logits.tolist(),
                    "role_logits": stage.role_logits.tolist(),
                    "model_logits": stage.model_logits.tolist(),
                }
                for stage in self.stages
            ],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over logits that `state` gave."""
        self.share_logits = torch.tensor(state["share_logits"], dtype=torch.float64)
        for stage, tables in zip(self.stages, state["stages"], strict=True):
            for name, values in tables.items():
                setattr(stage, name, torch.tensor(values, dtype=torch.float64))

    def _walk(
        self,
        k: int,
        *,
        given: Sequence[Draws] | None = None,
        uniforms: Sequence[Tensor] | None = None,
        mode: bool = False,
    ) -> tuple[Draws, ...]:
        # Shape (L, K) and, of the graphs that are always within reach, (S, L): the reference prompt of AgentTTS set apart.
        free = [TTS_REFERENCE if name == "tts_units" else 0.0 for name in self._resources]
        limits = [getattr(self.space.budget, name) for name in self._resources]
        left = torch.tensor(
            [limit + gift * len(self.stages) for limit, gift in zip(limits, free, strict=True)], dtype=torch.float64
        )[:, None].repeat(1, k)
        least = torch.tensor(
            [
                [getattr(cost, name) + gift for name, gift in zip(self._resources, free, strict=True)]
                for cost in self.space.least
            ],
            dtype=torch.float64,
        )[:, :, None]
        shares = torch.softmax(self.share_logits, 0)
        result = []
        for s, stage in enumerate(self.stages):
            ceiling = least[s] + shares[s] / shares[s:].sum() * (left - least[s + 1 :].sum(0) - least[s])
            draws, spent = stage.walk(
                ceiling.detach(),
                given=None if given is None else given[s],
                uniforms=None if uniforms is None else uniforms[s],
                mode=mode,
            )
            left = left - spent
            result.append(draws)
        return tuple(result)
