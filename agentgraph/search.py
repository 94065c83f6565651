"""The loop: ask the optimizer for plans, execute them, archive the trials, tell the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from agentgraph.archive import Archive
from agentgraph.execute import Executor, Job
from agentgraph.optimizers.base import Optimizer
from agentgraph.plan import Plan
from agentgraph.race import Race
from agentgraph.space import Space
from agentgraph.tasks.base import Question
from agentgraph.trial import Trial

__all__ = ["search"]


def search(
    space: Space,
    executor: Executor,
    optimizer: Optimizer,
    archive: Archive,
    *,
    rounds: range,
    plans_per_round: int,
    questions_per_round: int,
    seed: int,
    race: Race | None = None,
    began: Callable[[int, Sequence[Plan]], None],
    ended: Callable[[int, Sequence[Trial]], None],
) -> None:
    """Search until the rounds are done; the archive holds what was found.

    Parameters
    ----------
    rounds
        Rounds to do; does not start at 0 when a search goes on.
    plans_per_round
        Plans asked for in each round; the first rounds of an optimizer may be larger or smaller.
    questions_per_round
        Questions that a plan is marked on in a round, at most if it races.
    race
        How the plans of a round compete; ``None`` marks all of them on the same questions, and rounds go through the
        train questions in turn.
    seed
        Seed of the run; each round draws from a stream of its own.
    began, ended
        Called with a round's plans before, and its trials after it was told.
    """
    train = executor.task.questions("train")
    optimizer.races = race is not None
    for round_ in rounds:
        rng = np.random.default_rng((seed, round_))
        plans = optimizer.ask(plans_per_round, rng)
        began(round_, plans)
        if race is None:
            jobs = [Job(plan, _slice(train, round_, questions_per_round)) for plan in plans]
            scored = list(zip(plans, executor.run(jobs), strict=True))
        else:
            scored = race.run(
                executor.run,
                plans,
                train,
                questions_per_round,
                places=plans_per_round,
                space=space,
                archive=archive,
                objective=optimizer.objective,
            )
        trials = archive.add_round(round_, [(plan, space.price(plan), answers) for plan, answers in scored])
        optimizer.tell(trials)
        ended(round_, trials)


def _slice(questions: Sequence[Question], round_: int, size: int) -> list[Question]:
    """The round's questions: the next ``size``, starting over at the end."""
    size = min(size, len(questions))
    return [questions[(round_ * size + i) % len(questions)] for i in range(size)]
