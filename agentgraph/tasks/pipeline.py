"""The pipeline task: recall a number by its name, then multiply it by five factors modulo 1000.

A question is ``06*02*04*02*08*abc``: factors as in the calc task, a name as in the recall task. The first stage is asked
``abc``; the second ``06*02*04*02*08*853``, where 853 is what the first answered. So a wrong number spoils everything after
it, and what is spent on recalling is not there for multiplying. Names and factors come in two kinds each, all four
combinations in turn: no family of embedded models is strong on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np

from agentgraph.tasks import calc, recall
from agentgraph.tasks.base import Question, Task, cut

__all__ = ["Pipeline", "parse"]

N_QUESTIONS = 2000


def parse(question: str) -> tuple[str, str]:
    """Factors with their stars, and name, of a question text.

    Raises
    ------
    ValueError
        If the text is not a pipeline question.
    """
    factors, star, name = question.rpartition("*")
    if not star or name not in recall.facts():
        raise ValueError(
            f"not a pipeline question: {question!r}; expected '06*03*04*02*02*abc' with a name that is known"
        )
    return factors + star, name


def answer(question: str) -> str:
    """Gold answer, three digits."""
    factors, name = parse(question)
    return calc.answer(factors + recall.answer(name))


class Pipeline(Task):
    """Products of recalled numbers; the product was never trained on, the number is a fact."""

    name = "pipeline"
    stages = (recall.RecallStage(), calc.CalcStage())

    def pool(self, split: str) -> Sequence[Question]:
        return cut(_questions(), split)

    def asked(self, stage: int, question: Question, handed: str) -> str:
        factors, name = parse(question.text)
        return factors + handed if stage else name

    def mark_stage(self, stage: int, answer: str, question: Question) -> float | None:
        return None if stage else float(answer == recall.answer(parse(question.text)[1]))

    def mark(self, answer: str, question: Question) -> float:
        return float(answer == question.gold)


@cache
def _questions() -> tuple[Question, ...]:
    """Each name once: first half and second half of the names, odd and even factors, held out of training, in turn."""
    rng = np.random.default_rng(0)
    names = [recall.sample_questions(rng, recall.N_NAMES)[half::2] for half in range(len(recall.KINDS))]
    texts: dict[tuple[int, str], list[str]] = {}
    per_kind = N_QUESTIONS // (len(recall.KINDS) * len(calc.KINDS))
    for half, kind in product(range(len(recall.KINDS)), calc.KINDS):
        found = texts[half, kind] = []
        while len(found) < per_kind:
            name = names[half].pop()
            factors = rng.choice(np.array(calc.FACTORS[kind]), size=(64, calc.N_FACTORS))
            fresh = calc.held_out(factors, np.full(64, int(recall.answer(name))))
            if fresh.any():
                row = factors[int(fresh.argmax())].tolist()
                found.append("".join(f"{factor:02d}*" for factor in row) + name)
    rows = [text for four in zip(*texts.values(), strict=True) for text in four]
    return tuple(Question(f"pipeline-{i}", text, answer(text)) for i, text in enumerate(rows))
