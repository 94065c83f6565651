"""Every small plan of the embedded pipeline, with its score on real replies: what a search of both stages could have found.

What the second stage answers depends on the first only through the number that is handed on. So each stage has a table of its
own: the first says on which questions a graph hands on a number that leads to the right product if nobody errs after it (the
right one, and of even factors those that differ from it by a multiple of 125); the second which questions a graph
answers right when it is handed the right number. A plan's mark is the product of the two. Two things are left out, together two
or three marks in a thousand, and less of good plans (`check=`): the second stage sees another number where another one
leads to the same product, and its own slip may mend a wrong number.

Both tables have every graph of at most 3 nodes and 8 units of all six models and default roles, and up to 16 samples of one
model, of at most 24 units, with a vote or a confidence vote. Half of the questions is for choosing, half for scoring.

    python benchmarks/stage_tables.py                    # what the tables say; takes seconds
    python benchmarks/stage_tables.py check=100          # so many random plans on all questions by an executor, beside the table
    python benchmarks/stage_tables.py make=<folder>      # makes the tables anew, in blocks of questions; goes on if broken off
"""

from __future__ import annotations

import json
import lzma
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from exhaustive import FOLDER, MAX_NODES, ROLES, Marker, graphs_of
from numpy.typing import NDArray

from agentgraph.budget import Budget
from agentgraph.config import load_models, load_role, load_task
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.model import Pool
from agentgraph.plan import Plan
from agentgraph.space import Space, StageSpace
from agentgraph.store import ReplyStore, write_atomically
from agentgraph.tasks import calc, recall
from agentgraph.tasks.base import Question, Stage, Task
from agentgraph.tasks.pipeline import parse

TASK: Final = "pipeline"
NODES: Final = MAX_NODES["calc"]
UNITS: Final = 8.0
"""Of a graph of at most `NODES` nodes; a unit is the cheapest solve of the dearest stage."""
SAMPLES: Final = 16
MOST_UNITS: Final = 24.0
"""Of samples with a vote."""
VOTES: Final = ("vote", "confidence_vote")
QUESTIONS: Final = 256
BLOCK: Final = 32


@dataclass(frozen=True)
class StageTable:
    """What every graph of a stage does.

    Parameters
    ----------
    ids
        Graph ids as numbers, ascending, shape (graphs,).
    units
        Prices in units, shape (graphs,).
    row
        Row of `rows` that a graph has, shape (graphs,): many do the same.
    rows
        Whether each question is right, shape (rows, questions).
    """

    ids: NDArray[np.uint64]
    units: NDArray[np.float64]
    row: NDArray[np.int32]
    rows: NDArray[np.bool_]

    def place(self, graph: Graph) -> int:
        """Where a graph stands.

        Raises
        ------
        KeyError
            If the table does not have it.
        """
        number = np.uint64(int(graph.id, 16))
        place = int(np.searchsorted(self.ids, number))
        if place == len(self.ids) or self.ids[place] != number:
            raise KeyError(f"the table has no graph {graph.compact()}; it has those that `graphs_in` gives")
        return place

    def right(self, graph: Graph) -> NDArray[np.bool_]:
        """Which questions a graph has right, shape (questions,); raises as `place` does."""
        return self.rows[self.row[self.place(graph)]]


