"""The worlds of `benchmarks/stages.py`: the embedded pipeline and the composed livecodebench, each with two spaces of plans.

*Graphs*: every plan of the world. *Samples*: of each stage one model and a number of samples, as AgentTTS has them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from recorded import livecodebench
from stage_tables import NODES, SAMPLES, UNITS, PipelineTable, best_pair, pairs_within, unit_of
from stage_tables import TASK as PIPELINE

from agentgraph.backends.recorded import pool as recorded_pool
from agentgraph.budget import Budget
from agentgraph.config import load_models, load_role, load_task
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan
from agentgraph.recording import Recording
from agentgraph.request import stable_hash
from agentgraph.samplings import Sampling, Samplings
from agentgraph.space import Space, StageSpace
from agentgraph.tasks.recorded import Recorded

from .staged import Rights, StagedWorld
from .worlds import Best, Values

KINDS: Final = ("graphs", "samples")
NAMES: Final = tuple(f"{world}-{kind}" for world in ("pipeline", "livecodebench") for kind in KINDS)
LIVECODE_UNITS: Final = 400.0
"""One sample of the largest model that is not paid twice, and some: chosen before any search."""
LIVECODE_SAMPLES: Final = 5
"""Of a stage, of all models together."""


def open_world(name: str, data: Path | None, cache_folder: Path) -> StagedWorld:
    """The world of that name.

    Raises
    ------
    FileNotFoundError
        If its table is not there.
    """
    world, _, kind = name.partition("-")
    if world == "pipeline":
        return pipeline(kind)
    if data is None or not (data / "livecodebench").is_dir():
        raise FileNotFoundError("its table is not there; give data=<folder of the tables>")
    return composed(kind, data, cache_folder)


def settings_of(samplings: Samplings, s: int) -> list[Sampling]:
    """Every sampling of a stage that the budget pays."""
    limits = samplings.space.budget.limits
    return [Sampling(model, n) for model in samplings.models(s) for n in range(1, samplings.most(s, model, limits) + 1)]


# The embedded pipeline -----------------------------------------------------------------------------------------------


pipeline_table = cache(PipelineTable.load)
"""The table of both stages, read once."""


def pipeline_space(kind: str, units: float = UNITS) -> Space:
    """Plans of the pipeline: all small graphs, or samples with a confidence vote."""
    pool = load_models("embedded")[0]
    unit = unit_of(pool)
    roles = ("assistant", "assistant_greedy", "fuser", "keep", "vote", "confidence_vote")
    chosen = tuple(map(load_role, roles if kind == "graphs" else ("assistant", "confidence_vote")))
    nodes = NODES if kind == "graphs" else SAMPLES + 1
    stages = [StageSpace(stage.name, chosen, pool, nodes, stage.lengths) for stage in load_task(PIPELINE).stages]
    return Space(tuple(stages), Budget(units * unit, unit))


def kept(table: PipelineTable, space: Space, kind: str) -> list[NDArray[np.int64]]:
    """For each stage the places in its table of the graphs that a space has."""
    if kind == "samples":
        samplings = Samplings(space)
        return [
            np.array([stage.place(samplings.graph(s, one).canonical) for one in settings_of(samplings, s)])
            for s, stage in enumerate(table.stages)
        ]
    small = [np.array([len(graph.nodes) <= NODES for graph in graphs]) for graphs in table.graphs]
    limit = space.budget.units * (1 + 1e-9)
    return [np.flatnonzero(which & (t.units <= limit)) for which, t in zip(small, table.stages, strict=True)]


def pipeline_best(table: PipelineTable, places: Sequence[NDArray[np.int64]], units: float, half: int = 0) -> Plan:
    """The best plan of these graphs on one half, within the budget."""
    marks = [table.of_stage(s, half)[there] for s, there in enumerate(places)]
    pair = best_pair(marks, [t.units[there] for t, there in zip(table.stages, places, strict=True)], units)
    chosen = (pair.first, pair.second)
    return Plan(tuple(table.graphs[s][int(places[s][place])] for s, place in enumerate(chosen)))


def pipeline(kind: str, units: float = UNITS) -> StagedWorld:
    """The embedded pipeline: the first half of the table's questions is searched on, the second unseen."""
    table, space, task = pipeline_table(), pipeline_space(kind, units), load_task(PIPELINE)
    places = kept(table, space, kind)
    best = pipeline_best(table, places, units)
    search, unseen = table.value(best)
    elsewhere = table.value(pipeline_best(table, places, units, half=1))[1]
    count = pairs_within([t.units[there] for t, there in zip(table.stages, places, strict=True)], units)
    by_id = {question.id: question for question in task.pool("train")}
    half = table.halves[0]

    @cache
    def right(s: int, name: str, graph: Graph) -> NDArray[np.bool_]:
        del name
        return table.stages[s].right(graph)[half]

    def rights(s: int, graph: Graph) -> NDArray[np.bool_]:
        return right(s, graph.id, graph)

    has = (
        f"at most {NODES} nodes a stage, six roles" if kind == "graphs" else f"1 to {SAMPLES} samples, confidence vote"
    )
    return StagedWorld(
        name=f"pipeline-{kind}",
        note=f"embedded pipeline, 6 models, {has}, {units:g} units; {half.stop} search and as many unseen questions; value: table",
        space=space,
        task=task,
        questions=[by_id[name] for name in table.questions[half]],
        value=lambda plan: Values(*table.value(plan)),
        best=Best(search, elsewhere, unseen, count, best.compact()),
        rights=lambda _: rights,
        unseen=(
            [by_id[name] for name in table.questions[table.halves[1]]],
            lambda plan: table.marks(plan)[table.halves[1]].astype(np.float64),
        ),
    )


# The composed livecodebench ------------------------------------------------------------------------------------------


