"""Questions of a recorded folder (`agentgraph.recording`), asked by their ids and marked as they were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentgraph.budget import NOT_FOR_SALE, Tokens
from agentgraph.errors import TaskError
from agentgraph.recording import Mark, RecordedQuestion, Recording, after
from agentgraph.request import stable_hash
from agentgraph.tasks.base import SPLITS, Lengths, Question, Stage, Task

_SHARES: Final = {"train": 0.5, "validation": 0.25, "test": 0.25}
_FEWEST: Final = 8  # questions in the smallest split


@dataclass(frozen=True)
class RecordedLengths(Lengths):
    """Mean recorded tokens of a solve by model; calls with parents were not recorded and cannot be bought."""

    solves: Mapping[str, Tokens] = field(default_factory=dict)

    def tokens(self, word: str, candidates: int, model: str) -> Tokens:
        if word != "solve" or candidates:
            return Tokens(NOT_FOR_SALE, self.output["solve"])
        return self.solves.get(model, Tokens(self.prompt, self.output["solve"]))


class RecordedStage(Stage):
    """Asks for the recorded reply."""

    def __init__(self, recording: Recording, name: str = "answer") -> None:
        self.name = name
        solves = recording.tokens
        outputs = [tokens.output for tokens in solves.values()]
        self.max_tokens = max(1, *(reply.output_tokens for reply in recording.all_replies()))
        self.lengths = RecordedLengths(
            prompt=max(1.0, sum(tokens.prompt for tokens in solves.values()) / len(solves)),
            output={"solve": max(1.0, sum(outputs) / len(outputs))},
            edge=0.0,
            exact=True,
            solves=solves,
        )
        self._answers = recording.has_answers

    def extract(self, text: str) -> str | None:
        if not text:
            return None
        return text if self._answers else Mark(text)


class Recorded(Task):
    """Recorded questions in splits 50/25/25 by a hash of seed and question.

    Parameters
    ----------
    path
        The recorded folder.
    seed
        Another seed, another order of the questions and other splits.
    stages
        Of a composed recording its stages, in order: each question is asked of all of them, and its mark is the product of
        theirs. ``None`` is a recording of one stage.
    sizes
        How many questions of each split to use; ``None`` takes all.

    Raises
    ------
    TaskError
        If the folder cannot be read, has too few questions, or not the marks of these stages.
    """

    name = "recorded"

    def __init__(
        self,
        path: str,
        *,
        seed: int = 0,
        stages: Sequence[str] | None = None,
        sizes: Mapping[str, int | None] | None = None,
    ) -> None:
        super().__init__(sizes)
        recording = Recording.read(path)
        self.composed = bool(stages)
        if self.composed:
            self.name = "composed"
        questions = recording.questions if stages is None else _joined(recording, stages)
        self._by_split: dict[str, list[Question]] = {split: [] for split in SPLITS}
        for found in sorted(questions, key=lambda question: stable_hash(seed, question.id)):
            place = stable_hash("split", seed, found.text) / 2**64  # the same text never stands in two splits
            self._by_split[_split(place)].append(Question(*found))
        smallest = min(SPLITS, key=lambda split: len(self._by_split[split]))
        if len(self._by_split[smallest]) < _FEWEST:
            raise TaskError(
                f"{recording.folder} has {len(questions)} questions, {len(self._by_split[smallest])} of them for "
                f"{smallest}; each split needs {_FEWEST}, so record at least {6 * _FEWEST}"
            )
        self.stages = tuple(RecordedStage(recording, name) for name in stages or ("answer",))

    def pool(self, split: str) -> Sequence[Question]:
        return self._by_split[split]

    def asked(self, stage: int, question: Question, handed: str) -> str:
        if not self.composed:
            return question.id
        name = f"{self.stages[stage].name}/{question.id}"
        return after(name, handed.value) if isinstance(handed, Mark) else name

    def mark_stage(self, stage: int, answer: str, question: Question) -> float | None:
        """Mark of all stages so far."""
        del stage
        return self.mark(answer, question)

    def mark(self, answer: str, question: Question) -> float:
        if isinstance(answer, Mark):
            return answer.value
        return float(answer == question.gold != "")


def _joined(recording: Recording, stages: Sequence[str]) -> list[RecordedQuestion]:
    """The questions that all stages have, without the stage in their ids; the text is the first stage's."""
    if recording.has_answers:
        raise TaskError(
            f"{recording.folder} has answers; a product of stages={list(stages)} needs marks: record mark, not answer"
        )
    by_stage = [
        {q.id.removeprefix(f"{stage}/"): q for q in recording.questions if q.id.startswith(f"{stage}/")}
        for stage in stages
    ]
    for stage, there in zip(stages, by_stage, strict=True):
        if not there:
            known = (
                ", ".join(dict.fromkeys(q.id.partition("/")[0] for q in recording.questions if "/" in q.id)) or "none"
            )
            raise TaskError(f"{recording.folder} has no stage {stage!r}; it has {known}; name these in task.stages")
    return [
        RecordedQuestion(key, question.text, "")
        for key, question in by_stage[0].items()
        if all(key in there for there in by_stage)
    ]


def _split(place: float) -> str:
    for split, share in _SHARES.items():
        if place < share:
            return split
        place -= share
    return SPLITS[-1]
