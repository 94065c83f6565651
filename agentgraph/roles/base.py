"""Contract of a role: what a node does with its parents' messages, and which calls that takes."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import agentgraph.roles
from agentgraph.errors import ConfigError, SpaceError
from agentgraph.request import Settings

__all__ = ["Ask", "CallForm", "Message", "Role", "role_from_data", "role_kinds"]


@dataclass(frozen=True)
class Message:
    """What an edge carries.

    Parameters
    ----------
    answer
        What the task extracted from the reply; ``None`` if there is none (*absent*): it takes no part in votes.
    text
        The whole reply, for roles that pass it on.
    confidence
        Probability that the model gave its reply, in [0, 1]; ``None`` where the backend has no log-probabilities.
    """

    answer: str | None
    text: str = ""
    confidence: float | None = None

    @property
    def absent(self) -> bool:
        """Whether there is no answer."""
        return self.answer is None


class Ask(Protocol):
    """Asks the node's own model; ``word`` is one of `agentgraph.prompt.WORDS`."""

    async def __call__(self, word: str, candidates: Sequence[str] = ()) -> Message: ...


@dataclass(frozen=True)
class CallForm:
    """One call that a role makes: its word and how many candidates its prompt lists."""

    word: str
    candidates: int = 0


@dataclass(frozen=True, kw_only=True)
class Role(ABC):
    """What a node does, with its own sampling settings.

    Parameters
    ----------
    name
        What plans and tables call it; one kind may be in a space several times under different names.
    settings
        Sampling settings of its calls.
    instructions
        Text for the words 'refine' and 'fuse', where the model's prompt form has room for it.
    edge
        What its prompts list of a parent: 'answer' or 'text' (the whole reply).
    """

    name: str
    settings: Settings = field(default_factory=Settings)
    instructions: Mapping[str, str] = field(default_factory=dict)
    edge: str = "answer"

    kind: ClassVar[str]
    min_parents: ClassVar[int] = 0
    may_be_sink: ClassVar[bool] = True
    may_be_inner: ClassVar[bool] = True
    needs_model: ClassVar[bool] = True
    needs_confidence: ClassVar[bool] = False
    not_above: ClassVar[tuple[str, ...]] = ()
    """Kinds that this role must not hand its message to."""

    def __post_init__(self) -> None:
        if self.edge not in ("answer", "text"):
            raise ConfigError(f"role {self.name!r}: edge={self.edge!r} is unknown; use 'answer' or 'text'")

    @abstractmethod
    async def __call__(self, parents: Sequence[Message], ask: Ask) -> Message:
        """Message of the node, given its parents' messages in node order."""

    @abstractmethod
    def forms(self, in_degree: int) -> tuple[CallForm, ...]:
        """The calls it makes with that many parents; all that prices it."""

    def listed(self, parents: Sequence[Message]) -> tuple[str, ...]:
        """What a prompt lists of the parents that are not absent."""
        return tuple(
            parent.text if self.edge == "text" else parent.answer for parent in parents if parent.answer is not None
        )

    def data(self) -> dict[str, Any]:
        """As JSON-able data; `role_from_data` reads it."""
        return {
            "kind": self.kind,
            "name": self.name,
            "settings": self.settings.data(),
            "instructions": dict(self.instructions),
            "edge": self.edge,
        }


def role_kinds() -> tuple[str, ...]:
    """The kinds of role: one file of this folder each."""
    names = {module.name for module in pkgutil.iter_modules(agentgraph.roles.__path__)}
    return tuple(sorted(names - {"base", "rules"}))


def role_from_data(data: Mapping[str, Any]) -> Role:
    """The role that a plan file describes; only roles of this folder can be named.

    Raises
    ------
    SpaceError
        If the kind is unknown.
    """
    kind = str(data.get("kind"))
    if kind not in role_kinds():
        raise SpaceError(f"role kind {kind!r} is unknown; this version has {', '.join(role_kinds())}")
    module = importlib.import_module(f"agentgraph.roles.{kind}")
    member = next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Role) and getattr(value, "kind", None) == kind
    )
    return member(
        name=str(data.get("name", kind)),
        settings=Settings(**data.get("settings", {})),
        instructions=dict(data.get("instructions", {})),
        edge=str(data.get("edge", "answer")),
    )