@dataclass(frozen=True)
class PipelineTable:
    """Tables of both stages.

    Parameters
    ----------
    questions
        Ids, in the task's order: the half to choose by, then the other.
    models
        Fingerprint of each model, by name.
    stages
        The two tables.
    """

    questions: tuple[str, ...]
    models: Mapping[str, str]
    stages: tuple[StageTable, ...]

    @classmethod
    def load(cls, folder: Path = FOLDER) -> PipelineTable:
        """The table.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        path = folder / f"{TASK}.xz"
        if not path.is_file():
            raise FileNotFoundError(f"there is no table {path}; make it with make=<folder>")
        with np.load(BytesIO(lzma.decompress(path.read_bytes()))) as arrays:
            facts = json.loads(str(arrays["facts"]))
            stages = tuple(
                StageTable(
                    np.cumsum(arrays[f"steps{s}"], dtype=np.uint64),
                    arrays[f"units{s}"],
                    arrays[f"row{s}"].astype(np.int32),
                    np.unpackbits(arrays[f"rows{s}"], axis=1, count=len(facts["questions"])).astype(np.bool_),
                )
                for s in range(2)
            )
        return cls(tuple(facts["questions"]), facts["models"], stages)

    def save(self, folder: Path = FOLDER) -> Path:
        """Write it."""
        arrays = {"facts": np.array(json.dumps({"questions": self.questions, "models": self.models}))}
        for s, table in enumerate(self.stages):
            arrays |= {
                f"steps{s}": np.diff(table.ids, prepend=np.uint64(0)),
                f"units{s}": table.units,
                f"row{s}": table.row.astype(np.uint16),
                f"rows{s}": np.packbits(table.rows, axis=1),
            }
        content = BytesIO()
        np.savez(content, **arrays)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{TASK}.xz"
        write_atomically(path, lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME))
        return path

    @property
    def halves(self) -> tuple[slice, slice]:
        """Places of the questions of each half."""
        middle = len(self.questions) // 2
        return slice(0, middle), slice(middle, len(self.questions))

    def marks(self, plan: Plan) -> NDArray[np.bool_]:
        """Marks of a plan, question by question, shape (questions,); raises as `StageTable.place` does."""
        first, second = (table.right(graph) for table, graph in zip(self.stages, plan.stages, strict=True))
        return first & second

    def of_stage(self, s: int, half: int) -> NDArray[np.bool_]:
        """Marks of every graph of a stage on one half, shape (graphs, questions of the half)."""
        return self.stages[s].rows[self.stages[s].row][:, self.halves[half]]

    def value(self, plan: Plan) -> tuple[float, float]:
        """Mean mark on the first and on the second half."""
        first, second = (float(self.marks(plan)[half].mean()) for half in self.halves)
        return first, second

    @cached_property
    def graphs(self) -> tuple[tuple[Graph, ...], ...]:
        """Graphs of both stages in the order of the tables."""
        return tuple(graphs_in(space) for space in stage_spaces(load_models("embedded")[0]))


class Pair(NamedTuple):
    """Two graphs, by their places, with the mean over questions of the product of their marks."""

    value: float
    first: int
    second: int


def best_pair(marks: Sequence[NDArray[Any]], units: Sequence[NDArray[np.float64]], limit: float) -> Pair:
    """The best pair of graphs of two stages of at most ``limit`` units; of equal pairs the cheapest.

    Parameters
    ----------
    marks
        Of the graphs of each stage, in [0, 1], shape (graphs, questions).
    units
        Their prices, shape (graphs,).

    Raises
    ------
    ValueError
        If no pair is that cheap.
    """
    fronts = [_front(rows, prices, limit) for rows, prices in zip(marks, units, strict=True)]
    first, second = (rows[front].astype(np.float32) for rows, front in zip(marks, fronts, strict=True))
    prices = [mine[front] for mine, front in zip(units, fronts, strict=True)]
    best = (-1.0, 0.0, 0, 0)
    for i in range(0, len(first), 256):
        scores = first[i : i + 256] @ second.T
        total = prices[0][i : i + 256, None] + prices[1][None]
        scores[total > limit * (1 + 1e-9)] = -1.0
        high = float(scores.max(initial=-1.0))
        if high < max(best[0], 0.0):
            continue
        where = np.argwhere(scores == high)
        a, b = where[int(np.argmin(total[tuple(where.T)]))].tolist()
        best = max(best, (high, -float(total[a, b]), i + a, b), key=lambda entry: entry[:2])
    if best[0] < 0:
        raise ValueError(f"no pair of graphs costs at most {limit:g} units")
    return Pair(best[0] / first.shape[1], int(fronts[0][best[2]]), int(fronts[1][best[3]]))


def _front(marks: NDArray[Any], units: NDArray[np.float64], limit: float) -> NDArray[np.int64]:
    """Of the graphs that do the same, the cheapest within the limit; places."""
    there = np.flatnonzero(units <= limit * (1 + 1e-9))
    there = there[np.argsort(units[there], kind="stable")]
    rows = np.ascontiguousarray(marks[there])
    whole = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    return there[np.sort(np.unique(whole, return_index=True)[1])]


def pairs_within(units: Sequence[NDArray[np.float64]], limit: float) -> int:
    """How many pairs of graphs cost at most ``limit``."""
    left = limit * (1 + 1e-9) - units[0]
    return int(np.searchsorted(np.sort(units[1]), left, side="right").sum())


def unit_of(pool: Pool) -> float:
    """FLOPs of the pipeline's unit: the cheapest solve of its dearest stage."""
    roles = tuple(map(load_role, ROLES))
    return max(StageSpace(stage.name, roles, pool, 1, stage.lengths).cheapest for stage in load_task(TASK).stages)


