"""Which multisets of models spend a budget, and the graphs they are first tried in.

Source: Agent-REINFORCE (arXiv 2511.00086), its initialisation and warm-up; integer proxies as in its published code, with
the proxy of a model computed (solve price over the cheapest, rounded) instead of listed. Proxies are of FLOPs where these
are limited, else of the limited resource of which the budget pays the fewest solves; seconds, which do not add up, end no mix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from agentgraph.budget import TTS_REFERENCE
from agentgraph.graph import Graph, Node
from agentgraph.space import Space, StageSpace

__all__ = ["Mix", "affordable", "exact_spend", "proxies", "warm_up_graphs"]

Mix = tuple[int, ...]
"""How many nodes of each model, in pool order."""

MOST_MIXES: Final = 1000


def affordable(space: Space, rng: np.random.Generator, s: int = 0, share: float = 1.0) -> list[Mix]:
    """Mixes for stage ``s`` that spend its share of the budget, as `exact_spend` has them."""
    stage, limits = space.stages[s], space.budget.limits
    if len(space.stages) > 1:
        limits = {
            name: getattr(space.least[s], name) + share * (limit - sum(getattr(cost, name) for cost in space.least))
            for name, limit in limits.items()
        }
    solves = {
        name: int(_limit(limits[name], name) / _least(stage, name) + 1e-9) for name in limits if _adds(stage, name)
    }
    most = [min(stage.max_nodes, stage.samples.get(name, stage.max_nodes)) for name in stage.pool.names]
    if not solves:
        return exact_spend([1] * len(most), stage.max_nodes, max_nodes=stage.max_nodes, rng=rng, most=most)
    tightest = "flops" if "flops" in solves else min(solves, key=solves.__getitem__)
    prices = proxies(stage, tightest)
    return exact_spend(prices, solves[tightest], max_nodes=stage.max_nodes, rng=rng, most=most)


def _adds(stage: StageSpace, resource: str) -> bool:
    """Whether solves add up in a resource, and take some of it."""
    return resource != "seconds" and max(_solves(stage, resource)) > 0


def _limit(limit: float, resource: str) -> float:
    return limit + TTS_REFERENCE if resource == "tts_units" else limit


def _solves(stage: StageSpace, resource: str) -> list[float]:
    """What a solve by each model takes."""
    solvers = [r for r, role in enumerate(stage.roles) if role.min_parents == 0]
    prices: list[float] = stage.tables[resource][solvers, :, 0].min(0).tolist()
    return prices


def _least(stage: StageSpace, resource: str) -> float:
    """What the cheapest solve takes that is not free."""
    return min(price for price in _solves(stage, resource) if price > 0)


def proxies(stage: StageSpace, resource: str = "flops") -> tuple[int, ...]:
    """Integer price of a solve by each model, in units of the cheapest that is not free, >= 1."""
    least = _least(stage, resource)
    return tuple(max(1, round(price / least)) for price in _solves(stage, resource))


def exact_spend(
    prices: Sequence[int], budget: int, *, max_nodes: int, rng: np.random.Generator, most: Sequence[int] = ()
) -> list[Mix]:
    """Mixes whose proxies sum to exactly ``budget``, at most ``max_nodes`` models each, and ``most`` of each model.

    All of them up to 1,000; above that, a random 1,000. If none spends it exactly (no model costs 1), the largest sum
    below that can be spent is taken.
    """
    counts = _Counts(prices, most or [max_nodes] * len(prices))
    for spend in range(min(budget, max(prices) * max_nodes), 0, -1):
        total = counts.of(0, spend, max_nodes)
        if total:
            ranks = range(total) if total <= MOST_MIXES else sorted(_distinct(total, rng))
            return [counts.mix(rank, spend, max_nodes) for rank in ranks]
    return []


def _distinct(total: int, rng: np.random.Generator) -> set[int]:
    """`MOST_MIXES` different numbers below ``total``, which may be larger than any machine integer."""
    ranks: set[int] = set()
    while len(ranks) < MOST_MIXES:
        # 64 random bits beyond those of the total make the remainder even enough.
        wide = int.from_bytes(rng.bytes(total.bit_length() // 8 + 9), "little")
        ranks.add(wide % total)
    return ranks


class _Counts:
    """How many mixes there are, and which is the n-th, without listing them: pools may be large."""

    def __init__(self, prices: Sequence[int], most: Sequence[int]) -> None:
        self.prices, self.most = prices, most
        self._known: dict[tuple[int, int, int], int] = {}

    def of(self, first: int, spend: int, nodes: int) -> int:
        """Mixes of the models from ``first`` on that spend exactly that, with at most that many nodes."""
        if first == len(self.prices):
            return int(spend == 0)
        key = (first, spend, nodes)
        if key not in self._known:
            price = self.prices[first]
            self._known[key] = sum(
                self.of(first + 1, spend - count * price, nodes - count)
                for count in range(min(spend // price, nodes, self.most[first]) + 1)
            )
        return self._known[key]

    def mix(self, rank: int, spend: int, nodes: int) -> Mix:
        """The mix of that rank; most nodes of the first models come first."""
        result = []
        for first, price in enumerate(self.prices):
            for count in range(min(spend // price, nodes, self.most[first]), -1, -1):
                below = self.of(first + 1, spend - count * price, nodes - count)
                if rank < below:
                    break
                rank -= below
            result.append(count)
            spend, nodes = spend - count * price, nodes - count
        return tuple(result)


def warm_up_graphs(stage: StageSpace, mix: Mix, solver: Sequence[str], fits: Callable[[Graph], bool]) -> list[Graph]:
    """Graphs to try a mix in, each within the budget: stars, a chain, chains side by side.

    Parameters
    ----------
    solver
        Name of the role in which each model of the pool solves best so far.
    fits
        Whether a graph is within the budget; models are left out, weakest first, until one is.
    """
    names = [name for name, count in zip(stage.pool.names, mix, strict=True) for _ in range(count)]
    names.sort(key=lambda name: stage.pool.named(name).parameters)
    role_of = dict(zip(stage.pool.names, solver, strict=True))
    graphs: dict[str, Graph] = {}
    for shape in (*_sinks(stage), *_chains(stage)):
        kept = list(names)
        while kept:
            graph = _build(stage, shape, kept, role_of)
            if graph is not None and len(graph.nodes) <= stage.max_nodes and fits(graph):
                graphs.setdefault(graph.id, graph)
                break
            kept.pop(0)
    return list(graphs.values())


def _sinks(stage: StageSpace) -> list[tuple[str, str]]:
    return [("star", role.name) for role in stage.roles if role.min_parents > 0 and role.may_be_sink]


def _chains(stage: StageSpace) -> list[tuple[str, str]]:
    links = [role.name for role in stage.roles if role.needs_model and role.may_be_inner and role.may_be_sink]
    votes = [role.name for role in stage.roles if not role.needs_model]
    chains = [("chain", link) for link in links if "fuser" not in stage.role(link).not_above]
    return [*chains, *(("pairs", f"{link}>{vote}") for _, link in chains for vote in votes[-1:])]


def _build(stage: StageSpace, shape: tuple[str, str], names: list[str], role_of: dict[str, str]) -> Graph | None:
    kind, word = shape
    solvers = [Node(role_of[name], name) for name in names]
    if kind == "chain":
        nodes = [solvers[0], *(Node(word, name) for name in names[1:])]
        return Graph(tuple(nodes), tuple((i, i + 1) for i in range(len(nodes) - 1)))
    if kind == "pairs":
        return _pairs(word, names, role_of)
    if not stage.role(word).needs_model:
        nodes = [*solvers, Node(word)]
    elif len(solvers) > 1:
        nodes = [*solvers[:-1], Node(word, names[-1])]
    else:
        return None
    return Graph(tuple(nodes), tuple((i, len(nodes) - 1) for i in range(len(nodes) - 1)))


def _pairs(word: str, names: list[str], role_of: dict[str, str]) -> Graph | None:
    """Chains of two, side by side, into a vote; an odd one stands alone."""
    link, vote = word.split(">")
    if len(names) < 3:
        return None
    nodes: list[Node] = []
    edges: list[tuple[int, int]] = []
    counts = Counter(names)
    spread = sorted(names, key=lambda name: (-counts[name], name))
    tails = []
    for i in range(0, len(spread), 2):
        nodes.append(Node(role_of[spread[i]], spread[i]))
        if i + 1 < len(spread):
            nodes.append(Node(link, spread[i + 1]))
            edges.append((len(nodes) - 2, len(nodes) - 1))
        tails.append(len(nodes) - 1)
    nodes.append(Node(vote))
    edges.extend((tail, len(nodes) - 1) for tail in tails)
    return Graph(tuple(nodes), tuple(edges))
