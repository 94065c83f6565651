"""Best plan of each synthetic landscape and its exact score, by trying every plan within the stated budget.

The exact score of a plan is the sum over everything its calls may answer, each role run as it is; no dice are thrown. Prints, for
each landscape, how many plans there are, the best of them with its score, the best of other shapes, and whether the
package states the same. Takes some minutes.

    python benchmarks/landscapes.py [width depth mix]
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any

from agentgraph.backends.synthetic import SURE, TRAP, UNSURE, chance
from agentgraph.config import load_models, load_role
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan
from agentgraph.roles.base import Message, Role
from agentgraph.space import Budget, Space, StageSpace
from agentgraph.tasks.synthetic import BUDGET_UNITS, KINDS, LANDSCAPES, MAX_NODES, Landscape, SyntheticStage

GOLD = "gold"
ROLES = ("assistant", "fuser", "keep", "vote", "confidence_vote")


class _Asked(Exception):
    """What a role asks its model."""

    def __init__(self, word: str, candidates: Sequence[str]) -> None:
        self.word, self.candidates = word, candidates


def _run(coroutine: Coroutine[Any, Any, Message]) -> Message:
    """Result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: Message = stop.value
        return result
    raise AssertionError("the role waited for something")


class Exact:
    """Exact expected marks on one landscape; roles at temperatures above 0, each asking its model at most once."""

    def __init__(self, landscape: Landscape, roles: Mapping[str, Role]) -> None:
        self.landscape, self.roles = landscape, roles
        self._told = [landscape.asked(kind) for kind in range(len(KINDS))]
        self._known: dict[tuple[object, ...], list[tuple[Message, float]]] = {}

    def score(self, graph: Graph) -> float:
        """Expected mark of a graph, in [0, 1]."""
        return sum(self._score(graph, kind) for kind in range(len(KINDS))) / len(KINDS)

    def _score(self, graph: Graph, kind: int) -> float:
        states: dict[tuple[Message, ...], float] = {(): 1.0}  # messages still to be read, and the probability
        live: list[int] = []
        for i, node in enumerate(graph.nodes):
            places = [live.index(parent) for parent in graph.parents[i]]
            kept = [place for place, parent in enumerate(live) if graph.children[parent][-1] > i]
            after: dict[tuple[Message, ...], float] = defaultdict(float)
            for state, weight in states.items():
                rest = tuple(state[place] for place in kept)
                for message, share in self._messages(node, i, kind, tuple(state[place] for place in places)):
                    after[(*rest, message)] += weight * share
            states, live = after, [*(live[place] for place in kept), i]
        return sum(weight for state, weight in states.items() if state[-1].answer == GOLD)

    def _messages(self, node: Node, i: int, kind: int, parents: tuple[Message, ...]) -> list[tuple[Message, float]]:
        key = (node, i, kind, parents)
        if key not in self._known:
            self._known[key] = list(self._outcomes(self.roles[node.role], node.model, i, kind, parents))
        return self._known[key]

    def _outcomes(
        self, role: Role, model: str, i: int, kind: int, parents: tuple[Message, ...]
    ) -> Iterator[tuple[Message, float]]:
        async def find(word: str, candidates: Sequence[str] = ()) -> Message:
            raise _Asked(word, candidates)

        try:
            yield _run(role(parents, find)), 1.0
        except _Asked as asked:
            for reply, share in self._replies(model, i, kind, asked):

                async def answer(word: str, candidates: Sequence[str] = (), reply: Message = reply) -> Message:
                    del word, candidates
                    return reply

                yield _run(role(parents, answer)), share

    def _replies(self, model: str, i: int, kind: int, asked: _Asked) -> Iterator[tuple[Message, float]]:
        told = self._told[kind]
        right = chance(told, model, asked.word, asked.candidates, GOLD)
        trap = self.landscape.trap
        # An answer that no other call gives is named by its node.
        for text, share in ((GOLD, right), (TRAP, (1 - right) * trap), (f"of {i}", (1 - right) * (1 - trap))):
            sure = self.landscape.sure_right if text == GOLD else self.landscape.sure_wrong
            for confidence, part in ((SURE, sure), (UNSURE, 1 - sure)):
                if share * part:
                    yield Message(text, text, confidence), share * part


