"""Spends one step of a stage's budget on its option (`agentgraph.tasks.callable`); several stand side by side under a tally."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agentgraph.request import Settings
from agentgraph.roles.base import Ask, CallForm, Message, Role


@dataclass(frozen=True, kw_only=True)
class Spend(Role):
    """Says what it spends its step on. At temperature 0 equal ones are one call, charged as often as they stand there.

    It has no use for parents; the task that it is for sells no call with candidates.
    """

    settings: Settings = field(default_factory=lambda: Settings(temperature=0.0))
    kind = "spend"

    async def __call__(self, parents: Sequence[Message], ask: Ask) -> Message:
        return await ask("solve", self.listed(parents))

    def forms(self, in_degree: int) -> tuple[CallForm, ...]:
        return (CallForm("solve", in_degree),)
