"""Vote on lists, item by item; calls no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agentgraph.roles.base import Ask, CallForm, Message, Role


@dataclass(frozen=True, kw_only=True)
class ItemVote(Role):
    """The items that most parents listed, as many as most lists have (AgentTTS's fusion of retrieved chunks, arXiv 2508.00890).

    For stages whose answers are lists, items between commas: '3,17'. Ties, of items and of lengths, go to the earliest in node
    order; the items kept stay in the order in which they were first listed, whole numbers in their own. Confidence is the mean
    share of parents that listed them.
    """

    kind = "item_vote"
    min_parents = 1
    may_be_inner = False
    needs_model = False

    async def __call__(self, parents: Sequence[Message], ask: Ask) -> Message:
        del ask
        lists = [_items(parent.answer) for parent in parents if parent.answer is not None]
        if not lists:
            return Message(None)
        counts = Counter(item for items in lists for item in items)  # in the order of first mention
        length = Counter(map(len, lists)).most_common(1)[0][0]
        kept = {item for item, _ in counts.most_common(length)}
        order = [item for item in counts if item in kept]
        answer = ",".join(sorted(order, key=int) if all(item.isdecimal() for item in order) else order)
        return Message(answer, answer, sum(counts[item] for item in order) / (len(order) * len(lists)))

    def forms(self, in_degree: int) -> tuple[CallForm, ...]:
        del in_degree
        return ()


def _items(answer: str) -> list[str]:
    """The items of a list, each once; the answer itself if it has none."""
    return list(dict.fromkeys(part.strip() for part in answer.split(",") if part.strip())) or [answer]
