"""A named member of the model pool: pure data; it names its backend and imports none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from agentgraph.budget import Cost, Rates, Size, Tokens
from agentgraph.errors import ConfigError, SpaceError
from agentgraph.prompt import FORMS

__all__ = ["Model", "Pool"]


@dataclass(frozen=True)
class Model:
    """One language model that a plan may use.

    Parameters
    ----------
    name
        What plans, tables and errors call it.
    parameters, layers, hidden_size
        Its size; what prices are computed from.
    backend
        Name of the backend that serves it.
    served_as
        Its name at the backend; ``None`` if it is the same.
    prompt_form
        'chat' or 'embedded'.
    temperatures
        Best temperature of a single call by task name, from a model card; ``None`` key ('default') for all others.
    fingerprint
        What tells these weights from others of the same name; empty takes backend and served name.
    usd, seconds
        What a call costs and how long it takes, where a reply does not say so itself.
    """

    name: str
    parameters: float
    layers: int = 0
    hidden_size: int = 0
    backend: str = "default"
    served_as: str | None = None
    prompt_form: str = "chat"
    temperatures: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    usd: Rates = field(default_factory=Rates)
    seconds: Rates = field(default_factory=Rates)

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a model needs a name; add 'name:' to its entry")
        if self.prompt_form not in FORMS:
            raise ConfigError(
                f"model {self.name!r}: prompt_form={self.prompt_form!r} is unknown; use one of {', '.join(FORMS)}"
            )
        for field_name in ("parameters", "layers", "hidden_size"):
            if not isinstance(getattr(self, field_name), (int, float)):
                raise ConfigError(f"model {self.name!r}: {field_name}={getattr(self, field_name)!r} is not a number")
        self.size  # noqa: B018  a bad size is an error here, at the door
        for field_name in ("usd", "seconds"):
            rates = getattr(self, field_name)
            if not isinstance(rates, Rates):  # as a yaml has them
                object.__setattr__(self, field_name, self._rates(field_name, rates))

    def _rates(self, field_name: str, rates: object) -> Rates:
        known = sorted(Rates.__dataclass_fields__)
        if not isinstance(rates, Mapping) or not set(rates) <= set(known):
            raise ConfigError(
                f"model {self.name!r}: {field_name}={rates!r} must be a mapping with some of {', '.join(known)}"
            )
        return Rates(**rates)

    @cached_property
    def size(self) -> Size:
        """Parameters, layers and hidden size."""
        return Size(self.parameters, self.layers, self.hidden_size)

    def cost(self, tokens: Tokens) -> Cost:
        """Forecast cost of one call."""
        return Cost.of_call(self.size, tokens, self.usd.of(tokens), self.seconds.of(tokens))

    @property
    def served_name(self) -> str:
        """Its name at the backend."""
        return self.served_as or self.name

    @property
    def identity(self) -> str:
        """What enters request keys: the fingerprint, or backend and served name."""
        return self.fingerprint or f"{self.backend}/{self.served_name}"

    def best_temperature(self, task: str) -> float:
        """Best temperature of a single call on a task, in [0, 5]; 0.7 where no card says otherwise."""
        return self.temperatures.get(task, self.temperatures.get("default", 0.7))

    def data(self) -> dict[str, Any]:
        """What a plan stores of a model: name, size, prompt form, rates if it has any; never where it runs."""
        full = asdict(self)
        kept = {key: full[key] for key in ("name", "parameters", "layers", "hidden_size", "prompt_form")}
        return kept | {key: full[key] if getattr(self, key) != Rates() else None for key in ("usd", "seconds")}


class Pool(Sequence[Model]):
    """The models that may be used, in a fixed order, found by name."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = tuple(models)
        self._by_name = {model.name: model for model in self._models}
        if not self._models:
            raise ConfigError("the model pool is empty; name at least one model (models=…)")
        if len(self._by_name) != len(self._models):
            names = [model.name for model in self._models]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ConfigError(f"models named twice in the pool: {', '.join(twice)}; give each its own name")

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401  int -> Model, slice -> tuple, as Sequence has it
        return self._models[index]

    def __len__(self) -> int:
        return len(self._models)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in pool order."""
        return tuple(self._by_name)

    def named(self, name: str) -> Model:
        """The model of that name.

        Raises
        ------
        SpaceError
            If the pool has none.
        """
        if name not in self._by_name:
            raise SpaceError(
                f"the pool has no model {name!r}; it has {', '.join(self.names)}; "
                f"map it with replace.{name}=<name in the pool> or add it to the pool's yaml"
            )
        return self._by_name[name]
