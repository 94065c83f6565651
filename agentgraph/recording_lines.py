"""Reads the files of a recorded folder line by line; what is broken is an error that names the line and the value."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from agentgraph.errors import TaskError

__all__ = ["RecordedQuestion", "RecordedReply", "questions_of", "read_file", "read_models", "replies_of"]


class RecordedQuestion(NamedTuple):
    """A question; ``gold`` may be '' where nobody knows the answer."""

    id: str
    text: str
    gold: str


class RecordedReply(NamedTuple):
    """One reply; ``mark`` is ``None`` where the answer itself was kept, ``answer`` is ``None`` if there was none."""

    answer: str | None
    mark: float | None
    confidence: float | None
    prompt_tokens: int
    output_tokens: int
    seconds: float
    usd: float


def read_file(folder: Path, name: str) -> tuple[Path, bytes]:
    """Path and content of a file or of its gzipped form.

    Raises
    ------
    TaskError
        If it is not there or cannot be read.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            try:
                content = path.read_bytes()
                return path, gzip.decompress(content) if path.suffix == ".gz" else content
            except (OSError, EOFError) as error:
                raise TaskError(f"cannot read {path}: {error}; write the file again") from error
    raise TaskError(f"the recorded folder {folder} has no {name} (nor {name}.gz); add it or choose another path")


def read_models(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Settings by model name."""
    path, content = read_file(path.parent, path.name)
    try:
        models = json.loads(content)
    except ValueError as error:
        raise TaskError(f"{path} is not JSON ({error}); write {{name: {{parameters: …}}, …}}") from error
    if not isinstance(models, dict) or not models or not all(isinstance(entry, dict) for entry in models.values()):
        raise TaskError(f"{path} must map names of models to their settings, got {str(models)[:80]}")
    return models


def questions_of(path: Path, content: bytes) -> tuple[RecordedQuestion, ...]:
    """The questions, at least one, ids all different."""
    found: dict[str, RecordedQuestion] = {}
    for place, entry in _lines(path, content):
        fields = [entry.get(name) for name in ("id", "question", "gold")]
        if not all(isinstance(field, str) for field in fields) or not fields[0]:
            _bad(place, entry, "needs id, question and gold, all text ('' for a gold answer that nobody knows)")
        question = RecordedQuestion(*map(str, fields))
        if question.id in found:
            raise TaskError(f"{place}: the id {question.id!r} stands twice; give each question its own")
        found[question.id] = question
    if not found:
        raise TaskError(f"{path} has no questions; write one JSON object per line")
    return tuple(found.values())


def replies_of(path: Path, content: bytes) -> Iterator[tuple[str, str, str, int, RecordedReply]]:
    """Place in the file, model, question id, sample number and reply of each line."""
    for place, entry in _lines(path, content):
        model, question, sample = entry.get("model"), entry.get("question"), entry.get("sample", 0)
        if not isinstance(model, str) or not isinstance(question, str) or type(sample) is not int or sample < 0:
            _bad(place, entry, "needs model and question (text) and sample (0, 1, …)")
        if ("answer" in entry) == ("mark" in entry):
            _bad(place, entry, "needs either answer or mark")
        answer = entry.get("answer")
        if answer is not None and not isinstance(answer, str):
            _bad(place, entry, f"has answer={answer!r}; write text, or null if the reply had none")
        reply = RecordedReply(
            answer or None,
            _number(place, entry, "mark", None if "answer" in entry else math.nan, most=1.0),
            _number(place, entry, "confidence", None, most=1.0),
            _count(place, entry, "prompt_tokens"),
            _count(place, entry, "output_tokens"),
            _number(place, entry, "seconds", 0.0) or 0.0,
            _number(place, entry, "usd", 0.0) or 0.0,
        )
        yield place, model, question, sample, reply


def _lines(path: Path, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise TaskError(f"{place} is not JSON ({error}): {line[:80]!r}; mend or drop the line") from error
        if not isinstance(entry, dict):
            raise TaskError(f"{place} is not a JSON object: {line[:80]!r}; write {{…}} on each line")
        yield place, entry


def _number(
    place: str, entry: Mapping[str, Any], field: str, default: float | None, *, most: float = math.inf
) -> float | None:
    value = entry.get(field, default)
    if value is None and default is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= most or math.isinf(value):
        _bad(
            place, entry, f"has {field}={value!r}; write a number from 0" + (f" to {most:g}" if most < math.inf else "")
        )
    return float(value)


def _count(place: str, entry: Mapping[str, Any], field: str) -> int:
    value = entry.get(field)
    if type(value) is not int or value < 0:
        _bad(place, entry, f"has {field}={value!r}; write a whole number, 0 or more")
    return value


def _bad(place: str, entry: Mapping[str, Any], problem: str) -> NoReturn:
    raise TaskError(f"{place} {problem}; the line is {json.dumps(entry, ensure_ascii=False)[:120]}")
