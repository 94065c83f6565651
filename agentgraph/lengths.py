"""Measures how long prompts and replies really are, and take, before the first round, where a task does not know it exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from agentgraph.budget import Cost, Rates
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.model import Model, Pool
from agentgraph.plan import Plan
from agentgraph.roles.base import Role
from agentgraph.stages import StageChoice
from agentgraph.tasks.base import Lengths
from agentgraph.trial import Answer

__all__ = ["measured"]

_QUESTIONS = 8


def measured(
    executor: Executor, roles: Sequence[Role], choices: Mapping[str, StageChoice] | None = None
) -> tuple[tuple[Lengths, ...], Pool]:
    """Lengths of each stage, and the pool: exact lengths as they are, others from a few train questions.

    A model whose yaml does not say how long a call takes is given its mean seconds per output token, where replies say.

    Each model solves, in all stages that may have it; what a stage is asked is what the model handed on itself. The cheapest
    model of each stage also refines one and fuses two of its own replies. What cannot be measured (no such role, a stage
    that nothing was handed on to) keeps the task's estimate.

    Parameters
    ----------
    choices
        What stages have, by name; without it each has all models.
    """
    stages = executor.task.stages
    solver = next((role for role in roles if role.kind == "assistant"), None)
    if all(stage.lengths.exact for stage in stages) or solver is None:
        return tuple(stage.lengths for stage in stages), executor.pool
    fuser = next((role for role in roles if role.kind == "fuser"), None)
    choices = choices or {}
    allowed = [choices.get(stage.name, StageChoice()).pool(stage.name, executor.pool) for stage in stages]
    cheapest = [min(models, key=lambda model: model.parameters).name for models in allowed]
    own = [Node(solver.name, name) for name in cheapest]
    plans = [
        tuple(
            Graph((Node(solver.name, model.name if model.name in models.names else least),))
            for models, least in zip(allowed, cheapest, strict=True)
        )
        for model in executor.pool
    ]
    plans.append(tuple(Graph((node, node), ((0, 1),)) for node in own))
    if fuser is not None:
        plans.append(tuple(Graph((node, node, Node(fuser.name, node.model)), ((0, 2), (1, 2))) for node in own))
    questions = executor.task.questions("train")[:_QUESTIONS]
    answers = executor.run([Job(Plan(graphs), questions) for graphs in plans])
    lengths, solved = [], dict.fromkeys(executor.pool.names, Cost())
    for s, stage in enumerate(stages):
        means = [_mean(row, s) for row in answers]
        solves = {m.name: cost for m, cost in zip(executor.pool, means, strict=False) if m.name in allowed[s].names}
        for name, cost in solves.items():
            solved[name] += cost
        combined = means[len(executor.pool) :]
        lengths.append(stage.lengths if stage.lengths.exact else _fitted(stage.lengths, solves, cheapest[s], combined))
    return tuple(lengths), Pool([_timed(model, solved[model.name]) for model in executor.pool])


def _mean(answers: Sequence[Answer], stage: int) -> Cost:
    """What a stage spent on a question, over the questions on which it was asked."""
    spent = [answer.spent[stage] for answer in answers if len(answer.spent) > stage and answer.spent[stage].calls]
    return sum(spent, Cost()).over(max(1, len(spent)))


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