def composed(kind: str, data: Path, cache_folder: Path) -> StagedWorld:
    """Generation, then test output: expected marks are exact, by the hypergeometric formula of pass@k."""
    folder = cache_folder / "recorded" / "livecodebench-composed"
    if not folder.is_dir():
        livecodebench.composed(data).write(folder)
    names = [stage.name for stage in livecodebench.COMPOSED]
    recording, task = Recording.read(folder), Recorded(str(folder), stages=names)
    pool = recorded_pool(str(folder))[0]
    roles = (load_role("assistant"), load_role("oracle"))
    stages = [
        StageSpace(stage.name, roles, pool, LIVECODE_SAMPLES + 1, stage.lengths, recording.samples)
        for stage in task.stages
    ]
    unit = Space.unit(stages)
    space = Space(tuple(stages), Budget(LIVECODE_UNITS * unit, unit))
    every = {question.id: question for split in ("train", "validation", "test") for question in task.pool(split)}
    questions = sorted(every.values(), key=lambda question: (stable_hash("half", question.text), question.id))
    middle = len(questions) // 2
    right = [
        {m: np.array([[r.mark for r in recording.replies[m][f"{s}/{q.id}"]] for q in questions]) for m in pool.names}
        for s in names
    ]
    expected = _Expected(right)
    options = [_options(kind, space, s) for s in range(2)]
    marks = [np.stack([expected.of(s, models) for models in mine]) for s, mine in enumerate(options)]
    prices = [
        np.array([stage.price(_graph(models)).flops for models in mine]) / unit
        for stage, mine in zip(stages, options, strict=True)
    ]
    pair, other = (best_pair([rows[:, half] for rows in marks], prices, LIVECODE_UNITS)
                   for half in (slice(0, middle), slice(middle, None)))  # fmt: skip
    best = Plan((_graph(options[0][pair.first]), _graph(options[1][pair.second])))

    def marks_of(plan: Plan) -> NDArray[np.float64]:
        both: NDArray[np.float64] = np.prod(
            [expected.of(s, _models(graph)) for s, graph in enumerate(plan.stages)], axis=0
        )
        return both

    @cache
    def value(plan: Plan) -> Values:
        both = marks_of(plan)
        return Values(float(both[:middle].mean()), float(both[middle:].mean()))

    has = "samples of any models" if kind == "graphs" else "samples of one model"
    return StagedWorld(
        name=f"livecodebench-{kind}",
        note=f"composed: livecodebench, {' and '.join(names)} declared independent given the question; {len(pool)} models, "
        f"a stage: up to {LIVECODE_SAMPLES} {has}, the best by an oracle (pass@k); {LIVECODE_UNITS:g} units; {middle} search and "
        f"{len(questions) - middle} unseen questions; value: expected mark",
        space=space,
        task=task,
        questions=questions[:middle],
        value=value,
        best=Best(pair.value, other.value, value(best).unseen, pairs_within(prices, LIVECODE_UNITS), best.compact()),
        rights=lambda seed: _drawn(right, middle, seed),
        unseen=(questions[middle:], lambda plan: marks_of(plan)[middle:]),
    )


def _options(kind: str, space: Space, s: int) -> list[tuple[str, ...]]:
    """Which models a graph of a stage samples, each as often as it stands there."""
    stage = space.stages[s]
    if kind == "samples":
        found = [(one.model,) * one.samples for one in settings_of(Samplings(space), s)]
    else:
        names = stage.pool.names
        found = [c for n in range(1, LIVECODE_SAMPLES + 1) for c in combinations_with_replacement(names, n)]
    return [models for models in found if space.budget.allows(stage.price(_graph(models)))]


def _graph(models: Sequence[str]) -> Graph:
    solvers = [Node("assistant", model) for model in models]
    if len(models) == 1:
        return Graph(tuple(solvers))
    return Graph((*solvers, Node("oracle")), tuple((i, len(models)) for i in range(len(models)))).canonical


def _models(graph: Graph) -> tuple[str, ...]:
    return tuple(sorted(node.model for node in graph.nodes if node.model))


class _Expected:
    """Probability that any of some samples is right, question by question.

    Parameters
    ----------
    right
        Of each stage the marks of a model's replies, shape (questions, replies), by model.
    """

    def __init__(self, right: Sequence[dict[str, NDArray[np.float64]]]) -> None:
        self._right = right

    @cache  # noqa: B019  lives as long as the world
    def of(self, s: int, models: tuple[str, ...]) -> NDArray[np.float64]:
        """Shape (questions,)."""
        missed = np.ones(len(next(iter(self._right[s].values()))))
        for model, k in Counter(models).items():
            missed *= self._all_wrong(s, model, k)
        return 1.0 - missed

    @cache  # noqa: B019
    def _all_wrong(self, s: int, model: str, k: int) -> NDArray[np.float64]:
        marks = self._right[s][model]
        n = marks.shape[1]
        return np.array([math.comb(n - int(c), k) / math.comb(n, k) for c in marks.sum(1)])


def _drawn(right: Sequence[dict[str, NDArray[np.float64]]], middle: int, seed: int) -> Rights:
    """The replies in an order of this seed: sample k of a model is the k-th."""
    rng = np.random.default_rng((seed, 2))
    shuffled = [{model: rng.permuted(marks[:middle], axis=1) for model, marks in by.items()} for by in right]

    @cache
    def right_of(s: int, models: tuple[str, ...]) -> NDArray[np.bool_]:
        parts = [shuffled[s][model][:, :k].any(axis=1) for model, k in Counter(models).items()]
        return np.logical_or.reduce(parts)

    def rights(s: int, graph: Graph) -> NDArray[np.bool_]:
        return right_of(s, _models(graph))

    return rights
