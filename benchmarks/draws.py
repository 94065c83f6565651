"""How many plans a second can be drawn, each with its log-probability, valid and within the budget?

Space: the embedded pool, every role of conf/role, a budget of 16 units, on one core; then the same under other limits and
several at once (dollars and seconds by rates that are made up: half the pool is cheap and slow, half dear and fast). Every
draw is checked, outside the timing: acyclic, no useless node, role rules, price, every limit, and its log-probability taken
again. Beside it a plain Python
sampler of the kind GPTSwarm uses: edges one by one with a depth-first search against cycles, then models and roles;
what breaks a rule or the budget is thrown away and drawn again; it keeps no log-probability.

    python benchmarks/draws.py [--nodes 4 8 16] [--batch 16384] [--seconds 3]
"""

from __future__ import annotations

import argparse
import os
import random
import time
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from agentgraph.budget import TTS_REFERENCE, Budget, Rates
from agentgraph.config import load_models, load_role, load_task, options
from agentgraph.distribution import Distribution
from agentgraph.model import Model, Pool
from agentgraph.space import Space, StageSpace
from agentgraph.walk import Draws

UNITS = 16
EDGE_PROBABILITY = 0.1192  # of an untrained table, papers' code


LIMITS = {
    "units": {"flops": UNITS},
    "usd": {"usd": UNITS},
    "units, usd": {"flops": UNITS, "usd": UNITS},
    "units, usd, seconds": {"flops": UNITS, "usd": UNITS, "seconds": 3},
    "seconds": {"seconds": 3},
    "tts_units": {"tts_units": UNITS},
    "units, 2 samples each": {"flops": UNITS},
}
"""What is limited, in times of what the cheapest solve takes of it."""


def make_space(nodes: int, limits: str = "units") -> Space:
    """The embedded pool with every role, under some of `LIMITS`."""
    pool = Pool([_rated(model, fast=m % 2 == 1) for m, model in enumerate(load_models("embedded")[0])])
    stage = load_task("calc").stages[0]
    samples = dict.fromkeys(pool.names, 2) if "samples" in limits else {}
    made = StageSpace(stage.name, tuple(map(load_role, options("role"))), pool, nodes, stage.lengths, samples)
    budget = {}
    for name, times in LIMITS[limits].items():
        given = TTS_REFERENCE if name == "tts_units" else 0.0  # to every stage: what a solve takes is beside it
        budget[name] = times * (min(getattr(price, name) for price in made.solvers.values()) + given)
    return Space((made,), Budget(unit=made.cheapest, **budget))


def _rated(model: Model, *, fast: bool) -> Model:
    usd, seconds = model.parameters * (3.0 if fast else 1.0), model.parameters**0.5 * (0.2 if fast else 1.0)
    return replace(model, usd=Rates(0.0, usd, 4 * usd), seconds=Rates(10.0, 0.01 * seconds, seconds))


def _require(holds: object, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"a draw is wrong: {otherwise}")


def check(distribution: Distribution, draws: Draws) -> None:
    """Stop if a draw breaks a rule or the budget, or is priced or accounted for wrongly; shares no code with drawing."""
    stage, budget = distribution.space.stages[0], distribution.space.budget
    edges, present = draws.edges, draws.present
    _require(not edges.triu().any(), "an edge that does not lead to a lower slot")
    _require((edges <= (present[:, :, None] & present[:, None, :])).all(), "an edge of a slot that is not there")
    _require(present[:, 0].all(), "no sink")
    _require((edges.any(2)[:, 1:] == present[:, 1:]).all(), "a node that does not reach the sink")
    degree, price = edges.sum(1), torch.as_tensor(stage.flops_table)
    for r, role in enumerate(stage.roles):
        has = present & (draws.roles == r)
        _require((degree[has] >= role.min_parents).all(), f"{role.name} without parents")
        _require(role.may_be_sink or not has[:, 0].any(), f"{role.name} as sink")
        _require(role.may_be_inner or not has[:, 1:].any(), f"{role.name} inside")
        banned = [c for c, child in enumerate(stage.roles) if child.kind in role.not_above]
        for c in banned:
            child = present & (draws.roles == c)
            _require(
                not (edges & has[:, :, None] & child[:, None, :]).any(), f"{role.name} above {stage.roles[c].name}"
            )
    total = (price[draws.roles, draws.models, degree] * present).sum(1)
    _require(torch.allclose(total, draws.price, rtol=1e-9), "wrong price")
    for name, limit in budget.limits.items():
        _require((_taken(stage, name, draws) <= limit * (1 + 1e-9)).all(), f"over the budget of {name}")
    for m, model in enumerate(stage.pool):
        solves = torch.as_tensor(stage.solve_table)[draws.roles, degree] * present * (draws.models == m)
        _require(
            (solves.sum(1) <= stage.samples.get(model.name, stage.max_nodes)).all(), f"{model.name} asked too often"
        )
    _require(torch.allclose(distribution.log_prob([draws]), draws.log_prob, atol=1e-9), "wrong log-probability")
    for row in range(20):
        distribution.space.check(distribution.plan([draws], row))


