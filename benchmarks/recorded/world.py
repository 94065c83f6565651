"""A recorded world in memory: questions, replies and models; its accuracies, and how it is written as a folder."""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

CHARACTERS_PER_TOKEN = 4


class Reply(NamedTuple):
    """One reply; ``mark`` is 0 or 1; the answer is kept unless ``marks_only`` of its world."""

    question: str
    model: str
    sample: int
    answer: str | None
    mark: float
    prompt_tokens: int
    output_tokens: int
    confidence: float | None = None
    seconds: float = 0.0
    usd: float = 0.0


@dataclass(frozen=True)
class World:
    """What one table holds.

    Parameters
    ----------
    name
        As on the command line, 'llm_cascades-mmlu'.
    questions
        Text and gold answer by id; a gold answer nobody knows is ''.
    sizes
        Settings by model, as in ``models.json``.
    marks_only
        Whether answers are not known, so that nothing can be voted on.
    stated
        Accuracy by model in percent, as the table's own statistics state it.
    notes
        What was left out, and why.
    """

    name: str
    questions: Mapping[str, tuple[str, str]]
    replies: Sequence[Reply]
    sizes: Mapping[str, Mapping[str, Any]]
    marks_only: bool = False
    stated: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def accuracy(self) -> dict[str, float]:
        """Mean mark of a single reply by model, in percent, each question counting the same."""
        marks: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for reply in self.replies:
            marks[reply.model][reply.question].append(reply.mark)
        return {
            model: 100 * sum(sum(row) / len(row) for row in by.values()) / len(by)
            for model, by in sorted(marks.items())
        }

    def complete(self, share: float = 0.95) -> World:
        """The models with replies to at least that share of questions, and the questions that all of these answered."""
        asked: dict[str, set[str]] = defaultdict(set)
        for reply in self.replies:
            asked[reply.model].add(reply.question)
        models = [model for model in self.sizes if len(asked[model]) >= share * len(self.questions)]
        kept = set(self.questions).intersection(*(asked[model] for model in models))
        notes = [f"left out {model}: {len(asked[model])} of {len(self.questions)} questions recorded"
                 for model in self.sizes if model not in models]  # fmt: skip
        if len(kept) < len(self.questions):
            notes.append(f"left out {len(self.questions) - len(kept)} questions that not every model was asked")
        return replace(
            self,
            questions={key: value for key, value in self.questions.items() if key in kept},
            replies=[reply for reply in self.replies if reply.question in kept and reply.model in models],
            sizes={model: self.sizes[model] for model in models},
            notes=(*self.notes, *notes),
        )

    def write(self, folder: Path) -> Path:
        """Write the three files of a recorded folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "models.json").write_text(json.dumps(self.sizes, indent=1))
        with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
            for key, (text, gold) in self.questions.items():
                file.write(json.dumps({"id": key, "question": text, "gold": gold}, ensure_ascii=False) + "\n")
        with gzip.open(folder / "replies.jsonl.gz", "wt", encoding="utf-8", compresslevel=1) as file:
            for reply in self.replies:
                entry = reply._asdict()
                del entry["answer" if self.marks_only else "mark"]
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        return folder


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a gzipped table, JSON lines or csv by its name."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from (map(json.loads, file) if ".jsonl" in path.name else csv.DictReader(file))


def tokens(characters: float) -> int:
    """About as many tokens as that many characters, at least 1."""
    return max(1, round(characters / CHARACTERS_PER_TOKEN))


def counted(question: str, model: str, right: int, of: int, cost: tuple[int, int]) -> list[Reply]:
    """Replies of which only the count of right ones is known."""
    return [Reply(question, model, i, None, float(i < right), *cost) for i in range(of)]
