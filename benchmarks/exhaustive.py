"""Every plan of a small space of the embedded tasks, with its exact score: what a search could have found.

A table holds, for each plan of at most 4 nodes (calc: 3) and 8 units (six models, all six default roles, seed 0), how many train
questions it answers right in the first and in the second half. The optimum is chosen on the first half and scored on the
second; what a search that sees one half has lost on the other is exact.

    python benchmarks/exhaustive.py                     # what the tables say; takes seconds
    python benchmarks/exhaustive.py make=calc work=<folder>     # makes one anew, see `Making`; goes on if broken off
    python benchmarks/exhaustive.py make=calc work=<folder> block=64    # only these questions: several at a time

Use by others, with this folder on the path::

    table = Table.load("calc")
    space, (plan, first, second) = table.space(), table.best()
    found = table.value(some_plan)          # mean mark on the first and on the second half
"""

from __future__ import annotations

import asyncio
import itertools
import json
import lzma
import sys
import types
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from landscapes import _wirings as wirings
from numpy.typing import NDArray

from agentgraph.backends.base import Backend
from agentgraph.budget import Budget, Cost
from agentgraph.config import load_models, load_role, load_task
from agentgraph.execute import Job
from agentgraph.graph import Graph, Node
from agentgraph.model import Model, Pool
from agentgraph.node_run import sample_numbers
from agentgraph.plan import Plan
from agentgraph.plan_run import PlanRun, Shared
from agentgraph.request import Reply, Request
from agentgraph.roles.base import Message, Role
from agentgraph.space import Space, StageSpace
from agentgraph.store import ReplyStore, write_atomically
from agentgraph.tasks.base import Question, Task

FOLDER: Final = Path(__file__).parent / "tables"
TASKS: Final = ("calc", "recall")
ROLES: Final = ("assistant", "assistant_greedy", "fuser", "keep", "vote", "confidence_vote")
QUESTIONS: Final = {"calc": 256, "recall": 256}
BLOCK: Final = 64
"""Questions that are worked on at once."""
MAX_NODES: Final = {"calc": 3, "recall": 4}
"""Calc's replies are five times as long, and no two calls see its factors in one order: four nodes would take hours."""
BUDGET_UNITS: Final = 8.0
SHAPES: Final[Mapping[str, Callable[[Graph], bool]]] = {
    "single call": lambda graph: len(graph.nodes) == 1,
    "star": lambda graph: graph.depth == 2 and graph.width > 1,
    "chain": lambda graph: len(graph.edges) == len(graph.nodes) - 1 > 0 and graph.width == 1,
    "one model only": lambda graph: len({node.model for node in graph.nodes if node.model}) == 1,
}
_CHUNK: Final = 1 << 14  # calls of roles that are waited for at once
_ID_BYTES: Final = 6


class Value(NamedTuple):
    """A plan with its mean marks on the two halves, both in [0, 1]."""

    plan: Plan
    first: float
    second: float


