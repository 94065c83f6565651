"""Worlds of two stages whose every plan is in a table: searches run on the table, so that hundreds of them take minutes.

A table says which questions each graph of each stage has right; a plan has right what all its stages have right. An executor
would give the same marks (`stage_tables.py check=`, tests); its calls are counted as it counts them, each node with all that
stands above it once, except that two wrong answers of different graphs count as different even where they agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from agentgraph.backends.base import Backend
from agentgraph.execute import Job
from agentgraph.graph import Graph
from agentgraph.lookup import Known
from agentgraph.node_run import sample_numbers
from agentgraph.plan import Plan
from agentgraph.request import Reply, Request
from agentgraph.space import Space
from agentgraph.tasks.base import Question, Task
from agentgraph.trial import Answer

from .worlds import Best, InOrder, Values

Rights = Callable[[int, Graph], NDArray[np.bool_]]
"""Which search questions a graph of a stage has right, shape (questions,)."""


@dataclass(frozen=True)
class StagedWorld:
    """A world of several stages.

    Parameters
    ----------
    name, note, space, task, questions, value, best
        As `worlds.World` has them; every plan of the space, or every setting, has a value.
    rights
        Of a search with this seed.
    unseen
        The questions that no search sees, and the (expected) marks of a plan on them, shape (questions,).
    """

    name: str
    note: str
    space: Space
    task: Task
    questions: Sequence[Question]
    value: Callable[[Plan], Values]
    best: Best
    rights: Callable[[int], Rights]
    unseen: tuple[Sequence[Question], Callable[[Plan], NDArray[np.float64]]]

    def executor(
        self, seed: int, train: int | None = None, backends: Mapping[str, Backend] | None = None
    ) -> TableExecutor:
        """What stands for an executor; ``train`` limits the questions to the first so many, ``backends`` are what a method asks."""
        return TableExecutor(self, self.rights(seed), self.questions[:train], backends or {})


class TableExecutor:
    """Marks of plans from a table, in the place of an executor.

    Attributes
    ----------
    counts
        Calls made, and marks looked up, so far.
    """

    def __init__(
        self, world: StagedWorld, rights: Rights, questions: Sequence[Question], backends: Mapping[str, Backend]
    ) -> None:
        self.space, self._rights, self._backends = world.space, rights, backends
        self.task = InOrder(world.task, questions)
        self.counts = SimpleNamespace(made=0, looked=0, agent_calls=0, agent_tokens=0, failed=0)
        self._place = {question.id: q for q, question in enumerate(questions)}
        self._roles = world.space.stages[0].by_name
        self._made: dict[
            tuple[object, ...], NDArray[np.bool_]
        ] = {}  # calls by node and what was handed on, by question
        self._calls: dict[tuple[int, str], list[tuple[object, ...]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, request: Request, backend: str) -> Reply:
        """What the language model of a method answers."""
        return asyncio.run(self._backends[backend].reply(request))

    def run(self, jobs: Sequence[Job], ahead: Sequence[Job] = ()) -> list[list[Answer]]:
        """Answers of plans on questions."""
        del ahead
        return [self._answers(job) for job in jobs]

    def _answers(self, job: Job) -> list[Answer]:
        places = self._places(job.questions)
        rights = self._of(job.plan, places)
        for key, asked in self._keys(job.plan, rights, places):
            made = self._made.setdefault(key, np.zeros(len(self._place), np.bool_))
            self.counts.made += int((~made[asked]).sum())
            made[asked] = True
        price, names = self.space.price(job.plan), [stage.name for stage in self.space.stages[:-1]]
        so_far = np.logical_and.accumulate(rights)
        return [
            Answer(
                question.id,
                float(so_far[-1, q]),
                price,
                {},
                "",
                dict(zip(names, so_far[:, q].astype(float).tolist(), strict=False)),
            )
            for q, question in enumerate(job.questions)
        ]

    def known(self, plan: Plan, questions: Sequence[Question]) -> Known:
        """What earlier calls say of a plan."""
        places = self._places(questions)
        rights = self._of(plan, places)
        missing = np.zeros(len(questions), np.int64)
        calls = 0
        for key, asked in self._keys(plan, rights, places):
            made = self._made.get(key)
            calls += len(asked)
            if made is None or not made[asked].all():
                there = np.isin(places, asked)
                missing[there] += 1 if made is None else ~made[places[there]]
        marks = np.where(missing == 0, rights.all(0).astype(np.float64), np.nan)
        self.counts.looked += int((missing == 0).sum())
        return Known(marks, int(missing.sum()), calls)

    def _places(self, questions: Sequence[Question]) -> NDArray[np.int64]:
        return np.array([self._place[question.id] for question in questions], np.int64)

    def _of(self, plan: Plan, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """What each stage has right, shape (stages, questions)."""
        return np.stack([self._rights(s, graph)[places] for s, graph in enumerate(plan.stages)])

    def _keys(
        self, plan: Plan, rights: NDArray[np.bool_], places: NDArray[np.int64]
    ) -> list[tuple[tuple[object, ...], NDArray[np.int64]]]:
        """The calls of a plan: what makes each the same as another, and the questions that it is made for."""
        handed: list[tuple[object, NDArray[np.int64]]] = [("", places)]
        found = []
        for s, graph in enumerate(plan.stages):
            calls = self._of_graph(s, graph)
            found += [((call, what), asked) for what, asked in handed if len(asked) for call in calls]
            right = rights[: s + 1].all(0)
            handed = [("right", places[right]), (graph.id, places[~right])]
        return found

    def _of_graph(self, s: int, graph: Graph) -> list[tuple[object, ...]]:
        """Names of the calls of a graph: a node, and all that stands above it."""
        if (s, graph.id) not in self._calls:
            numbers, names, calls = (
                sample_numbers(graph, self._roles),
                list[tuple[object, ...]](),
                list[tuple[object, ...]](),
            )
            for i, node in enumerate(graph.nodes):
                role = self._roles[node.role]
                names.append(
                    (
                        s,
                        role.kind,
                        role.settings,
                        node.model,
                        *numbers[i].items(),
                        *(names[p] for p in graph.parents[i]),
                    )
                )
                if role.needs_model:
                    solo = role.kind == "keep" or not graph.parents[i]  # a solve, whatever stands above
                    calls.append((s, role.settings, node.model, *numbers[i].items()) if solo else names[i])
            self._calls[s, graph.id] = list(dict.fromkeys(calls))
        return self._calls[s, graph.id]
