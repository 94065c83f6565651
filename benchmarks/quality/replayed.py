"""Worlds of recorded replies: half of the questions is searched on, the other half is never seen by a search."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from recorded.world import World as Table

from agentgraph.backends.recorded import pool
from agentgraph.budget import Budget
from agentgraph.config import load_role
from agentgraph.plan import Plan
from agentgraph.recording import Recording
from agentgraph.request import stable_hash
from agentgraph.roles.base import Role
from agentgraph.space import Space, StageSpace
from agentgraph.tasks.recorded import Recorded

from .answers import Answers
from .plans import every_plan
from .worlds import Values, World, best_of, kept


@dataclass(frozen=True)
class Recipe:
    """How a table becomes a world.

    Parameters
    ----------
    table
        World of a reader in `benchmarks/recorded`.
    roles
        Names in ``conf/role``.
    max_nodes, units, usd
        Size of a plan; its budget in units or in dollars for one question.
    orders
        Orders of the samples that values are means over; 1 where each model has one reply to a question.
    """

    table: str
    roles: tuple[str, ...]
    max_nodes: int
    units: float | None = None
    usd: float | None = None
    orders: int = 1


VOTES, KEEPS = ("assistant", "vote"), ("assistant", "keep", "confidence_vote")
FRESH = ("llm_cascades-triviaqa", "llm_cascades-truthfulqa", "llm_cascades-gsm8k", "zeroeval-gsm")
"""Worlds that no choice of the method was made on: no methods were compared on them before. Budgets as of their likes."""
RECIPES = {
    "mot_cascade-date-20": Recipe("mot_cascade-date", VOTES, 5, usd=0.02, orders=480),
    "mot_cascade-date-1.5": Recipe("mot_cascade-date", VOTES, 5, usd=0.0015, orders=480),
    "zeroeval-math_l5": Recipe("zeroeval-math_l5", VOTES, 4, units=32),
    "zeroeval-crux": Recipe("zeroeval-crux", VOTES, 4, units=96),
    "mmlu_pro": Recipe("mmlu_pro", VOTES, 4, units=64),
    "llm_cascades-mmlu": Recipe("llm_cascades-mmlu", KEEPS, 4, usd=0.0007),
    "llm_cascades-medmcqa": Recipe("llm_cascades-medmcqa", KEEPS, 4, usd=0.0007),
    **{name: Recipe(name, KEEPS[:2], 4, usd=0.0007) for name in FRESH[:3]},  # of answers only marks are known: no votes
    FRESH[3]: Recipe(FRESH[3], VOTES, 4, units=32),
}
"""Budgets in units were chosen before any search: the largest models do not fit, and the best plan is a vote of three models."""

MOST_QUESTIONS = 1000


def world(name: str, data: Path, cache_folder: Path) -> World:
    """The world of that name in `RECIPES`.

    Raises
    ------
    FileNotFoundError
        If its table is not in ``data``.
    """
    recipe = RECIPES[name]
    path = _folder(name, recipe, data, cache_folder)
    recording = Recording.read(path)
    task = Recorded(str(path))
    roles = tuple(map(load_role, recipe.roles))
    models, lengths = pool(str(path))[0], task.stages[0].lengths
    stage = StageSpace("answer", roles, models, recipe.max_nodes, lengths, recording.samples)
    space = Space((stage,), _budget(recipe, stage))
    names = sorted((question.id for question in recording.questions), key=_half_order(recording))
    half = len(names) // 2
    value = _value(recording, names, half, stage.by_name, recipe.orders)
    by_id = {question.id: question for split in ("train", "validation", "test") for question in task.pool(split)}
    found = kept(
        cache_folder / "best" / f"{name}-{_digest(recipe, recording.fingerprint)}.json",
        lambda: best_of(list(every_plan(space)), value),
    )
    return World(
        name=name,
        note=_note(recipe, len(stage.pool), half, len(names) - half),
        space=space,
        task=task,
        questions=[by_id[question] for question in names[:half]],
        models=lambda: pool(str(path)),
        value=value,
        best=found,
    )


def _half_order(recording: Recording) -> Any:  # noqa: ANN401
    """Key that puts questions into a fixed order in which the first half is searched on; equal texts stay together."""
    texts = {question.id: question.text for question in recording.questions}
    return lambda name: (stable_hash("half", texts[name]), name)


def _value(recording: Recording, names: Sequence[str], half: int, roles: Mapping[str, Role], orders: int) -> Any:  # noqa: ANN401
    answers = Answers(recording, names, roles, orders=orders)

    @cache
    def value(plan: Plan) -> Values:
        marks = answers.marks(plan)
        return Values(float(np.mean(marks[:half])), float(np.mean(marks[half:])))

    return value


def _folder(name: str, recipe: Recipe, data: Path, cache_folder: Path) -> Path:
    """The recorded folder of a world, written where it is not there yet; of large tables a fixed part."""
    folder = cache_folder / "recorded" / name
    if folder.is_dir():
        return folder
    table = _table(recipe.table, data)
    if len(table.questions) > MOST_QUESTIONS:
        chosen = sorted(table.questions, key=lambda key: stable_hash("part", table.questions[key][0]))[:MOST_QUESTIONS]
        there = frozenset(chosen)
        table = replace(
            table,
            questions={key: table.questions[key] for key in chosen},
            replies=[reply for reply in table.replies if reply.question in there],
        )
    half_made = folder.with_name(f".{name}.part")
    table.write(half_made)
    half_made.replace(folder)
    return folder


def _table(name: str, data: Path) -> Table:
    reader = name.partition("-")[0]
    if not (data / reader).is_dir():
        raise FileNotFoundError(f"{data / reader} is not there")
    module = importlib.import_module(f"recorded.{reader}")
    return next(table for table in module.worlds(data) if table.name == name).complete()


def _budget(recipe: Recipe, stage: StageSpace) -> Budget:
    if recipe.usd is not None:
        return Budget(unit=stage.cheapest, usd=recipe.usd)
    return Budget((recipe.units or 0.0) * stage.cheapest, stage.cheapest)


def _note(recipe: Recipe, models: int, search: int, unseen: int) -> str:
    limit = f"${1000 * recipe.usd:g} per 1,000 questions" if recipe.usd else f"{recipe.units:g} units"
    made = f"roles {', '.join(recipe.roles)}" if "keep" in recipe.roles else f"votes of at most {recipe.max_nodes - 1}"
    over = f"mean over {recipe.orders} orders of the samples" if recipe.orders > 1 else "exact"
    return f"{models} models, {made}, {limit}; {search} search and {unseen} unseen questions; value: {over}"


def _digest(recipe: Recipe, fingerprint: str) -> str:
    return hashlib.blake2b(json.dumps([repr(recipe), fingerprint]).encode(), digest_size=6).hexdigest()
