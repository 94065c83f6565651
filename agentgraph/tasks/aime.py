"""AIME: problems of the American Invitational Mathematics Examination; the answer is a whole number from 0 to 999.

The problems belong to the Mathematical Association of America: none ship with the package.
"""

from __future__ import annotations

from agentgraph.answers import number, shortest
from agentgraph.errors import TaskError
from agentgraph.questions import Hub, Row
from agentgraph.tasks.base import Question
from agentgraph.tasks.benchmark import Benchmark, as_question, field


class Aime(Benchmark):
    """Right if the number is the gold one."""

    name = "aime"
    hub = Hub("HuggingFaceH4/aime_2024", "train")
    instructions = (
        "Solve the problem step by step. The answer is a whole number from 0 to 999. End with a line 'The answer is "
        "\\boxed{X}'."
    )

    def question(self, place: str, row: Row) -> Question:
        said = field(place, row, "answer", "extracted_groundtruth")
        gold = shortest(said)
        if gold is None or not gold.isdecimal() or len(gold) > 3:
            raise TaskError(f"{place}: answer {said!r} is not a whole number from 0 to 999")
        return as_question(field(place, row, "problem", "question"), gold)

    def extract(self, text: str) -> str | None:
        return number(text)

    def judge(self, answer: str, question: Question) -> float:
        return float(shortest(answer) == shortest(question.gold))
