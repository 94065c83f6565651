"""What calls cost, in FLOPs, calls, tokens, dollars, seconds and AgentTTS units, and the budget that a price may not exceed.

Source of the FLOPs: cost model of Agent-REINFORCE (arXiv 2511.00086; formulas as in its follow-up's published code).
With M parameters, L layers, hidden size D, a prompt of Np tokens and Nd generated tokens::

    prefill = 2·M·Np + 2·L·D·Np·(Np + 1)
    decode  = 2·M·Nd + 2·L·D·Nd·(2·Np + Nd + 1)

Departures: nodes that cannot reach the sink do not exist here, so they are never charged; the unit is computed
from the formula on the task's own lengths, never a fixed constant.

Source of the AgentTTS units: arXiv 2508.00890, equations 4 and 12, in a form that is easier to check. A unit is one sample of
a 3B model with 128 prompt and 64 generated tokens; S samples of one model on one prompt, which is encoded once, cost::

    B(S) = [(M / 3e9)·(Np + S·Nd) - 128] / 64

Departure: there S samples are all there is to a stage; here calls that read other calls' answers pay their own prompt, and
the reference prompt is subtracted once for each stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from math import inf, isfinite
from typing import Final

from agentgraph.errors import BudgetError

__all__ = [
    "NOT_FOR_SALE",
    "RESOURCES",
    "TTS_REFERENCE",
    "Budget",
    "Cost",
    "Rates",
    "Size",
    "Tokens",
    "flops",
    "is_number",
    "total",
    "tts_cost",
    "tts_samples",
    "tts_units",
]

RESOURCES: Final = ("flops", "calls", "tokens", "usd", "seconds", "tts_units")
"""What a budget may limit. Seconds are a longest path; of the others a plan takes the sum over its calls."""
NOT_FOR_SALE: Final = 1e30
"""Prompt tokens of a call that cannot be had: its price exceeds every budget, whatever is limited."""
TTS_REFERENCE: Final = 2.0
"""AgentTTS units that each stage is given: the encoding of the reference prompt, 128 / 64."""
_TTS_PARAMETERS: Final = 3e9
_TTS_OUTPUT: Final = 64
_SHOWN: Final = {"flops": "units", "calls": "calls", "tokens": "tokens", "usd": "USD", "seconds": "s"}


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
    tts_units
        AgentTTS units (module docstring). Of a call: with its own prompt, without the reference prompt. Of a plan: each
        prompt of a solve once for each model and stage, less the reference prompt; so it may fall below 0.
    """

    flops: float = 0.0
    calls: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    usd: float = 0.0
    seconds: float = 0.0
    tts_units: float = 0.0

    @property
    def tokens(self) -> float:
        """Prompt and output tokens."""
        return self.prompt_tokens + self.output_tokens

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(mine + theirs for mine, theirs in zip(self._values(), other._values(), strict=True)))

    def over(self, count: int) -> Cost:
        """Mean cost when this is the sum over ``count`` questions."""
        return Cost(*(value / count for value in self._values()))

    def times(self, count: int) -> Cost:
        """Cost of ``count`` questions when this is the mean of one."""
        return Cost(*(value * count for value in self._values()))

    def _values(self) -> tuple[float, ...]:
        return self.flops, self.calls, self.prompt_tokens, self.output_tokens, self.usd, self.seconds, self.tts_units

    @classmethod
    def of_call(cls, size: Size, tokens: Tokens, usd: float = 0.0, seconds: float = 0.0) -> Cost:
        """Cost of one call of a model of that size."""
        if tokens.prompt >= NOT_FOR_SALE:
            return cls(*[NOT_FOR_SALE] * len(cls.__dataclass_fields__))
        return cls(
            flops(size, tokens), 1.0, tokens.prompt, tokens.output, usd, seconds, tts_units(size.parameters, tokens)
        )


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


