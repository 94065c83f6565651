"""Worlds of the embedded tasks: every plan of at most 4 nodes (calc: 3) and 8 units was run once, so its value is in a table."""

from __future__ import annotations

from collections.abc import Mapping

from exhaustive import Table

from agentgraph.backends.base import Backend
from agentgraph.config import load_models, load_task
from agentgraph.model import Pool
from agentgraph.request import Reply

from .remembering import Remembering
from .worlds import Best, Values, World

RUN_SEED = 0
"""Of the executor that made the tables: another would hear other replies."""


def world(task_name: str) -> World:
    """The world of an embedded task: the first half of the table's questions is searched on, the second unseen.

    Raises
    ------
    FileNotFoundError
        If there is no table.
    """
    table = Table.load(task_name)
    space, task = table.space(), load_task(task_name)
    search, unseen = table.halves
    by_id = {question.id: question for question in task.pool("train")}
    plan, first, second = table.best()
    replies: dict[int, Reply] = {}

    def models() -> tuple[Pool, Mapping[str, Backend]]:
        pool, backends = load_models("embedded")
        return pool, {name: Remembering(backend, replies) for name, backend in backends.items()}

    return World(
        name=f"embedded-{task_name}",
        note=f"{len(space.stages[0].pool)} models, all default roles, at most {table.max_nodes} nodes and "
        f"{table.budget_units:g} units; {len(search)} search and {len(unseen)} unseen questions; value: run once, table",
        space=space,
        task=task,
        questions=[by_id[name] for name in search],
        models=models,
        value=lambda plan: Values(*table.value(plan)),
        best=Best(first, table.best("best on the second half").second, second, table.plans, plan.compact()),
        executor_seed=RUN_SEED,
    )
