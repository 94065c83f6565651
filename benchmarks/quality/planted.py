"""The three synthetic landscapes: the best plan is known, and the expected mark of every other is computed exactly."""

from __future__ import annotations

from functools import cache

import landscapes

from agentgraph.config import load_models
from agentgraph.plan import Plan
from agentgraph.tasks.synthetic import BUDGET_UNITS, LANDSCAPES, MAX_NODES, Synthetic

from .worlds import Best, Values, World


def world(landscape: str) -> World:
    """The world of one landscape; its questions never end, so no half of them is unseen."""
    space, planted = landscapes.space(), LANDSCAPES[landscape]
    exact = landscapes.Exact(planted, space.stages[0].by_name)
    task = Synthetic(landscape)

    @cache
    def value(plan: Plan) -> Values:
        score = exact.score(plan.stages[0])
        return Values(score, score)

    return World(
        name=f"synthetic-{landscape}",
        note=f"synthetic landscape, all roles, at most {MAX_NODES} nodes and {BUDGET_UNITS} units; value: expected mark",
        space=space,
        task=task,
        questions=task.questions("train"),
        models=lambda: load_models("synthetic"),
        value=value,
        best=Best(planted.value, planted.value, planted.value, 0, planted.optimum.compact()),
    )
