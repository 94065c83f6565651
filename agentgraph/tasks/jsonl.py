"""The user's own questions: one JSON object per line, with a question and a gold answer."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agentgraph.answers import after_thinking, letter
from agentgraph.errors import TaskError
from agentgraph.questions import Row, json_lines, read_text, with_options
from agentgraph.request import stable_hash
from agentgraph.tasks.base import Lengths, Question, Stage, Task
from agentgraph.user_function import named

_SHARES: Final = {"train": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}
_FEWEST: Final = 8  # questions in the smallest split
_CHARACTERS_PER_TOKEN: Final = 4.0  # a rule of thumb; measured lengths replace it before the first round
_NUMBER: Final = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_FORMATS: Final = {
    "exact": "End with a line 'Answer: <your answer>'.",
    "numeric": "End with a line 'Answer: <number>'.",
    "regex": "",
    "choice": "End with a line 'The answer is (X)', X being the option's letter.",
    "function": "",
}
_Finder = Callable[[str], str | None]


class JsonlStage(Stage):
    """Asks the question as it stands.

    Parameters
    ----------
    instructions
        What the models are told; the required format of the answer is added.
    match
        As of `Jsonl`.
    find
        Finds the answer in a reply whose reasoning is gone.
    """

    name = "answer"

    def __init__(self, *, instructions: str, match: str, find: _Finder, max_tokens: int, lengths: Lengths) -> None:
        self.instructions = f"{instructions} {_FORMATS[match]}".strip()
        self.max_tokens, self.lengths = max_tokens, lengths
        self._find = find

    def extract(self, text: str) -> str | None:
        return self._find(after_thinking(text))


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
        How answers are compared: 'exact' (ignoring case and outer spaces), 'numeric', 'regex' (what ``pattern`` finds, compared
        like 'exact'), 'choice' (options named A, B, …; gold is the letter, the place from 0, or the text of one) or 'function'.
    pattern
        For 'regex', and if wished 'function': finds the answer in a reply (its first group, if it has one).
    choices
        For 'choice': name of the field that holds the list of options.
    function
        For 'function': 'package.module:name' or 'file.py:name' of a function that gives a mark in [0, 1] for (answer, gold),
        both texts. It is called in a thread, one call at a time. No plan file ever names it.
    skip_bad
        Leave out lines without a question or gold answer and say how many, instead of refusing the file.
    max_tokens
        Limit of generated tokens of one call.
    output_tokens
        Expected generated tokens of one call, until measured.
    sizes
        How many questions of each split to use; ``None`` takes all.

    Attributes
    ----------
    skipped
        How many lines were left out.

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
        choices: str = "choices",
        function: str | None = None,
        skip_bad: bool = False,
        max_tokens: int = 1024,
        output_tokens: float = 200.0,
        sizes: Mapping[str, int | None] | None = None,
    ) -> None:
        super().__init__(sizes)
        _check(match, pattern, function)
        if type(max_tokens) is not int or max_tokens < 1:
            raise TaskError(f"task.max_tokens={max_tokens!r} must be a whole number of at least 1")
        if not output_tokens > 0:
            raise TaskError(f"task.output_tokens={output_tokens!r} must be positive")
        self._match, self._function = match, named(function) if function else None
        self._function_name, self._turn = function, threading.Lock()
        self.slow_marks = function is not None
        find = _finder(match, pattern)
        reader = _Reader(question, gold, choices if match == "choice" else None, numeric=match == "numeric")
        questions, self.skipped = reader.read(Path(path).expanduser(), skip_bad=skip_bad)
        if self.skipped:
            logging.getLogger(__name__).warning(
                "%s: %d lines without question or gold answer were left out", path, self.skipped
            )
        by_split: dict[str, list[Question]] = {split: [] for split in _SHARES}
        for entry in questions:
            by_split[_split(entry.text)].append(entry)
        self._by_split = by_split
        smallest = min(by_split, key=lambda split: len(by_split[split]))
        if len(by_split[smallest]) < _FEWEST:
            raise TaskError(
                f"{path} has {len(questions)} distinct questions, {len(by_split[smallest])} of them for {smallest}; "
                f"each split needs {_FEWEST}, so give at least {6 * _FEWEST} questions"
            )
        characters = sum(len(entry.text) for entry in questions) / len(questions) + len(instructions)
        lengths = Lengths(
            prompt=characters / _CHARACTERS_PER_TOKEN,
            output={"solve": min(output_tokens, max_tokens)},
            edge=8.0,
            word={"refine": 60.0, "fuse": 60.0},
        )
        self.stages = (
            JsonlStage(instructions=instructions, match=match, find=find, max_tokens=max_tokens, lengths=lengths),
        )

    def pool(self, split: str) -> Sequence[Question]:
        return self._by_split[split]

    def mark(self, answer: str, question: Question) -> float:
        if self._function is not None:
            return self._by_function(self._function, answer, question)
        if self._match == "numeric":
            given, gold = _number(answer), _number(question.gold)
            if given is None or gold is None:
                return 0.0
            whole = given.is_integer() and gold.is_integer()
            return float(given == gold if whole else abs(given - gold) <= 1e-6 * max(1.0, abs(gold)))
        return float(_plain(answer) == _plain(question.gold))

    def _by_function(self, function: Callable[[str, str], object], answer: str, question: Question) -> float:
        told = f"task.function={self._function_name} for answer {answer[:60]!r}, gold {question.gold[:60]!r}"
        with self._turn:
            try:
                mark = function(answer, question.gold)
            except Exception as error:
                raise TaskError(
                    f"{told} raised {type(error).__name__}: {error}; it must give a mark for any answer"
                ) from error
        if not isinstance(mark, int | float) or not 0.0 <= mark <= 1.0:
            raise TaskError(f"{told} gave {mark!r}; it must give a number from 0 to 1")
        return float(mark)


def _check(match: str, pattern: str | None, function: str | None) -> None:
    if match not in _FORMATS:
        raise TaskError(f"task.match={match!r} is unknown; use one of {', '.join(_FORMATS)}")
    if match != "function" and (match == "regex") != (pattern is not None):
        raise TaskError(
            f"task.match={match!r} with task.pattern={pattern!r}: a pattern goes with match=regex (or function), and only there"
        )
    if (match == "function") != (function is not None):
        raise TaskError(
            f"task.match={match!r} with task.function={function!r}: a function goes with match=function, and only there"
        )


class _Reader:
    """Makes questions of lines."""

    def __init__(self, question: str, gold: str, choices: str | None, *, numeric: bool) -> None:
        self.fields = {"question": question, "gold": gold, **({} if choices is None else {"choices": choices})}
        self.numeric = numeric

    def read(self, path: Path, *, skip_bad: bool) -> tuple[list[Question], int]:
        """The distinct questions of a file, and how many lines were left out."""
        found: dict[str, Question] = {}
        skipped = 0
        for place, row in json_lines(path, read_text(path)):
            try:
                entry = self._question(place, row)
            except TaskError:
                if not skip_bad:
                    raise
                skipped += 1
                continue
            found.setdefault(entry.text, entry)
        return list(found.values()), skipped

    def _question(self, place: str, row: Row) -> Question:
        values: dict[str, Any] = {}
        for key, field in self.fields.items():
            values[key] = row.get(field)
            if values[key] in (None, ""):
                raise TaskError(
                    f"{place} has no {field!r} (fields: {', '.join(map(str, row)) or 'none'}); "
                    f"add it or name the field with task.{key}=… (task.skip_bad=true leaves such lines out)"
                )
        text, gold = str(values["question"]), str(values["gold"])
        if self.numeric and _number(gold) is None:
            raise TaskError(
                f"{place}: gold answer {gold[:80]!r} holds no number; use match=exact, or task.skip_bad=true"
            )
        if "choices" in values:
            if not isinstance(values["choices"], list):
                raise TaskError(
                    f"{place}: {self.fields['choices']!r} must be a list of options, got {values['choices']!r}"
                )
            text, gold = with_options(place, text, values["choices"], values["gold"], "Z")
        return Question(f"{stable_hash(text):016x}", text, gold)


def _split(text: str) -> str:
    place = stable_hash("split", text) / 2**64
    return next(split for split, (low, high) in _SHARES.items() if low <= place < high)


def _finder(match: str, pattern: str | None) -> _Finder:
    if pattern is None:
        whole: Mapping[str, _Finder] = {"numeric": _last_number, "choice": lambda text: letter(text, "Z")}
        return whole.get(match, _after_answer if match == "exact" else lambda text: text or None)
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
