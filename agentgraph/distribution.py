"""Distribution over plans: logits of edges, roles and models, drawn so that every plan is valid and affordable.

Source: Agent-REINFORCE (arXiv 2511.00086), the relaxation P(G) = edges × roles × models. Departures, all to make
each draw valid by construction and its log-probability exact:

- Slots go from the sink (slot 0) down; slot s draws its edges to the slots t < s that are there, so no draw is
  rejected for a cycle, and a slot that drew no edge is not there. An edge s -> t makes slot s a parent of slot t.
- Edges first, then the role, then the model (only if the role calls one).
- At each choice an option counts only if the cheapest way to finish still fits: each node that lacks its first parent
  must get one, one cheapest solver may feed them all, and the last slot cannot need a parent itself. Options that
  do not fit have probability 0 and the others are renormalised.
- For several stages, softmax shares give each stage's ceiling: its cheapest graph and its share of what is left
  over after the cheapest graphs of the later stages.

Shapes: K draws, N slots, R roles, M models; logits float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan

if TYPE_CHECKING:
    from agentgraph.space import Space, StageSpace

__all__ = ["Distribution", "Draws", "StageDistribution"]


@dataclass(frozen=True)
class Draws:
    """K labelled graphs of one stage.

    Parameters
    ----------
    edges
        Shape (K, N, N), bool: slot s is a parent of slot t < s.
    present
        Shape (K, N), bool.
    roles, models
        Shape (K, N), int64; 0 where a slot is not there (or calls no model).
    log_prob
        Shape (K,), float64, nats.
    price
        Shape (K,), float64, FLOPs.
    """

    edges: Tensor
    present: Tensor
    roles: Tensor
    models: Tensor
    log_prob: Tensor
    price: Tensor


class StageDistribution:
    """Tables of one stage.

    Parameters
    ----------
    space
        The stage's graphs.

    Attributes
    ----------
    edge_logits
        Shape (N, N); entry [s, t], t < s, is the edge from slot s to slot t.
    role_logits, model_logits
        Shapes (N, R) and (N, M).
    """

    def __init__(self, space: StageSpace) -> None:
        self.space = space
        n = space.max_nodes
        slots = torch.arange(n, dtype=torch.float64)
        # About one edge to the sink's side per slot, so that small and large graphs are both drawn at first.
        start = torch.clamp(1.2 / (slots + 1), max=0.5).unsqueeze(1).expand(n, n)
        self.edge_logits = torch.logit(start).tril(-1).clone()
        self.role_logits = torch.zeros(n, len(space.roles), dtype=torch.float64)
        self.model_logits = torch.zeros(n, len(space.pool), dtype=torch.float64)
        self._price = torch.as_tensor(space.flops_table)
        roles = space.roles
        self._needs_parent = torch.tensor([role.min_parents > 0 for role in roles])
        self._needs_model = torch.tensor([role.needs_model for role in roles])
        self._sink = torch.tensor([role.may_be_sink for role in roles])
        self._inner = torch.tensor([role.may_be_inner for role in roles])
        self._conflict = torch.tensor([[child.kind in role.not_above for child in roles] for role in roles])

    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Edge, role and model logits."""
        return self.edge_logits, self.role_logits, self.model_logits

    def walk(
        self,
        ceiling: Tensor,
        *,
        given: Draws | None = None,
        generator: torch.Generator | None = None,
        mode: bool = False,
    ) -> Draws:
        """Draw K graphs, or go through given ones; either way with their exact log-probability.

        Parameters
        ----------
        ceiling
            Shape (K,), FLOPs that each graph may cost; at least the cheapest solve.
        given
            Graphs whose log-probability is wanted; one that cannot be drawn has -inf.
        generator
            Source of randomness for drawing.
        mode
            Take the most probable option at each choice instead of drawing.
        """
        return _Walk(self, ceiling, given=given, generator=generator, mode=mode).run()

    def graph(self, draws: Draws, k: int) -> Graph:
        """Graph of draw ``k``."""
        slots = [s for s in reversed(range(self.space.max_nodes)) if draws.present[k, s]]
        place = {slot: i for i, slot in enumerate(slots)}
        nodes = []
        for slot in slots:
            role = self.space.roles[int(draws.roles[k, slot])]
            model = self.space.pool.names[int(draws.models[k, slot])] if role.needs_model else ""
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


