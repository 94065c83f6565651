"""The comparison table at the end: the found plan first, the rivals below it, each with its intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TextIO

__all__ = ["Row", "table", "table_text"]

HEADERS: Final = (("plan", ""), ("accuracy", "[95 %]"), ("price", "units"), ("charge", "units"))
"""Two lines above each column that is always there; a unit is one solve by the cheapest model."""
ROOMY: Final = 76
"""Characters of a terminal from which numbers need not be broken over two lines."""


@dataclass(frozen=True)
class Row:
    """One plan in the table.

    Parameters
    ----------
    name
        What it is called; the found plan or a baseline.
    accuracy, low, high
        Mean mark with its 95 % interval, in [0, 1].
    price_units, charge_units
        Forecast and measured cost of one question.
    difference
        This plan's accuracy less the found plan's on the same questions, with low and high; ``None`` if not compared.
    note
        What else should be known: outcomes that were no answers, over budget, ….
    found
        Whether this is the found plan.
    amounts
        Measured cost of one question in other resources, by their name; the columns are those of the first row.
    utility
        What the objective makes of it; ``None`` where that is the accuracy.
    """

    name: str
    accuracy: float
    low: float
    high: float
    price_units: float
    charge_units: float
    difference: tuple[float, float, float] | None = None
    note: str = ""
    found: bool = False
    amounts: Mapping[str, float] = field(default_factory=dict)
    utility: float | None = None


def table(rows: Sequence[Row], stream: TextIO, *, title: str = "") -> None:
    """Write the table: with lines and colours on a terminal, as `table_text` elsewhere."""
    if not stream.isatty():
        stream.write(table_text(rows, title=title))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    ordered, console = _ordered(rows), Console(file=stream)
    roomy = console.width >= ROOMY
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(title) if title else None, title_justify="left")
    for column, header in enumerate(_headers(ordered)):
        drawn.add_column(
            "\n".join(header), justify="right" if column else "left", no_wrap=roomy and column > 0, overflow="fold"
        )
    for row, cells in zip(ordered, _cells(ordered), strict=True):
        drawn.add_row(*map(Text, cells), style="bold green" if row.found else "")
    console.print(drawn)
    for note in _notes(ordered):
        console.print(Text(note, style="dim"))


def table_text(rows: Sequence[Row], *, title: str = "") -> str:
    """The table in aligned plain text; the found plan is marked with ``*``, notes stand below."""
    ordered = _ordered(rows)
    lines = [*zip(*_headers(ordered), strict=True), *_cells(ordered)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(2, tuple("-" * width for width in widths))
    text = [title] if title else []
    for first, *others in lines:
        padded = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        text.append("  ".join((first.ljust(widths[0]), *padded)).rstrip())
    return "\n".join([*text, *_notes(ordered)]) + "\n"


def _ordered(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: not row.found)


def _headers(rows: Sequence[Row]) -> list[tuple[str, str]]:
    more = [("charge", resource) for resource in rows[0].amounts] if rows else []
    if any(row.utility is not None for row in rows):
        more.append(("utility", ""))
    if any(row.difference for row in rows):
        more.append(("difference", "to found [95 %]"))
    return [*HEADERS, *more]


def _cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    noted = [row for row in rows if row.note]
    weighed = any(row.utility is not None for row in rows)
    compared = any(row.difference for row in rows)
    return [
        (
            f"{'*' if row.found else ' '} {row.name}{f' ({noted.index(row) + 1})' if row.note else ''}",
            f"{row.accuracy:.3f} [{row.low:.3f}, {row.high:.3f}]",
            f"{row.price_units:.2f}",
            f"{row.charge_units:.2f}",
            *(f"{row.amounts[resource]:.3g}" for resource in rows[0].amounts),
            *(["" if row.utility is None else f"{row.utility:.3f}"] if weighed else []),
            *(["{:+.3f} [{:+.3f}, {:+.3f}]".format(*row.difference) if row.difference else ""] if compared else []),
        )
        for row in rows
    ]


def _notes(rows: Sequence[Row]) -> list[str]:
    noted = [row for row in rows if row.note]
    return [f"({number}) {' '.join(row.note.split())}" for number, row in enumerate(noted, start=1)]
