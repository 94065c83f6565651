"""Runs a plan from a file on questions, with the models of a pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as with_changes

from agentgraph.budget import Budget, Rates
from agentgraph.errors import ConfigError, ReplayError
from agentgraph.evaluate import Candidate, Scored, evaluate
from agentgraph.execute import Executor
from agentgraph.graph import Graph, Node
from agentgraph.model import Pool
from agentgraph.plan import Plan
from agentgraph.plan_file import PlanFile
from agentgraph.plan_format import ModelEntry
from agentgraph.report import Row
from agentgraph.space import Space, StageSpace

__all__ = ["Replay", "replay"]


@dataclass(frozen=True)
class Replay:
    """A plan's score on a split.

    Parameters
    ----------
    scored
        Marks, charge and outcomes; the price is computed anew for this task and pool.
    budget
        The plan's own budget, FLOPs in units of this task and pool.
    """

    scored: Scored
    budget: Budget

    def row(self) -> Row:
        """The score as a row of a table."""
        accuracy, low, high = self.scored.interval()
        return Row(
            name=self.scored.candidate.name,
            accuracy=accuracy,
            low=low,
            high=high,
            price_units=self.scored.candidate.price.flops / self.budget.unit,
            charge_units=self.scored.charge.flops / self.budget.unit,
            difference=None,
            note=f"{len(self.scored.known)} questions, {self.scored.failures} failed{self.budget.note(self.scored.charge)}",
        )

    def outcomes(self) -> str:
        """Replies without a readable answer, by kind."""
        return ", ".join(f"{count} {kind}" for kind, count in self.scored.outcomes.items()) or "none"


def replay(
    plan_file: PlanFile,
    executor: Executor,
    *,
    split: str = "test",
    replicate: int = 0,
    replace: Mapping[str, str] | None = None,
) -> Replay:
    """Score a plan on a split of the executor's task.

    Parameters
    ----------
    replicate
        0 asks what a search's test asked; others ask everything afresh.
    replace
        Models of the plan by models of the pool, where names differ.

    Raises
    ------
    ConfigError
        If the replicate is no whole number of at least 0.
    SpaceError
        If the pool lacks a model of the plan.
    ReplayError
        If the task has another number of stages than the plan.
    """
    if type(replicate) is not int or replicate < 0:
        raise ConfigError(f"replicate={replicate!r} must be a whole number of at least 0")
    task, renamed = executor.task, dict(replace or {})
    plan = _mapped(plan_file.plan(), renamed)
    pool = _priced(executor.pool, {renamed.get(name, name): entry for name, entry in plan_file.models.items()})
    for graph in plan.stages:
        for node in graph.nodes:
            if node.model:
                pool.named(node.model)
    if len(plan.stages) != len(task.stages):
        raise ReplayError(
            f"the plan has {len(plan.stages)} stages, task {task.name!r} has {len(task.stages)}; "
            f"choose a task of {len(plan.stages)} (the plan was found for {plan_file.task!r})"
        )
    roles = plan_file.role_objects()
    stages = tuple(
        StageSpace(stage.name, tuple({**executor.roles, **roles}.values()), pool, 64, stage.lengths)
        for stage in task.stages
    )
    budget = with_changes(plan_file.budget.budget(), unit=Space.unit(stages))
    price = Space(stages, Budget(unit=budget.unit)).price(plan)
    candidate = Candidate(f"plan {plan.id}", plan, price, roles)
    scored = evaluate(executor, [candidate], task.questions(split), replicate=replicate)[0]
    return Replay(scored, budget)


def _priced(pool: Pool, entries: Mapping[str, ModelEntry]) -> Pool:
    """The pool, with the rates that the plan was found with where a model has none of its own."""
    models = []
    for model in pool:
        entry = entries.get(model.name)
        if entry is not None:
            usd, seconds = (rates.rates() if rates else Rates() for rates in (entry.usd, entry.seconds))
            models.append(
                with_changes(
                    model,
                    usd=usd if model.usd == Rates() else model.usd,
                    seconds=seconds if model.seconds == Rates() else model.seconds,
                )
            )
        else:
            models.append(model)
    return Pool(models)


def _mapped(plan: Plan, replace: dict[str, str]) -> Plan:
    stages = []
    for graph in plan.stages:
        nodes = tuple(Node(node.role, replace.get(node.model, node.model)) for node in graph.nodes)
        stages.append(Graph(nodes, graph.edges))
    return Plan(tuple(stages))
