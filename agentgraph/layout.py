"""Where the nodes of a drawn graph go: columns by depth, few crossings, lanes for edges that skip columns.

Source: the steps of Sugiyama et al. 1981 (layers, barycentres, coordinates), each in its simplest form. The heights
in a column are an isotonic regression of where its neighbours would like its items to be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Final

from agentgraph.graph import Graph

__all__ = ["Layout", "layered"]

_SWEEPS: Final = 12

Item = tuple[int, ...]
"""(i,) for node i; (i, j, column) for the place where the edge i -> j passes a column."""


@dataclass(frozen=True)
class Layout:
    """Places in columns from left to right; heights in units of one node with its margin, 0 at the top.

    Parameters
    ----------
    columns
        Column of each node; the sink is alone in the last.
    heights
        Height of the middle of each node.
    lanes
        For each edge the heights at which it passes the columns between its ends, left to right.
    height
        Height of the whole; all items with half a node's margin are in [0, height].
    """

    columns: tuple[int, ...]
    heights: tuple[float, ...]
    lanes: dict[tuple[int, int], tuple[float, ...]]
    height: float


def layered(graph: Graph, *, lane: float = 0.35) -> Layout:
    """Layout of a graph; ``lane`` is the height of a passing edge in units of a node's."""
    columns = _columns(graph)
    members: list[list[Item]] = [[] for _ in range(max(columns) + 1)]
    for i, column in enumerate(columns):
        members[column].append((i,))
    links: list[tuple[Item, Item]] = []
    for i, j in graph.edges:
        passed: list[Item] = [(i, j, column) for column in range(columns[i] + 1, columns[j])]
        for item in passed:
            members[item[2]].append(item)
        links += pairwise([(i,), *passed, (j,)])
    members = _untangled(members, links)
    height = _heights(members, links, lane)
    top = min(at - _size(item, lane) / 2 for item, at in height.items())
    bottom = max(at + _size(item, lane) / 2 for item, at in height.items())
    return Layout(
        columns,
        tuple(height[i,] - top for i in range(len(graph.nodes))),
        {(i, j): tuple(height[i, j, c] - top for c in range(columns[i] + 1, columns[j])) for i, j in graph.edges},
        bottom - top,
    )


def _columns(graph: Graph) -> tuple[int, ...]:
    """By the longest path to the sink: a node stands just before the first that reads it."""
    ahead = [0] * len(graph.nodes)
    for i in reversed(range(len(graph.nodes))):
        ahead[i] = 1 + max((ahead[j] for j in graph.children[i]), default=-1)
    return tuple(max(ahead) - steps for steps in ahead)


def _size(item: Item, lane: float) -> float:
    return 1.0 if len(item) == 1 else lane


def _untangled(members: Sequence[Sequence[Item]], links: Sequence[tuple[Item, Item]]) -> list[list[Item]]:
    """Columns reordered by barycentres, to and fro; the order with the fewest crossings is kept."""
    left, right = _neighbours(links)
    best = now = [list(column) for column in members]
    fewest = _crossings(now, right)
    for sweep in range(_SWEEPS):
        now = [list(column) for column in now]
        rightwards = sweep % 2 == 0
        for c in range(1, len(now)) if rightwards else range(len(now) - 2, -1, -1):
            beside, fixed = (left, now[c - 1]) if rightwards else (right, now[c + 1])
            place = {item: rank for rank, item in enumerate(fixed)}
            wish = {item: _mean([place[other] for other in beside[item]], rank) for rank, item in enumerate(now[c])}
            now[c].sort(key=wish.__getitem__)
        crossings = _crossings(now, right)
        if crossings < fewest:
            best, fewest = now, crossings
    return best


def _crossings(members: Sequence[Sequence[Item]], right: Mapping[Item, Sequence[Item]]) -> int:
    place = {item: rank for column in members for rank, item in enumerate(column)}
    count = 0
    for column in members:
        ends = [(place[a], place[b]) for a in column for b in right[a]]
        count += sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(ends, 2))
    return count


def _neighbours(links: Sequence[tuple[Item, Item]]) -> tuple[dict[Item, list[Item]], dict[Item, list[Item]]]:
    """What stands directly left and directly right of each item, along its edges."""
    left: dict[Item, list[Item]] = defaultdict(list)
    right: dict[Item, list[Item]] = defaultdict(list)
    for a, b in links:
        left[b].append(a)
        right[a].append(b)
    return left, right


def _heights(members: Sequence[Sequence[Item]], links: Sequence[tuple[Item, Item]], lane: float) -> dict[Item, float]:
    """Heights near the mean of the neighbours', in the given order and without overlap; passing edges stay straight."""
    height = {item: float(rank) for column in members for rank, item in enumerate(column)}
    left, right = _neighbours(links)
    for _ in range(_SWEEPS):
        for column in (*members, *reversed(members)):
            wishes = [_mean([height[other] for other in (*left[item], *right[item])], 0.0) for item in column]
            weights = [1.0 if len(item) == 1 else 4.0 for item in column]
            sizes = [_size(item, lane) for item in column]
            height.update(zip(column, _spread(wishes, weights, sizes), strict=True))
    return height


def _spread(wishes: Sequence[float], weights: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Heights nearest to the wishes (weighted squares) at which items of these sizes do not overlap."""
    # Pool adjacent violators, on the wishes less what the sizes above add up to.
    offsets = [0.0]
    for a, b in pairwise(sizes):
        offsets.append(offsets[-1] + (a + b) / 2)
    blocks: list[tuple[float, float, int]] = []  # mean wish less offset, weight, number of items
    for wish, weight, offset in zip(wishes, weights, offsets, strict=True):
        blocks.append((wish - offset, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m, k), (b, n, q) = blocks.pop(-2), blocks.pop()
            blocks.append(((a * m + b * n) / (m + n), m + n, k + q))
    starts = [start for start, _, count in blocks for _ in range(count)]
    return [start + offset for start, offset in zip(starts, offsets, strict=True)]


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
