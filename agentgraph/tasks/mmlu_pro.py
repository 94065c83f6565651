"""MMLU-Pro: up to ten options in 14 categories, with more reasoning than MMLU (Wang et al. 2024, arXiv 2406.01574)."""

from __future__ import annotations

from agentgraph.errors import TaskError
from agentgraph.questions import Hub, Row
from agentgraph.tasks.base import Question
from agentgraph.tasks.benchmark import ChoiceBenchmark, field


class MmluPro(ChoiceBenchmark):
    """Right if the letter is the gold one; a reply without a letter is wrong, never a guess."""

    name = "mmlu_pro"
    hub = Hub("TIGER-Lab/MMLU-Pro", "test")
    last = "J"

    def question(self, place: str, row: Row) -> Question:
        options = row.get("options")
        if not isinstance(options, list) or len(options) < 2:
            raise TaskError(f"{place}: options={options!r} must be a list of at least two")
        return self.chosen(place, field(place, row, "question"), options, field(place, row, "answer"))
