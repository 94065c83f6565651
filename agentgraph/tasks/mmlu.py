"""MMLU: four options in 57 subjects (Hendrycks et al. 2021, arXiv 2009.03300).

The questions are under the MIT licence, but the copy at hand came without one: none ship with the package.
"""

from __future__ import annotations

from agentgraph.errors import TaskError
from agentgraph.questions import Hub, Row
from agentgraph.tasks.base import Question
from agentgraph.tasks.benchmark import ChoiceBenchmark, field, first_field


class Mmlu(ChoiceBenchmark):
    """Reads JSON lines with ``choices``, and the folder of .csv files of the original."""

    name = "mmlu"
    hub = Hub("cais/mmlu", "test", "all")
    columns = ("question", "A", "B", "C", "D", "answer")
    last = "D"

    def question(self, place: str, row: Row) -> Question:
        choices = row.get("choices") or [row[name] for name in "ABCD" if name in row]
        if not isinstance(choices, list) or len(choices) != 4:
            raise TaskError(f"{place}: choices={choices!r} must be a list of four options")
        return self.chosen(place, field(place, row, "question"), choices, first_field(place, row, "answer"))