def _taken(stage: StageSpace, name: str, draws: Draws) -> torch.Tensor:
    """What graphs take of a resource, shape (K,)."""
    degree = draws.edges.sum(1)
    each = torch.as_tensor(stage.tables[name])[draws.roles, draws.models, degree] * draws.present
    if name == "seconds":
        for slot in range(stage.max_nodes):  # from the start of each slot to the end
            each[:, slot] += (each * draws.edges[:, slot]).amax(1)
        return each.amax(1)
    total = each.sum(1)
    if name == "tts_units":
        solves = torch.as_tensor(stage.solve_table)[draws.roles, degree] * draws.present
        for m, prompt in enumerate(stage.prompts):
            total = total - ((solves * (draws.models == m)).sum(1) - 1).clamp_min(0) * prompt
        total = total - TTS_REFERENCE
    return total


def batched(space: Space, batch: int, seconds: float) -> tuple[float, int]:
    """Draws a second of the tables, and how many were checked."""
    distribution, generator = Distribution(space), torch.Generator().manual_seed(0)
    distribution.draw(batch, generator)
    spent, count = 0.0, 0
    while spent < seconds:
        began = time.perf_counter()
        draws = distribution.draw(batch, generator)[0]
        spent += time.perf_counter() - began
        count += batch
        check(distribution, draws)
    return count / spent, count


class Plain:
    """One graph at a time, one edge at a time."""

    def __init__(self, space: Space, seed: int) -> None:
        self.stage, self.budget = space.stages[0], space.budget.flops * (1 + 1e-9)
        self.price = self.stage.flops_table.tolist()
        self.random = random.Random(seed)
        self.tries = 0

    def draw(self) -> list[tuple[int, int]]:
        """Edges of a graph that breaks no rule and fits the budget; the sink is the last node."""
        n, roles, models = self.stage.max_nodes, self.stage.roles, len(self.stage.pool)
        while True:
            self.tries += 1
            edges = self._edges(n)
            useful = self._useful(edges, n)
            role = [self.random.randrange(len(roles)) for _ in range(n)]
            model = [self.random.randrange(models) for _ in range(n)]
            degree = [sum(i in useful for i, j in edges if j == node) for node in range(n)]
            if sum(self.price[role[i]][model[i]][degree[i]] for i in useful) > self.budget:
                continue
            if any(degree[i] < roles[role[i]].min_parents for i in useful):
                continue
            if not roles[role[n - 1]].may_be_sink or any(not roles[role[i]].may_be_inner for i in useful if i < n - 1):
                continue
            if any(roles[role[j]].kind in roles[role[i]].not_above for i, j in edges if i in useful and j in useful):
                continue
            return edges

    def _edges(self, n: int) -> list[tuple[int, int]]:
        children: list[list[int]] = [[] for _ in range(n)]
        pairs = [(i, j) for i in range(n - 1) for j in range(n - 1) if i != j] + [(i, n - 1) for i in range(n - 1)]
        edges = []
        for i, j in pairs:
            if not self._reaches(children, j, i) and self.random.random() < EDGE_PROBABILITY:
                children[i].append(j)
                edges.append((i, j))
        return edges

    @staticmethod
    def _reaches(children: list[list[int]], start: int, goal: int) -> bool:
        stack, seen = [start], {start}
        while stack:
            node = stack.pop()
            if node == goal:
                return True
            for child in children[node]:
                if child not in seen:
                    seen.add(child)
                    stack.append(child)
        return False

    @staticmethod
    def _useful(edges: list[tuple[int, int]], n: int) -> set[int]:
        useful, stack = {n - 1}, [n - 1]
        while stack:
            node = stack.pop()
            for i, j in edges:
                if j == node and i not in useful:
                    useful.add(i)
                    stack.append(i)
        return useful


def plain(space: Space, seconds: float) -> tuple[float, float]:
    """Draws a second of the plain sampler, and how many graphs it made for each."""
    sampler, count = Plain(space, 0), 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        sampler.draw()
        count += 1
    return count / (time.perf_counter() - began), sampler.tries / count


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--batch", type=int, default=16384)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    args = parser.parse_args()
    torch.set_num_threads(1)
    stage = make_space(4).stages[0]
    print(f"{len(stage.pool)} models, {len(stage.roles)} roles, {UNITS} units, batches of {args.batch}, one thread")
    print(
        f"{'nodes':>5} {'limits':<21} {'draws/s':>9} {'µs each':>8} {'checked':>9}   {'plain/s':>8} {'tries each':>10} {'ratio':>7}"
    )
    for nodes in args.nodes:
        for limits in LIMITS:
            space = make_space(nodes, limits)
            rate, checked = batched(space, args.batch, args.seconds)
            beside = ""
            if limits == "units":
                slow, tries = plain(space, args.seconds)
                beside = f"   {slow:>8,.0f} {tries:>10.1f} {rate / slow:>6.0f}×"
            print(f"{nodes:>5} {limits:<21} {rate:>9,.0f} {1e6 / rate:>8.2f} {checked:>9,}{beside}")


if __name__ == "__main__":
    main()
