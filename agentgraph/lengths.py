"""Measures how long prompts and replies really are, and take, before the first round, where a task does not know it exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentgraph.budget import Cost, Rates, total
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.model import Model, Pool
from agentgraph.plan import Plan
from agentgraph.roles.base import Role
from agentgraph.tasks.base import Lengths

__all__ = ["measured"]

_QUESTIONS = 8


def measured(executor: Executor, roles: Sequence[Role]) -> tuple[tuple[Lengths, ...], Pool]:
    """Lengths of each stage, and the pool: exact lengths as they are, those of a single-stage task from a few train questions.

    A model whose yaml does not say how long a call takes is given its mean seconds per output token, where replies say.

    Each model solves; the cheapest one also refines one and fuses two of its own replies. What cannot be measured
    (no such role, more than one stage) keeps the task's estimate.
    """
    stages = executor.task.stages
    solver = next((role for role in roles if role.kind == "assistant"), None)
    if len(stages) > 1 or stages[0].lengths.exact or solver is None:
        return tuple(stage.lengths for stage in stages), executor.pool
    fuser = next((role for role in roles if role.kind == "fuser"), None)
    cheapest = min(executor.pool, key=lambda model: model.parameters).name
    node = Node(solver.name, cheapest)
    graphs = [Graph((Node(solver.name, name),)) for name in executor.pool.names]
    graphs.append(Graph((node, node), ((0, 1),)))
    if fuser is not None:
        graphs.append(Graph((node, node, Node(fuser.name, cheapest)), ((0, 2), (1, 2))))
    questions = executor.task.questions("train")[:_QUESTIONS]
    means = [
        total(answer.charge for answer in row).over(max(1, sum(answer.charge.calls > 0 for answer in row)))
        for row in executor.run([Job(Plan((graph,)), questions) for graph in graphs])
    ]
    solves = dict(zip(executor.pool.names, means, strict=False))
    lengths = _fitted(stages[0].lengths, solves, cheapest, means[len(executor.pool) :])
    return (lengths,), Pool([_timed(model, solves[model.name]) for model in executor.pool])


def _timed(model: Model, solve: Cost) -> Model:
    """The model with its mean seconds per output token, if it has no rates of its own and was timed."""
    if model.seconds != Rates() or not solve.seconds or not solve.output_tokens:
        return model
    return replace(model, seconds=Rates(output_token=solve.seconds / solve.output_tokens))


def _fitted(lengths: Lengths, solves: dict[str, Cost], cheapest: str, combined: Sequence[Cost]) -> Lengths:
    """The table that the measured means imply; refine and fuse are taken to add the same beside their candidates."""
    known = {name: cost for name, cost in solves.items() if cost.calls}
    if cheapest not in known:
        return lengths
    solve = known[cheapest]
    prompt = sum(cost.prompt_tokens for cost in known.values()) / len(known)
    output = {"solve": solve.output_tokens}
    output.update({f"solve/{name}": cost.output_tokens for name, cost in known.items()})
    edge, word = lengths.edge, dict(lengths.word)
    if combined[0].calls:
        refine = combined[0].prompt_tokens - solve.prompt_tokens
        if len(combined) > 1 and combined[1].calls:
            edge = max(1.0, combined[1].prompt_tokens - 2 * solve.prompt_tokens - refine)
        word = dict.fromkeys(("refine", "fuse"), max(0.0, refine - solve.prompt_tokens - edge))
        longer = max(0.0, combined[0].output_tokens - solve.output_tokens) / max(1.0, solve.output_tokens)
        for name, cost in known.items():
            output[f"refine/{name}"] = output[f"fuse/{name}"] = cost.output_tokens * longer
    return replace(lengths, prompt=prompt, output=output, edge=edge, word=word)
