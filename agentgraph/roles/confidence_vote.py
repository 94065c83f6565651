"""Vote in which each parent weighs as much as it is confident; calls no model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from agentgraph.roles.base import Ask, CallForm, Message, Role


@dataclass(frozen=True, kw_only=True)
class ConfidenceVote(Role):
    """The answer with the largest sum of confidences; ties go to the earliest in node order."""

    kind = "confidence_vote"
    min_parents = 1
    may_be_inner = False
    needs_model = False
    needs_confidence = True

    async def __call__(self, parents: Sequence[Message], ask: Ask) -> Message:
        del ask
        weights: dict[str | None, float] = defaultdict(float)
        present = [parent for parent in parents if not parent.absent]
        if not present:
            return Message(None)
        for parent in present:
            weights[parent.answer] += parent.confidence or 0.0
        winner = max(present, key=lambda parent: weights[parent.answer])
        total = sum(weights.values())
        return Message(winner.answer, winner.text, weights[winner.answer] / total if total > 0 else 0.0)

    def forms(self, in_degree: int) -> tuple[CallForm, ...]:
        del in_degree
        return ()
