"""GSM8K: grade-school word problems; the answer is a number (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

from agentgraph.answers import number, shortest
from agentgraph.errors import TaskError
from agentgraph.questions import Hub, Row
from agentgraph.tasks.base import Question
from agentgraph.tasks.benchmark import Benchmark, as_question, field


class Gsm8k(Benchmark):
    """Right if the number is the gold one."""

    name = "gsm8k"
    hub = Hub("openai/gsm8k", "test", "main")
    instructions = (
        "Solve the problem step by step. End with a line 'The answer is X', X being a number without its unit."
    )

    def question(self, place: str, row: Row) -> Question:
        solution = field(place, row, "answer")
        gold = shortest(solution.rsplit("####", 1)[-1].strip())
        if gold is None:
            raise TaskError(f"{place}: answer ends in {solution[-40:]!r}, not in '#### number'")
        return as_question(field(place, row, "question"), gold)

    def extract(self, text: str) -> str | None:
        return number(text)

    def judge(self, answer: str, question: Question) -> float:
        return float(shortest(answer) == shortest(question.gold))