def stage_spaces(pool: Pool, units: float = UNITS) -> tuple[Space, ...]:
    """For each stage by itself, the space of its graphs of at most `NODES` nodes and so many units."""
    unit, roles = unit_of(pool), tuple(map(load_role, ROLES))
    return tuple(
        Space((StageSpace(stage.name, roles, pool, NODES, stage.lengths),), Budget(units * unit, unit))
        for stage in load_task(TASK).stages
    )


def graphs_in(space: Space) -> tuple[Graph, ...]:
    """The graphs of a space, and samples of one model with a vote, by id."""
    found = {graph.id: graph for graph in graphs_of(space)}
    stage, ceiling = space.stages[0], Budget(MOST_UNITS * space.budget.unit, space.budget.unit)
    for model in stage.pool.names:
        for vote in VOTES:
            for samples in range(1, SAMPLES + 1):
                graph = sampled(model, samples, vote)
                if ceiling.allows(stage.price(graph)):
                    found[graph.id] = graph
    return tuple(graph for _, graph in sorted(found.items()))


def sampled(model: str, samples: int, vote: str) -> Graph:
    """So many samples of one model and a vote; one sample has none."""
    solver = Node("assistant", model)
    if samples == 1:
        return Graph((solver,))
    return Graph((*[solver] * samples, Node(vote)), tuple((i, samples) for i in range(samples))).canonical


class OneStage(Task):
    """One stage of the pipeline by itself: questions are asked as they stand; ``gold`` has all answers that are right."""

    name = TASK

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stages = (stage,)

    def pool(self, split: str) -> Sequence[Question]:
        raise NotImplementedError

    def mark(self, answer: str, question: Question) -> float:
        return float(answer in question.gold.split())


def stage_questions(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """What both stages are asked: the name, with all numbers that lead to the right product; the factors with the right number."""
    first, second = [], []
    for question in questions:
        factors, name = parse(question.text)
        same = [
            number for number in map("{:03d}".format, range(1000)) if calc.answer(factors + number) == question.gold
        ]
        first.append(Question(question.id, name, " ".join(same)))
        second.append(Question(question.id, factors + recall.answer(name), question.gold))
    return first, second


def making(work: Path) -> PipelineTable:
    """The table, from the models themselves; blocks of questions that are in ``work`` are not made again."""
    pool, _ = load_models("embedded")
    questions = load_task(TASK, sizes={"train": QUESTIONS}).questions("train")
    stages = []
    for s, space in enumerate(stage_spaces(pool)):
        graphs = graphs_in(space)
        blocks = [
            _block(work / f"{TASK}-{s}-{begin}.npy", s, questions[begin : begin + BLOCK], space, graphs)
            for begin in range(0, QUESTIONS, BLOCK)
        ]
        rows, row = np.unique(np.concatenate(blocks, 1), axis=0, return_inverse=True)
        ids = np.array([int(graph.id, 16) for graph in graphs], np.uint64)
        units = np.array([space.stages[0].price(graph).flops for graph in graphs]) / space.budget.unit
        stages.append(StageTable(ids, units, row.astype(np.int32).ravel(), rows))
    names = tuple(question.id for question in questions)
    return PipelineTable(names, {model.name: model.identity for model in pool}, tuple(stages))


def _block(
    path: Path, s: int, questions: Sequence[Question], space: Space, graphs: Sequence[Graph]
) -> NDArray[np.bool_]:
    """Marks of all graphs of a stage on some questions, shape (graphs, questions)."""
    if not path.is_file():
        pool, backends = load_models("embedded")
        task = OneStage(load_task(TASK).stages[s])
        marker = Marker(task, pool, space.stages[0].by_name, backends, ReplyStore(), report=f"{path.stem}: ")
        content = BytesIO()
        np.save(content, np.packbits(marker.marks(graphs, stage_questions(questions)[s]), axis=1))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())
    return np.unpackbits(np.load(path), axis=1, count=len(questions)).astype(np.bool_)


