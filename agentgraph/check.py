"""Asks every model of a pool: whether it is there, is the right one, how fast it answers, and what a solve by it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentgraph.backends.base import Backend
from agentgraph.budget import Cost, Rates
from agentgraph.errors import AgentGraphError, BackendError
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.model import Model, Pool
from agentgraph.plan import Plan
from agentgraph.roles.assistant import Assistant
from agentgraph.store import ReplyStore
from agentgraph.tasks.base import Question, Task
from agentgraph.trial import Answer

__all__ = ["check"]

PARALLEL: Final = 8  # questions at once for tokens a second; fewer where the backend takes fewer
_WIDTH: Final = 120  # characters


def check(task: Task, pool: Pool, backends: Mapping[str, Backend], say: Callable[[str], None]) -> bool:
    """Say what each server serves, then a line for each model; whether all of them are there and answered.

    A model is asked one question, which is marked, then up to `PARALLEL` others at once: tokens a second are those generated for
    these over the time they took together.

    Parameters
    ----------
    task
        Its first train questions are asked. Where a stage may have some models only, the others are asked in the stages
        that may have them, and its referee about what came of it.
    say
        Receives each line, of at most 120 characters unless it tells of a failure.
    """
    lengths = task.stages[0].lengths
    costs = {model.name: model.cost(lengths.tokens("solve", 0, model.name)) for model in pool}
    unit = min(cost.flops for cost in costs.values())
    role = Assistant(name="assistant")
    with Executor(task, pool, {role.name: role}, backends, ReplyStore()) as executor:
        listed = {name: _listed(executor, name, say) for name in dict.fromkeys(model.backend for model in pool)}
        estimate = "" if lengths.exact else "; lengths of a solve are estimated"
        say(f"\nA solve of {task.name}: cost and answer{estimate}")
        say(f"{'model':<24} {'units':>8} {'FLOPs':>9} {'USD':>9} {'seconds':>8} {'tokens/s':>9}  answer")
        good = True
        for model in pool:
            cost = costs[model.name]
            seen = _ask(executor, role.name, model, listed[model.backend])
            good &= seen.good
            usd = cost.usd if model.usd != Rates() else None
            seconds = cost.seconds if model.seconds != Rates() else seen.seconds
            figures = f"{cost.flops / unit:>8.2f} {cost.flops:>9.3g} {_figure(usd):>9} {_figure(seconds):>8}"
            say(f"{model.name:<24} {figures} {_figure(seen.speed, ',.0f'):>9}  {seen.told}")
    return good


@dataclass(frozen=True)
class _Seen:
    """What a model did."""

    told: str
    good: bool
    seconds: float | None = None
    speed: float | None = None


def _shown(backend: str) -> str:
    """Name of a backend without what tells two clients of one server apart."""
    return backend.partition(" #")[0]


def _figure(value: float | None, form: str = ".2g") -> str:
    return "-" if value is None else format(value, form)


def _listed(executor: Executor, backend: str, say: Callable[[str], None]) -> Sequence[str] | str:
    """Names that a backend says it serves, or why it does not say."""
    shown = _shown(backend)
    try:
        names = executor.served(backend)
    except BackendError as error:
        say(f"{shown}: FAILED: {error}")
        return str(error)
    line = f"{shown}: serves {', '.join(names) or 'nothing'}"
    say(line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…")
    return names


def _ask(executor: Executor, role: str, model: Model, listed: Sequence[str] | str) -> _Seen:
    name = model.served_name
    if not isinstance(listed, str) and name not in listed and f"{name}:latest" not in listed:
        return _Seen(
            f"FAILED: {_shown(model.backend)} does not list {name!r}; change served_as to a name that it serves", False
        )
    plan = _plan(executor.task, executor.pool, role, model.name)
    questions = executor.task.questions("train")[: 1 + min(PARALLEL, executor.backends[model.backend].limit)]
    try:
        (first,), _ = _answers(executor, plan, questions[:1])
        rest, took = _answers(executor, plan, questions[1:])
    except AgentGraphError as error:
        return _Seen("FAILED, see above" if str(error) == listed else f"FAILED: {error}", False)
    spent = sum((answer.charge for answer in rest), Cost())
    speed = spent.output_tokens / took if rest and took > 0 else None
    failed = sum(answer.mark is None for answer in [first, *rest])
    told = f"ok, mark {first.mark:g}" if first.mark is not None else ""
    if first.outcomes:
        told = "no answer that can be read: " + ", ".join(first.outcomes)
    if failed:
        told = f"FAILED: {failed} of {len(questions)} calls failed after retries"
    return _Seen(told, not failed, first.charge.seconds or None, speed)


def _plan(task: Task, pool: Pool, role: str, name: str) -> Plan:
    """A solve by this model in each stage that may have it; elsewhere by the first model of the pool that may be there."""
    graphs = []
    for stage in task.stages:
        models: Any = task.choices.get(stage.name, {}).get("models", pool.names)
        graphs.append(Graph((Node(role, name if name in models else models[0]),)))
    return Plan(tuple(graphs))


def _answers(executor: Executor, plan: Plan, questions: Sequence[Question]) -> tuple[Sequence[Answer], float]:
    """Answers, and the seconds that they took together."""
    began = time.perf_counter()
    answers = executor.run([Job(plan, questions)])[0]
    return answers, time.perf_counter() - began
