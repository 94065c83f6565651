"""Zero-shot: a language model proposes plans from the description of the space, and is never told how they did.

Source: LLM zero-shot as a rival in Agent-REINFORCE (arXiv 2511.00086). Departures: it proposes the plans of each round
knowing which it has proposed, so that any number of rounds can be filled; what it proposes is checked against the space
and the budget. A reply or plan that cannot be used is dropped and counted; a round that is not full after `ATTEMPTS`
replies is filled as random search would, and that is counted too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from agentgraph.agents.base import Agent, ModelCall
from agentgraph.agents.evidence import space_text
from agentgraph.agents.language_model import LanguageModel
from agentgraph.agents.proposals import FORM, Proposal, parse_plans, written
from agentgraph.agents.reading import ATTEMPTS
from agentgraph.distribution import Distribution
from agentgraph.errors import ConfigError, FeedbackError
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Look, Optimizer, draw_new
from agentgraph.plan import Plan
from agentgraph.request import Request
from agentgraph.space import Space
from agentgraph.trial import Trial

__all__ = ["ZeroShot"]


class ZeroShot(Optimizer):
    """Asks the agent's model for plans.

    Parameters
    ----------
    agent
        A language model (``agent=language_model agent.model=…``).
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def setup(
        self, space: Space, objective: Objective, *, rounds: int, call: ModelCall, look: Look | None = None
    ) -> None:
        super().setup(space, objective, rounds=rounds, call=call, look=look)
        if not isinstance(self.agent, LanguageModel):
            raise ConfigError(
                f"optimizer=zero_shot asks a language model, got agent {self.agent.name!r}; "
                f"add agent=language_model agent.model=<name in the pool>, or agent.base_url=…"
            )
        self.asked, self.settings = self.agent.model, self.agent.sampling
        self._untrained = Distribution(space)
        self.round = 0
        self.counts: Counter[str] = Counter()
        self.rejects: Counter[str] = Counter()
        self._known: dict[str, Plan] = {}

    def ask(self, k: int, rng: np.random.Generator) -> list[Plan]:
        plans: dict[str, Plan] = {}
        complaint = ""
        for attempt in range(ATTEMPTS):
            known = [*self._known.values(), *plans.values()]
            proposed, complaint = self._proposed(k - len(plans), known, attempt, complaint)
            for plan in proposed:
                if plan.id in self._known or plan.id in plans:
                    self.counts["proposed before"] += 1
                elif len(plans) < k:
                    plans[plan.id] = plan
                    self.counts["used"] += 1
            if len(plans) == k:
                return list(plans.values())
        more = draw_new(self._untrained, k - len(plans), rng, self._known.keys() | plans.keys())
        self.counts["drawn at random"] += len(more)
        return [*plans.values(), *more]

    def tell(self, trials: Sequence[Trial]) -> None:
        self._known.update((trial.plan.id, trial.plan) for trial in trials)
        self.round += 1

    def state(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "counts": dict(sorted(self.counts.items())),
            "rejects": dict(sorted(self.rejects.items())),
        }

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        self.round, self.counts, self.rejects = state["round"], Counter(state["counts"]), Counter(state["rejects"])
        self._known = {trial.plan.id: trial.plan for trial in trials}

    def headline(self) -> str:
        counted = [f"{count} {kind}" for kind, count in sorted(self.counts.items())]
        return ", ".join([*counted, *(f"{count} rejected: {kind}" for kind, count in sorted(self.rejects.items()))])

    def _proposed(self, count: int, known: Sequence[Plan], attempt: int, complaint: str) -> tuple[list[Plan], str]:
        """Valid plans of one reply, and what is wrong with it; ``complaint`` says what was wrong with the last."""
        text = self._text(count, known)
        if complaint:
            text = f"{text}\n\nOf your last answer this could not be used: {complaint}. Answer again."
        request = Request(
            model=self.asked.served_name,
            fingerprint=f"agent/{self.asked.identity}",
            messages=(("user", text),),
            settings=self.settings,
            replicate=ATTEMPTS * self.round + attempt,
            schema=Proposal.model_json_schema(),
        )
        reply = self.call(request, self.asked.backend)
        try:
            reading = parse_plans(reply.text, self.space, cut=reply.finish == "length")
        except FeedbackError as error:
            self.rejects.update(error.rejects)
            return [], str(error)
        self.rejects.update(reading.rejects)
        return reading.value, reading.complaint

    def _text(self, count: int, known: Sequence[Plan]) -> str:
        listed = "\n".join(written(plan) for plan in known[-20:]) or "none"
        return (
            f"Propose {count} different collaboration graphs of language models that answer questions as well as possible. "
            f"A node is a role played by a model; it reads the messages of its parents. {FORM}\n{space_text(self.space)}\n"
            f"Proposed before: {listed}\n"
            f"Answer with one JSON object and nothing else, of this schema: {json.dumps(Proposal.model_json_schema())}"
        )
