"""A world: a space of plans, what runs them, and the exact value of each; regret is measured against its best plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agentgraph.backends.base import Backend
from agentgraph.execute import Executor
from agentgraph.model import Pool
from agentgraph.plan import Plan
from agentgraph.space import Space
from agentgraph.store import ReplyStore
from agentgraph.tasks.base import Question, Task


class Values(NamedTuple):
    """Exact mean mark of a plan, in [0, 1]: on the questions that are searched on, and on those that no search sees."""

    search: float
    unseen: float


@dataclass(frozen=True)
class Best:
    """What the best plans of a world come to.

    Parameters
    ----------
    search, unseen
        Largest value of any plan on either half of the questions.
    chosen
        Value on unseen questions of the plan that is best on the search questions: what full information buys.
    plans
        Number of plans within the budget; 0 where that was not counted.
    plan
        The plan that is best on the search questions.
    """

    search: float
    unseen: float
    chosen: float
    plans: int
    plan: list[object]


@dataclass(frozen=True)
class World:
    """A world to search.

    Parameters
    ----------
    name
        As on the command line.
    note
        What it is, in one line: plans, budget, questions, how values were found.
    space
        The plans.
    task
        Its questions; those that are searched on are ``questions``.
    questions
        The search questions, in a fixed order; a search goes through them in one of its own.
    models
        Makes the pool and its backends, anew for each search.
    value
        Exact values of a plan.
    best
        Of all plans.
    executor_seed
        The executor's seed of a search; ``None`` takes the search's own.
    """

    name: str
    note: str
    space: Space
    task: Task
    questions: Sequence[Question]
    models: Callable[[], tuple[Pool, Mapping[str, Backend]]]
    value: Callable[[Plan], Values]
    best: Best
    executor_seed: int | None = None

    def executor(self, seed: int, train: int | None = None, more: Mapping[str, Backend] | None = None) -> Executor:
        """An executor that has made no call yet; ``train`` limits the questions to the first so many of this seed.

        ``more`` backends are those that a method asks.
        """
        pool, backends = self.models()
        backends = {**backends, **(more or {})}
        order = np.random.default_rng((seed, 1)).permutation(len(self.questions))[:train]
        task = InOrder(self.task, [self.questions[i] for i in order])
        seed = seed if self.executor_seed is None else self.executor_seed
        return Executor(task, pool, self.space.stages[0].by_name, backends, ReplyStore(), seed=seed)


class InOrder(Task):
    """Another task with other train questions; it has no others."""

    def __init__(self, task: Task, train: Sequence[Question]) -> None:
        super().__init__()
        self.name, self.stages, self._task, self._train = task.name, task.stages, task, train

    def pool(self, split: str) -> Sequence[Question]:
        return self._train if split == "train" else ()

    def asked(self, stage: int, question: Question, handed: str) -> str:
        return self._task.asked(stage, question, handed)

    def mark_stage(self, stage: int, answer: str, question: Question) -> float | None:
        return self._task.mark_stage(stage, answer, question)

    def mark(self, answer: str, question: Question) -> float:
        return self._task.mark(answer, question)


def best_of(plans: Sequence[Plan], value: Callable[[Plan], Values]) -> Best:
    """The best of these plans; ties go to the first."""
    values = [value(plan) for plan in plans]
    top = max(range(len(plans)), key=lambda i: values[i].search)
    return Best(values[top].search, max(v.unseen for v in values), values[top].unseen, len(plans), plans[top].compact())


def kept(path: Path, find: Callable[[], Best]) -> Best:
    """What was found before, or is found now and kept in a file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(find())))
        temporary.replace(path)
    return Best(**json.loads(path.read_text()))
