"""One search of a world of stages, and what was known after each trial."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from agentgraph.archive import Archive
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.search import search
from agentgraph.trial import Trial

from .language import KEPT, Language
from .methods import Method
from .one_run import Point, _Clock, _EnoughError
from .setting_rivals import SettingMethod
from .staged import StagedWorld

PLANS = 8
"""Plans of a round, where the method does not say."""
IDLE = 12
"""Rounds without a new plan after which a search has nothing left to try."""


def stage_run(
    world: StagedWorld, method: Method | SettingMethod, seed: int, trials: int, language: Language = KEPT
) -> dict[str, Any]:
    """Search until so many plans were tried, each on all search questions; points and totals as JSON-able data.

    Within a round calls and seconds are counted as if each plan took the same.
    """
    optimizer, clock = method.build(), _Clock()
    optimizer.ask, optimizer.tell = clock.watched(optimizer.ask), clock.watched(optimizer.tell)  # type: ignore[method-assign]
    loop = {"plans_per_round": PLANS, **method.loop_arguments()}
    executor = world.executor(seed, backends=method.backends(language))
    train = {question.id: question for question in executor.task.questions("train")}
    optimizer.setup(
        world.space,
        Accuracy(),
        rounds=max(1, trials // loop["plans_per_round"]),
        call=executor.ask,
        look=lambda plan, ids: executor.known(plan, [train[name] for name in ids]),
    )
    archive, seen, points, firsts = Archive(), list[Trial](), [Point(0, 0, 0, None, None, 0.0)], list[int]()
    idle = 0

    def ended(round_: int, told: Sequence[Trial]) -> None:
        nonlocal idle
        del round_
        fresh = [trial for trial in told if trial not in seen]
        before, idle = points[-1], 0 if fresh else idle + 1
        firsts.append(len(fresh))
        for i, trial in enumerate(fresh, start=1):
            seen.append(trial)
            best = optimizer.ranked(seen)[0]
            calls = before.calls + round(i / len(fresh) * (executor.counts.made - before.calls))
            marks = len(seen) * len(train)
            points.append(
                Point(marks, calls, executor.counts.looked, *world.value(best.plan), round(clock.seconds, 4), len(seen))
            )
        if len(archive) >= trials or idle >= IDLE:
            raise _EnoughError

    with suppress(_EnoughError):
        search(
            world.space,
            executor,
            optimizer,
            archive,
            rounds=range(IDLE * trials),
            questions_per_round=len(train),
            seed=seed,
            began=lambda *_: None,
            ended=ended,
            **loop,
        )
    return {
        "points": [list(point) for point in points[1 : trials + 1]],
        "initial": firsts[0],
        "tried": [round(world.value(trial.plan).search, 6) for trial in seen[:trials]],
        "seconds": round(clock.seconds, 3),
        "best": max(archive.trials, key=lambda trial: world.value(trial.plan).search).plan.compact(),
    }
