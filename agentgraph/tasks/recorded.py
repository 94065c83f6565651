"""Questions of a recorded folder (`agentgraph.recording`), asked by their ids and marked as they were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentgraph.budget import NOT_FOR_SALE, Tokens
from agentgraph.errors import TaskError
from agentgraph.recording import Recording
from agentgraph.request import stable_hash
from agentgraph.tasks.base import SPLITS, Lengths, Question, Stage, Task

_SHARES: Final = {"train": 0.5, "validation": 0.25, "test": 0.25}
_FEWEST: Final = 8  # questions in the smallest split
_NO_VOTES: Final = (
    "a vote compares answers, but this recorded folder has marks only; leave out votes: role=[assistant,keep]"
)


@dataclass(frozen=True)
class RecordedLengths(Lengths):
    """Mean recorded tokens of a solve by model; calls with parents were not recorded and cannot be bought."""

    solves: Mapping[str, Tokens] = field(default_factory=dict)

    def tokens(self, word: str, candidates: int, model: str) -> Tokens:
        if word != "solve" or candidates:
            return Tokens(NOT_FOR_SALE, self.output["solve"])
        return self.solves.get(model, Tokens(self.prompt, self.output["solve"]))


class Mark(str):
    """Stands for an answer of which only the mark was recorded: comparing it with another is an error."""

    __slots__ = ()

    def __hash__(self) -> int:
        raise TaskError(_NO_VOTES)

    def __eq__(self, other: object) -> bool:
        raise TaskError(_NO_VOTES)


class RecordedStage(Stage):
    """Asks for the recorded reply."""

    name = "answer"

    def __init__(self, recording: Recording) -> None:
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
    sizes
        How many questions of each split to use; ``None`` takes all.

    Raises
    ------
    TaskError
        If the folder cannot be read, or has too few questions.
    """

    name = "recorded"

    def __init__(self, path: str, *, seed: int = 0, sizes: Mapping[str, int | None] | None = None) -> None:
        super().__init__(sizes)
        recording = Recording.read(path)
        self._by_split: dict[str, list[Question]] = {split: [] for split in SPLITS}
        for found in sorted(recording.questions, key=lambda question: stable_hash(seed, question.id)):
            place = stable_hash("split", seed, found.text) / 2**64  # the same text never stands in two splits
            self._by_split[_split(place)].append(Question(*found))
        smallest = min(SPLITS, key=lambda split: len(self._by_split[split]))
        if len(self._by_split[smallest]) < _FEWEST:
            raise TaskError(
                f"{recording.folder} has {len(recording.questions)} questions, {len(self._by_split[smallest])} of them for "
                f"{smallest}; each split needs {_FEWEST}, so record at least {6 * _FEWEST}"
            )
        self.stages = (RecordedStage(recording),)

    def pool(self, split: str) -> Sequence[Question]:
        return self._by_split[split]

    def asked(self, stage: int, question: Question, handed: str) -> str:
        del stage, handed
        return question.id

    def mark(self, answer: str, question: Question) -> float:
        if isinstance(answer, Mark):
            return float(str(answer).split(" ", 1)[0])
        return float(answer == question.gold != "")


def _split(place: float) -> str:
    for split, share in _SHARES.items():
        if place < share:
            return split
        place -= share
    return SPLITS[-1]