@dataclass(frozen=True)
class Table:
    """Right answers of every plan of a space on two halves of a task's train questions.

    Parameters
    ----------
    task
        Conf name.
    max_nodes, budget_units
        Which plans: at most that many nodes, and a price of at most that many units.
    roles
        Conf names, in the order of the space.
    models
        Fingerprint of each model of the pool, by name.
    questions
        Ids of all questions, in the task's order: the first half, then the second.
    ids
        Graph ids as numbers, ascending, shape (plans,).
    right
        Right answers on the first and on the second half, shape (plans, 2).
    named
        Plans worth a name: 'best on the first half', 'best on the second half', and the best of each of `SHAPES` on the
        first half. Of equals the cheapest, of these one of the fewest nodes.
    """

    task: str
    max_nodes: int
    budget_units: float
    roles: tuple[str, ...]
    models: Mapping[str, str]
    questions: tuple[str, ...]
    ids: NDArray[np.uint64]
    right: NDArray[np.uint8]
    named: Mapping[str, Plan]

    @classmethod
    def load(cls, task: str, folder: Path = FOLDER) -> Table:
        """The table of a task.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        path = file_of(task, folder)
        if not path.is_file():
            there = ", ".join(sorted(found.stem for found in folder.glob("*.xz"))) or "none"
            raise FileNotFoundError(f"there is no table {path}; there are: {there}; make it with make={task}")
        head, _, planes = lzma.decompress(path.read_bytes()).partition(b"\n")
        facts = json.loads(head)
        count = facts.pop("plans")
        columns = np.frombuffer(planes, np.uint8).reshape(_ID_BYTES + 2, count)
        steps = np.zeros(count, np.uint64)
        for column in columns[:_ID_BYTES]:
            steps = steps << np.uint64(8) | column
        return cls(
            **{**facts, "roles": tuple(facts["roles"]), "questions": tuple(facts["questions"])}
            | {"named": {name: Plan.from_compact(plan) for name, plan in facts["named"].items()}},
            ids=np.cumsum(steps, dtype=np.uint64),
            right=columns[_ID_BYTES:].T,
        )

    def save(self, folder: Path = FOLDER) -> Path:
        """Write the table: a line of JSON, then the bytes of the steps between ids and of the counts, column by column."""
        facts = {
            name: getattr(self, name) for name in ("task", "max_nodes", "budget_units", "roles", "models", "questions")
        }
        facts |= {"named": {name: plan.compact() for name, plan in self.named.items()}, "plans": self.plans}
        steps = np.diff(self.ids, prepend=np.uint64(0))
        columns = [(steps >> np.uint64(8 * place)).astype(np.uint8) for place in reversed(range(_ID_BYTES))]
        planes = np.concatenate([*columns, *self.right.T]).tobytes()
        folder.mkdir(parents=True, exist_ok=True)
        path = file_of(self.task, folder)
        write_atomically(
            path, lzma.compress(json.dumps(facts).encode() + b"\n" + planes, preset=9 | lzma.PRESET_EXTREME)
        )
        return path

    @property
    def plans(self) -> int:
        """Number of plans."""
        return len(self.ids)

    @property
    def halves(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Ids of the questions of each half."""
        middle = len(self.questions) // 2
        return self.questions[:middle], self.questions[middle:]

    @cached_property
    def marks(self) -> NDArray[np.float64]:
        """Mean marks on the first and on the second half, shape (plans, 2), in the order of `ids`."""
        return self.right / np.array([len(half) for half in self.halves])

    def value(self, plan: Plan | Graph) -> tuple[float, float]:
        """Mean mark of a plan on the first and on the second half, both in [0, 1].

        Raises
        ------
        KeyError
            If the table does not have it.
        """
        graph = plan if isinstance(plan, Graph) else plan.stages[0]
        number = np.uint64(int(graph.id, 16))
        row = int(np.searchsorted(self.ids, number))
        if row == self.plans or self.ids[row] != number or (isinstance(plan, Plan) and len(plan.stages) > 1):
            raise KeyError(
                f"the table {self.task!r} has no plan {graph.compact()}; it has those of one stage, at most "
                f"{self.max_nodes} nodes and {self.budget_units:g} units of the roles {', '.join(self.roles)}"
            )
        first, second = self.marks[row].tolist()
        return first, second

    def best(self, name: str = "best on the first half") -> Value:
        """The optimum, chosen on the first half, with its value on both; or another of the named plans."""
        plan = self.named[name]
        return Value(plan, *self.value(plan))

    def space(self) -> Space:
        """The space of all plans of the table."""
        return space_of(self.task, load_models("embedded")[0], self.roles, self.max_nodes, self.budget_units)


def file_of(task: str, folder: Path = FOLDER) -> Path:
    """Where the table of a task is."""
    return folder / f"{task}.xz"


