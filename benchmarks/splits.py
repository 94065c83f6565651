"""What `qat_split.py` and `teacher_split.py` share: the search for the split of a total in two, its table and figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agentgraph.config import build_search, load, prepared
from agentgraph.run import run
from agentgraph.score import paired_difference
from agentgraph.user_function import Spent, named


class Row(NamedTuple):
    """What a search found at one total.

    Attributes
    ----------
    first, second
        Steps of the two stages of the plan that was chosen on validation seeds.
    plans
        How many were tried.
    score
        Mean over test seeds, in [0, 1].
    naive, less
        By name of a fixed split: its mean score, and the mean paired difference to it with its 95 % interval.
    """

    total: int
    first: int
    second: int
    plans: int
    score: float
    naive: Mapping[str, float]
    less: Mapping[str, tuple[float, float, float]]

    @property
    def share(self) -> float:
        """Of the second stage, of what is spent."""
        return self.second / (self.first + self.second)


def searched(
    script: Path,
    stages: tuple[str, str],
    total: int,
    *,
    parts: int,
    naive: Mapping[str, float],
    rounds: int,
    seeds: int,
) -> Row:
    """Search the split of a total of steps, and try it against fixed ones on test seeds, twice as many as train seeds.

    Parameters
    ----------
    script
        Its function ``score`` is searched.
    parts
        How finely the total is split.
    naive
        Shares of the second stage, by name.
    """
    part = total // parts
    given = ", ".join(f"{name}: {{options: {{step: 1}}, most: {total - part}, step: {part}}}" for name in stages)
    overrides = [
        "task=callable",
        f"task.stages={{{given}}}",
        f"task.function={script}:score",
        f"task.sizes={{train: {seeds}, validation: {seeds}, test: {2 * seeds}}}",
        f"budget.flops={total}",
        "optimizer=agent_tts",
        f"rounds={rounds}",
        "race=false",
        "finalists=4",
        f"questions_per_round={seeds}",
    ]
    setup = build_search(load("search", prepared(overrides, "search")))
    result = run(setup)
    steps = [part * sum(bool(node.model) for node in graph.nodes) for graph in result.best.plan().stages]
    tests = [int(question.id.removeprefix("seed-")) for question in setup.task.questions("test")]
    score = named(f"{script}:score")

    def scores(first: int, second: int) -> list[float]:
        spent = {name: Spent("step", count, float(count)) for name, count in zip(stages, (first, second), strict=True)}
        return [score(spent, seed) for seed in tests]

    found = scores(*steps)
    fixed = {}
    for name, share in naive.items():
        second = part * min(parts - 1, max(1, round(share * total / part)))
        fixed[name] = scores(total - second, second)
    return Row(
        total,
        *steps,
        result.summary["plans"],
        float(np.mean(found)),
        {name: float(np.mean(other)) for name, other in fixed.items()},
        {name: paired_difference(found, other) for name, other in fixed.items()},
    )


def table(rows: Sequence[Row], second: str, more: Mapping[str, Callable[[Row], str]] | None = None) -> str:
    """What was found, as Markdown; ``more`` are further columns."""
    columns: dict[str, Callable[[Row], str]] = {
        "steps": lambda row: str(row.total),
        f"found share of {second}": lambda row: (
            f"{row.share:.2f}" + (f", of {row.first + row.second} steps" if row.first + row.second < row.total else "")
        ),
        "score": lambda row: f"{row.score:.3f}",
        **{f"less {name}": lambda row, name=name: _difference(row.less[name]) for name in rows[0].less},  # type: ignore[misc]
        **(more or {}),
        "plans": lambda row: str(row.plans),
    }
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(cell(row) for cell in columns.values()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _difference(known: tuple[float, float, float]) -> str:
    mean, low, high = known
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def figure(
    rows: Sequence[Row],
    path: Path,
    *,
    x: str,
    label: str,
    of: str,
    curves: Mapping[str, Callable[[float], float]],
    scale: float = 1.0,
) -> bool:
    """Draw the shares found beside curves; whether matplotlib was there to do it. ``scale`` is what a step is on the x axis."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    drawn = Figure(figsize=(4.5, 3.2), layout="constrained")
    axes = drawn.add_subplot()
    at = [getattr(row, x) * scale for row in rows]
    axes.plot(at, [row.share for row in rows], "ko", label="found")
    along = np.geomspace(max(1.1, min(at)), max(at), 100)
    for name, curve in curves.items():
        axes.plot(along, [curve(float(value)) for value in along], label=name)
    axes.set(xscale="log", ylim=(0, 1), xlabel=label, ylabel=f"share of {of}")
    axes.set_xticks(at, [f"{value:.3g}" for value in at])
    axes.minorticks_off()
    axes.legend(frameon=False)
    path.parent.mkdir(exist_ok=True)
    drawn.savefig(path)
    return True
