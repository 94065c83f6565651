"""Lists what its parents answered, and how many of them did (`agentgraph.tasks.callable`); calls no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agentgraph.roles.base import Ask, CallForm, Message, Role


@dataclass(frozen=True, kw_only=True)
class Tally(Role):
    """The different answers in node order, joined by ' + ', each with '×' and its number if that is more than one."""

    kind = "tally"
    min_parents = 1
    may_be_inner = False
    needs_model = False

    async def __call__(self, parents: Sequence[Message], ask: Ask) -> Message:
        del ask
        counts = Counter(parent.answer for parent in parents if parent.answer is not None)
        listed = " + ".join(f"{answer}×{count}" if count > 1 else answer for answer, count in counts.items())
        return Message(listed, listed) if counts else Message(None)

    def forms(self, in_degree: int) -> tuple[CallForm, ...]:
        del in_degree
        return ()
