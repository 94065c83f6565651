"""The walk under limits of any kind, several at once: what fits is judged in every limited resource.

- An option is allowed only if it fits in all. The solve that is kept in reserve, for a slot that is being drawn and for a
  parent that is owed, is by one model: of those whose solve fits in all, the one that takes the smallest part of whatever
  it takes the largest part of. It is chosen anew at each slot, from what is left and how many samples are left.
- Seconds are a longest path, not a sum: for each slot the longest path from its start to the end is kept. An edge that
  lengthens the prompt of its child changes the path of all that lead there, and is judged by the paths it would leave.
- Solves of one model in a stage share the encoding of their prompt in AgentTTS units: only the first pays it, and who
  becomes a refinement by a first parent, and was the last to use it, is given it back.
- A model has as many samples as are recorded; no solve is drawn beyond that.

A graph has probability 0, though every limit allows it, if on the way to it no single model's solve would have fitted in
all that was left. With one limit, and nodes that take no less with more parents, there is no such graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from agentgraph.budget import NOT_FOR_SALE, TTS_REFERENCE
from agentgraph.walk import NEVER, Draws, Rules, Walk

if TYPE_CHECKING:
    from agentgraph.space import StageSpace

__all__ = ["ManyLimits", "ManyRules", "takes_many"]

_MISFIT = 1e6  # added to the share of a limit that a solve takes where it does not fit


def takes_many(space: StageSpace, resources: Sequence[str]) -> bool:
    """Whether it takes more than the plain walk: it knows one resource that adds up, and models without end."""
    return len(resources) > 1 or resources[0] in ("seconds", "tts_units") or bool(_scarce(space))


def _scarce(space: StageSpace) -> list[str]:
    """Models that a graph might ask too often."""
    return [name for name in space.pool.names if space.samples.get(name, space.max_nodes) < space.max_nodes]


class ManyRules(Rules):
    """What roles allow and nodes take of each limited resource, as tensors; L is how many of them add up.

    Parameters
    ----------
    space
        The stage's graphs.
    resources
        What is limited, in the order of `agentgraph.budget.RESOURCES`.
    """

    def __init__(self, space: StageSpace, resources: Sequence[str]) -> None:
        super().__init__(space)
        r, m, n = space.flops_table.shape
        rows = [name for name in resources if name != "seconds"]
        self.order = [resources.index(name) for name in rows]
        self.tts = rows.index("tts_units") if "tts_units" in rows else None
        self.timed = resources.index("seconds") if "seconds" in resources else None
        # Solves by (role, in-degree): how many are counted of those that the model has; never more with more parents.
        self.counts = torch.from_numpy(np.flip(np.maximum.accumulate(np.flip(space.solve_table, 1), 1), 1).copy())
        self.solving = self.counts[:, 0] > 0
        self.prompts = torch.as_tensor(space.prompts)
        self.scarce = bool(_scarce(space))
        self.samples = torch.tensor([float(space.samples.get(name, np.inf)) for name in space.pool.names])
        self.counted = self.scarce or self.tts is not None
        self.count = self.by_state(self.counts[:, None, :].expand(r, m, n).double(), 0.0)
        tables = [torch.as_tensor(self._own(space, name)) for name in rows]
        self.nodes = self._stacked([self.with_first_parent(table) for table in tables], (m, r))
        self.prices = self._stacked([self.by_state(table, 0.0) for table in tables], (self.absent + n,))
        self.mores = self._stacked(
            [self.by_state(self.more_with_a_parent(table), NEVER) for table in tables], (self.absent + n,)
        )
        sold = torch.as_tensor(space.flops_table) < NOT_FOR_SALE
        sold[:, :, 0] &= sold[:, :, min(1, n - 1)] | ~self.needs_parent[:, None]
        self.sold, self.sold_first = self.by_state(sold.double(), 0.0) > 0, sold[:, :, 0].T
        seconds = torch.as_tensor(space.tables["seconds"]).clone()
        seconds[:, :, 0] = self.with_first_parent(seconds).T
        self.seconds, self.node_seconds = self.by_state(seconds, 0.0), seconds[:, :, 0].T.contiguous()
        self.lengthens = bool(((seconds[:, :, 1:] != seconds[:, :, :-1]) & sold[:, :, 1:] & sold[:, :, :-1]).any())
        # A solve by each model, shapes (L, M) and (M,), and whether it can be had at all.
        solver = [role.name for role in space.roles].index(space.solver.name)
        self.solver, self.solver_seconds = self.nodes[:, :, solver], self.node_seconds[:, solver]
        self.usable = torch.tensor([name in space.solvers for name in space.pool.names])

    def _own(self, space: StageSpace, resource: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Table of a resource; in AgentTTS units without the prompts that solves share."""
        table = space.tables[resource]
        if resource != "tts_units":
            return table
        degrees, least = np.arange(self.n), np.array([role.min_parents for role in space.roles])
        paid = space.solve_table * (degrees >= least[:, None])
        return table - paid[:, None, :] * space.prompts[None, :, None]

    @staticmethod
    def _stacked(tables: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        return torch.stack(list(tables)) if tables else torch.zeros(0, *shape, dtype=torch.float64)


class ManyLimits(Walk):
    """The walk of `agentgraph.walk`, judged in every limited resource.

    ``rest`` is what each resource that adds up leaves after all nodes and the first parents' share of their children,
    shape (L, K); ``ends`` the longest path from the start of each slot to the end. While a parent is owed, a solve by some
    model fits in what is left, and in time after every slot that lacks its parent.
    """

    rules: ManyRules

    def __init__(
        self,
        rules: ManyRules,
        tables: tuple[Tensor, Tensor, Tensor],
        ceiling: Tensor,
        *,
        given: Draws | None,
        uniforms: Tensor | None,
        mode: bool,
    ) -> None:
        super().__init__(rules, tables, ceiling, given=given, uniforms=uniforms, mode=mode)
        self.ceiling = ceiling[rules.order] * (1 + 1e-9)
        if rules.tts is not None:  # the tolerance is of the limit, without the reference prompt; a stage's may be none
            least = ceiling[rules.order[rules.tts]] * (1 + 1e-14)
            self.ceiling[rules.tts] = torch.maximum(self.ceiling[rules.tts] - 1e-9 * TTS_REFERENCE, least)
        self.rest = self.ceiling
        self.until = torch.inf if rules.timed is None else ceiling[rules.timed] * (1 + 1e-9)
        self.uses = torch.zeros(len(rules.samples), self.k, dtype=torch.float64)  # solves by each model
        self.ends: list[Tensor] = []
        self.start = torch.zeros(self.k, dtype=torch.float64)  # of the slot being drawn: when its node has replied
        self._choose_reserve()

    def spent(self) -> Tensor:
        rules = self.rules
        rows: list[Tensor] = list(sum(rules.prices[:, state] for state in self.states))  # type: ignore[arg-type]
        if rules.tts is not None:
            rows[rules.tts] = rows[rules.tts] + rules.prompts @ (self.uses > 0).double()
        if rules.timed is not None:
            rows.insert(rules.timed, torch.stack(self.ends).amax(0))
        return torch.stack(rows)

    # The reserve -----------------------------------------------------------------------------------------------------

    def _choose_reserve(self) -> None:
        """Choose whose solve is kept: ``first`` for a slot that is being drawn, ``second`` for one that comes later."""
        rules = self.rules
        cost = rules.solver[:, :, None] + self._unpaid_prompts()
        fits = (cost <= self.rest[:, None]).all(0)
        share = torch.zeros_like(self.uses)
        if len(cost):
            share = (cost / self.ceiling[:, None].clamp_min(1e-300)).amax(0)
        if rules.timed is not None:
            owed = [torch.where(needy, end, 0.0) for needy, end in zip(self.needy, self.ends, strict=True)]
            latest = torch.stack(owed).amax(0) if owed else 0.0
            seconds = rules.solver_seconds[:, None]
            fits = fits & (seconds + latest <= self.until)
            share = torch.maximum(share, seconds / torch.as_tensor(self.until).clamp_min(1e-300))
        share = torch.where(fits, share, share + _MISFIT)
        there = rules.usable[:, None] & (self.uses + 1 <= rules.samples[:, None])
        share = torch.where(there, share, torch.inf)
        self.reserve = share.argmin(0)
        none = ~there.any(0)
        self.first = torch.where(none, NEVER, rules.solver[:, self.reserve])
        self._pay_first_prompt()
        self.second = rules.solver[:, self.reserve]  # its prompt is paid with the first
        self.first_seconds = self.second_seconds = rules.solver_seconds[self.reserve]
        if rules.scarce:
            last = (rules.samples - 1)[self.reserve] <= self._of(self.uses, self.reserve)
            share = share.scatter(0, self.reserve[None], torch.inf)
            other = share.argmin(0)
            prompt = self._in_row(rules.prompts[other])
            instead = torch.where(share.amin(0) < torch.inf, rules.solver[:, other] + prompt, NEVER)
            self.second = torch.where(last, instead, self.second)
            self.second_seconds = torch.where(last, rules.solver_seconds[other], self.first_seconds)
        self.later = torch.maximum(self.first_seconds, self.second_seconds)

    def _unpaid_prompts(self) -> Tensor:
        """What a solve by each model pays for its prompt beside its own, shape (L, M, K)."""
        return self._in_row(torch.where(self.uses > 0, 0.0, self.rules.prompts[:, None]))

    def _pay_first_prompt(self) -> None:
        """Let ``first`` pay its prompt where no other solve by the same model does."""
        unpaid = torch.where(self._of(self.uses, self.reserve) > 0, 0.0, self.rules.prompts[self.reserve])
        self.first = self.first + self._in_row(unpaid)

    def _in_row(self, units: Tensor) -> Tensor:
        """AgentTTS units as a column of all resources, shape (L, …); zeros where they are not limited."""
        result = torch.zeros(len(self.rules.order), *units.shape, dtype=torch.float64)
        if self.rules.tts is not None:
            result[self.rules.tts] = units
        return result

    @staticmethod
    def _of(table: Tensor, index: Tensor) -> Tensor:
        """Entry of each column of a table of shape (M, K)."""
        return table.gather(0, index[None])[0]

    # Edges -----------------------------------------------------------------------------------------------------------

    def _begin_edges(self, slot: int) -> None:
        del slot
        self._choose_reserve()
        self.room = self.rest - self.first
        self.stuck = torch.zeros_like(self.dead)  # a needy slot was passed that no other could feed in time
        self.wait = [torch.where(needy, self.first_seconds, 0.0) for needy in self.needy]

    def _last_chance(self, t: int, passed: Tensor) -> Tensor:
        last: Tensor = ~passed & ~(self.room >= self.second).all(0)
        return last if self.rules.timed is None else last | (self.ends[t] + self.later > self.until)

    def _may_feed(self, slot: int, t: int) -> Tensor:
        rules, state = self.rules, self.states[t]
        self.rise = self.more[t]
        if rules.tts is not None:  # who shares no prompt any more is given it back; that of the reserve is kept anyway
            model = self.models[t]
            alone = self._of(self.uses, model) == rules.count[state]
            stops = (rules.count[state] > 0) & (rules.count[state + 1] == 0)
            back = torch.where(alone & stops & (model != self.reserve), rules.prompts[model], 0.0)
            self.rise = self.rise - self._in_row(back)
        may: Tensor = (self.room >= self.rise).all(0) & rules.sold[state + 1]
        if rules.timed is None:
            return may
        self.after = self._ends_with(slot, t) if rules.lengthens else self.ends
        late = (self.after[t] + self.first_seconds > self.until) | self.stuck
        if rules.lengthens:
            for u in range(slot):
                if u != t:
                    late = late | (self.after[u] + self.wait[u] > self.until)
        return may & ~late

    def _ends_with(self, slot: int, t: int) -> list[Tensor]:
        """Longest paths to the end if slot t had one parent more."""
        seconds, ends = self.rules.seconds, list(self.ends)
        ends[t] = ends[t] + seconds[self.states[t] + 1] - seconds[self.states[t]]
        for u in range(t + 1, slot):
            ends[u] = seconds[self.states[u]] + self._start(u, ends)
        return ends

    def _start(self, slot: int, ends: Sequence[Tensor]) -> Tensor:
        """Longest path from the children of a slot to the end."""
        return torch.where(self.edges[slot, :slot], torch.stack(list(ends[:slot])), 0.0).amax(0)

    def _feed(self, slot: int, t: int, chosen: Tensor, left_needy: Tensor) -> None:
        rules = self.rules
        self.room = torch.where(chosen, self.room - self.rise, self.room)
        state = torch.where(chosen, self.states[t] + 1, self.states[t])
        if rules.counted:
            change = torch.where(self.present[t], rules.count[state] - rules.count[self.states[t]], 0.0)
            self.uses.scatter_add_(0, self.models[t][None], change[None])
        self.states[t], self.more[t] = state, rules.mores[:, state]
        self.room = torch.where(left_needy, self.room - self.second, self.room)
        if rules.timed is not None:
            if rules.lengthens:
                for u in range(t, slot):
                    self.ends[u] = torch.where(chosen, self.after[u], self.ends[u])
            still = torch.where(self.needy[t], self.later, 0.0)
            self.wait[t] = torch.where(chosen, self.first_seconds, still)
            self.stuck = self.stuck | (self.needy[t] & (self.ends[t] + self.later > self.until))

    def _end_edges(self, slot: int, has: Tensor, passed: Tensor) -> None:
        rules = self.rules
        if rules.tts is not None:  # the other solves by this model may have become refinements
            self.first = rules.solver[:, self.reserve]
            self._pay_first_prompt()
        left = self.room + self.first + torch.where(passed, self.second, 0.0)
        self.rest = torch.where(has, left, self.rest)
        self.start = self._start(slot, self.ends) if rules.timed is not None else self.start

    # Nodes -----------------------------------------------------------------------------------------------------------

    def _roles_that_fit(self, slot: int, owed: Tensor) -> Tensor:
        del slot
        rules = self.rules
        keeps = rules.needs_parent[:, None] | owed  # whether a solve must be left, shape (R, K)
        fits = rules.sold_first[:, :, None].expand(-1, -1, self.k)  # (M, R, K)
        if rules.scarce:
            fits = fits & (self.uses[:, None] + rules.counts[None, :, :1] <= rules.samples[:, None, None])
        unpaid = torch.where(self.uses > 0, 0.0, rules.prompts[:, None])[:, None] * rules.solving[None, :, None]
        for row, (node, left, first) in enumerate(zip(rules.nodes, self.rest, self.first, strict=True)):
            takes = node[:, :, None] + unpaid if row == rules.tts else node[:, :, None]
            fits = fits & (takes <= torch.where(keeps, left - first, left))
        if rules.timed is not None:
            waits = self.start + torch.where(rules.needs_parent[:, None], self.first_seconds, 0.0)
            fits = fits & (rules.node_seconds[:, :, None] + waits <= self.until)
        if rules.counted:  # a solve by the model in reserve takes a sample of it, and pays its prompt
            index = self.reserve.expand(1, len(rules.solving), self.k)
            own = torch.where(rules.solving[:, None], self._reserve_fits(keeps), fits.gather(0, index)[0])
            fits = fits.scatter(0, index, own[None])
        self.fits = fits
        return fits.any(0)

    def _reserve_fits(self, keeps: Tensor) -> Tensor:
        """Whether the model in reserve can play each role that solves, shape (R, K)."""
        rules = self.rules
        used = self._of(self.uses, self.reserve)
        fits = (used + rules.counts[:, :1] <= rules.samples[self.reserve]) & rules.sold_first[self.reserve].T
        unpaid = self._in_row(torch.where(used > 0, 0.0, rules.prompts[self.reserve]))
        for node, left, second, prompt in zip(rules.nodes, self.rest, self.second, unpaid, strict=True):
            fits = fits & (node[self.reserve].T + prompt <= torch.where(keeps, left - second, left))
        if rules.timed is not None:
            waits = self.start + torch.where(rules.needs_parent[:, None], self.second_seconds, 0.0)
            fits = fits & (rules.node_seconds[self.reserve].T + waits <= self.until)
        return fits

    def _models_that_fit(self, role: Tensor, needy: Tensor, owed: Tensor) -> Tensor:
        del needy, owed
        return self.fits.gather(1, role.expand(len(self.fits), 1, self.k))[:, 0]

    def _take(self, slot: int, there: Tensor, role: Tensor, model: Tensor) -> None:
        rules = self.rules
        self.rest = torch.where(there, self.rest - rules.nodes[:, model, role], self.rest)
        if rules.counted:
            solves = torch.where(there, rules.counts[role, 0], 0)
            pays = (solves > 0) & (self._of(self.uses, model) == 0)
            self.rest = self.rest - self._in_row(torch.where(pays, rules.prompts[model], 0.0))
            self.uses.scatter_add_(0, model[None], solves[None].double())
        self.more.append(rules.mores[:, self.states[slot]])
        if rules.timed is not None:
            self.ends.append(torch.where(there, rules.node_seconds[model, role] + self.start, 0.0))
