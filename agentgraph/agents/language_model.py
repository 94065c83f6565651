"""A language model as agent: reads the evidence as text and answers in the JSON formats of the feedback."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from agentgraph.agents.base import Agent, Evidence, ModelCall
from agentgraph.agents.evidence import mixes_text, render, trial_text
from agentgraph.agents.feedback import Choice, Feedback, schema
from agentgraph.errors import ConfigError
from agentgraph.model import Model
from agentgraph.request import Request, Settings

TASK: Final = (
    "You improve a probability distribution over collaboration graphs of language models. A node is a role played by a "
    "model; an edge hands the message of one node to the prompt of another; slot 0 is the sink, whose answer counts. "
    "Each round, graphs are drawn from the tables of probabilities and scored on questions within a fixed budget. You "
    "read the results and move the tables, so that the next graphs are better."
)
INSIGHTS: Final = (
    "What is known: (1) Tasks differ in which model sizes and mixes they prefer at equal cost. (2) Width (nodes that "
    "solve in parallel) and depth (nodes in a row) each have an optimum that depends on the task; beyond it accuracy "
    "falls. (3) They depend on each other: wider graphs have a smaller best depth. Strong models cope better with many "
    "incoming messages; models that make different mistakes are worth more together."
)
RULES: Final = (
    "Raise the probability of an edge, role or model only if plans that have it did well; lower what the poor plans "
    "have. Start at the sink and its parents. Differences smaller than the intervals are noise. 'by' is added to a logit: "
    "0.5 is a small step, 2 a large one, at most 3."
)


class LanguageModel(Agent):
    """Any chat model that a backend serves.

    Parameters
    ----------
    model
        The model; its size is not used.
    max_tokens
        Limit of its reply.
    temperature
        0 gives the same feedback for the same evidence.
    insights
        Whether it is told what is known of such graphs.
    """

    name = "language_model"

    def __init__(
        self, model: Model, *, max_tokens: int = 4096, temperature: float = 0.0, insights: bool = True
    ) -> None:
        self.model = model
        self.settings = Settings(temperature=temperature, max_tokens=max_tokens)
        self.insights = insights
        self._call: ModelCall | None = None

    def connect(self, call: ModelCall) -> None:
        self._call = call

    def feedback(self, evidence: Evidence, complaint: str = "") -> str:
        wanted = f"{RULES} Answer with one JSON object and nothing else, of this schema: {json.dumps(schema(Feedback))}"
        return self._ask(evidence.round, f"{render(evidence)}\n\n{wanted}", complaint)

    def choose(self, evidence: Evidence, mixes: Sequence[Sequence[int]], count: int, complaint: str = "") -> str:
        unit = evidence.distribution.space.budget.unit
        singles = "\n".join(trial_text(trial, unit) for trial in evidence.trials)
        text = (
            f"Single models on the train questions:\n{singles}\n\nMixes of models that spend the budget:\n"
            f"{mixes_text(evidence.distribution, mixes)}\n\nChoose the {count} mixes (by number) to start from. Answer "
            f"with one JSON object and nothing else, of this schema: {json.dumps(schema(Choice))}"
        )
        return self._ask(evidence.round, text, complaint)

    def _ask(self, round_: int, text: str, complaint: str) -> str:
        if self._call is None:
            raise ConfigError("the agent is not connected to a model; run it inside a search")
        if complaint:
            text = f"{text}\n\nYour last answer could not be used: {complaint}. Answer again."
        system = f"{TASK} {INSIGHTS}" if self.insights else TASK
        request = Request(
            model=self.model.served_name,
            fingerprint=f"agent/{self.model.identity}",
            messages=(("system", system), ("user", text)),
            settings=self.settings,
            replicate=round_,
        )
        return self._call(request, self.model.backend).text
