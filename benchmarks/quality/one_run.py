"""One search of a world by a method, and what was known after each round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from agentgraph.archive import Archive
from agentgraph.execute import Executor
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.base import Optimizer
from agentgraph.search import search
from agentgraph.space import Space
from agentgraph.trial import Trial

from .language import KEPT, Language
from .methods import Method
from .worlds import World

QUESTIONS, PLANS = 32, 8
"""Questions a plan and plans a round."""
IDLE = 3
"""A search that marked nothing new in so many rounds has seen all it will see."""
MOST_ROUNDS = 1_000_000

T = TypeVar("T")


class Point(NamedTuple):
    """What was known after a round.

    Parameters
    ----------
    evaluations
        Marks given so far, to all plans.
    calls
        Calls made so far.
    looked
        Marks that were read from known replies for nothing.
    search, unseen
        Exact value of the plan that would be chosen now, on either half of the questions; ``None`` while there is none.
    seconds
        That the optimizer took so far to ask and to be told.
    trials
        Plans tried so far.
    """

    evaluations: int
    calls: int
    looked: int
    search: float | None
    unseen: float | None
    seconds: float
    trials: int = 0


class _EnoughError(Exception):
    """Ends a search between two rounds."""


class _Clock:
    """Seconds spent in what it watches."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watched(self, work: Callable[..., T]) -> Callable[..., T]:
        def timed(*arguments: Any) -> T:  # noqa: ANN401
            began = time.perf_counter()
            try:
                return work(*arguments)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def incumbent(archive: Archive, optimizer: Optimizer, space: Space) -> Trial | None:
    """The trial whose plan would be chosen if the search ended now."""
    fitting = archive.ranked(optimizer.objective, space.budget)
    return next(iter(optimizer.ranked(fitting)), None)


def one_run(
    world: World,
    method: Method,
    seed: int,
    evaluations: int,
    train: int | None = None,
    language: Language = KEPT,
) -> dict[str, Any]:
    """Search until so many evaluations were used; points and totals as JSON-able data."""
    optimizer, clock = method.build(), _Clock()
    began, worked = time.perf_counter(), time.process_time()
    optimizer.ask, optimizer.tell = clock.watched(optimizer.ask), clock.watched(optimizer.tell)  # type: ignore[method-assign]
    with world.executor(seed, train, method.backends(language)) as executor:
        points = _points(world, method, optimizer, executor, clock, seed, evaluations)
        counts = executor.counts
    return {
        "points": points,
        "seconds": round(time.perf_counter() - began, 3),
        "cpu_seconds": round(time.process_time() - worked, 3),
        "agent_calls": counts.agent_calls,
        "agent_tokens": counts.agent_tokens,
        "failed": counts.failed,
    }


def _points(
    world: World, method: Method, optimizer: Optimizer, executor: Executor, clock: _Clock, seed: int, evaluations: int
) -> list[Point]:
    """The search itself."""
    loop = {"plans_per_round": PLANS, "questions_per_round": QUESTIONS, **method.loop_arguments()}
    rounds = max(1, -(-evaluations // (loop["plans_per_round"] * loop["questions_per_round"])))
    archive, points = Archive(), [Point(0, 0, 0, None, None, 0.0)]
    train = {question.id: question for question in executor.task.questions("train")}
    optimizer.setup(
        world.space,
        Accuracy(),
        rounds=rounds,
        call=executor.ask,
        look=lambda plan, ids: executor.known(plan, [train[name] for name in ids]),
    )

    def ended(round_: int, trials: Sequence[Trial]) -> None:
        del trials
        best = incumbent(archive, optimizer, world.space)
        value = world.value(best.plan) if best else (None, None)
        marks = sum(len(trial.marks) for trial in archive.trials)
        looked = executor.counts.looked
        points.append(Point(marks, executor.counts.made, looked, *value, round(clock.seconds, 4), len(archive)))
        idle = round_ >= IDLE and points[-1 - IDLE].evaluations == marks
        if marks >= evaluations or idle or len(archive) >= (method.most_trials or len(archive) + 1):
            raise _EnoughError

    with suppress(_EnoughError):
        search(
            world.space,
            executor,
            optimizer,
            archive,
            rounds=range(MOST_ROUNDS),
            seed=seed,
            began=lambda *_: None,
            ended=ended,
            **loop,
        )
    return points[1:]
