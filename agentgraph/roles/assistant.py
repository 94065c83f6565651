"""Solves alone; with parents it refines what they sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentgraph.roles.base import Ask, CallForm, Message, Role

REFINE = (
    "Other assistants answered this question as follows. Some of them may be wrong. Check them against the question, "
    "do not copy them blindly, and give your own complete answer in the required format."
)


@dataclass(frozen=True, kw_only=True)
class Assistant(Role):
    """Without parents: solve. With parents: refine (Agent-REINFORCE's role *assistant*)."""

    instructions: Mapping[str, str] = field(default_factory=lambda: {"refine": REFINE})
    kind = "assistant"

    async def __call__(self, parents: Sequence[Message], ask: Ask) -> Message:
        candidates = self.listed(parents)
        return await (ask("refine", candidates) if candidates else ask("solve"))

    def forms(self, in_degree: int) -> tuple[CallForm, ...]:
        return (CallForm("refine", in_degree),) if in_degree else (CallForm("solve"),)
