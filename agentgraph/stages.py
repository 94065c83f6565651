"""What is said of single stages of a task: their models, roles, number of nodes and share of the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from agentgraph.budget import is_number
from agentgraph.errors import ConfigError
from agentgraph.model import Pool
from agentgraph.roles.base import Role
from agentgraph.space import StageSpace
from agentgraph.tasks.base import Lengths

__all__ = ["StageChoice", "chosen", "first_shares"]

_KEYS: Final = ("models", "roles", "max_nodes", "share")


@dataclass(frozen=True)
class StageChoice:
    """What one stage has of what the search has; ``None`` is all of it.

    Parameters
    ----------
    models, roles
        Names.
    max_nodes
        Largest number of nodes of its graph.
    share
        What part of the budget it has at first, in (0, 1].
    """

    models: Sequence[str] | None = None
    roles: Sequence[str] | None = None
    max_nodes: int | None = None
    share: float | None = None

    def space(
        self, name: str, roles: Sequence[Role], pool: Pool, nodes: int, lengths: Lengths, samples: Mapping[str, int]
    ) -> StageSpace:
        """The stage's graphs.

        Raises
        ------
        ConfigError
            If a model or role that is named is not there, or none is left.
        """
        wanted = _some(f"stages.{name}.roles", self.roles, [role.name for role in roles])
        kept = tuple(role for role in roles if role.name in wanted)
        return StageSpace(name, kept, self.pool(name, pool), self.max_nodes or nodes, lengths, samples)

    def pool(self, name: str, pool: Pool) -> Pool:
        """The stage's models.

        Raises
        ------
        ConfigError
            If a model that is named is not there, or none is left.
        """
        return Pool([pool.named(model) for model in _some(f"stages.{name}.models", self.models, pool.names)])


def chosen(
    given: Mapping[str, object] | None, names: Sequence[str], defaults: Mapping[str, Mapping[str, object]]
) -> dict[str, StageChoice]:
    """The settings below ``stages``, one for each stage of a task; ``defaults`` are the task's own.

    Raises
    ------
    ConfigError
        For a stage or key that there is not, and for a value that does not fit.
    """
    result = {name: StageChoice(**defaults.get(name, {})) for name in names}  # type: ignore[arg-type]  # the task's own
    for name, settings in (given or {}).items():
        if name not in result:
            raise ConfigError(f"stages.{name}: the task has no such stage; it has {', '.join(names)}")
        if not isinstance(settings, Mapping) or not set(settings) <= set(_KEYS):
            raise ConfigError(f"stages.{name}={settings!r} is not understood; give some of {', '.join(_KEYS)}")
        nodes, share = settings.get("max_nodes"), settings.get("share")
        if nodes is not None and (type(nodes) is not int or nodes < 1):
            raise ConfigError(f"stages.{name}.max_nodes={nodes!r} must be a whole number of at least 1")
        if share is not None and not (is_number(share) and 0 < float(str(share)) <= 1):
            raise ConfigError(f"stages.{name}.share={share!r} must be above 0 and at most 1")
        for key in ("models", "roles"):
            value = settings.get(key)
            if value is not None and not (
                isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
            ):
                raise ConfigError(f"stages.{name}.{key}={value!r} must be a list of names")
        result[name] = replace(result[name], **settings)
    return result


def first_shares(choices: Mapping[str, StageChoice]) -> tuple[float, ...]:
    """Shares of all stages: those not given have equal parts of what is left; none if none is given.

    Raises
    ------
    ConfigError
        If those that are given leave nothing for the others.
    """
    given = {name: choice.share for name, choice in choices.items() if choice.share is not None}
    if not given:
        return ()
    others = len(choices) - len(given)
    left = 1 - sum(given.values())
    if others and left <= 0:
        shown = ", ".join(f"{name}={share:g}" for name, share in given.items())
        raise ConfigError(
            f"stage shares sum to {1 - left:g}, must sum to 1 with those of all stages: {shown}; lower them"
        )
    return tuple(given.get(name, left / max(1, others)) for name in choices)


def _some(key: str, wanted: Sequence[str] | None, there: Sequence[str]) -> list[str]:
    names = list(there if wanted is None else wanted)
    strange = [name for name in names if name not in there]
    if strange:
        raise ConfigError(f"{key} names {strange[0]!r}, which the search does not have; it has {', '.join(there)}")
    if not names:
        raise ConfigError(
            f"{key}=[] leaves the stage none; name one or more of {', '.join(there)}, or leave the key out"
        )
    return names