def space() -> Space:
    """The plans that the stated optimum is best of."""
    roles = tuple(load_role(name) for name in ROLES)
    stage = StageSpace("answer", roles, load_models("synthetic")[0], MAX_NODES, SyntheticStage.lengths)
    return Space((stage,), Budget(BUDGET_UNITS * stage.cheapest, stage.cheapest))


def plans(space: Space) -> Iterator[Graph]:
    """Every graph of the space, up to isomorphism."""
    stage, seen = space.stages[0], set()
    for n in range(1, stage.max_nodes + 1):
        for edges in _wirings(n):
            for nodes in _labels(stage, n, edges):
                graph = Graph(nodes, edges)
                if space.budget.allows(stage.price(graph)) and graph.id not in seen:
                    seen.add(graph.id)
                    yield graph.canonical


def _wirings(n: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Every set of forward edges in which all nodes but the last have a child."""
    for children in itertools.product(
        *([c for size in range(1, n - i) for c in itertools.combinations(range(i + 1, n), size)] for i in range(n - 1))
    ):
        yield tuple((i, j) for i, row in enumerate(children) for j in row)


def _labels(stage: StageSpace, n: int, edges: Sequence[tuple[int, int]]) -> Iterator[tuple[Node, ...]]:
    """Every choice of roles and models that keeps the roles' rules and costs no more solves than the budget."""
    degree = [sum(j == i for _, j in edges) for i in range(n)]
    options = []
    for i in range(n):
        fitting = [
            role for role in stage.roles
            if degree[i] >= role.min_parents and (role.may_be_sink if i == n - 1 else role.may_be_inner)
        ]  # fmt: skip
        options.append(
            [Node(r.name, model) for r in fitting for model in (stage.pool.names if r.needs_model else ("",))]
        )
    solve = {model.name: model.parameters / 1000 for model in stage.pool} | {"": 0.0}
    for nodes in itertools.product(*options):
        if sum(solve[node.model] for node in nodes) <= BUDGET_UNITS and not any(
            stage.by_name[nodes[j].role].kind in stage.by_name[nodes[i].role].not_above for i, j in edges
        ):
            yield nodes


def main(names: Sequence[str]) -> int:
    """Print the best plan of each landscape."""
    everything = space()
    found = list(plans(everything))
    print(f"{len(found)} plans of at most {MAX_NODES} nodes and {BUDGET_UNITS} units")
    good = True
    for name in names or LANDSCAPES:
        planted = LANDSCAPES[name]
        exact = Exact(planted, everything.stages[0].by_name)
        scored = sorted(((exact.score(graph), -len(graph.nodes), i) for i, graph in enumerate(found)), reverse=True)
        stated = exact.score(planted.optimum.stages[0])
        same = abs(planted.value - scored[0][0]) < 1e-9 and abs(stated - scored[0][0]) < 1e-9
        good &= same
        print(
            f"{name}: best {scored[0][0]!r}, stated {planted.value!r} ({'the same' if same else f'its plan has {stated!r}'})"
        )
        for score, _, i in scored[:4]:
            print(f"    {score:.5f}  {Plan((found[i],)).compact()}")
        for label, chosen in _shapes(found).items():
            best = next((score for score, _, i in scored if i in chosen), float("nan"))
            print(f"    {best:.5f}  best {label}")
    return 0 if good else 1


def _shapes(graphs: Sequence[Graph]) -> dict[str, set[int]]:
    """Plans by shape, to show what a landscape wants."""

    def of(wanted: Any) -> set[int]:  # noqa: ANN401
        return {i for i, graph in enumerate(graphs) if wanted(graph)}

    return {
        "single call": of(lambda graph: len(graph.nodes) == 1),
        "of depth 2 (wide)": of(lambda graph: graph.depth <= 2),
        "chain (deep)": of(lambda graph: graph.width == 1),
        "of one model": of(lambda graph: len({node.model for node in graph.nodes if node.model}) == 1),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
