"""Up to 40 replies of three models, four prompts and several temperatures to each question of BIG-bench *date*.

Source: LLM_MoT_cascade (Yue et al. 2024, arXiv 2310.03094). Each model with its prompt and temperature is a model of the pool.
Tokens are characters over four; prices as its authors had them (1,000 tokens in and out: gpt-3.5 $0.0015 and $0.002, gpt-4
$0.03 and $0.06), for llama2-13b $0.0002.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .sizes import parameters
from .statistics import indented
from .world import Reply, World, rows, tokens

USD = {"gpt-3.5-turbo": (1.5e-6, 2e-6), "gpt-4": (3e-5, 6e-5), "llama2-13b": (2e-7, 2e-7)}
"""Dollars of a prompt and of an output token."""


def worlds(data: Path) -> Iterator[World]:
    """The world *date*."""
    folder = data / "mot_cascade"
    prompts = {
        row["prompt_variable"]: float(row["prompt_chars"])
        for row in rows(folder / "prompt_chars.csv.gz")
        if row["task_file"] == "date"
    }
    questions, replies, models = {}, [], {}
    for row in rows(folder / "date.jsonl.gz"):
        questions[row["qid"]] = (row["question"], row["gold"])
        for arm, samples in row["samples"].items():
            models[arm] = {"parameters": parameters(arm.split("|")[0])}
            replies += _replies(row, arm, samples, prompts)
    yield World("mot_cascade-date", questions, replies, models, stated=indented(data, "mot_cascade", "date.jsonl.gz"))


def _replies(row: dict, arm: str, samples: dict, prompts: dict[str, float]) -> Iterator[Reply]:
    """Replies of one arm to one question; where a program failed there is no answer."""
    model, prompt = arm.split("|")[:2]
    characters = next((n for name, n in prompts.items() if prompt in name.lower()), 0.0) + len(row["question"])
    answers, lengths = samples["answers"], samples["out_chars"]
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    for i in range(samples["n_gen"]):
        there = i < len(answers)
        right = bool(there and samples["correct"][i])
        output = tokens(lengths[i] if len(answers) == samples["n_gen"] else mean)
        usd = USD[model][0] * tokens(characters) + USD[model][1] * output
        answer = (row["gold"] if right else answers[i]) if there else None
        yield Reply(row["qid"], arm, i, answer, float(right), tokens(characters), output, usd=usd)
