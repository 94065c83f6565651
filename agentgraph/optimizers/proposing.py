"""Whole plans that an agent proposes before it is told how any did: asked again until enough are valid and new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentgraph.agents.base import Agent
from agentgraph.agents.proposals import parse_plans
from agentgraph.agents.reading import ATTEMPTS
from agentgraph.errors import FeedbackError
from agentgraph.plan import Plan
from agentgraph.space import Space

__all__ = ["Proposing"]


@dataclass
class Proposing:
    """Asks for plans, checks them against the space, and counts what came of it.

    Parameters
    ----------
    counts
        Plans used, and plans proposed before.
    rejects
        What could not be used, by kind.
    """

    agent: Agent
    space: Space
    counts: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)

    def plans(self, k: int, known: Mapping[str, Plan], round_: int = 0) -> list[Plan]:
        """Up to ``k`` valid plans that are not among the ``known`` ones, by id; fewer after `ATTEMPTS` replies."""
        found: dict[str, Plan] = {}
        complaint = ""
        for attempt in range(ATTEMPTS):
            text = self.agent.plans(
                self.space,
                k - len(found),
                [*known.values(), *found.values()],
                complaint,
                replicate=ATTEMPTS * round_ + attempt,
            )
            proposed, complaint = self._read(text)
            for plan in proposed:
                if plan.id in known or plan.id in found:
                    self.counts["proposed before"] += 1
                elif len(found) < k:
                    found[plan.id] = plan
                    self.counts["used"] += 1
            if len(found) == k:
                break
        return list(found.values())

    def _read(self, text: str) -> tuple[list[Plan], str]:
        """Valid plans of a reply, and what is wrong with it."""
        try:
            reading = parse_plans(text, self.space, cut=self.agent.cut)
        except FeedbackError as error:
            self.rejects.update(error.rejects)
            return [], str(error)
        self.rejects.update(reading.rejects)
        return reading.value, reading.complaint
