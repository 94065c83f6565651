"""A folder of recorded replies: what models once answered, so that a search runs on real answers without a model.

The folder holds three files; the second and third may be gzipped, and lines are JSON objects::

    models.json       {"llama-8b": {"parameters": 8.0e9, "layers": 32, "hidden_size": 4096}, …}
    questions.jsonl   {"id": "q1", "question": "6 * 7 = ?", "gold": "42"}
    replies.jsonl     {"question": "q1", "model": "llama-8b", "sample": 0, "answer": "42", "confidence": 0.9,
                       "prompt_tokens": 31, "output_tokens": 5, "seconds": 0.4, "usd": 7.2e-06}

A model takes whatever `agentgraph.model.Model` takes. ``answer`` is what was read from the reply, ``null`` if nothing could be;
answers are compared as text, so an answer that was graded right is written as the gold answer itself. Where only
marks were kept, ``mark`` (in [0, 1]) stands in the place of ``answer``. ``sample`` tells independent replies to the same
question apart. ``confidence`` (in [0, 1]), ``seconds`` and ``usd`` may be left out.

A *composed* recording has marks of several stages of work, which were recorded apart: ids are ``<stage>/<question>``, and the
stages are declared independent given the question. What a later stage is asked names what those before it came to:
``test_output/q1 after 0.0``; the mark of the reply is then the product.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

from agentgraph.budget import Cost, Tokens, total
from agentgraph.errors import TaskError
from agentgraph.recording_lines import RecordedQuestion, RecordedReply, questions_of, read_file, read_models, replies_of

__all__ = ["Mark", "RecordedQuestion", "RecordedReply", "Recording", "after", "parted"]

_AFTER: Final = " after "
_NO_VOTES: Final = (
    "a vote compares answers, but this recorded folder has marks only; leave out votes: role=[assistant,oracle]"
)


class Mark(str):
    """Stands for an answer of which only the mark was recorded: comparing it with another is an error."""

    __slots__ = ()

    @property
    def value(self) -> float:
        """The mark, in [0, 1]."""
        return float(str(self).split(" ", 1)[0])

    def __hash__(self) -> int:
        raise TaskError(_NO_VOTES)

    def __eq__(self, other: object) -> bool:
        raise TaskError(_NO_VOTES)


def after(question: str, mark: float) -> str:
    """What a stage is asked when those before it came to that mark."""
    return f"{question}{_AFTER}{mark!r}"


def parted(asked: str) -> tuple[str, float]:
    """Id of the question that is asked, and what the stages before it came to; 1 if nothing is said of them."""
    question, said, mark = asked.partition(_AFTER)
    return question, float(mark) if said else 1.0


@dataclass(frozen=True)
class Recording:
    """Everything in a recorded folder.

    Parameters
    ----------
    folder
        Where it was read from.
    models
        Settings by model name, as in ``models.json``.
    questions
        In the order of the file.
    replies
        By model, then by question id; in the order of their sample numbers.
    fingerprint
        12 hex digits of the content of the replies.
    """

    folder: Path
    models: Mapping[str, Mapping[str, Any]]
    questions: Sequence[RecordedQuestion]
    replies: Mapping[str, Mapping[str, Sequence[RecordedReply]]]
    fingerprint: str

    @classmethod
    def read(cls, folder: str | Path) -> Recording:
        """The recording in a folder; read once as long as its files do not change.

        Raises
        ------
        TaskError
            If a file is missing, a line is broken, or files do not fit together: the file, the line, what to change.
        """
        path = Path(folder).expanduser().resolve()
        if not path.is_dir():
            raise TaskError(
                f"the recorded folder {path} does not exist; path=<folder> names one with models.json, questions.jsonl "
                "and replies.jsonl"
            )
        return _read(path, tuple(sorted((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in path.iterdir())))

    @cached_property
    def has_answers(self) -> bool:
        """Whether answers were recorded, not marks alone: only then can they be voted on."""
        return all(reply.mark is None for reply in self.all_replies())

    @cached_property
    def has_confidences(self) -> bool:
        """Whether every reply has a confidence."""
        return all(reply.confidence is not None for reply in self.all_replies())

    @cached_property
    def samples(self) -> Mapping[str, int]:
        """How many replies of a model every question has, at least: more than that a plan cannot ask of it."""
        return {
            model: min(len(by_question.get(question.id, ())) for question in self.questions)
            for model, by_question in self.replies.items()
        }

    @cached_property
    def means(self) -> Mapping[str, Cost]:
        """Mean tokens, seconds and dollars of one call by model; no FLOPs."""
        return {
            model: total(
                Cost(0.0, 1.0, reply.prompt_tokens, reply.output_tokens, reply.usd, reply.seconds)
                for row in by_question.values()
                for reply in row
            ).over(sum(map(len, by_question.values())))
            for model, by_question in self.replies.items()
        }

    @property
    def tokens(self) -> Mapping[str, Tokens]:
        """Mean token counts of one call by model."""
        return {model: Tokens(mean.prompt_tokens, mean.output_tokens) for model, mean in self.means.items()}

    def all_replies(self) -> list[RecordedReply]:
        """Every reply of every model."""
        return [reply for by_question in self.replies.values() for row in by_question.values() for reply in row]


@cache
def _read(folder: Path, state: tuple[tuple[str, int, int], ...]) -> Recording:
    del state  # tells changed files from those read before
    models = read_models(folder / "models.json")
    questions = questions_of(*read_file(folder, "questions.jsonl"))
    file, content = read_file(folder, "replies.jsonl")
    rows: dict[str, dict[str, dict[int, RecordedReply]]] = {model: defaultdict(dict) for model in models}
    known = {question.id for question in questions}
    for place, model, question, sample, reply in replies_of(file, content):
        if model not in rows:
            raise TaskError(
                f"{place}: the model {model!r} is not in models.json, which has {', '.join(models)}; add it there"
            )
        if question not in known:
            raise TaskError(f"{place}: no question has the id {question!r}; add it to questions.jsonl or drop the line")
        if sample in rows[model][question]:
            raise TaskError(
                f"{place}: sample {sample} of {model!r} on {question!r} stands twice; number the samples 0, 1, …"
            )
        rows[model][question][sample] = reply
    silent = [model for model, by_question in rows.items() if not by_question]
    if silent:
        raise TaskError(f"{file} has no reply of {', '.join(silent)}; add some, or drop the model from models.json")
    replies = {
        model: {question: tuple(by[sample] for sample in sorted(by)) for question, by in by_question.items()}
        for model, by_question in rows.items()
    }
    return Recording(folder, models, questions, replies, hashlib.blake2b(content, digest_size=6).hexdigest())
