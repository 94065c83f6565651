"""Results as lines of JSON, one for each search: what is there is not run again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .one_run import Point

Shared = tuple[str, str, str, str]


class Run(NamedTuple):
    """One search as it was written down.

    Parameters
    ----------
    world
        Its name, with ``@100`` where the search had so many train questions.
    method, settings
        Name and settings of the method.
    seed, evaluations
        What it was run with: it ends when so many evaluations were used.
    world_facts, outcome
        Note and best values of the world; what `one_run` gave, or ``{"error": …}``.
    """

    world: str
    method: str
    settings: Mapping[str, Any]
    seed: int
    evaluations: int
    world_facts: Mapping[str, Any]
    outcome: Mapping[str, Any]

    @property
    def group(self) -> Shared:
        """World and method with all their facts and settings: what seeds have in common."""
        facts, settings = (json.dumps(part, sort_keys=True) for part in (self.world_facts, self.settings))
        return self.world, self.method, facts, settings

    @property
    def key(self) -> tuple[Shared, int]:
        """What makes a run the same as another, whatever it was run to."""
        return self.group, self.seed

    @property
    def points(self) -> list[Point]:
        """After each round; none if it could not run."""
        return [Point(*point) for point in self.outcome.get("points", ())]


def read(path: Path) -> list[Run]:
    """The longest run of each key, in the order of the file; a line that was cut is left out."""
    runs: dict[tuple[Shared, int], Run] = {}
    if path.exists():
        for run in _lines(path.read_text(encoding="utf-8")):
            if run.key not in runs or run.evaluations >= runs[run.key].evaluations:
                runs[run.key] = run
    return list(runs.values())


def _lines(text: str) -> Iterator[Run]:
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield Run(**json.loads(line))


def append(path: Path, run: Run) -> None:
    """Add a line, in one write, so that several processes may share the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(run._asdict(), separators=(",", ":")).encode() + b"\n")


def latest(runs: Sequence[Run]) -> list[Run]:
    """The runs of each world and method whose facts and settings are those that were written last."""
    last = {(run.world, run.method): run.group for run in runs}
    return [run for run in runs if last[run.world, run.method] == run.group]
