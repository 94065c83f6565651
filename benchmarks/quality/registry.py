"""The worlds by name."""

from __future__ import annotations

from pathlib import Path

from agentgraph.tasks.synthetic import LANDSCAPES

from . import planted, replayed
from .worlds import World

PLANTED = tuple(f"synthetic-{landscape}" for landscape in LANDSCAPES)
TABLED = ("embedded-calc", "embedded-recall")
NAMES = (*PLANTED, *TABLED, *replayed.RECIPES)


def open_world(name: str, data: Path | None, cache: Path) -> World:
    """The world of that name; what takes long to find is kept in ``cache``.

    Raises
    ------
    FileNotFoundError
        If its table is not there.
    """
    kind, _, rest = name.partition("-")
    if kind == "synthetic":
        return planted.world(rest)
    if kind == "embedded":
        from . import tabled

        return tabled.world(rest)
    if data is None:
        raise FileNotFoundError("its table is not there; give data=<folder of the tables>")
    return replayed.world(name, data, cache)
