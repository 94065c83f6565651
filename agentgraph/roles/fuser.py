"""Merges what its parents sent into one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentgraph.roles.base import Ask, CallForm, Message, Role

FUSE = (
    "These are answers to the question above by several assistants. Take the steps that are right, check logic and "
    "arithmetic, leave out what repeats, and give one short final answer in the required format."
)


@dataclass(frozen=True, kw_only=True)
class Fuser(Role):
    """Fuses its parents' messages (Agent-REINFORCE's role *fuser*); never stands above another fuser."""

    instructions: Mapping[str, str] = field(default_factory=lambda: {"fuse": FUSE})
    kind = "fuser"
    min_parents = 1
    not_above = ("fuser",)

    async def __call__(self, parents: Sequence[Message], ask: Ask) -> Message:
        candidates = self.listed(parents)
        return await (ask("fuse", candidates) if candidates else ask("solve"))

    def forms(self, in_degree: int) -> tuple[CallForm, ...]:
        return (CallForm("fuse", in_degree),)
