"""Contract of an objective: what is maximised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

from agentgraph.budget import Cost, is_number
from agentgraph.errors import ConfigError
from agentgraph.trial import Trial

__all__ = ["RESOURCES", "Amounts", "Objective", "amount", "numbers"]

RESOURCES: Final = ("units", "calls", "tokens", "usd", "seconds")
"""What an objective may weigh or limit: FLOPs in units, calls, tokens read and written, dollars, seconds of latency."""


class Objective(ABC):
    """Turns accuracy and cost of a plan into one number; larger is better.

    A member says what one point of accuracy is worth by adding accuracy as it is (slope 1), so that the standard error of an
    accuracy is one of the utility too, as far as accuracy goes.
    """

    @abstractmethod
    def value(self, accuracy: float, cost: Cost) -> float:
        """Utility of a plan with that accuracy, in [0, 1], and that mean cost of a question; finite."""

    def met(self, cost: Cost) -> bool:
        """Whether a plan of that mean cost may be the best."""
        del cost
        return True

    @property
    def resources(self) -> tuple[str, ...]:
        """Which of `RESOURCES` it looks at; tables show them."""
        return ()

    def with_unit(self, flops: float) -> Objective:
        """The same objective for a space in which a unit is that many FLOPs."""
        del flops
        return self

    def utility(self, trial: Trial) -> float:
        """Utility of a trial, by its charge once it has marks and by its price before; comparable within one search."""
        return self.value(trial.accuracy, trial.charge if trial.marks else trial.price)

    def rank(self, accuracy: float, charge: Cost, price: Cost) -> tuple[float, ...]:
        """Larger is better: limits met before utility, and of equal utility the cheaper price."""
        return self.met(charge), self.value(accuracy, charge), -price.flops, -price.usd, -price.seconds

    def __str__(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Amounts:
    """Settings of an objective that names one number for each resource; ``None`` leaves a resource out.

    Parameters
    ----------
    units, calls, tokens, usd, seconds
        For a question's mean cost: FLOPs in units (one is a solve by the cheapest model), calls, tokens read and written,
        dollars, seconds of latency.
    unit
        FLOPs of one unit; the run sets it.

    Raises
    ------
    ConfigError
        If one is no number, or below 0, or 0 where `zero` is false.
    """

    units: float | None = None
    calls: float | None = None
    tokens: float | None = None
    usd: float | None = None
    seconds: float | None = None
    unit: float = 1.0

    zero: ClassVar[bool] = False
    """Whether a number may be 0."""

    def __post_init__(self) -> None:
        numbers({resource: getattr(self, resource) for resource in RESOURCES}, "objective", zero=self.zero)

    @property
    def given(self) -> Mapping[str, float]:
        """The numbers that are given, by resource."""
        return {resource: value for resource in RESOURCES if (value := getattr(self, resource)) is not None}

    @property
    def resources(self) -> tuple[str, ...]:
        return tuple(self.given)

    def with_unit(self, flops: float) -> Self:
        return replace(self, unit=flops)


def amount(cost: Cost, resource: str, unit: float) -> float:
    """How much of one of `RESOURCES` a cost is; ``unit`` is the FLOPs of one unit."""
    if resource == "units":
        return cost.flops / unit
    if resource == "tokens":
        return cost.prompt_tokens + cost.output_tokens
    return float(getattr(cost, resource))


def numbers(settings: Mapping[str, float | None], group: str, *, zero: bool = False) -> None:
    """Refuse settings that are neither ``None`` nor a number above 0, or 0 where that is allowed.

    Raises
    ------
    ConfigError
        With the name of the group and the key.
    """
    for key, value in settings.items():
        if value is not None and not (is_number(value) and (value > 0 or (zero and value == 0))):  # as a yaml has it
            least = "of at least 0" if zero else "above 0"
            raise ConfigError(f"{group}.{key}={value!r} must be a number {least}, or null to leave it out")
