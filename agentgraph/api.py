"""What a script or notebook calls: `search`, `pick` and `replay`, synchronous, with names or objects."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace as with_changes
from pathlib import Path

from agentgraph.backends.base import Backend
from agentgraph.config import build_search, load, load_models, load_role, load_task, prepared
from agentgraph.execute import Executor
from agentgraph.model import Model, Pool
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Optimizer
from agentgraph.pick import pick as pick_point
from agentgraph.plan_file import PlanFile
from agentgraph.replay import Replay
from agentgraph.replay import replay as replay_plan
from agentgraph.roles.base import Role
from agentgraph.run import Result, run
from agentgraph.run_folder import RunFolder
from agentgraph.store import ReplyStore
from agentgraph.tasks.base import Task
from agentgraph.watch import Watcher, choose

__all__ = ["pick", "replay", "search"]


def search(
    task: str | Task = "calc",
    models: str | Sequence[Model] = "embedded",
    *,
    backends: Sequence[Backend] = (),
    roles: Sequence[str | Role] | None = None,
    optimizer: str | Optimizer = "agent_reinforce",
    budget_units: float | None = None,
    budget_flops: float | None = None,
    budget_calls: float | None = None,
    budget_tokens: float | None = None,
    budget_usd: float | None = None,
    budget_seconds: float | None = None,
    budget_tts_units: float | None = None,
    folder: str | Path | None = None,
    watch: bool = True,
    **settings: float,
) -> Result:
    """Find the plan that answers best within the budget.

    Parameters
    ----------
    task, models, roles, optimizer
        Names of conf entries (or the path of a pool file for ``models``), or objects.
    backends
        Backends that ``models`` name, where they are objects.
    budget_units, budget_flops, budget_calls, budget_tokens, budget_usd, budget_seconds, budget_tts_units
        Limits of a plan's price for one question, one or more, of units and FLOPs one; 8 units if nothing is given.
    folder
        Where to keep archive and replies; a run that stopped there goes on. ``None`` keeps all in memory.
    watch
        Whether to show progress on standard error.
    **settings
        ``rounds``, ``plans_per_round``, ``questions_per_round``, ``max_nodes``, ``finalists``, ``failure_share``, ``seed``.

    Raises
    ------
    AgentGraphError
        For anything that cannot be used, in one line.
    """
    named = [
        f"{key}={value}"
        for key, value in (("task", task), ("models", models), ("optimizer", optimizer))
        if isinstance(value, str)
    ]
    config = load("search", prepared([*named, *(f"{key}={value}" for key, value in settings.items())], "search"))
    setup = with_changes(
        build_search(config),
        budget_units=budget_units,
        budget_flops=budget_flops,
        budget_calls=budget_calls,
        budget_tokens=budget_tokens,
        budget_usd=budget_usd,
        budget_seconds=budget_seconds,
        budget_tts_units=budget_tts_units,
    )
    if isinstance(task, Task):
        setup = with_changes(setup, task=task)
    if not isinstance(models, str):
        setup = with_changes(setup, pool=Pool(models), backends={backend.name: backend for backend in backends})
    if isinstance(optimizer, Optimizer):
        setup = with_changes(setup, optimizer=optimizer)
    if roles is not None:
        setup = with_changes(setup, roles=[role if isinstance(role, Role) else load_role(role) for role in roles])
    watcher = choose(sys.stderr) if watch else Watcher()
    return run(setup, folder=RunFolder(Path(folder)) if folder else None, watcher=watcher)


def pick(run: str | Path, *, objective: Objective | None = None, **budget: float) -> PlanFile:
    """Another plan of a finished search for another budget, without a call to a model.

    Parameters
    ----------
    run
        The search's folder.
    objective
        What is best within the budget; ``None`` takes accuracy.
    **budget
        Limits of a question's cost: ``units``, ``flops``, ``calls``, ``tokens``, ``usd``, ``seconds``, ``tts_units``.

    Raises
    ------
    AgentGraphError
        If the run is not finished, or no plan of its front fits, in one line.
    """
    return pick_point(Path(run), budget, objective).plan


def replay(
    plan: str | Path | PlanFile,
    task: str | Task | None = None,
    models: str | Sequence[Model] = "embedded",
    *,
    backends: Sequence[Backend] = (),
    split: str = "test",
    replicate: int = 0,
    replace: Mapping[str, str] | None = None,
    store: str | Path | None = None,
    seed: int | None = None,
) -> Replay:
    """Run a found plan on the questions of a task.

    Parameters
    ----------
    plan
        Plan file, or its path.
    task
        Name or object; ``None`` takes the task the plan was found for.
    split, replicate
        Which questions; 0 asks what the search's test asked, other replicates ask everything afresh.
    replace
        Models of the plan by models of the pool.
    store
        Reply store to take known replies from and to add new ones to.
    seed
        ``None`` takes the seed of the run that found the plan.
    """
    plan_file = plan if isinstance(plan, PlanFile) else PlanFile.read(plan)
    chosen = plan_file.task if task is None else task
    if isinstance(models, str):
        pool, by_name = load_models(models)
    else:
        pool, by_name = Pool(models), {backend.name: backend for backend in backends}
    replies = ReplyStore(Path(store)) if store else ReplyStore()
    seed = plan_file.found.seed if seed is None else seed
    if not isinstance(chosen, Task):
        chosen = load_task(chosen)
    with closing(replies), Executor(chosen, pool, {}, by_name, replies, seed=seed) as executor:
        return replay_plan(plan_file, executor, split=split, replicate=replicate, replace=replace)
