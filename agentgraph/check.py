"""Asks every model of a pool one question: whether it is there, and what a solve by it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentgraph.backends.base import Backend
from agentgraph.budget import flops
from agentgraph.errors import AgentGraphError
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.model import Pool
from agentgraph.plan import Plan
from agentgraph.roles.assistant import Assistant
from agentgraph.store import ReplyStore
from agentgraph.tasks.base import Task

__all__ = ["check"]


def check(task: Task, pool: Pool, backends: Mapping[str, Backend], say: Callable[[str], None]) -> bool:
    """Say a line for each model; whether all of them answered.

    Parameters
    ----------
    task
        Its first stage's first train question is asked.
    say
        Receives each line.
    """
    lengths = task.stages[0].lengths
    solves = {model.name: flops(model.size, lengths.tokens("solve", 0, model.name)) for model in pool}
    unit = min(solves.values())
    question = task.questions("train")[:1]
    role = Assistant(name="assistant")
    estimate = "" if lengths.exact else " (estimated lengths)"
    good = True
    say(f"{'model':<24} {'backend':<32} {'solve, units':>12} {'solve, FLOPs':>13}  answer{estimate}")
    with Executor(task, pool, {role.name: role}, backends, ReplyStore()) as executor:
        for model in pool:
            try:
                graphs = (Graph((Node(role.name, model.name),)),) * len(task.stages)
                answer = executor.run([Job(Plan(graphs), question)])[0][0]
                told = "failed" if answer.mark is None else f"ok, mark {answer.mark:g}"
                if answer.outcomes:
                    told = "replied, but without an answer that can be read: " + ", ".join(answer.outcomes)
                good &= answer.mark is not None
            except AgentGraphError as error:
                told, good = f"FAILED: {error}", False
            say(
                f"{model.name:<24} {model.backend:<32} {solves[model.name] / unit:>12.2f} {solves[model.name]:>13.3g}  {told}"
            )
    return good
