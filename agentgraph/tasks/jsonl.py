"""The user's own questions: one JSON object per line, with a question and a gold answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agentgraph.errors import TaskError
from agentgraph.request import stable_hash
from agentgraph.tasks.base import Lengths, Question, Stage, Task

_SHARES: Final = {"train": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}
_FEWEST: Final = 8  # questions in the smallest split
_CHARACTERS_PER_TOKEN: Final = 4.0  # a rule of thumb; measured lengths replace it before the first round
_NUMBER: Final = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_FORMATS: Final = {
    "exact": "End with a line 'Answer: <your answer>'.",
    "numeric": "End with a line 'Answer: <number>'.",
    "regex": "",
}


class JsonlStage(Stage):
    """Asks the question as it stands.

    Parameters
    ----------
    instructions
        What the models are told; the required format of the answer is added.
    match
        'exact', 'numeric' or 'regex' (``pattern`` finds the answer; its first group, if it has one).
    """

    name = "answer"

    def __init__(
        self, *, instructions: str, match: str, pattern: str | None, max_tokens: int, lengths: Lengths
    ) -> None:
        self.instructions = f"{instructions} {_FORMATS[match]}".strip()
        self.max_tokens, self.lengths = max_tokens, lengths
        self._find = _finder(match, pattern)

    def extract(self, text: str) -> str | None:
        return self._find(text)


class Jsonl(Task):
    """Questions of a JSON-lines file, split 50/25/25 by a hash of the question.

    Parameters
    ----------
    path
        The file.
    question, gold
        Names of the fields that hold question and gold answer.
    instructions
        What the models are told beside the question.
    match
        How answers are compared: 'exact' (ignoring case and outer spaces), 'numeric', or 'regex'.
    pattern
        For ``match='regex'``: finds the answer in a reply.
    max_tokens
        Limit of generated tokens of one call.
    output_tokens
        Expected generated tokens of one call, until measured.
    sizes
        How many questions of each split to use; ``None`` takes all.

    Raises
    ------
    TaskError
        If the file cannot be read, a line has no question or gold, or there are too few questions.
    """

    name = "jsonl"

    def __init__(
        self,
        path: str,
        *,
        question: str = "question",
        gold: str = "gold",
        instructions: str = "Answer the question.",
        match: str = "exact",
        pattern: str | None = None,
        max_tokens: int = 1024,
        output_tokens: float = 200.0,
        sizes: Mapping[str, int | None] | None = None,
    ) -> None:
        super().__init__(sizes)
        if match not in _FORMATS:
            raise TaskError(f"task.match={match!r} is unknown; use one of {', '.join(_FORMATS)}")
        if type(max_tokens) is not int or max_tokens < 1:
            raise TaskError(f"task.max_tokens={max_tokens!r} must be a whole number of at least 1")
        if not output_tokens > 0:
            raise TaskError(f"task.output_tokens={output_tokens!r} must be positive")
        if (match == "regex") != (pattern is not None):
            raise TaskError(
                f"task.match={match!r} with task.pattern={pattern!r}: a pattern goes with match=regex, and only there"
            )
        self._match = match
        self._questions = _read(Path(path).expanduser(), question, gold)
        by_split: dict[str, list[Question]] = {split: [] for split in _SHARES}
        for entry in self._questions:
            by_split[_split(entry.text)].append(entry)
        self._by_split = by_split
        smallest = min(by_split, key=lambda split: len(by_split[split]))
        if len(by_split[smallest]) < _FEWEST:
            raise TaskError(
                f"{path} has {len(self._questions)} distinct questions, {len(by_split[smallest])} of them for {smallest}; "
                f"each split needs {_FEWEST}, so give at least {6 * _FEWEST} questions"
            )
        characters = sum(len(entry.text) for entry in self._questions) / len(self._questions) + len(instructions)
        lengths = Lengths(
            prompt=characters / _CHARACTERS_PER_TOKEN,
            output={"solve": min(output_tokens, max_tokens)},
            edge=8.0,
            word={"refine": 60.0, "fuse": 60.0},
        )
        self.stages = (
            JsonlStage(instructions=instructions, match=match, pattern=pattern, max_tokens=max_tokens, lengths=lengths),
        )

    def pool(self, split: str) -> Sequence[Question]:
        return self._by_split[split]

    def mark(self, answer: str, question: Question) -> float:
        if self._match == "numeric":
            given, gold = _number(answer), _number(question.gold)
            if given is None or gold is None:
                return 0.0
            whole = given.is_integer() and gold.is_integer()
            return float(given == gold if whole else abs(given - gold) <= 1e-6 * max(1.0, abs(gold)))
        return float(_plain(answer) == _plain(question.gold))


def _read(path: Path, question: str, gold: str) -> list[Question]:
    try:
        # Not splitlines(): JSON strings may hold U+2028 and other characters that it takes for the end of a line.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise TaskError(f"task.path={path} does not exist; name a file with one JSON object per line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"cannot read task.path={path}: {error}; it must be a UTF-8 text file") from error
    found: dict[str, Question] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            entry = _entry(path, number, line, (question, gold))
            text = str(entry[question])
            found.setdefault(text, Question(f"{stable_hash(text):016x}", text, str(entry[gold])))
    return list(found.values())


def _entry(path: Path, number: int, line: str, fields: tuple[str, str]) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise TaskError(f"{path}, line {number} is not JSON ({error}): {line[:80]!r}") from error
    if not isinstance(entry, dict):
        raise TaskError(f"{path}, line {number} is not a JSON object: {line[:80]!r}; write {{…}} on each line")
    for key, field in zip(("question", "gold"), fields, strict=True):
        if entry.get(field) in (None, ""):
            raise TaskError(
                f"{path}, line {number} has no {field!r} (fields: {', '.join(map(str, entry)) or 'none'}); "
                f"add it or name the field with task.{key}=…"
            )
    return entry


def _split(text: str) -> str:
    place = stable_hash("split", text) / 2**64
    return next(split for split, (low, high) in _SHARES.items() if low <= place < high)


def _finder(match: str, pattern: str | None) -> Callable[[str], str | None]:
    if match == "numeric":
        return _last_number
    if pattern is None:
        return _after_answer
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise TaskError(f"task.pattern={pattern!r} is not a regular expression: {error}") from error
    return lambda text: next(
        (found.group(1) if compiled.groups else found.group() for found in reversed(list(compiled.finditer(text)))),
        None,
    )


def _after_answer(text: str) -> str | None:
    found = list(re.finditer(r"(?im)^\W*(?:final\s+)?answer\W*[:=]\s*(.+?)\s*$", text))
    lines = [line for line in text.splitlines() if line.strip()]
    answer = found[-1].group(1) if found else (lines[-1] if lines else "")
    return _plain(answer) or None


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "") if found else None


def _number(text: str) -> float | None:
    last = _last_number(text)
    return None if last is None else float(last)


def _plain(text: str) -> str:
    return " ".join(text.strip(" \t\r\n*`$.").split()).casefold()
