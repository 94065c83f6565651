"""Fifty models on GSM8K, level 5 of MATH and CRUXEval, one greedy reply each, with its answer.

Source: ZeroEval (Apache-2.0). Answers that were graded right are written as the gold answer, so that a vote counts them
together; wrong ones are compared as they stand, blanks and quotes left out. Tokens are characters over four.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .sizes import parameters
from .statistics import inline
from .world import Reply, World, rows, tokens

TASKS = {"gsm": "gsm", "math_l5": "math-l5", "crux": "crux"}


def worlds(data: Path) -> Iterator[World]:
    """A world for each task, of the models that were graded as their authors graded them."""
    folder = data / "zeroeval"
    for task, title in TASKS.items():
        good = {
            row["model"] for row in rows(folder / "models.csv.gz") if row["task"] == title and row["grader_ok"] == "1"
        }
        questions = {
            row["qid"]: (row["question"], str(row["gold"])) for row in rows(folder / f"{task}_questions.jsonl.gz")
        }
        replies, left_out = [], set()
        for row in rows(folder / f"{task}_outcomes.csv.gz"):
            if row["model"] not in good:
                left_out.add(row["model"])
                continue
            text, gold = questions[row["qid"]]
            right = row["correct"] == "1"
            answer = gold if right else _plain(row["answer"], gold)
            cost = tokens(len(text)), tokens(float(row["out_chars"]))
            replies.append(Reply(row["qid"], row["model"], 0, answer, float(right), *cost))
        sizes = {model: {"parameters": parameters(model)} for model in sorted({reply.model for reply in replies})}
        stated = {model: value for model, value in inline(data, "zeroeval", f"{task}:").items() if model in sizes}
        notes = (f"left out, graded otherwise or incomplete: {', '.join(sorted(left_out))}",) if left_out else ()
        yield World(f"zeroeval-{task}", questions, replies, sizes, stated=stated, notes=notes)


def _plain(answer: str, gold: str) -> str | None:
    plain = " ".join(answer.strip().strip("'\"$").replace(",", "").split())
    return f"not {plain}" if plain == gold else plain or None
