"""What calls cost: FLOPs from token counts, and the budget that a price may not exceed.

Source: cost model of Agent-REINFORCE (arXiv 2511.00086; formulas as in its follow-up's published code).
With M parameters, L layers, hidden size D, a prompt of Np tokens and Nd generated tokens::

    prefill = 2·M·Np + 2·L·D·Np·(Np + 1)
    decode  = 2·M·Nd + 2·L·D·Nd·(2·Np + Nd + 1)

Departures: nodes that cannot reach the sink do not exist here, so they are never charged; the unit is computed
from the formula on the task's own lengths, never a fixed constant.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

from agentgraph.errors import BudgetError

__all__ = ["Budget", "Cost", "Rates", "Size", "Tokens", "flops", "is_number", "total"]


@dataclass(frozen=True)
class Size:
    """Size of a model.

    Parameters
    ----------
    parameters
        Number of weights that take part in each token, > 0.
    layers, hidden_size
        Number of transformer layers and width of the residual stream, >= 0; with either at 0 attention
        is not counted.
    """

    parameters: float
    layers: int = 0
    hidden_size: int = 0

    def __post_init__(self) -> None:
        if not self.parameters > 0 or self.layers < 0 or self.hidden_size < 0:
            raise BudgetError(
                f"a model needs parameters > 0, layers >= 0 and hidden_size >= 0, got parameters={self.parameters}, "
                f"layers={self.layers}, hidden_size={self.hidden_size}; correct them in the model's yaml"
            )


@dataclass(frozen=True)
class Tokens:
    """Token counts of one call; forecasts may be fractional."""

    prompt: float
    output: float


@dataclass(frozen=True)
class Rates:
    """What a call takes, in dollars or in seconds: so much for the call itself, and for each token; all >= 0."""

    call: float = 0.0
    prompt_token: float = 0.0
    output_token: float = 0.0

    def __post_init__(self) -> None:
        given = (self.call, self.prompt_token, self.output_token)
        if not all(is_number(value) and value >= 0 for value in given):
            raise BudgetError(
                f"rates must be numbers of at least 0, got call={self.call!r}, prompt_token={self.prompt_token!r}, "
                f"output_token={self.output_token!r}; correct 'usd:' or 'seconds:' in the model's yaml"
            )

    def of(self, tokens: Tokens) -> float:
        """What a call of that many tokens takes."""
        return self.call + self.prompt_token * tokens.prompt + self.output_token * tokens.output


@dataclass(frozen=True)
class Cost:
    """What one question costs a plan: the price if forecast, the charge if measured.

    Parameters
    ----------
    usd
        Dollars.
    seconds
        Of a call: how long it takes. Of a plan: its longest path, stage after stage. Sums of costs add them, as they do
        for calls one after the other.
    """

    flops: float = 0.0
    calls: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    usd: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(mine + theirs for mine, theirs in zip(self._values(), other._values(), strict=True)))

    def over(self, count: int) -> Cost:
        """Mean cost when this is the sum over ``count`` questions."""
        return Cost(*(value / count for value in self._values()))

    def times(self, count: int) -> Cost:
        """Cost of ``count`` questions when this is the mean of one."""
        return Cost(*(value * count for value in self._values()))

    def _values(self) -> tuple[float, ...]:
        return self.flops, self.calls, self.prompt_tokens, self.output_tokens, self.usd, self.seconds

    @classmethod
    def of_call(cls, size: Size, tokens: Tokens, usd: float = 0.0, seconds: float = 0.0) -> Cost:
        """Cost of one call of a model of that size."""
        return cls(flops(size, tokens), 1.0, tokens.prompt, tokens.output, usd, seconds)


def is_number(value: object) -> bool:
    """Whether a setting, which may come from a file, is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def flops(size: Size, tokens: Tokens) -> float:
    """FLOPs of one call: prefill of the prompt and decoding of the output (module docstring)."""
    m, attention = size.parameters, 2.0 * size.layers * size.hidden_size
    n_p, n_d = tokens.prompt, tokens.output
    prefill = 2.0 * m * n_p + attention * n_p * (n_p + 1)
    decode = 2.0 * m * n_d + attention * n_d * (2 * n_p + n_d + 1)
    return prefill + decode


def total(costs: Iterable[Cost]) -> Cost:
    """Sum of costs; no costs cost nothing."""
    result = Cost()
    for cost in costs:
        result = result + cost
    return result


@dataclass(frozen=True)
class Budget:
    """What the price of one question may not exceed, in FLOPs, with the unit it is shown in.

    Parameters
    ----------
    flops
        The limit, > 0.
    unit
        FLOPs of one unit: one solve by the cheapest model of the pool on the task, > 0.
    """

    flops: float
    unit: float

    def __post_init__(self) -> None:
        if not self.flops > 0:
            raise BudgetError(f"the budget must be positive, got {self.flops}; give budget.units or budget.flops")
        if not self.unit > 0:
            raise BudgetError(f"the unit must be positive, got {self.unit}")

    @property
    def units(self) -> float:
        """The limit in units."""
        return self.flops / self.unit

    def allows(self, flops: float) -> bool:
        """Whether a price or charge is within the budget, up to rounding of floats."""
        return flops <= self.flops * (1 + 1e-9)
