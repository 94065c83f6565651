"""A function of the user's as a task: given an option, a count and a budget for each stage, and a seed, it returns a score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentgraph.budget import NOT_FOR_SALE, Tokens
from agentgraph.errors import TaskError
from agentgraph.tasks.base import Lengths, Question, Referee, Stage, Task
from agentgraph.user_function import SCORE, declared, heard, told

__all__ = ["Callable"]

_SEEDS: Final = 1_000  # of each split, at most
_PARTS: Final = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class StepLengths(Lengths):
    """One token in, one out: a model of cost / 4 weights then takes cost FLOPs for a step; calls with parents are not sold."""

    def tokens(self, word: str, candidates: int, model: str) -> Tokens:
        return Tokens(NOT_FOR_SALE, 1.0) if candidates or word != "solve" else super().tokens(word, candidates, model)


class CallableStage(Stage):
    """A stage that is given options."""

    tag = "C"
    max_tokens = 1
    lengths = StepLengths(prompt=1, output={"solve": 1}, edge=0, exact=True)

    def __init__(self, name: str) -> None:
        self.name = name

    def extract(self, text: str) -> str | None:
        return text or None


class Callable(Task):
    """Stages with options, seeds as questions, and a score in a range that becomes the mark.

    Parameters
    ----------
    stages
        By name, in order: ``options`` (name: cost of one count), ``most`` (largest count) and ``step`` (counts are its multiples).
    function
        Who calls it is the backend (``models=callable``); here it is only known by name.
    identity
        See `agentgraph.backends.callable.pool`.
    low, high
        The score's range; a score is marked (score - low) / (high - low).
    workers
        See `agentgraph.backends.callable.pool`.
    sizes
        How many seeds of each split to use: train has 0 to 999, validation 1000 to 1999, test 2000 to 2999; ``None`` takes all.

    Raises
    ------
    TaskError
        If stages or range are not usable.

    Notes
    -----
    A plan's stage is `spend` nodes under a `tally`: as many steps as there are nodes, so its price is the budget that the stage
    is given. Where nodes have different options, the stage has the one that most is spent on (`Choices.spent`). When all stages
    are settled the referee is asked: the function, once for each setting and seed.
    """

    name = "callable"

    def __init__(
        self,
        stages: Mapping[str, Mapping[str, object]],
        *,
        function: str | None = None,
        identity: str | None = None,
        low: float = 0.0,
        high: float = 1.0,
        workers: int = 1,
        sizes: Mapping[str, int | None] | None = None,
    ) -> None:
        super().__init__(sizes)
        del workers
        self._identity = identity or (function or "").rpartition(":")[2] or None
        self._declared = declared(stages)
        if not (_finite(low) and _finite(high) and low < high):
            raise TaskError(f"task.low={low!r}, task.high={high!r} must be two numbers, the first below the second")
        self._low, self._high = low, high
        self.stages = tuple(CallableStage(stage.name) for stage in self._declared)
        self.referee = Referee(CallableStage(SCORE), SCORE)
        self.choices = {
            stage.name: {"models": list(stage.options), "max_nodes": stage.steps + (stage.steps > 1)}
            for stage in self._declared
        }

    def pool(self, split: str) -> Sequence[Question]:
        first = _SEEDS * _PARTS[split]
        return [Question(f"seed-{i}", f"seed {i}", repr(float(self._high))) for i in range(first, first + _SEEDS)]

    def asked(self, stage: int, question: Question, handed: str) -> str:
        if not stage:
            return f"{question.text} | {self._declared[0].name} "
        before = self._declared[:stage]
        line = told(question.text, heard(handed, before)[1], before)
        return line if stage == len(self.stages) else f"{line} | {self._declared[stage].name} "

    def kept(self, settings: Mapping[str, object]) -> dict[str, object]:
        return {**settings, "function": None, "identity": self._identity}

    def mark(self, answer: str, question: Question) -> float:
        del question
        try:
            mark = (float(answer) - self._low) / (self._high - self._low)
        except ValueError:
            return 0.0
        return mark if 0.0 <= mark <= 1.0 else 0.0


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
