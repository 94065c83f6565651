"""A function of the user's: found by the name that a command gives it, and the stages that it is searched over."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from agentgraph.errors import TaskError

__all__ = ["SCORE", "Choices", "Spent", "declared", "heard", "named", "told"]

SCORE: Final = "score"
"""Name of the model that stands for the function; no option has it."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
_KEYS: Final = ("options", "most", "step")
_EXAMPLE: Final = "{train: {options: {adam: 1}, most: 20}, tune: {options: {adam: 1, sgd: 0.5}, most: 20}}"


@dataclass(frozen=True)
class Spent:
    """What a stage is given: one option, how often, and what that costs (count times the option's cost)."""

    option: str
    count: int
    budget: float

    def __str__(self) -> str:
        return f"{self.option}×{self.count}"


@dataclass(frozen=True)
class Choices:
    """What a stage may be given.

    Parameters
    ----------
    options
        Cost of one count of each, > 0, by name.
    most
        Largest count, >= 1; counts are multiples of ``step``.
    """

    name: str
    options: Mapping[str, float]
    most: int
    step: int = 1

    def __post_init__(self) -> None:
        where = f"task.stages.{self.name}"
        if not _NAME.fullmatch(self.name):
            raise TaskError(f"the stage name {self.name!r} may have letters, digits, '_', '-' and '.' only; rename it")
        options: Any = self.options  # as settings have them
        if not isinstance(options, Mapping) or not options:
            raise TaskError(f"{where}.options={options!r} must give one or more options their cost: {{adam: 1}}")
        for option, cost in options.items():
            if not isinstance(option, str) or not _NAME.fullmatch(option) or option == SCORE:
                raise TaskError(
                    f"{where}: the option {option!r} may have letters, digits, '_', '-' and '.' only, and not be {SCORE!r}; "
                    "rename it"
                )
            if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 < cost < float("inf"):
                raise TaskError(f"{where}.options.{option}={cost!r} must be a positive number, the cost of one count")
        for key in ("most", "step"):
            value = getattr(self, key)
            if type(value) is not int or value < 1:
                raise TaskError(f"{where}.{key}={value!r} must be a whole number of at least 1")
        if self.step > self.most:
            raise TaskError(f"{where}.step={self.step} is more than most={self.most}; no count is left, lower step")

    @property
    def steps(self) -> int:
        """How many counts there are: step, 2 step, … up to most."""
        return self.most // self.step

    def cost(self, option: str) -> float:
        """Of one step of an option."""
        return self.step * self.options[option]

    def spent(self, steps: Mapping[str, int]) -> Spent:
        """What so many steps of each option come to: all that they cost is spent on the option that took most of it.

        It is rounded down to whole steps, and to ``most``.

        Raises
        ------
        TaskError
            If the stage does not have an option.
        """
        strange = [option for option in steps if option not in self.options]
        if strange:
            raise TaskError(f"stage {self.name!r} has no option {strange[0]!r}; it has {', '.join(self.options)}")
        costs = {option: number * self.cost(option) for option, number in steps.items()}
        option = max(self.options, key=lambda name: costs.get(name, 0.0))
        count = self.step * min(self.steps, int(sum(costs.values()) / self.cost(option) + 1e-9))
        return Spent(option, count, float(count * self.options[option]))


def declared(stages: object) -> tuple[Choices, ...]:
    """The stages as settings give them: by name, each with ``options``, ``most`` and perhaps ``step``.

    Raises
    ------
    TaskError
        If they are not that, or a step of one option costs different amounts in two stages.
    """
    if not isinstance(stages, Mapping) or not stages:
        raise TaskError(f"task.stages={stages!r} must give each stage its options: {_EXAMPLE}")
    found: list[Choices] = []
    costs: dict[str, tuple[float, str]] = {}
    for name, given in stages.items():
        if not isinstance(given, Mapping) or not {"options", "most"} <= set(given) <= set(_KEYS):
            raise TaskError(f"task.stages.{name}={given!r} must have options and most, and may have step: {_EXAMPLE}")
        found.append(Choices(str(name), **given))
        for option in found[-1].options:
            cost = found[-1].cost(option)
            known, first = costs.setdefault(option, (cost, str(name)))
            if known != cost:
                raise TaskError(
                    f"a step of the option {option!r} costs {known:g} in stage {first!r} and {cost:g} in {name!r}; "
                    "give it two names"
                )
    return tuple(found)


def told(seed: str, spent: Mapping[str, Spent], stages: Sequence[Choices]) -> str:
    """A seed and the steps that stages were given, as one line: ``seed 3 | train adam×6 | tune sgd×2``; `heard` reads it."""
    return " | ".join([seed, *(f"{s.name} {spent[s.name].option}×{spent[s.name].count // s.step}" for s in stages)])


def heard(text: str, stages: Sequence[Choices]) -> tuple[str, dict[str, Spent]]:
    """Seed and stages of such a line, or of one for each option of the last stage, joined by ' + ', as a tally lists them."""
    lines = [line.split(" | ") for line in text.split(" + ")]
    steps: list[dict[str, int]] = [{} for _ in lines[0][1:]]
    for line in lines:
        for s, part in enumerate(line[1:]):
            option, _, number = part.removeprefix(f"{stages[s].name} ").partition("×")
            if s == len(steps) - 1 or line is lines[0]:  # the earlier stages are the same in all
                steps[s][option] = steps[s].get(option, 0) + int(number or 1)
    return lines[0][0], {stage.name: stage.spent(found) for stage, found in zip(stages, steps, strict=False)}


def named(name: str) -> Callable[..., Any]:
    """The function that 'package.module:name' or 'file.py:name' names.

    Raises
    ------
    TaskError
        If there is none.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute.isidentifier():
        raise TaskError(f"task.function={name!r} must be 'package.module:name' or 'file.py:name'")
    try:
        module = _from_file(Path(place).expanduser()) if place.endswith(".py") else importlib.import_module(place)
    except (ImportError, OSError, SyntaxError) as error:
        raise TaskError(
            f"task.function={name!r} cannot be imported: {error}; name an installed module, or a file as 'file.py:name'"
        ) from error
    function: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(function):
        raise TaskError(f"task.function={name!r}: {place} has no function {attribute!r}")
    return function


def _from_file(path: Path) -> ModuleType:
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickle look there
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))  # noqa: S102  named by the user
    return module
