"""Ten replies of each model to each question in five kinds of code work; how many were right is known, not which answer.

Source: livecodebench.github.io (CC-BY-SA-4.0). Generation, repair, test output, execution without and with reasoning. Prompts
and replies were not kept: each counts as 500 and 300 tokens (execution without reasoning: 200 and 20).

One more world is *composed*: each test of a problem asks for a program (generation) and then for the output of that test
(test output), and is right if both are. The two were recorded apart; that they are independent given the question is
declared, not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .sizes import parameters
from .statistics import inline, section
from .world import World, counted, rows


class Stage(NamedTuple):
    """Where a stage's rows lie: right replies and replies of a row, and the tokens of a call."""

    name: str
    file: str
    right: Callable[[dict[str, Any]], int]
    of: Callable[[dict[str, Any]], int]
    cost: tuple[int, int] = (500, 300)


def _percent(field: str) -> Callable[[dict[str, Any]], int]:
    return lambda row: max(0, round(float(row[field]) / 10))


STAGES = (
    Stage("generation", "generation", lambda row: int(row["n_pass_of_10"]), lambda _: 10),
    Stage("repair", "repair", lambda row: int(row["n_pass"]), lambda row: int(row["n_samples"])),
    Stage("test_output", "test_output_prediction", lambda row: int(row["n_pass_of_10"]), lambda _: 10),
    Stage("execution_direct", "code_execution", _percent("pass1_direct_pct"), lambda _: 10, (200, 20)),
    Stage("execution_cot", "code_execution", _percent("pass1_cot_pct"),
          lambda row: 0 if float(row["pass1_cot_pct"]) < 0 else 10),
)  # fmt: skip


COMPOSED = STAGES[0], STAGES[2]


def worlds(data: Path) -> Iterator[World]:
    """A world of marks for each stage, and the composed one."""
    yield from _single(data)
    yield composed(data)


def composed(data: Path) -> World:
    """Generation, then test output, of the problems and models that have both."""
    tables = [list(rows(data / "livecodebench" / f"{stage.file}.csv.gz")) for stage in COMPOSED]
    models, problems = ([{row[field] for row in table} for table in tables] for field in ("model", "question_id"))
    both, shared = set.intersection(*models), set.intersection(*problems)
    tests = sorted({(row["question_id"], row["test_index"], row["qid"]) for row in tables[1]})
    questions, replies = {}, []
    for stage, table in zip(COMPOSED, tables, strict=True):
        by_problem: dict[str, list[dict[str, Any]]] = {}
        for row in table:
            if row["model"] in both:
                by_problem.setdefault(row["question_id"], []).append(row)
        for problem, test, qid in tests:
            if problem in shared:
                key = f"{stage.name}/{problem}-{test}"
                questions[key] = (f"problem {qid}", "")
                for row in by_problem[problem]:
                    if row.get("test_index", test) == test:
                        replies += counted(key, row["model"], stage.right(row), stage.of(row), stage.cost)
    sizes = {model: {"parameters": parameters(model)} for model in sorted(both)}
    notes = (
        "composed: marks of generation and test output were recorded apart and are declared independent given the question; "
        "a test of a problem is right if both are",
        *_skipped([stage.name for stage in COMPOSED], models, problems),
        "marks only: no votes; several samples of a stage can be combined by the role oracle alone (pass@k)",
    )
    return World("livecodebench-composed", questions, replies, sizes, True, {}, notes)


def _skipped(names: Sequence[str], models: Sequence[set[str]], problems: Sequence[set[str]]) -> Iterator[str]:
    """What one of the two lacks."""
    for what, sets in (("models", models), ("problems", problems)):
        lost = ", ".join(f"{len(mine - other)} of {len(mine)} that only {name} has"
                         for name, mine, other in zip(names, sets, reversed(sets), strict=True))  # fmt: skip
        yield f"left out {what}: {lost}"


def _single(data: Path) -> Iterator[World]:
    for stage in STAGES:
        questions, replies = {}, []
        for row in rows(data / "livecodebench" / f"{stage.file}.csv.gz"):
            key = "-".join(row[field] for field in ("question_id", "test_index", "sample_id") if field in row)
            questions[key] = (f"{stage.name} {row['qid']}", "")
            replies += counted(key, row["model"], stage.right(row), stage.of(row), stage.cost)
        sizes = {model: {"parameters": parameters(model)} for model in sorted({reply.model for reply in replies})}
        stated = _stated(data, stage)
        notes = ("marks only: no votes",)
        yield World(f"livecodebench-{stage.name}", questions, replies, sizes, True, stated, notes)


def _stated(data: Path, stage: Stage) -> dict[str, float]:
    """Percent by model; those of execution are whole numbers, two to a model."""
    if stage.file != "code_execution":
        return inline(data, "livecodebench", f"{stage.file}:", factor=100)
    line = next((line for line in section(data, "livecodebench") if line.startswith("- code_execution")), "")
    place = int(stage.name.endswith("cot"))
    stated = {}
    for part in line.partition(": ")[2].split(", "):
        name, _, both = part.rpartition(" ")
        if name and both.split("/")[place] != "-":
            stated[name] = float(both.split("/")[place])
    return stated
