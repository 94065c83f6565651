"""Twenty-nine models on MMLU-Pro, the letter each chose.

Source: MMLU-Pro's published results (Apache-2.0). Upstream guesses at random where it found no letter; here there is no
answer, so numbers are up to 2 points lower. Prompts are taken to have 250 tokens beside five worked examples of 1,000.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .sizes import parameters
from .statistics import inline
from .world import Reply, World, rows, tokens

PROMPT_TOKENS = 1250


def worlds(data: Path) -> Iterator[World]:
    """One world; questions are named by their category and number."""
    folder = data / "mmlu_pro"
    lengths = {row["question_id"]: row for row in rows(folder / "out_chars.csv.gz")}
    questions, replies, models = {}, [], []
    for row in rows(folder / "predictions.csv.gz"):
        key = row["question_id"]
        # The same text under two numbers shares its hash, and so its split.
        questions[key] = (f"{row['category']} {row['qid']}", row["gold"])
        models = models or list(row)[5:]
        for model in models:
            letter = row[model]
            if letter:  # empty: was not run
                answer = None if letter == "-" else letter
                cost = PROMPT_TOKENS, tokens(float(lengths[key][model] or 0))
                replies.append(Reply(key, model, 0, answer, float(letter == row["gold"]), *cost))
    sizes = {model: {"parameters": parameters(model)} for model in models}
    yield World("mmlu_pro", questions, replies, sizes, stated=inline(data, "mmlu_pro", "6025 questions"))
