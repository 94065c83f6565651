"""Races: plans are marked block by block, one that is clearly worse stops early, and what that saves goes to close contenders.

Every plan is marked on the train questions in their one order, from its first unmarked question on. So any two plans
are compared on the same questions, and what one of them asked is often what another needs. After each block a plan
stops if Wilcoxon's signed-rank test on the paired marks says that it is worse than the leader, as in Optuna's
WilcoxonPruner. Nothing depends on which reply came first: decisions are made when every living plan has finished the block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agentgraph.archive import Archive, charge_fits
from agentgraph.errors import ConfigError
from agentgraph.objectives.base import Objective
from agentgraph.plan import Plan
from agentgraph.plan_run import Job
from agentgraph.space import Space
from agentgraph.tasks.base import Question
from agentgraph.trial import Answer, Trial

__all__ = ["Race", "Scored"]

Scored = tuple[Plan, list[Answer]]
"""A plan and its new answers."""
_CONTENDERS: Final = 4  # that share what was saved


@dataclass(frozen=True)
class Race:
    """How plans of a round compete.

    Parameters
    ----------
    block
        Questions between two decisions, >= 1.
    doubt
        A plan stops if the chance of such marks, were it no worse than the leader, is below this, in (0, 0.5).
    ahead
        Whether plans begin their next block before the slowest of this one is done. It saves time where a backend takes more
        at once than a block has, costs the calls of plans that stop then, and changes no decision.
    """

    block: int = 8
    doubt: float = 0.1
    ahead: bool = False

    def __post_init__(self) -> None:
        if type(self.block) is not int or self.block < 1:
            raise ConfigError(f"race.block={self.block!r} must be a whole number of at least 1")
        if not 0 < self.doubt < 0.5:
            raise ConfigError(f"race.doubt={self.doubt!r} must be above 0 and below 0.5")
        if type(self.ahead) is not bool:
            raise ConfigError(f"race.ahead={self.ahead!r} must be true or false")

    def run(
        self,
        execute: Callable[[Sequence[Job], Sequence[Job]], list[list[Answer]]],
        plans: Sequence[Plan],
        train: Sequence[Question],
        per_plan: int,
        *,
        places: int,
        space: Space,
        archive: Archive,
        objective: Objective,
    ) -> list[Scored]:
        """New answers of the plans, and of earlier ones that got what was saved.

        Parameters
        ----------
        execute
            Answers of jobs, given the jobs that probably come next: an executor's `run`.
        per_plan
            Most questions that a plan is marked on.
        places
            How many plans a round has room for: it makes ``places`` times ``per_plan`` question evaluations, while there are
            close contenders with questions left. More plans than that (the probes of a large pool, say) share them, the
            most hopeful first, once each has had a block.
        """
        runners = _Runners(execute, train, space, archive, objective)
        left = places * per_plan
        alive = [runners.enter(plan) for plan in plans]
        marked = 0
        while alive and marked < per_plan and (left > 0 or not marked):
            size = min(self.block, per_plan - marked)
            if marked and left < size * len(alive):
                alive = runners.by_hope(alive)[: max(1, left // size)]
            left -= runners.advance(alive, size, ahead=min(size, per_plan - marked - size) if self.ahead else 0)
            marked += size
            leader = runners.leader()
            alive = [plan for plan in alive if runners.unmarked(plan) and not self.worse(runners, plan, leader)]
        while left > 0:
            chosen = self._contenders(runners)
            if not chosen:
                break
            left -= runners.advance(chosen[: max(1, left // self.block)], min(self.block, left))
        return runners.answers()

    def worse(self, runners: _Runners, plan: str, leader: str) -> bool:
        """Whether a plan is clearly worse than the leader."""
        from scipy.stats import wilcoxon  # half a second that only a race needs

        difference = runners.difference(plan, leader)
        if plan == leader or len(difference) < 2 or not difference.any():
            return False
        return (
            float(wilcoxon(difference, zero_method="zsplit", alternative="less", method="approx").pvalue) < self.doubt
        )

    def _contenders(self, runners: _Runners) -> list[str]:
        """The leader and the plans closest to it that have the fewest marks, those still with questions to answer."""
        leader = runners.leader()
        close = [plan for plan in runners.by_hope()[:_CONTENDERS] if not self.worse(runners, plan, leader)]
        open_ = [plan for plan in dict.fromkeys([leader, *close]) if runners.unmarked(plan)]
        fewest = min((runners.marks(plan) for plan in open_), default=0)
        return [plan for plan in open_ if runners.marks(plan) == fewest]


class _Runners:
    """Trials as they stand within a round; the archive is not touched."""

    def __init__(
        self,
        execute: Callable[[Sequence[Job], Sequence[Job]], list[list[Answer]]],
        train: Sequence[Question],
        space: Space,
        archive: Archive,
        objective: Objective,
    ) -> None:
        self._execute, self._train, self._space, self._objective = execute, train, space, objective
        self._trials = {trial.plan.id: _copy(trial) for trial in archive.trials if trial.marks}
        self._new: dict[str, list[Answer]] = {}
        self._asked: dict[str, set[str]] = {}  # questions asked in this round, answered or not

    def enter(self, plan: Plan) -> str:
        self._trials.setdefault(plan.id, Trial(len(self._trials), plan, 0, self._space.price(plan)))
        self._new.setdefault(plan.id, [])
        return plan.id

    def unmarked(self, plan: str) -> list[Question]:
        """Questions without a mark, in order; one that the service failed on is not asked twice in a round."""
        seen, asked = self._trials[plan].marks, self._asked.get(plan, set())
        return [question for question in self._train if question.id not in seen and question.id not in asked]

    def advance(self, plans: Sequence[str], size: int, ahead: int = 0) -> int:
        """Mark each plan on its next questions, and begin as many after them as ``ahead`` says; how many evaluations that were."""
        jobs = [Job(self._trials[plan].plan, self.unmarked(plan)[:size]) for plan in plans]
        later = [Job(self._trials[plan].plan, self.unmarked(plan)[size : size + ahead]) for plan in plans if ahead]
        for plan, job, answers in zip(plans, jobs, self._execute(jobs, later), strict=True):
            self._new.setdefault(plan, []).extend(answers)
            self._asked.setdefault(plan, set()).update(question.id for question in job.questions)
            for answer in answers:
                self._trials[plan].add(answer)
        return sum(len(job.questions) for job in jobs)

    def marks(self, plan: str) -> int:
        return len(self._trials[plan].marks)

    def leader(self) -> str:
        """The plan that is best so far, few marks trusted less; one whose charge exceeds the budget only if all do."""
        fitting = [trial for trial in self._trials.values() if charge_fits(trial, self._space.budget)]
        ranked = fitting or list(self._trials.values())
        return max(ranked, key=lambda t: self._objective.utility(t) - t.stderr).plan.id

    def by_hope(self, plans: Sequence[str] | None = None) -> list[str]:
        """These plans, or all whose charge fits, the most promising first: by utility and one standard error more."""
        if plans is None:
            plans = [name for name, trial in self._trials.items() if charge_fits(trial, self._space.budget)]
        return sorted(plans, key=lambda name: -self._hope(self._trials[name]))

    def _hope(self, trial: Trial) -> float:
        return self._objective.utility(trial) + trial.stderr

    def difference(self, plan: str, leader: str) -> NDArray[np.float64]:
        """Utility question by question less the leader's, on questions that both answered."""
        a, b = self._trials[plan], self._trials[leader]
        shift = (self._objective.utility(a) - a.accuracy) - (self._objective.utility(b) - b.accuracy)
        return np.array([a.marks[q] - b.marks[q] + shift for q in a.marks if q in b.marks])

    def answers(self) -> list[Scored]:
        return [(self._trials[plan].plan, answers) for plan, answers in self._new.items()]


def _copy(trial: Trial) -> Trial:
    return replace(trial, marks=dict(trial.marks), outcomes=trial.outcomes.copy())
