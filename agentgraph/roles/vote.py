"""Majority vote over the parents' answers; calls no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agentgraph.roles.base import Ask, CallForm, Message, Role


@dataclass(frozen=True, kw_only=True)
class Vote(Role):
    """The answer most parents gave; ties go to the earliest in node order; confidence is its share of the votes."""

    kind = "vote"
    min_parents = 1
    may_be_inner = False
    needs_model = False

    async def __call__(self, parents: Sequence[Message], ask: Ask) -> Message:
        del ask
        present = [parent for parent in parents if not parent.absent]
        if not present:
            return Message(None)
        counts = Counter(parent.answer for parent in present)
        winner = max(present, key=lambda parent: counts[parent.answer])
        return Message(winner.answer, winner.text, counts[winner.answer] / len(present))

    def forms(self, in_degree: int) -> tuple[CallForm, ...]:
        del in_degree
        return ()
