"""MATH-500: competition problems whose answer is an expression (arXiv 2103.03874, and 2305.20050 for the 500)."""

from __future__ import annotations

from collections.abc import Mapping

from agentgraph.answers import latex, plain_latex
from agentgraph.equal import Equality
from agentgraph.questions import SAMPLE, Hub, Row
from agentgraph.tasks.base import Question
from agentgraph.tasks.benchmark import Benchmark, as_question, field


class Math500(Benchmark):
    """Right if the expression equals the gold one: as text in a plain form, else by math-verify (extra ``math``)."""

    name = "math500"
    hub = Hub("HuggingFaceH4/MATH-500", "test")
    instructions = (
        "Solve the problem step by step. End with a line 'The answer is $\\boxed{X}$', X being the answer in LaTeX."
    )
    edge = 15.0
    slow_marks = True

    def __init__(
        self,
        path: str = SAMPLE,
        *,
        revision: str | None = None,
        seed: int = 0,
        max_tokens: int = 2048,
        output_tokens: float = 500.0,
        sizes: Mapping[str, int | None] | None = None,
    ) -> None:
        self._equal = Equality()
        super().__init__(
            path, revision=revision, seed=seed, max_tokens=max_tokens, output_tokens=output_tokens, sizes=sizes
        )

    def question(self, place: str, row: Row) -> Question:
        return as_question(field(place, row, "problem", "question"), field(place, row, "answer"))

    def extract(self, text: str) -> str | None:
        return latex(text)

    def judge(self, answer: str, question: Question) -> float:
        if plain_latex(answer) == plain_latex(question.gold):
            return 1.0
        return float(self._equal(question.gold, answer))