class _Walk:
    """One pass over slots, sink first, for K graphs at once."""

    def __init__(
        self,
        dist: StageDistribution,
        ceiling: Tensor,
        *,
        given: Draws | None,
        generator: torch.Generator | None,
        mode: bool,
    ) -> None:
        self.dist, self.given, self.generator, self.mode = dist, given, generator, mode
        self.k, self.n = ceiling.shape[0], dist.space.max_nodes
        self.ceiling = ceiling * (1 + 1e-9)
        self.solve = dist.space.cheapest
        self.rows = torch.arange(self.k)
        self.edges = torch.zeros(self.k, self.n, self.n, dtype=torch.bool)
        self.present = torch.zeros(self.k, self.n, dtype=torch.bool)
        self.roles = torch.zeros(self.k, self.n, dtype=torch.int64)
        self.models = torch.zeros(self.k, self.n, dtype=torch.int64)
        self.degree = torch.zeros(self.k, self.n, dtype=torch.int64)
        self.needy = torch.zeros(self.k, self.n, dtype=torch.bool)  # lacks its first parent
        self.rise = torch.zeros(self.k, self.n, dtype=torch.float64)  # what one more parent adds to its price
        self.spent = torch.zeros(self.k, dtype=torch.float64)
        self.log_prob = torch.zeros(self.k, dtype=torch.float64)

    def run(self) -> Draws:
        for slot in range(self.n):
            self.present[:, slot] = self._draw_edges(slot) if slot else torch.ones(self.k, dtype=torch.bool)
            self._draw_role(slot)
            self._draw_model(slot)
        return Draws(self.edges, self.present, self.roles, self.models, self.log_prob, self.spent)

    def _draw_edges(self, slot: int) -> Tensor:
        """Draw the edges from a slot to those before it; whether it got any, shape (K,)."""
        later = slot < self.n - 1
        has = torch.zeros(self.k, dtype=torch.bool)
        passed = torch.zeros(self.k, dtype=torch.bool)  # a needy slot was left for a later one to feed
        for t in range(slot):
            there, needy, rise = self.present[:, t], self.needy[:, t].clone(), self.rise[:, t].clone()
            wants = (self.needy * self.rise).sum(1)
            waiting = self.needy.any(1)
            left = self.ceiling - self.spent
            # If the edge is drawn, this slot is a node; if a needy slot was passed, one more solver must follow.
            yes = there & (self.solve + rise + wants - needy * rise + passed * self.solve <= left)
            if not later:
                yes &= ~passed
            passed_no = passed | needy
            no_need = torch.where(
                has, self.solve * (1.0 + passed_no) + wants, torch.where(waiting, self.solve + wants, 0.0)
            )
            no = no_need <= left
            if not later:
                no &= ~passed_no
            chosen = self._bernoulli(self.dist.edge_logits[slot, t], yes, no | ~there, (slot, t))
            self.edges[:, slot, t] = chosen
            self.spent = self.spent + chosen * rise
            self.degree[:, t] += chosen.long()
            self.needy[:, t] &= ~chosen
            self._refresh_rise(t)
            has, passed = has | chosen, torch.where(chosen, passed, passed_no)
        return has

    def _bernoulli(self, logit: Tensor, yes: Tensor, no: Tensor, at: tuple[int, int]) -> Tensor:
        """Choose an edge where it may be chosen; forced choices carry no log-probability."""
        free = yes & no
        if self.given is not None:
            chosen = self.given.edges[:, at[0], at[1]].clone()
            impossible = torch.where(chosen, ~yes, ~no)
            self.log_prob = torch.where(impossible, -torch.inf, self.log_prob)
        else:
            drawn = logit > 0 if self.mode else self._uniform() < torch.sigmoid(logit.detach())
            chosen = torch.where(free, drawn, yes)
        log_p = torch.where(chosen, torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit))
        self.log_prob = self.log_prob + torch.where(free, log_p, torch.zeros_like(log_p))
        return chosen

    def _draw_role(self, slot: int) -> None:
        dist, price = self.dist, self.dist._price
        needs = dist._needs_parent
        allowed = (dist._sink if slot == 0 else dist._inner).expand(self.k, -1).clone()
        if slot == self.n - 1:
            allowed &= ~needs
        # (K, R): role r conflicts with the role of some child.
        child = torch.nn.functional.one_hot(self.roles, len(needs)).bool() & self.edges[:, slot, :, None]
        allowed &= ~(dist._conflict[None] & child.any(1)[:, None, :]).any(2)
        own = torch.where(needs, 0.0, price[:, :, 0].min(1).values)  # (R,)
        first = torch.where(needs, price[:, :, 1].min(1).values if self.n > 1 else own, 0.0)
        allowed &= self._affordable(own.expand(self.k, -1), needs.expand(self.k, -1), first.expand(self.k, -1))
        given = None if self.given is None else self.given.roles[:, slot]
        chosen = self._categorical(dist.role_logits[slot], allowed, self.present[:, slot], given)
        self.roles[:, slot] = chosen
        self.needy[:, slot] = self.present[:, slot] & needs[chosen]

    def _draw_model(self, slot: int) -> None:
        dist, price = self.dist, self.dist._price
        role, needy = self.roles[:, slot], self.needy[:, slot].clone()
        asks = self.present[:, slot] & dist._needs_model[role]
        self.needy[:, slot] = False  # counted through `first` while the model is open
        first = price[role, :, min(1, self.n - 1)] * needy[:, None]
        allowed = self._affordable(price[role, :, 0], needy[:, None].expand(-1, price.shape[1]), first)
        given = None if self.given is None else self.given.models[:, slot]
        self.models[:, slot] = self._categorical(dist.model_logits[slot], allowed, asks, given)
        self.needy[:, slot] = needy
        own = price[role, self.models[:, slot], 0]
        self.spent = self.spent + torch.where(self.present[:, slot], own, torch.zeros_like(own))
        self._refresh_rise(slot)

    def _affordable(self, own: Tensor, needs: Tensor, first: Tensor) -> Tensor:
        """Which options of shape (K, options) leave enough to give every needy slot a parent."""
        wants = (self.needy * self.rise).sum(1, keepdim=True) + first
        waiting = self.needy.any(1, keepdim=True) | needs
        need = own + torch.where(waiting, self.solve + wants, torch.zeros_like(wants))
        return need <= (self.ceiling - self.spent)[:, None]

    def _categorical(self, logits: Tensor, allowed: Tensor, there: Tensor, given: Tensor | None) -> Tensor:
        """Choose among allowed options, shape (K, options), in the rows that are there."""
        there = there.clone()  # a view of `present`, which changes before gradients are taken
        allowed = allowed | ~there[:, None]  # rows that are not there draw nothing that counts
        if given is not None:
            impossible = there & ~allowed.gather(1, given[:, None])[:, 0]
            self.log_prob = torch.where(impossible, -torch.inf, self.log_prob)
            allowed = allowed | impossible[:, None]  # keeps the rest of the pass finite
        log_p = torch.log_softmax(torch.where(allowed, logits, -torch.inf), dim=1)
        if given is not None:
            chosen = given
        elif self.mode:
            chosen = log_p.argmax(1)
        else:
            gumbel = -torch.log(-torch.log(self._uniform(log_p.shape[1]).clamp_min(1e-300)))
            chosen = (log_p.detach() + gumbel).argmax(1)
        chosen = torch.where(there, chosen, 0)
        picked = log_p.gather(1, chosen[:, None])[:, 0]
        self.log_prob = self.log_prob + torch.where(there, picked, torch.zeros_like(picked))
        return chosen

    def _refresh_rise(self, slot: int) -> None:
        price = self.dist._price
        degree, role, model = self.degree[:, slot], self.roles[:, slot], self.models[:, slot]
        more = torch.clamp(degree + 1, max=self.n - 1)
        self.rise[:, slot] = price[role, model, more] - price[role, model, degree]

    def _uniform(self, columns: int = 0) -> Tensor:
        shape = (self.k, columns) if columns else (self.k,)
        return torch.rand(shape, dtype=torch.float64, generator=self.generator)


