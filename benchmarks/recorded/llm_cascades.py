"""Nine models on the same questions, one reply each: mark, dollars, seconds, tokens and confidence.

Source: rational-llm-cascades (Zellinger and Thomson). Numbers only; two of the five tasks have the letter that was
chosen, the others marks alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from .sizes import parameters
from .statistics import indented
from .world import Reply, World, rows

TASKS = {"mmlu": True, "medmcqa": True, "triviaqa": False, "truthfulqa": False, "gsm8k": False}
"""Task, and whether its answers are known."""


def worlds(data: Path) -> Iterator[World]:
    """A world for each task."""
    for task, letters in TASKS.items():
        path = data / "llm_cascades" / f"{task}_train.jsonl.gz"
        questions, replies, models = {}, [], {}
        for row in rows(path):
            gold = ""
            for model, entry in row["models"].items():
                models[model] = {"parameters": parameters(model)}
                gold = entry.get("ans", "") if entry["c"] else gold
                replies.append(
                    Reply(
                        row["qid"],
                        model,
                        0,
                        entry.get("ans"),
                        float(entry["c"]),
                        entry["tin"],
                        entry["tout"],
                        confidence=min(1.0, math.exp(entry["logp"])),
                        seconds=entry["ms"] / 1000,
                        usd=entry["usd"],
                    )
                )
            questions[row["qid"]] = (f"{task} {row['qid']}", gold)
        stated = indented(data, "llm_cascades", path.name)
        stated.pop("any of nine right", None)
        notes = () if letters else ("marks only: no votes",)
        yield World(f"llm_cascades-{task}", questions, replies, models, not letters, stated, notes)
