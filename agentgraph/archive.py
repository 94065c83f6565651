"""Every trial so far, on disk as ``trials.jsonl``: written at a round's end, in the order drawn, without clocks."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentgraph.budget import Budget, Cost
from agentgraph.errors import RunError
from agentgraph.front import non_dominated
from agentgraph.objectives.base import Objective
from agentgraph.plan import Plan
from agentgraph.trial import Answer, Trial

__all__ = ["Archive", "charge_fits"]


class Archive:
    """Trials in the order in which their plans were first drawn.

    Parameters
    ----------
    path
        ``trials.jsonl``, or ``None`` to keep it in memory.
    keep
        Bytes of the file that belong to finished rounds; the rest was written by a round that did not end.
    """

    def __init__(self, path: Path | None = None, *, keep: int = 0) -> None:
        self.path = path
        self.trials: list[Trial] = []
        self._by_plan: dict[str, Trial] = {}
        self.size = 0
        if path is not None:
            self._open(path, keep)

    def _open(self, path: Path, keep: int) -> None:
        try:
            path.touch()
            size = path.stat().st_size
            if size < keep:
                raise RunError(f"{path} has {size} bytes, the saved state says {keep}; it was changed, start a new run")
            os.truncate(path, keep)
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise RunError(f"cannot open {path}: {error.strerror}; choose another run folder") from error
        self.size = keep
        for number, line in enumerate(lines, start=1):
            try:
                self._fold(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                raise RunError(f"{path}, line {number} is not a trial ({error}); start a new run") from error

    def _fold(self, entry: dict[str, Any]) -> None:
        plan = Plan.from_compact(entry["plan"])
        trial = self._trial(plan, round_=entry["round"], price=Cost(**entry["price"]))
        trial.merge(
            Trial(
                trial.number,
                plan,
                trial.round,
                trial.price,
                entry["marks"],
                Cost(**entry["charged"]),
                Counter(entry["outcomes"]),
                entry["failures"],
                entry.get("stage_marks", {}),
            )
        )

    def _trial(self, plan: Plan, *, round_: int, price: Cost) -> Trial:
        if plan.id not in self._by_plan:
            trial = Trial(len(self.trials), plan, round_, price)
            self.trials.append(trial)
            self._by_plan[plan.id] = trial
        return self._by_plan[plan.id]

    def __len__(self) -> int:
        return len(self.trials)

    def of(self, plan: Plan) -> Trial | None:
        """The trial of a plan, if there is one."""
        return self._by_plan.get(plan.id)

    def add_round(self, round_: int, scored: Sequence[tuple[Plan, Cost, Sequence[Answer]]]) -> list[Trial]:
        """Take in a round's plans with price and answers; returns their trials, each once, in the order drawn.

        Raises
        ------
        RunError
            If the file cannot be written; then nothing of the round is on disk.
        """
        lines: list[bytes] = []
        trials: dict[int, Trial] = {}
        for plan, price, answers in scored:
            trial = self._trial(plan, round_=round_, price=price)
            new = Trial(trial.number, plan, round_, price)
            for answer in answers:
                if answer.question not in trial.marks:
                    new.add(answer)
            trial.merge(new)  # as `_fold` does, so that memory and file agree to the last bit
            if new.marks or new.failures:
                lines.append(_line(new))
            trials[trial.number] = trial
        self._append(b"".join(lines))
        return list(trials.values())

    def _append(self, block: bytes) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(self.path, self.size)
            raise RunError(
                f"cannot write {self.path}: {error.strerror}; free some space, then go on with run=<folder>"
            ) from error
        self.size += len(block)

    def ranked(self, objective: Objective, budget: Budget) -> list[Trial]:
        """Trials within the budget in price and in charge, best first.

        Those that meet the objective's limits stand first. Few marks are trusted less: ordered by utility less one standard
        error, then by lower price, then by fewer nodes.
        """
        fitting = [
            trial for trial in self.trials if trial.marks and budget.allows(trial.price) and charge_fits(trial, budget)
        ]
        return sorted(
            fitting,
            key=lambda trial: (
                not objective.met(trial.charge),
                -(objective.utility(trial) - trial.stderr),
                trial.price.flops,
                trial.plan.nodes,
                trial.number,
            ),
        )

    def front(self, budget: Budget, *, doubt: float = 0.0) -> list[Trial]:
        """Trials that no other beats in accuracy and in FLOPs, dollars and seconds charged, cheapest first.

        Parameters
        ----------
        doubt
            Standard errors to take off each accuracy first. At 0 the luckiest of many means are on the front, and hide
            others that are better in truth: take 1 to choose what is validated, and believe what was validated.
        """
        fitting = [trial for trial in self.trials if trial.marks and charge_fits(trial, budget)]
        points = [(trial.accuracy - doubt * trial.stderr, trial.charge) for trial in fitting]
        return [fitting[index] for index in non_dominated(points)]


def charge_fits(trial: Trial, budget: Budget) -> bool:
    """Whether a trial's mean measured cost is within the budget; one that exceeds it is never the best."""
    return budget.allows(trial.charge)


def _line(trial: Trial) -> bytes:
    entry = {
        "trial": trial.number,
        "round": trial.round,
        "plan": trial.plan.compact(),
        "price": asdict(trial.price),
        "marks": trial.marks,
        "charged": asdict(trial.charged),
        "outcomes": dict(sorted(trial.outcomes.items())),
        "failures": trial.failures,
        **({"stage_marks": trial.stage_marks} if trial.stage_marks else {}),
    }
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