def told(table: PipelineTable, path: Path) -> Iterator[str]:
    """What the tables say, for people."""
    first, second = table.stages
    yield (
        f"{TASK}: {len(first.ids):,} graphs of the first stage ({len(first.rows):,} different), {len(second.ids):,} of the second "
        f"({len(second.rows):,}); {len(table.questions)} questions; {path.stat().st_size:,} bytes"
    )
    for units, most in ((4.0, math.inf), (UNITS, math.inf), (UNITS, 1)):
        plan = _best(table, units, most)
        marks = ", ".join(f"{100 * value:.2f}" for value in table.value(plan))
        which = "best" if most > 1 else "best with one model a stage"
        yield f"  {which}, at most {units:g} units: {marks} % on the first and on the second half"
        for stage, graph in zip(load_task(TASK).stages, plan.stages, strict=True):
            yield f"    {stage.name}: {'  '.join(map(str, graph.nodes))}"


def _best(table: PipelineTable, units: float, models: float = math.inf) -> Plan:
    """The best plan on the first half of all graphs that have at most so many models."""
    few = [
        np.flatnonzero([len({node.model for node in graph.nodes if node.model}) <= models for graph in graphs])
        for graphs in table.graphs
    ]
    marks = [table.of_stage(s, 0)[there] for s, there in enumerate(few)]
    pair = best_pair(marks, [stage.units[there] for stage, there in zip(table.stages, few, strict=True)], units)
    first, second = (
        graphs[int(there[place])] for graphs, there, place in zip(table.graphs, few, pair[1:], strict=True)
    )
    return Plan((first, second))


def check(table: PipelineTable, count: int, seed: int = 0) -> str:
    """The best plan, and random ones, on all questions by an executor, beside the table."""
    pool, backends = load_models("embedded")
    task, rng = load_task(TASK, sizes={"train": QUESTIONS}), np.random.default_rng(seed)
    within = [np.flatnonzero(stage.units <= UNITS / 2) for stage in table.stages]
    plans = [
        Plan(tuple(graphs[int(rng.choice(there))] for graphs, there in zip(table.graphs, within, strict=True)))
        for _ in range(count - 1)
    ]
    plans.insert(0, _best(table, UNITS))
    roles = {name: load_role(name) for name in ROLES}
    with Executor(task, pool, roles, backends, ReplyStore(), seed=0) as executor:
        rows = executor.run([Job(plan, task.questions("train")) for plan in plans])
    run = np.array([[answer.mark for answer in row] for row in rows])
    known = np.array([table.marks(plan) for plan in plans])
    apart = 100 * np.abs(run.mean(1) - known.mean(1))
    return (
        f"{count} plans on {run.shape[1]} questions: {int((run != known).sum())} of {run.size:,} marks differ; mean "
        f"{100 * run.mean():.3f} % by the executor, {100 * known.mean():.3f} % by the table; a plan at most {apart.max():.2f} "
        f"points apart, the best one {apart[0]:.2f}"
    )


def main(arguments: Sequence[str]) -> int:
    """Print what the tables say, check them, or make them."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    number = given.get("check", "1")
    if not set(given) <= {"make", "check"} or not all(given.values()) or not number.isdigit() or int(number) < 1:
        print(
            f"cannot read {' '.join(arguments)!r}; give nothing, make=<folder> or check=<number of plans, at least 1>"
        )
        return 2
    path = making(Path(given["make"])).save() if "make" in given else FOLDER / f"{TASK}.xz"
    table = PipelineTable.load()
    for line in told(table, path):
        print(line)
    if "check" in given:
        print(check(table, int(number)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