class Distribution:
    """Tables of all stages and the shares of the budget.

    Parameters
    ----------
    space
        The plans.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.stages = tuple(StageDistribution(stage) for stage in space.stages)
        self.share_logits = torch.zeros(len(space.stages), dtype=torch.float64)

    def sample(self, k: int, seed: int) -> list[Plan]:
        """Draw ``k`` plans; the same seed draws the same plans."""
        draws = self.draw(k, generator=torch.Generator().manual_seed(seed))
        return [self.plan(draws, row) for row in range(k)]

    def draw(self, k: int, generator: torch.Generator) -> tuple[Draws, ...]:
        """Draw ``k`` plans as tensors, one `Draws` per stage."""
        return self._walk(k, None, generator=generator)

    def mode(self) -> Plan:
        """The plan that takes the most probable option at each choice."""
        return self.plan(self._walk(1, None, mode=True), 0)

    def plan(self, draws: Sequence[Draws], row: int) -> Plan:
        """Plan of one row of the draws."""
        return Plan(tuple(stage.graph(draw, row) for stage, draw in zip(self.stages, draws, strict=True)))

    def label(self, plans: Sequence[Plan]) -> tuple[Draws, ...]:
        """Plans as labelled draws, in canonical order."""
        return tuple(stage.label([plan.stages[s] for plan in plans]) for s, stage in enumerate(self.stages))

    def log_prob(self, draws: Sequence[Draws]) -> Tensor:
        """Log-probability of labelled draws, shape (K,), nats; carries gradients to every logit that was used."""
        walked = self._walk(draws[0].edges.shape[0], draws)
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
        given: Sequence[Draws] | None,
        *,
        generator: torch.Generator | None = None,
        mode: bool = False,
    ) -> tuple[Draws, ...]:
        left = torch.full((k,), self.space.budget.flops, dtype=torch.float64)
        shares = torch.softmax(self.share_logits, 0)
        result = []
        for s, stage in enumerate(self.stages):
            cheapest = stage.space.cheapest
            floor = sum(later.cheapest for later in self.space.stages[s + 1 :])
            ceiling = cheapest + shares[s] / shares[s:].sum() * (left - floor - cheapest)
            draws = stage.walk(
                ceiling.detach(), given=None if given is None else given[s], generator=generator, mode=mode
            )
            left = left - draws.price
            result.append(draws)
        return tuple(result)
