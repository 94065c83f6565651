"""The front of a run: the plans that no other beats in accuracy and in every cost, as `front.json` holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from agentgraph.budget import Cost
from agentgraph.errors import AgentGraphError, RunError
from agentgraph.plan_file import PlanFile
from agentgraph.plan_format import Entry
from agentgraph.score import interval
from agentgraph.store import write_atomically
from agentgraph.trial import stderr

__all__ = ["Front", "Measured", "Point", "non_dominated"]


def non_dominated(points: Sequence[tuple[float, Cost]]) -> list[int]:
    """Which points no other beats, in order of FLOPs; of equal points the first.

    Parameters
    ----------
    points
        Accuracy, which should be high, with a cost whose FLOPs, dollars and seconds should be low. Costs that differ in the
        tenth digit are equal: means of equal numbers do.

    Notes
    -----
    In lexicographic order of costs nothing is beaten by what comes after it, so each point is held against the front of
    those before: K points with a front of F take K·F comparisons.
    """
    costs = [[float(f"{value:.9g}") for value in (cost.flops, cost.usd, cost.seconds)] for _, cost in points]
    keys = np.array([[*cost, -accuracy] for cost, (accuracy, _) in zip(costs, points, strict=True)]).reshape(-1, 4)
    kept: list[int] = []
    for index in np.lexsort(
        keys.T[::-1]
    ).tolist():  # the last key sorts first; stable, so equal points keep their order
        if not (keys[kept] <= keys[index]).all(axis=1).any():
            kept.append(index)
    return kept


class Measured(Entry):
    """What was measured of a plan on some questions: mean mark with 95 % interval and standard error, mean charge."""

    accuracy: Annotated[float, Field(ge=0, le=1)]
    low: Annotated[float, Field(ge=0, le=1)]
    high: Annotated[float, Field(ge=0, le=1)]
    stderr: Annotated[float, Field(ge=0)]
    questions: Annotated[int, Field(ge=1)]
    charge: Cost

    @classmethod
    def of(cls, marks: Sequence[float], charge: Cost) -> Measured:
        """Of at least one mark."""
        accuracy, low, high = interval(marks)
        return cls(accuracy=accuracy, low=low, high=high, stderr=stderr(marks), questions=len(marks), charge=charge)


class Point(Entry):
    """A plan on the front.

    Parameters
    ----------
    plan
        Its plan file.
    price
        Forecast cost of a question, in every resource.
    searched
        What the search saw on train questions; ``None`` of a hand-wired plan.
    validated
        What validation saw on questions of its own, with fresh samples; ``None`` if it was not validated.

    Notes
    -----
    Searched accuracies are optimistic: of hundreds of noisy means the front keeps the largest, and with them the luckiest.
    A validated one was not chosen by its own value, so it is believed where there is one.
    """

    plan: PlanFile
    price: Cost
    searched: Measured | None
    validated: Measured | None

    @model_validator(mode="after")
    def _is_measured(self) -> Point:
        if self.searched is None and self.validated is None:
            raise ValueError("a point needs 'searched' or 'validated'")
        return self

    @property
    def believed(self) -> Measured:
        """The validated numbers, or the searched ones where there are no others."""
        best = self.validated or self.searched
        assert best is not None  # noqa: S101  checked when it was made
        return best

    @property
    def _key(self) -> tuple[float, Cost]:
        return self.believed.accuracy, self.believed.charge


class Front(Entry):
    """The points, in order of FLOPs."""

    kind: Literal["front"] = "front"
    format: Literal[1] = 1
    points: Annotated[tuple[Point, ...], Field(min_length=1)]

    @classmethod
    def of(cls, points: Iterable[Point]) -> Front:
        """The front of points, at least one.

        A validated point leaves only for a validated one, since the numbers of the others are optimistic; one known from
        the search alone leaves for either. Of equal points the one with the fewest nodes stays, and a plan stands once.
        """
        once: dict[str, Point] = {}
        for point in sorted(points, key=lambda point: point.validated is None):
            once.setdefault(point.plan.plan().id, point)
        every = sorted(once.values(), key=lambda point: point.plan.plan().nodes)
        validated = _best([point for point in every if point.validated])
        survivors = _best([*validated, *(point for point in every if not point.validated)])
        kept = [*validated, *(point for point in survivors if not point.validated)]
        return cls(points=tuple(sorted(kept, key=lambda point: point.believed.charge.flops)))

    def text(self) -> str:
        """The file's text, a line for each point."""
        lines = [json.dumps(point.model_dump(mode="json"), ensure_ascii=False) for point in self.points]
        head = f'{{"kind": "{self.kind}", "format": {self.format}, "points": [\n'
        return head + ",\n".join(lines) + "\n]}\n"

    def write(self, path: Path) -> None:
        """Write the file as a whole or not at all."""
        write_atomically(path, self.text().encode())

    @classmethod
    def read(cls, path: Path) -> Front:
        """Read and check the file.

        Raises
        ------
        RunError
            If it cannot be read or is no front, in one line.
        """
        advice = "go on with the run to write it again: agentgraph search run=<folder>"
        try:
            front = cls.model_validate_json(path.read_bytes(), strict=True)
            for point in front.points:
                point.plan.check()
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror}; {advice}") from error
        except ValidationError as error:
            raise RunError(f"{path} is not a front: {_first(error.errors(include_url=False))}; {advice}") from error
        except AgentGraphError as error:
            raise RunError(f"{path} is not a front: {error}; {advice}") from error
        return front


def _best(points: Sequence[Point]) -> list[Point]:
    return [points[index] for index in non_dominated([point._key for point in points])]


def _first(faults: Sequence[Any]) -> str:
    where = ".".join(map(str, faults[0]["loc"]))
    return " ".join(f"{where}: {faults[0]['msg']}".removeprefix(": ").split())