def space_of(
    task: str,
    pool: Pool,
    roles: Sequence[str] = ROLES,
    max_nodes: int | None = None,
    budget_units: float = BUDGET_UNITS,
) -> Space:
    """A space of one of the embedded tasks; as large as its table's if no number of nodes is given."""
    max_nodes = MAX_NODES[task] if max_nodes is None else max_nodes
    lengths = load_task(task).stages[0].lengths
    stage = StageSpace(task, tuple(map(load_role, roles)), pool, max_nodes, lengths)
    return Space((stage,), Budget(budget_units * stage.cheapest, stage.cheapest))


def graphs_of(space: Space) -> list[Graph]:
    """Every graph of a space, up to isomorphism, in canonical form, by id."""
    found: dict[str, Graph] = {}
    for n in range(1, space.stages[0].max_nodes + 1):
        for edges in wirings(n):
            for nodes in _labels(space, n, edges):
                graph = Graph(nodes, edges)
                found.setdefault(graph.id, graph.canonical)
    return [graph for _, graph in sorted(found.items())]


def _labels(space: Space, n: int, edges: Sequence[tuple[int, int]]) -> Iterator[tuple[Node, ...]]:
    """Every choice of roles and models that keeps the roles' rules and the budget, from the sink upwards."""
    stage = space.stages[0]
    degree = [sum(j == i for _, j in edges) for i in range(n)]
    options = [
        [
            (role, Node(role.name, model), stage.flops_table[r, m, degree[i]] if role.needs_model else 0.0)
            for r, role in enumerate(stage.roles)
            if degree[i] >= role.min_parents and (role.may_be_sink if i == n - 1 else role.may_be_inner)
            for m, model in enumerate(stage.pool.names if role.needs_model else ("",))
        ]
        for i in range(n)
    ]

    def above(chosen: tuple[tuple[Role, Node], ...], price: float) -> Iterator[tuple[Node, ...]]:
        i = n - 1 - len(chosen)
        if i < 0:
            yield tuple(node for _, node in chosen)
            return
        kinds = {chosen[k - i - 1][0].kind for j, k in edges if j == i}
        for role, node, flops in options[i]:
            if space.budget.allows(Cost(price + flops)) and kinds.isdisjoint(role.not_above):
                yield from above(((role, node), *chosen), price + flops)

    return above((), 0.0)


class _Kind(NamedTuple):
    """Nodes that do the same with the same messages."""

    node: Node
    numbers: tuple[tuple[str, int], ...]
    in_degree: int


