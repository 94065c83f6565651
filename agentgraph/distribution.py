"""Distribution over plans: logits of edges, roles and models, drawn so that every plan is valid and affordable.

Source: Agent-REINFORCE (arXiv 2511.00086), the relaxation P(G) = edges × roles × models. Departures, all to make
each draw valid by construction and its log-probability exact: graphs are drawn slot by slot (`agentgraph.walk` says how),
never rejected or pruned; and for several stages a split of the budget is drawn first: `SLICES` equal slices, each given
to a stage with the probabilities that softmax has for its share. A stage's ceiling is its cheapest graph and its slices of
what is left over after the cheapest graphs of the later stages, of each limited resource alike. A plan does not say by
which split it was drawn, so its log-probability is summed over all of them.

Shapes: K draws, N slots, R roles, M models, C = N(N-1)/2 + 2N choices of a stage, S stages, G splits; logits float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import lgamma
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from agentgraph.budget import TTS_REFERENCE
from agentgraph.graph import Graph, Node
from agentgraph.many_limits import ManyLimits, ManyRules, takes_many
from agentgraph.plan import Plan
from agentgraph.walk import Draws, Rules, Walk, first_choice, pick

if TYPE_CHECKING:
    from agentgraph.space import Space, StageSpace

__all__ = ["SLICES", "Distribution", "StageDistribution"]

SLICES: Final = 8
"""Parts that the budget of several stages is split into."""
_NEVER: Final = -1e30  # a log-probability that adds nothing, but has a gradient


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
        The plans; its ``shares`` are those at first.

    Attributes
    ----------
    share_logits
        Shape (S,); softmax gives the mean share of each stage.
    splits
        Shape (G, S): how many slices each stage has, in every split; from none to all for the first stage.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._resources = tuple(space.budget.limits) or ("flops",)
        self.stages = tuple(StageDistribution(stage, self._resources) for stage in space.stages)
        shares = torch.tensor(space.shares or [1.0] * len(space.stages), dtype=torch.float64)
        self.share_logits = torch.log(shares)
        slices = SLICES if len(space.stages) > 1 else 1
        self.splits = torch.tensor(list(_splits(slices, len(space.stages))), dtype=torch.float64)
        ways = [lgamma(slices + 1) - sum(lgamma(n + 1) for n in row) for row in self.splits.tolist()]
        self._ways = torch.tensor(ways, dtype=torch.float64)

    @property
    def choices(self) -> int:
        """How many choices a draw makes: the split, if there are several stages, and those of each stage."""
        return sum(stage.choices for stage in self.stages) + (len(self.stages) > 1)

    @property
    def shares(self) -> Tensor:
        """Mean share of each stage, shape (S,)."""
        return torch.softmax(self.share_logits, 0)

    def log_splits(self) -> Tensor:
        """Log-probability of each split, shape (G,): multinomial; carries gradients to the share logits."""
        return self._ways + self.splits @ torch.log_softmax(self.share_logits, 0)

    def parameters(self) -> list[Tensor]:
        """All logits: the tables of each stage, and of several the share logits."""
        tables = [table for stage in self.stages for table in stage.parameters()]
        return [*tables, self.share_logits] if len(self.stages) > 1 else tables

    def sample(self, k: int, seed: int) -> list[Plan]:
        """Draw ``k`` plans; the same seed draws the same plans."""
        draws = self.draw(k, generator=torch.Generator().manual_seed(seed))
        return [self.plan(draws, row) for row in range(k)]

    def draw(self, k: int, generator: torch.Generator) -> tuple[Draws, ...]:
        """Draw ``k`` plans as tensors, one `Draws` per stage; log-probabilities there are given the split."""
        return self.decode(torch.rand(self.choices, k, dtype=torch.float64, generator=generator))

    def decode(self, uniforms: Tensor) -> tuple[Draws, ...]:
        """The plans that numbers in [0, 1) name, shape (`choices`, K): any numbers name valid plans.

        Uniform numbers name plans with the probabilities of the tables. Of several stages the first number names the split.
        """
        k = uniforms.shape[1]
        split = torch.zeros(k, dtype=torch.int64)
        if len(self.stages) > 1:
            split = pick(self.log_splits().detach(), torch.ones(len(self.splits), k, dtype=torch.bool), uniforms[0])
            uniforms = uniforms[1:]
        return self._walk(split, uniforms=torch.split(uniforms, [stage.choices for stage in self.stages]))

    def mode(self) -> Plan:
        """The plan that takes the most probable option at each choice."""
        return self.plan(self._walk(self.log_splits().argmax(0, keepdim=True), mode=True), 0)

    def plan(self, draws: Sequence[Draws], row: int) -> Plan:
        """Plan of one row of the draws."""
        return Plan(tuple(stage.graph(draw, row) for stage, draw in zip(self.stages, draws, strict=True)))

    def label(self, plans: Sequence[Plan]) -> tuple[Draws, ...]:
        """Plans as labelled draws, in canonical order."""
        return tuple(stage.label([plan.stages[s] for plan in plans]) for s, stage in enumerate(self.stages))

    def log_prob(self, draws: Sequence[Draws]) -> Tensor:
        """Log-probability of labelled draws, shape (K,), nats; carries gradients to every logit that was used."""
        by_split = self.log_probs(draws)
        if len(by_split) == 1:
            return by_split[0]
        possible = by_split > -torch.inf
        summed = torch.logsumexp(torch.where(possible, by_split, _NEVER), 0)
        return torch.where(possible.any(0), summed, -torch.inf)

    def log_probs(self, draws: Sequence[Draws]) -> Tensor:
        """Log-probability of labelled draws together with each split, shape (G, K); -inf where a split does not allow it."""
        k, g = draws[0].edges.shape[0], len(self.splits)
        rows = list(range(k)) * g
        walked = self._walk(torch.arange(g).repeat_interleave(k), given=[draw.rows(rows) for draw in draws])
        given_split = torch.stack([draw.log_prob for draw in walked]).sum(0)
        return given_split[None] if g == 1 else self.log_splits()[:, None] + given_split.reshape(g, k)

    def entropy(self, k: int = 256, seed: int = 0) -> float:
        """Monte-Carlo estimate of the entropy of labelled draws, nats, from ``k`` draws."""
        return float(-self.log_prob(self.draw(k, torch.Generator().manual_seed(seed))).mean())

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
        split: Tensor,
        *,
        given: Sequence[Draws] | None = None,
        uniforms: Sequence[Tensor] | None = None,
        mode: bool = False,
    ) -> tuple[Draws, ...]:
        """Walk through the stages, each graph under the ceiling that its split, shape (K,), gives it."""
        # Shape (L, K) and, of the graphs that are always within reach, (S, L): the reference prompt of AgentTTS set apart.
        free = [TTS_REFERENCE if name == "tts_units" else 0.0 for name in self._resources]
        limits = [getattr(self.space.budget, name) for name in self._resources]
        left = torch.tensor(
            [limit + gift * len(self.stages) for limit, gift in zip(limits, free, strict=True)], dtype=torch.float64
        )[:, None].repeat(1, len(split))
        least = torch.tensor(
            [
                [getattr(cost, name) + gift for name, gift in zip(self._resources, free, strict=True)]
                for cost in self.space.least
            ],
            dtype=torch.float64,
        )[:, :, None]
        slices = self.splits[split].T  # (S, K)
        result = []
        for s, stage in enumerate(self.stages):
            last = s == len(self.stages) - 1
            share = 1.0 if last else slices[s] / slices[s:].sum(0).clamp_min(1.0)
            ceiling = least[s] + share * (left - least[s + 1 :].sum(0) - least[s])
            draws, spent = stage.walk(
                ceiling,
                given=None if given is None else given[s],
                uniforms=None if uniforms is None else uniforms[s],
                mode=mode,
            )
            left = left - (spent if self.space.hand_on else ceiling)
            result.append(draws)
        return tuple(result)


def _splits(slices: int, stages: int) -> Iterator[list[int]]:
    """All ways to give slices to stages, the fewest to the first stage first."""
    if stages == 1:
        yield [slices]
        return
    for first in range(slices + 1):
        yield from ([first, *rest] for rest in _splits(slices - first, stages - 1))
