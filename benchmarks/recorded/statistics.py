"""Accuracy by model as the tables' own ``STATS.md`` states it, to check what a reader read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def section(data: Path, title: str) -> list[str]:
    """Lines below the heading that begins with ``title``; none where there is no such file."""
    path = data / "STATS.md"
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}.*?$(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return found.group(1).strip().splitlines() if found else []


def indented(data: Path, title: str, file: str) -> dict[str, float]:
    """Percent by model of the indented list below one file's line: ``- model: 0.594, …``."""
    stated, inside = {}, False
    for line in section(data, title):
        if line.startswith("- "):
            inside = line.startswith(f"- {file}")
        elif inside and (found := re.match(r"\s+- (.+?): (\d\.\d+)", line)):
            stated[found.group(1)] = 100 * float(found.group(2))
    return stated


def inline(data: Path, title: str, start: str, *, factor: float = 1.0) -> dict[str, float]:
    """Percent by model of one line: ``- gsm: model 97.7, …``."""
    for line in section(data, title):
        if line.removeprefix("- ").startswith(start):
            return {name: factor * float(value) for name, value in _pairs(line.split(": ", 1)[1])}
    return {}


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for part in text.split(", "):
        name, _, value = part.rpartition(" ")
        yield name, value