class Marker:
    """Marks many plans at once: what several of them share is computed once.

    Parameters
    ----------
    task, pool, roles, backends, store, seed
        As an executor has them; one stage, and roles whose prompts list their parents' answers, not whole replies.
    report
        What lines of progress on standard error begin with; '' shows none.

    Notes
    -----
    Works through the plans node by node. What a node sends depends on its role, model, sample numbers and its parents'
    messages alone; nodes at one place that agree in all of these on a question are run once, by the very code that an
    executor runs (`PlanRun`), so that requests are the same. What they ask is gathered into batches.
    """

    def __init__(
        self,
        task: Task,
        pool: Pool,
        roles: Mapping[str, Role],
        backends: Mapping[str, Backend],
        store: ReplyStore,
        *,
        seed: int = 0,
        report: str = "",
    ) -> None:
        self.task, self.pool, self.roles, self.backends, self.store = task, pool, dict(roles), backends, store
        self.seed, self._report = seed, report
        self.solves: dict[tuple[object, ...], Request] = {}
        self.deadlines, self.shared = None, Shared()
        self._messages: list[Message] = []  # all that were sent, each once, without texts
        self._same_answer: list[int] = []  # of each, the first message with its answer
        self._message_numbers: dict[tuple[str | None, float | None], int] = {}
        self._first: dict[str | None, int] = {}  # message with an answer
        self._rows: list[NDArray[np.int64]] = []  # messages of a node on all questions, each once, shape (questions,)
        self._absent: list[NDArray[np.bool_]] = []  # where a row has no answer
        self._row_numbers: dict[bytes, int] = {}

    async def reply(self, request: Request, model: Model, within: float | None = None) -> Reply:
        """The reply to a request; whoever asks is held up here until it is known."""
        del within
        known = self.store.get(request.key)
        return await _held_up(request, model) if known is None else known

    def check_broken(self) -> None:
        """Nothing to do: what fails is raised at once."""

    def question_done(self, calls: int) -> None:
        """Nothing to do: nodes are counted, not questions."""

    def marks(self, graphs: Sequence[Graph], questions: Sequence[Question]) -> NDArray[np.bool_]:
        """Which questions each graph answers right, shape (graphs, questions); graphs are in canonical form."""
        right = np.zeros((len(graphs), len(questions)), np.bool_)
        numbers = [sample_numbers(graph, self.roles) for graph in graphs]
        sent: list[list[int]] = [[] for _ in graphs]  # rows of the nodes so far
        for i in range(max(len(graph.nodes) for graph in graphs)):
            kinds: dict[_Kind, dict[tuple[int, ...], list[int]]] = {}
            for g, graph in enumerate(graphs):
                if i < len(graph.nodes):
                    parents = tuple(sent[g][p] for p in graph.parents[i])
                    kind = self._kind(graph.nodes[i], numbers[g][i], parents)
                    kinds.setdefault(kind, {}).setdefault(parents, []).append(g)
            for k, (kind, below) in enumerate(kinds.items(), start=1):
                self._say(
                    f"node {i + 1}, kind {k} of {len(kinds)}, {kind.node} with {kind.in_degree} parents: {len(below)} to "
                    f"run; {len(self.store)} replies so far"
                )
                example = graphs[next(iter(below.values()))[0]]
                node = PlanRun(self, Job(Plan((example,)), ())).stages[0][2][i]
                rows, marks = self._run(node, list(below), questions)
                for row, marked, members in zip(rows, marks, below.values(), strict=True):
                    number = self._row_number(row)
                    for g in members:
                        sent[g].append(number)
                        right[g] = marked  # the sink is the last to write
        return right

    def _kind(self, node: Node, numbers: Mapping[str, int], parents: tuple[int, ...]) -> _Kind:
        """The kind of a node; the number of a solve for want of candidates counts only where all parents may be absent."""
        words = {form.word for form in self.roles[node.role].forms(len(parents))}
        alone = bool(parents) and bool(np.logical_and.reduce([self._absent[p] for p in parents]).any())
        return _Kind(node, tuple((word, k) for word, k in numbers.items() if alone or word in words), len(parents))

    def _run(
        self,
        node: Any,  # noqa: ANN401  a node of a `PlanRun`
        below: Sequence[tuple[int, ...]],
        questions: Sequence[Question],
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Messages and marks of a node below these parents, both shape (below, questions)."""
        shape = (len(below), len(questions))
        received = [np.stack([self._rows[p] for p in column]) for column in zip(*below, strict=True)]
        if not node.role.needs_confidence:
            received = [np.array(self._same_answer)[column] for column in received]
        cells = np.broadcast_to(np.arange(len(questions)), shape).ravel()
        for column in received:
            cells = np.unique(cells * len(self._messages) + column.ravel(), return_inverse=True)[1]
        _, examples, cells = np.unique(cells, return_index=True, return_inverse=True)
        heard = (
            np.stack([column.ravel()[examples] for column in received], 1).tolist()
            if received
            else [[]] * len(examples)
        )
        asked = [questions[q] for q in (examples % len(questions)).tolist()]
        messages = self._driven(
            node.role([self._messages[m] for m in numbers], node.asker(question.text))
            for numbers, question in zip(heard, asked, strict=True)
        )
        sent, marks = [], []
        for message, question in zip(messages, asked, strict=True):
            sent.append(self._message_number(message))
            marks.append(message.answer is not None and self.task.mark(message.answer, question) == 1)
        return np.array(sent)[cells].reshape(shape), np.array(marks)[cells].reshape(shape)

    def _message_number(self, message: Message) -> int:
        key = (message.answer, message.confidence)
        if key not in self._message_numbers:
            self._message_numbers[key] = len(self._messages)
            self._same_answer.append(self._first.setdefault(message.answer, len(self._messages)))
            self._messages.append(Message(message.answer, "", message.confidence))
        return self._message_numbers[key]

    def _row_number(self, row: NDArray[np.int64]) -> int:
        key = row.tobytes()
        if key not in self._row_numbers:
            self._row_numbers[key] = len(self._rows)
            self._rows.append(row)
            self._absent.append(np.array([self._messages[m].absent for m in row.tolist()]))
        return self._row_numbers[key]

    def _driven(self, calls: Iterable[Coroutine[Any, Any, Message]]) -> list[Message]:
        """Results of calls of roles, in their order; what they ask is answered together."""
        results: list[Message] = []
        calls = iter(calls)
        while chunk := list(itertools.islice(calls, _CHUNK)):
            done: dict[int, Message] = {}
            turns: list[tuple[int, Reply | None]] = [(c, None) for c in range(len(chunk))]
            while turns:
                held: list[tuple[int, str]] = []
                wanted: dict[str, tuple[Request, Model]] = {}
                for c, reply in turns:
                    try:
                        request, model = chunk[c].send(reply)
                    except StopIteration as stop:
                        done[c] = stop.value
                    else:
                        wanted.setdefault(request.key, (request, model))
                        held.append((c, request.key))
                if wanted:
                    asyncio.run(self._ask(wanted.values()))
                turns = [(c, self.store.get(key)) for c, key in held]
            results += (done[c] for c in range(len(chunk)))
        return results

    async def _ask(self, wanted: Collection[tuple[Request, Model]]) -> None:
        """Put the replies to requests into the store."""
        try:
            replies = await asyncio.gather(*(self.backends[model.backend].reply(request) for request, model in wanted))
        finally:
            for backend in self.backends.values():
                await backend.close()
        for (request, _), reply in zip(wanted, replies, strict=True):
            self.store.put(request.key, reply)
        self.store.flush()

    def _say(self, text: str) -> None:
        if self._report:
            sys.stderr.write(f"{self._report}{text}\n")
            sys.stderr.flush()


@types.coroutine
def _held_up(request: Request, model: Model) -> Generator[tuple[Request, Model], Reply, Reply]:
    """Hand a request to whoever drives the coroutine; it comes back with the reply."""
    return (yield request, model)


@dataclass(frozen=True)
class Making:
    """How a table is made: block of questions by block, each kept in a file, so that it can be broken off and shared out.

    Parameters
    ----------
    task
        Conf name.
    work
        Folder for the blocks.
    """

    task: str
    work: Path

    def table(self) -> Table:
        """The table, from the models themselves; makes the blocks that are not there."""
        pool, _ = load_models("embedded")
        space, graphs = self._plans
        blocks = [self.block(b) for b in range(0, QUESTIONS[self.task], BLOCK)]
        middle = QUESTIONS[self.task] // 2
        marks = np.concatenate(blocks, 1)
        right = np.stack([marks[:, :middle].sum(1), marks[:, middle:].sum(1)], 1).astype(np.uint8)
        return Table(
            task=self.task,
            max_nodes=MAX_NODES[self.task],
            budget_units=BUDGET_UNITS,
            roles=ROLES,
            models={model.name: model.identity for model in pool},
            questions=tuple(question.id for question in self._questions),
            ids=np.array([int(graph.id, 16) for graph in graphs], np.uint64),
            right=right,
            named=_named(space, graphs, right),
        )

    def block(self, begin: int) -> NDArray[np.bool_]:
        """Marks of all plans on the questions from ``begin`` on, shape (plans, `BLOCK`)."""
        path = self.work / f"{self.task}-{begin}.npy"
        if not path.is_file():
            pool, backends = load_models("embedded")
            space, graphs = self._plans
            task, store = load_task(self.task), ReplyStore()
            marker = Marker(task, pool, space.stages[0].by_name, backends, store, report=f"{self.task} from {begin}: ")
            marks = marker.marks(graphs, self._questions[begin : begin + BLOCK])
            content = BytesIO()
            np.save(content, np.packbits(marks, axis=1))
            self.work.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.getvalue())
        return np.unpackbits(np.load(path), axis=1).astype(np.bool_)

    @cached_property
    def _plans(self) -> tuple[Space, list[Graph]]:
        space = space_of(self.task, load_models("embedded")[0])
        return space, graphs_of(space)

    @cached_property
    def _questions(self) -> Sequence[Question]:
        return load_task(self.task, sizes={"train": QUESTIONS[self.task]}).questions("train")


def _named(space: Space, graphs: Sequence[Graph], right: NDArray[np.uint8]) -> dict[str, Plan]:
    """Plans worth a name; of equals, the cheapest, of these one of the fewest nodes."""
    prices = [space.stages[0].price(graph).flops for graph in graphs]

    def best(half: int, wanted: Callable[[Graph], bool]) -> Plan:
        fitting = [g for g, graph in enumerate(graphs) if wanted(graph)]
        chosen = min(fitting, key=lambda g: (-int(right[g, half]), prices[g], len(graphs[g].nodes), g))
        return Plan((graphs[chosen],))

    return {
        "best on the first half": best(0, lambda _: True),
        "best on the second half": best(1, lambda _: True),
        **{f"best {name}": best(0, wanted) for name, wanted in SHAPES.items()},
    }


def told(table: Table, path: Path) -> str:
    """What a table says, for people."""
    marks = 100 * table.marks
    top, spread = marks.max(0), marks.std(0)
    lines = [
        f"{table.task}: {table.plans:,} plans of at most {table.max_nodes} nodes and {table.budget_units:g} units, "
        f"{len(table.halves[0])} + {len(table.halves[1])} questions; {path.stat().st_size:,} bytes",
        f"  {'%':<26}{'first':>7}{'second':>8}",
    ]
    for name in table.named:
        plan, first, second = table.best(name)
        lines.append(f"  {name:<26}{100 * first:>7.2f}{100 * second:>8.2f}  {_shown(plan)}")
    close = marks > top - 1 - 1e-9
    elsewhere = [marks[close[:, half], 1 - half].mean() for half in (0, 1)]
    lines += [
        f"  {'mean of all':<26}{marks[:, 0].mean():>7.2f}{marks[:, 1].mean():>8.2f}  standard deviation {spread[0]:.2f}, "
        f"{spread[1]:.2f}; correlation of the halves {np.corrcoef(marks.T)[0, 1]:.3f}",
        f"  {'plans within 1 point':<26}{close[:, 0].sum():>7}{close[:, 1].sum():>8}  of the best on that half; on the other half "
        f"they have {elsewhere[0]:.2f} and {elsewhere[1]:.2f}",
    ]
    return "\n".join(lines)


def _shown(plan: Plan) -> str:
    """Nodes in order, each with its parents' numbers."""
    graph = plan.stages[0]
    return "  ".join(
        f"{i}:{node}" + (f"<{','.join(map(str, graph.parents[i]))}" if graph.parents[i] else "")
        for i, node in enumerate(graph.nodes)
    )


def main(arguments: Sequence[str]) -> int:
    """Print the tables, or make one."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    task = given.get("make", TASKS[0])
    blocks = [str(begin) for begin in range(0, QUESTIONS.get(task, 0), BLOCK)]
    if (
        not set(given) <= {"make", "work", "block"}
        or task not in TASKS
        or ("make" in given) != bool(given.get("work"))
        or given.get("block", "0") not in blocks
    ):
        print(
            f"cannot read {' '.join(arguments)!r}; give nothing, or make= {' or '.join(TASKS)}, work=<folder>, and perhaps "
            f"block= one of {', '.join(blocks)}"
        )
        return 2
    if "block" in given:
        Making(task, Path(given["work"])).block(int(given["block"]))
        return 0
    if "make" in given:
        Making(task, Path(given["work"])).table().save()
    for name in [task] if "make" in given else TASKS:
        print(told(Table.load(name), file_of(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
