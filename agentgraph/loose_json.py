"""Reads JSON as language models write it: wrapped in prose, with Python's quotes and literals, or cut off at the end.

What is valid JSON is read as such. Beyond it are accepted: single quotes, quotes inside strings, line breaks in strings,
``True``, ``None``, ``+0.5``, ``.5``, missing and superfluous commas. ``40%`` becomes the text '40%'. Of an object that ends
early its complete entries are kept, and the complete entries of lists directly in it; nothing is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["Flaw", "Found", "objects"]

Flaw = Literal["", "cut off", "broken"]
_DEEPEST: Final = 32  # containers in containers
_LITERALS: Final = {
    "true": True,
    "false": False,
    "null": None,
    "True": True,
    "False": False,
    "None": None,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
}
_WORD: Final = re.compile(r"-?[A-Za-z]+")
_NUMBER: Final = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?%?")
_BLANK: Final = re.compile(r"[\s,]*")
_AFTER_STRING: Final = re.compile(r"\s*(?:[,:}\]]|$)")
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "'": "'", "\\": "\\", "/": "/"}
_STRICT: Final = json.JSONDecoder(strict=False)


@dataclass(frozen=True)
class Found:
    """An object in a text; its ``flaw`` says whether it ended early ('cut off') or could not be read on ('broken')."""

    value: dict[str, Any]
    flaw: Flaw = ""


def objects(text: str) -> Iterator[Found]:
    """The outermost JSON objects of a text, in order; an object of which nothing could be read is left out if broken."""
    at = text.find("{")
    while at >= 0:
        try:
            value, end = _STRICT.raw_decode(text, at)
            yield Found(value)
        except (ValueError, RecursionError):
            reader = _Reader(text, at)
            value = reader.object(0)
            end = max(reader.at, at + 1)
            if value or reader.flaw != "broken":
                yield Found(value, reader.flaw)
        at = text.find("{", end)


class _Stop(Exception):
    """Reading cannot go on."""


class _Reader:
    """One pass over a text from an opening brace."""

    def __init__(self, text: str, at: int) -> None:
        self.text, self.at = text, at
        self.flaw: Flaw = ""

    def object(self, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        self.at += 1
        try:
            while self._next() != "}":
                key = self._string() if self.text[self.at] in "\"'" else self._stop("broken")
                if self._next() != ":":
                    self._stop("broken")
                self.at += 1
                result[key] = self._value(depth + 1)
                if self.flaw:
                    break
            else:
                self.at += 1
        except _Stop:
            if depth:
                raise
        return result

    def _list(self, depth: int) -> list[Any]:
        result: list[Any] = []
        self.at += 1
        try:
            while self._next() != "]":
                result.append(self._value(depth + 1))
            self.at += 1
        except _Stop:
            if depth > 1:
                raise
        return result

    def _value(self, depth: int) -> Any:  # noqa: ANN401  any JSON
        first = self._next()
        if depth > _DEEPEST:
            self._stop("broken")
        if first == "{":
            return self.object(depth)
        if first == "[":
            return self._list(depth)
        if first in "\"'":
            return self._string(whole=depth > 1)
        return self._literal()

    def _literal(self) -> Any:  # noqa: ANN401  any JSON
        number, word = _NUMBER.match(self.text, self.at), _WORD.match(self.text, self.at)
        match = number or word
        if match is None:
            return self._stop("broken")
        if match.end() == len(self.text):
            self._stop("cut off")  # it may have gone on
        said = match.group()
        if word and said not in _LITERALS:
            self._stop("broken")
        self.at = match.end()
        if number is None:
            return _LITERALS[said]
        if said.endswith("%"):
            return said
        value = float(said)
        return int(value) if value.is_integer() and abs(value) < 2**53 else value

    def _string(self, *, whole: bool = True) -> str:
        """The string that starts here; if it need not be ``whole``, what there is of one that is cut."""
        quote = self.text[self.at]
        parts: list[str] = []
        at = self.at + 1
        while at < len(self.text):
            char = self.text[at]
            if char == quote and _AFTER_STRING.match(self.text, at + 1):
                self.at = at + 1
                return "".join(parts)
            if char == "\\" and at + 1 < len(self.text):
                said, at = self._escaped(at + 1)
                parts.append(said)
            else:
                parts.append(char)
                at += 1
        self.at = len(self.text)
        if whole:
            self._stop("cut off")
        self.flaw = "cut off"
        return "".join(parts)

    def _escaped(self, at: int) -> tuple[str, int]:
        """What the escape whose letter stands at ``at`` says, and where the text goes on."""
        letter, digits = self.text[at], self.text[at + 1 : at + 5]
        if letter == "u" and re.fullmatch(r"[0-9a-fA-F]{4}", digits):
            return chr(int(digits, 16)), at + 5
        return _ESCAPES.get(letter, f"\\{letter}"), at + 1

    def _next(self) -> str:
        """The next character that is neither blank nor a comma."""
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at] if self.at < len(self.text) else self._stop("cut off")

    def _stop(self, flaw: Flaw) -> Any:  # noqa: ANN401  never returns
        self.flaw = flaw
        raise _Stop
