"""Graphs, questions and a backend whose calls take a drawn time, any number of them at once."""

from __future__ import annotations

import asyncio
import math
import os
import random
from dataclasses import dataclass, field
from itertools import pairwise

from agentgraph.backends.base import Backend
from agentgraph.graph import Graph, Node
from agentgraph.model import Model, Pool
from agentgraph.request import Reply, Request
from agentgraph.roles.assistant import Assistant
from agentgraph.roles.fuser import Fuser
from agentgraph.tasks.base import Lengths, Question, Stage, Task

MEAN = 2.0
"""Seconds a call takes, on average."""
SPREAD = 0.5
"""Standard deviation of the logarithm of log-normal times."""
POOL = Pool([Model("model", 1e9, backend="load")])
ROLES = (Assistant(name="assistant"), Fuser(name="fuser"))
PAGE = os.sysconf("SC_PAGE_SIZE")


class _Echo(Stage):
    name, max_tokens = "echo", 64
    instructions = "Answer with one number."
    lengths = Lengths(prompt=40, output={"solve": 20}, edge=10, exact=True)

    def extract(self, text: str) -> str | None:
        return text


class Echo(Task):
    """As many questions as asked for; any answer is right."""

    name = "echo"
    stages = (_Echo(),)

    def __init__(self, count: int) -> None:
        super().__init__()
        self._questions = [Question(f"q{i}", f"What is {i} times {i}? Think step by step.", "x") for i in range(count)]

    def pool(self, split: str) -> list[Question]:
        return self._questions if split == "train" else []

    def mark(self, answer: str, question: Question) -> float:
        del answer, question
        return 1.0


@dataclass(frozen=True)
class Shape:
    """A graph under load; ``sources`` is how many of its calls are ready at once."""

    name: str
    graph: Graph

    @property
    def sources(self) -> int:
        """Nodes without parents."""
        return sum(not parents for parents in self.graph.parents)

    @property
    def levels(self) -> list[list[int]]:
        """Nodes by the length of the longest way to them."""
        depth: list[int] = []
        for parents in self.graph.parents:
            depth.append(1 + max((depth[p] for p in parents), default=-1))
        return [[i for i, d in enumerate(depth) if d == level] for level in range(max(depth) + 1)]


def _solver() -> Node:
    return Node("assistant", "model")


def _random_graph(nodes: int, chance: float, seed: int) -> Graph:
    """Forward edges drawn at random; what leads nowhere goes to the sink."""
    rng = random.Random(seed)
    edges = [(i, j) for j in range(nodes) for i in range(j) if rng.random() < chance]
    used = {i for i, _ in edges}
    edges += [(i, nodes - 1) for i in range(nodes - 1) if i not in used]
    return Graph((_solver(),) * nodes, tuple(sorted(set(edges))))


def _layered(widths: tuple[int, ...]) -> Graph:
    """Every node of a layer hands on to every node of the next; a fuser at the end."""
    starts = [sum(widths[:i]) for i in range(len(widths) + 1)]
    layers = [range(starts[i], starts[i + 1]) for i in range(len(widths))]
    last = starts[-1]
    edges = [(a, b) for one, two in pairwise(layers) for a in one for b in two]
    return Graph((*(_solver(),) * last, Node("fuser", "model")), (*edges, *((a, last) for a in layers[-1])))


def shapes() -> list[Shape]:
    """The graphs that are timed."""
    star = Graph((*(_solver(),) * 16, Node("fuser", "model")), tuple((i, 16) for i in range(16)))
    chain = Graph((_solver(),) * 4, tuple((i, i + 1) for i in range(3)))
    return [
        Shape("star-16 + fuser", star),
        Shape("chain-4", chain),
        Shape("layers 4-4", _layered((4, 4))),
        Shape("layers 8-2-4", _layered((8, 2, 4))),
        Shape("random 8", _random_graph(8, 0.3, seed=1)),
        Shape("random 12", _random_graph(12, 0.3, seed=2)),
    ]


@dataclass
class Times:
    """Drawn seconds of calls, by the request's seed: the same request takes the same time whoever runs it."""

    spread: float
    scale: float = 1.0
    seed: int = 0
    drawn: list[float] = field(init=False)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        mu = math.log(MEAN) - self.spread**2 / 2
        self.drawn = [self.scale * rng.lognormvariate(mu, self.spread) for _ in range(65521)]

    def of(self, seed: int) -> float:
        """Seconds of one call."""
        return self.drawn[seed % len(self.drawn)]


class Sleeper(Backend):
    """Takes any number of calls at once; each takes its drawn time.

    Attributes
    ----------
    peak, resident
        Most calls in flight so far, and the process's resident memory (bytes) at that time.
    """

    def __init__(self, times: Times) -> None:
        super().__init__("load", limit=10**9, has_logprobs=False)
        self.times = times
        self.now = self.peak = self.resident = 0

    async def reply(self, request: Request) -> Reply:
        self.now += 1
        if self.now > self.peak:
            self.peak = self.now
            if not self.now % 500:
                self.resident = resident()
        seconds = self.times.of(request.seed)
        await asyncio.sleep(seconds)
        self.now -= 1
        return Reply("42", 40, 20, seconds=seconds)

    async def served(self) -> tuple[str, ...]:
        return ("model",)


def resident() -> int:
    """Resident memory of this process, bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  half the cost of Path's
        return int(file.read().split()[1]) * PAGE
