"""One pass over the slots of a stage: draws graphs, or finds the log-probability of given ones, K at once.

- Slots go from the sink (slot 0) down; slot s draws its edges to the slots t < s that are there, so no draw is
  rejected for a cycle, and a slot that drew no edge is not there. An edge s -> t makes slot s a parent of slot t.
- Edges first, then the role, then the model (only if the role calls one).
- At each choice an option counts only if the cheapest way to finish still fits: each node that lacks its first parent
  must get one, one cheapest solver may feed them all, and the last slot cannot need a parent itself. Options that
  do not fit have probability 0 and the others are renormalised.
- What fits is judged here for one limited resource of which a plan takes the sum over its nodes; `agentgraph.many_limits`
  judges it for all others, and for several at once.
- One uniform number in [0, 1) decides each choice. It names an option of the full table; if that one is not allowed,
  where the number fell within the option's interval chooses among those that are, which leaves every probability as
  it should be. So the same numbers mean much the same plan whatever the budget, which `encoding` builds on.

Shapes: K draws, N slots, R roles, M models, C = N(N-1)/2 + 2N choices; logits float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from agentgraph.space import StageSpace

__all__ = ["Draws", "Rules", "Walk", "first_choice"]

NEVER: Final = 1e300  # a price above every budget that can still be multiplied
_ALMOST_ONE: Final = 1 - 2**-53


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

    def rows(self, rows: Sequence[int]) -> Draws:
        """The draws of these rows."""
        return Draws(*(getattr(self, column)[rows] for column in self.__dataclass_fields__))


def first_choice(slot: int) -> int:
    """Number of the first choice of a slot: its edges to slots 0, 1, … come first, then its role, then its model."""
    return slot * (slot - 1) // 2 + 2 * slot


class Rules:
    """What roles allow and nodes take, as tensors. A node's state is a number: (role × M + model) × N + in-degree.

    Parameters
    ----------
    space
        The stage's graphs.
    resource
        What is limited.
    """

    def __init__(self, space: StageSpace, resource: str = "flops") -> None:
        roles, price = space.roles, torch.as_tensor(space.tables[resource])
        _, m, n = price.shape
        self.n, self.solve = n, min(getattr(price, resource) for price in space.solvers.values())
        self.needs_parent = torch.tensor([role.min_parents > 0 for role in roles])
        self.needs_model = torch.tensor([role.needs_model for role in roles])
        self.sink = torch.tensor([role.may_be_sink for role in roles])
        self.inner = torch.tensor([role.may_be_inner for role in roles])
        # Roles that may not stand above some role: their number, and which roles they may not feed, shape (R,).
        self.conflicts = [
            (r, torch.tensor([child.kind in role.not_above for child in roles]))
            for r, role in enumerate(roles)
            if role.not_above
        ]
        # With its first parent, if it needs one: shapes (M, R) and, by the cheapest model, (R,).
        self.node = self.with_first_parent(price)
        self.role = self.node.min(0).values
        # By state: the price, and what one more parent adds to it.
        self.absent = price.numel()  # state of a slot that is not there: costs nothing, takes no parent
        self.price = self.by_state(price, 0.0)
        self.flops = self.by_state(torch.as_tensor(space.flops_table), 0.0)
        self.more = self.by_state(self.more_with_a_parent(price), NEVER)
        self.start = (torch.arange(len(roles))[:, None] * m + torch.arange(m)) * n  # state without parents, (R, M)

    def with_first_parent(self, table: Tensor) -> Tensor:
        """What a node takes at first, shape (M, R), of a table of shape (R, M, N): with a parent if it needs one."""
        first = table[:, :, min(1, self.n - 1)] * self.needs_parent[:, None]
        return (table[:, :, 0] + first).T.contiguous()

    def more_with_a_parent(self, table: Tensor) -> Tensor:
        """What one more parent adds, shape (R, M, N); the first parent of a needy node was taken in at first."""
        more = torch.zeros_like(table)
        more[:, :, :-1] = table[:, :, 1:] - table[:, :, :-1]
        more[:, :, 0] *= ~self.needs_parent[:, None]
        return more

    def by_state(self, table: Tensor, absent: float) -> Tensor:
        """A table of shape (R, M, N) by state, and what stands for a slot that is not there."""
        return torch.cat([table.flatten(), torch.full((self.n,), absent, dtype=torch.float64)])


class Walk:
    """One pass over slots, sink first, for K graphs at once; tensors have K as their last dimension.

    ``slack`` is what the ceiling leaves after all nodes, the first parents that are still owed, and one cheapest solve
    more; it is what makes every choice one comparison. It never falls below 0 while a parent is owed.

    Parameters
    ----------
    rules
        What roles allow and nodes cost.
    tables
        Edge, role and model logits, shapes (N, N), (N, R) and (N, M).
    ceiling, given, uniforms, mode
        As for `agentgraph.distribution.StageDistribution.walk`.
    """

    def __init__(
        self,
        rules: Rules,
        tables: tuple[Tensor, Tensor, Tensor],
        ceiling: Tensor,
        *,
        given: Draws | None,
        uniforms: Tensor | None,
        mode: bool,
    ) -> None:
        self.rules, self.uniforms, self.mode = rules, uniforms, mode
        self.edge_logits, self.role_logits, self.model_logits = tables
        self.k, self.n, self.solve = ceiling.shape[1], rules.n, rules.solve
        self.slack = ceiling[0] * (1 + 1e-9) - self.solve
        self.given = None
        if given is not None:
            self.given = (given.edges.permute(1, 2, 0).contiguous(), given.roles.T, given.models.T)
        self.edges = torch.zeros(self.n, self.n, self.k, dtype=torch.bool)
        self.roles = torch.zeros(self.n, self.k, dtype=torch.int64)
        self.models = torch.zeros(self.n, self.k, dtype=torch.int64)
        self.present: list[Tensor] = []
        self.states: list[Tensor] = []
        self.more: list[Tensor] = []  # what one more parent costs each slot
        self.needy: list[Tensor] = []  # lacks its first parent
        self.taken: list[Tensor] = []  # of each edge: chosen freely
        self.left: list[Tensor] = []  # of each edge: refused freely
        self.dead = torch.zeros(self.k, dtype=torch.bool)  # given, but cannot be drawn
        self.log_prob = torch.zeros(self.k, dtype=torch.float64)

    def run(self) -> Draws:
        for slot in range(self.n):
            if slot:
                there, owed = self._draw_edges(slot)
            else:
                there, owed = torch.ones_like(self.dead), torch.zeros_like(self.dead)
            self._draw_node(slot, there, owed)
        price = torch.stack([self.rules.flops[state] for state in self.states]).sum(0)
        log_prob = torch.where(self.dead, -torch.inf, self.log_prob + self._edges_log_prob())
        present = torch.stack(self.present)
        return Draws(self.edges.permute(2, 0, 1), present.T, self.roles.T, self.models.T, log_prob, price)

    def spent(self) -> Tensor:
        """What the graphs take of each limited resource, shape (L, K); after `run`."""
        return torch.stack([self.rules.price[state] for state in self.states]).sum(0, keepdim=True)

    def _draw_edges(self, slot: int) -> tuple[Tensor, Tensor]:
        """Draw the edges from a slot to those before it: whether it got any, and whether it left a needy one; (K,)."""
        chance = torch.sigmoid(self.edge_logits[slot].detach()).tolist()
        has = torch.zeros_like(self.dead)
        passed = torch.zeros_like(self.dead)
        self._begin_edges(slot)
        for t in range(slot):
            needy = self.needy[t]
            # A needy slot must be fed here if no later slot could be: it is the last, or the rest pays no other solve.
            must = needy if slot == self.n - 1 else needy & has & self._last_chance(t, passed)
            may = self._may_feed(slot, t) | must
            if self.given is not None:
                chosen = self.given[0][slot, t]
                self.dead = self.dead | (chosen & ~may) | (must & ~chosen)
            elif self.mode:
                chosen = may if chance[t] > 0.5 else must
            else:
                chosen = (self._uniform(slot, t) < chance[t]) & may | must
            free = may & ~must
            self.taken.append(free & chosen)
            self.left.append(free & ~chosen)
            self.edges[slot, t] = chosen
            self.needy[t] = needy & ~chosen
            self._feed(slot, t, chosen, self.needy[t] & ~passed)
            has, passed = has | chosen, passed | self.needy[t]
        self._end_edges(slot, has, passed)
        return has, passed

    # What fits: one limited resource ---------------------------------------------------------------------------------

    def _begin_edges(self, slot: int) -> None:
        del slot
        self.room = self.slack  # less one more solve, for a later slot, where a needy one was passed

    def _last_chance(self, t: int, passed: Tensor) -> Tensor:
        """Whether needy slot t can be fed by this slot only, as no other solve is left; shape (K,)."""
        del t
        last: Tensor = ~passed & (self.room < self.solve)
        return last

    def _may_feed(self, slot: int, t: int) -> Tensor:
        """Whether an edge from this slot to slot t leaves enough, shape (K,)."""
        del slot
        may: Tensor = self.room >= self.more[t]
        return may

    def _feed(self, slot: int, t: int, chosen: Tensor, left_needy: Tensor) -> None:
        """Take in whether the edge to slot t was drawn, and whether that leaves the first needy slot for a later one."""
        del slot
        self.room = torch.where(chosen, self.room - self.more[t], self.room)
        self.states[t] = torch.where(chosen, self.states[t] + 1, self.states[t])
        self.more[t] = self.rules.more[self.states[t]]
        self.room = torch.where(left_needy, self.room - self.solve, self.room)

    def _end_edges(self, slot: int, has: Tensor, passed: Tensor) -> None:
        del slot, has
        self.slack = torch.where(passed, self.room + self.solve, self.room)

    def _free(self, owed: Tensor) -> Tensor:
        """What a node that owes no parent itself may take; the solve in ``slack`` is kept where some node owes one."""
        return torch.where(owed, self.slack, self.slack + self.solve)

    def _roles_that_fit(self, slot: int, owed: Tensor) -> Tensor:
        """Roles that some model can play, shape (R, K)."""
        del slot
        rules = self.rules
        return rules.role[:, None] <= torch.where(rules.needs_parent[:, None], self.slack, self._free(owed))

    def _models_that_fit(self, role: Tensor, needy: Tensor, owed: Tensor) -> Tensor:
        """Models that can play the drawn role, shape (M, K)."""
        return self.rules.node[:, role] <= torch.where(needy, self.slack, self._free(owed))

    def _take(self, slot: int, there: Tensor, role: Tensor, model: Tensor) -> None:
        """Take in the node that was drawn."""
        del slot
        self.slack = torch.where(there, self.slack - self.rules.node[model, role], self.slack)
        self.more.append(self.rules.more[self.states[-1]])

    # -----------------------------------------------------------------------------------------------------------------

    def _edges_log_prob(self) -> Tensor:
        """Log-probability of all free edge choices, shape (K,)."""
        if self.n == 1:
            return torch.zeros_like(self.log_prob)
        rows, columns = torch.tril_indices(self.n, self.n, -1)
        logits = self.edge_logits[rows, columns]
        yes, no = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
        return yes @ torch.stack(self.taken).double() + no @ torch.stack(self.left).double()

    def _draw_node(self, slot: int, there: Tensor, owed: Tensor) -> None:
        """Draw role and model; ``owed``: a solve is kept for a parent that some node still lacks."""
        rules, given = self.rules, self.given
        allowed = self._roles_that_fit(slot, owed)
        allowed &= (rules.sink if slot == 0 else rules.inner)[:, None]
        if slot == self.n - 1:
            allowed &= ~rules.needs_parent[:, None]
        for r, banned in rules.conflicts if slot else ():
            allowed[r] &= ~(banned[self.roles[:slot]] & self.edges[slot, :slot]).any(0)
        role = self._choose(slot, 0, allowed, there, None if given is None else given[1][slot])
        needy = there & rules.needs_parent[role]
        allowed = self._models_that_fit(role, needy, owed)
        asks = there & rules.needs_model[role]
        model = self._choose(slot, 1, allowed, asks, None if given is None else given[2][slot])
        self.roles[slot], self.models[slot] = role, model
        self.present.append(there)
        self.needy.append(needy)
        self.states.append(torch.where(there, rules.start[role, model], rules.absent))
        self._take(slot, there, role, model)

    def _choose(self, slot: int, which: int, allowed: Tensor, there: Tensor, given: Tensor | None) -> Tensor:
        """Choose a role (``which`` 0) or model (1) among those allowed, shape (options, K), in the rows that are there."""
        logits = (self.role_logits, self.model_logits)[which][slot]
        allowed = allowed | ~there  # rows that are not there choose nothing that counts
        if given is not None:
            impossible = ~allowed.gather(0, given[None])[0]
            self.dead = self.dead | impossible
            allowed = allowed | impossible  # keeps the rest of the pass finite
        masked = torch.where(allowed, logits[:, None], -torch.inf)
        if given is not None:
            chosen = given
        elif self.mode:
            chosen = masked.argmax(0)
        else:
            chosen = pick(logits.detach(), allowed, self._uniform(slot, slot + which))
        chosen = torch.where(there, chosen, 0)
        picked = logits[chosen] - torch.logsumexp(masked, 0)
        self.log_prob = self.log_prob + torch.where(there, picked, 0.0)
        return chosen

    def _uniform(self, slot: int, place: int) -> Tensor:
        if self.uniforms is None:
            raise AssertionError
        return self.uniforms[first_choice(slot) + place]


def pick(logits: Tensor, allowed: Tensor, uniform: Tensor) -> Tensor:
    """Option that a uniform number names, shape (K,), with exactly the probabilities of the allowed ones.

    Parameters
    ----------
    logits
        Shape (options,).
    allowed
        Shape (options, K), at least one in each column.
    uniform
        Shape (K,), in [0, 1).
    """
    weights = torch.softmax(logits, 0)
    ends = weights.cumsum(0)
    option = torch.bucketize(uniform, ends[:-1], right=True)
    rest = (~allowed.gather(0, option[None])[0]).nonzero()[:, 0]
    if len(rest):
        width = weights[option[rest]]
        within = (uniform[rest] - ends[option[rest]] + width) / width.clamp_min(1e-300)
        running = torch.softmax(torch.where(allowed[:, rest], logits[:, None], -torch.inf), 0).cumsum(0)
        option[rest] = (running <= within.clamp(0, _ALMOST_ONE) * running[-1]).sum(0)
    return option
