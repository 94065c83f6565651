"""Keeps the parent's answer with the highest recorded mark, as a perfect check would (pass@k); calls no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentgraph.errors import TaskError
from agentgraph.recording import Mark
from agentgraph.roles.base import Ask, CallForm, Message, Role


@dataclass(frozen=True, kw_only=True)
class Oracle(Role):
    """The best of what was received, of equals the earliest; an upper bound, on recorded marks only: it knows them."""

    kind = "oracle"
    min_parents = 1
    may_be_inner = False
    needs_model = False

    async def __call__(self, parents: Sequence[Message], ask: Ask) -> Message:
        del ask
        present = [parent for parent in parents if not parent.absent]
        return max(present, key=lambda parent: self._mark(parent.answer), default=Message(None))

    def _mark(self, answer: str | None) -> float:
        if not isinstance(answer, Mark):
            raise TaskError(
                f"role {self.name!r} knows recorded marks only, got the answer {str(answer)[:40]!r}; use vote where there are "
                "answers"
            )
        return answer.value

    def forms(self, in_degree: int) -> tuple[CallForm, ...]:
        del in_degree
        return ()