def tts_units(parameters: float, tokens: Tokens) -> float:
    """AgentTTS units of one call with its own prompt, without the reference prompt."""
    return parameters / _TTS_PARAMETERS * (tokens.prompt + tokens.output) / _TTS_OUTPUT


def tts_cost(parameters: float, tokens: Tokens, samples: float) -> float:
    """B(S): AgentTTS units of ``samples`` samples of one model on one prompt."""
    return tts_units(parameters, Tokens(tokens.prompt, samples * tokens.output)) - TTS_REFERENCE


def tts_samples(parameters: float, tokens: Tokens, units: float) -> float:
    """S(B): samples of one model on one prompt that AgentTTS units buy, not rounded; the inverse of `tts_cost`."""
    return ((units + TTS_REFERENCE) * _TTS_OUTPUT * _TTS_PARAMETERS / parameters - tokens.prompt) / tokens.output


def total(costs: Iterable[Cost]) -> Cost:
    """Sum of costs; no costs cost nothing."""
    result = Cost()
    for cost in costs:
        result = result + cost
    return result


@dataclass(frozen=True)
class Budget:
    """What the price of one question may not exceed: any of the resources, each in a unit of its own.

    Parameters
    ----------
    flops
        Limit in FLOPs, > 0; infinite, as all others by default, if they are not limited.
    unit
        FLOPs of the unit that FLOPs are shown in: one solve by the cheapest model of the pool on the task, > 0.
    calls, tokens
        Calls of models, and prompt and output tokens together.
    usd, seconds
        Dollars, and seconds of the longest path.
    tts_units
        AgentTTS units (module docstring).

    Raises
    ------
    BudgetError
        If a limit is not positive.
    """

    flops: float = inf
    unit: float = 1.0
    _: KW_ONLY
    calls: float = inf
    tokens: float = inf
    usd: float = inf
    seconds: float = inf
    tts_units: float = inf

    def __post_init__(self) -> None:
        for name in RESOURCES:
            keys = "budget.units or budget.flops" if name == "flops" else f"budget.{name}"
            if not getattr(self, name) > 0:
                raise BudgetError(f"the budget must be positive, got {getattr(self, name)}; give {keys}")
        if not self.unit > 0:
            raise BudgetError(f"the unit must be positive, got {self.unit}")

    @property
    def units(self) -> float:
        """The limit of FLOPs in units."""
        return self.flops / self.unit

    @property
    def limits(self) -> dict[str, float]:
        """What is limited, by resource, in the order of `RESOURCES`."""
        return {name: getattr(self, name) for name in RESOURCES if isfinite(getattr(self, name))}

    def allows(self, cost: Cost) -> bool:
        """Whether a price or charge is within every limit, up to rounding of floats."""
        return all(getattr(cost, name) <= limit * (1 + 1e-9) for name, limit in self.limits.items())

    def text(self, cost: Cost | None = None) -> str:
        """What is limited, for people: ``8 units, 0.02 USD``; of a cost ``7.2 of 8 units, 0.01 of 0.02 USD``."""
        parts = []
        for name, limit in self.limits.items():
            spent = "" if cost is None else f"{self.shown(name, getattr(cost, name))} of "
            parts.append(f"{spent}{self.amount(name, limit)}")
        return ", ".join(parts) or "no limit"

    def note(self, charge: Cost) -> str:
        """What a note adds to a table in units: the charge in all that is limited, if that is not FLOPs alone."""
        return "" if self.limits.keys() <= {"flops"} else f"; charge {self.text(charge)}"

    def amount(self, name: str, amount: float) -> str:
        """An amount of a resource with its unit: ``7.2 units``, ``0.01 USD``."""
        return f"{self.shown(name, amount)} {_SHOWN.get(name, 'TTS units')}"

    def shown(self, name: str, amount: float) -> str:
        """An amount of a resource as a short number; FLOPs in units."""
        amount = amount / self.unit if name == "flops" else amount
        return f"{amount:,.0f}" if 1000 <= abs(amount) < 1e9 else f"{amount:.3g}"
