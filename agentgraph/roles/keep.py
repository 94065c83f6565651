"""Makes its own attempt and keeps whichever message is the most confident."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentgraph.roles.base import Ask, CallForm, Message, Role


@dataclass(frozen=True, kw_only=True)
class Keep(Role):
    """Own attempt against what was received: the more confident one goes on; ties keep what was received.

    Costs one solve at any in-degree. Without parents it is an assistant, so it asks for at least one.
    """

    kind = "keep"
    min_parents = 1
    needs_confidence = True

    async def __call__(self, parents: Sequence[Message], ask: Ask) -> Message:
        own = await ask("solve")
        return max(
            (message for message in (*parents, own) if not message.absent),
            key=lambda message: message.confidence or 0.0,
            default=own,
        )

    def forms(self, in_degree: int) -> tuple[CallForm, ...]:
        del in_degree
        return (CallForm("solve"),)
