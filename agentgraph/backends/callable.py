"""Backend that calls a function of the user's, in a thread, once for each setting and seed (`agentgraph.tasks.callable`)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Final

from agentgraph.backends.base import Backend
from agentgraph.errors import BackendRefused, TaskError
from agentgraph.model import Model, Pool
from agentgraph.request import Reply, Request
from agentgraph.user_function import SCORE, Choices, Spent, declared, heard, named

__all__ = ["UserFunction", "pool"]

_NEXT: Final = "scores and trials so far are kept, go on with agentgraph search run=<folder> task.function=file.py:name"


class UserFunction(Backend):
    """Names the option of a step at once; calls the function when all stages are settled.

    Parameters
    ----------
    stages
        What may be given to each stage.
    function
        Called as ``function(stages, seed)``: by stage an option, a count and a budget (`agentgraph.user_function.Spent`), and
        a whole number >= 0; returns a number. By name ('package.module:name' or 'file.py:name'), or itself; ``None`` where all
        scores are in the reply store: calling it is an error then.
    low, high
        Range of the scores.
    workers
        How many calls at once, each in a thread, >= 1; more than 1 for functions that are safe in several threads.
    name
        What models call it.

    Raises
    ------
    TaskError
        If the function cannot be found.
    """

    def __init__(
        self,
        stages: tuple[Choices, ...],
        function: str | Callable[[Mapping[str, Spent], int], object] | None,
        *,
        low: float = 0.0,
        high: float = 1.0,
        workers: int = 1,
        name: str = "callable",
    ) -> None:
        if type(workers) is not int or workers < 1:
            raise TaskError(f"task.workers={workers!r} must be a whole number of at least 1")
        super().__init__(name, limit=4096, has_logprobs=False)
        self._stages, self._low, self._high = stages, low, high
        self._shown = function if isinstance(function, str) else getattr(function, "__name__", None)
        self._function: Callable[..., object] | None = named(function) if isinstance(function, str) else function
        self._places = asyncio.Semaphore(workers)

    async def reply(self, request: Request) -> Reply:
        text = request.messages[-1][1].partition(":")[2]  # the embedded form
        if request.model != SCORE:
            return Reply(f"{text}{request.model}", 1, 1)
        seed, spent = heard(text, self._stages)
        if list(spent) != [stage.name for stage in self._stages]:
            raise BackendRefused(
                f"the function needs {', '.join(s.name for s in self._stages)}, got {text!r}; use task=callable"
            )
        async with self._places:
            score = await asyncio.to_thread(self._score, spent, int(seed.removeprefix("seed ")))
        return Reply(repr(score), 1, 1)

    async def served(self) -> tuple[str, ...]:
        return tuple(sorted({SCORE, *(option for stage in self._stages for option in stage.options)}))

    def _score(self, spent: Mapping[str, Spent], seed: int) -> float:
        given = ", ".join(f"{stage} {one} (budget {one.budget:g})" for stage, one in spent.items())
        if self._function is None:
            raise TaskError(
                f"no score is known of {given}, seed {seed}, and the function that gives it is not named: a run's folder and a "
                "plan never keep it; add task.function=file.py:name"
            )
        where = f"task.function={self._shown} for {given}, seed {seed}"
        try:
            score = self._function(spent, seed)
        except Exception as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())
            raise TaskError(f"{where} raised {told}; mend it ({_NEXT})") from error
        if isinstance(score, bool) or not isinstance(score, Real) or not math.isfinite(score):
            raise TaskError(f"{where} gave {score!r}; it must give a finite number ({_NEXT})")
        value = float(score)
        if not self._low <= value <= self._high:
            wide = f"task.low={value:g}" if value < self._low else f"task.high={value:g}"
            raise TaskError(
                f"{where} gave {value:g}, outside of task.low={self._low:g} to task.high={self._high:g}; start a new search with a "
                f"wider range, {wide} or beyond"
            )
        return value


def pool(
    stages: Mapping[str, Any],
    *,
    function: str | Callable[[Mapping[str, Spent], int], object] | None = None,
    identity: str | None = None,
    low: float = 0.0,
    high: float = 1.0,
    workers: int = 1,
    name: str = "callable",
) -> tuple[Pool, dict[str, Backend]]:
    """The options of all stages and the function as models, and their backend.

    Parameters
    ----------
    stages
        As settings give them (`agentgraph.tasks.callable.Callable`).
    identity
        What tells this function from any other in a reply store; by default its name.
    function, low, high, workers
        As of `UserFunction`.

    Raises
    ------
    TaskError
        If something is not usable.
    """
    known = declared(stages)
    backend = UserFunction(known, function, low=low, high=high, workers=workers, name=name)
    costs = {option: stage.cost(option) for stage in known for option in stage.options}
    given = function.rpartition(":")[2] if isinstance(function, str) else getattr(function, "__name__", "")
    who = identity or given
    models = [
        Model(option, cost / 4, backend=name, prompt_form="embedded", fingerprint=f"{name}/{option}")
        for option, cost in costs.items()
    ]
    least = min(model.parameters for model in models)  # of no stage, so no plan pays it
    models.append(Model(SCORE, least, backend=name, prompt_form="embedded", fingerprint=f"{name}/{who}"))
    return Pool(models), {name: backend}
