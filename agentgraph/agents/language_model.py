"""A language model as agent: reads the evidence as text and answers in the JSON formats of the feedback."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic import BaseModel

from agentgraph.agents.base import Agent, Evidence, ModelCall
from agentgraph.agents.evidence import mixes_text, render, space_text
from agentgraph.agents.feedback import Choice, Feedback, FeedbackWithPlans, schema
from agentgraph.agents.guidelines import INSIGHTS as TTS_INSIGHTS
from agentgraph.agents.guidelines import History, Settings, shown
from agentgraph.agents.proposals import FORM, Proposal, written
from agentgraph.errors import ConfigError
from agentgraph.model import Model
from agentgraph.plan import Plan
from agentgraph.request import Request
from agentgraph.request import Settings as Sampling
from agentgraph.space import Space

TASK: Final = (
    "You improve a probability distribution over collaboration graphs of language models. A node is a role played by a "
    "model; an edge hands the message of one node to the prompt of another; slot 0 is the sink, whose answer counts. "
    "Each round, graphs are drawn from the tables of probabilities and scored on questions within a fixed budget. You "
    "read the results and move the tables, so that the next graphs are better."
)
INSIGHTS: Final = {
    1: "Tasks differ in which model sizes and mixes they prefer at equal cost; models that make different mistakes are "
    "worth more together.",
    2: "Width (nodes that solve in parallel) and depth (nodes in a row) each have an optimum that depends on the task; "
    "beyond it accuracy falls. Strong models cope better with many incoming messages.",
    3: "Width and depth depend on each other: wider graphs have a smaller best depth, deeper ones a smaller best width.",
}
"""The findings of Agent-REINFORCE (arXiv 2511.00086) by number; each can be left out."""
RULES: Final = (
    "Raise the probability of an edge, role or model only if plans that have it did well; lower what the poor plans "
    "have. Start at the sink and its parents. Differences smaller than the intervals are noise; where your last nudges did "
    "not do what you foresaw, take them back. A nudge gives either 'by', which is added to a logit (0.5 is a small step, "
    "2 a large one, at most 3 either way), or 'to', the probability to reach, in [0, 1]."
)


TTS_TASK: Final = (
    "You search for the best way to spend a fixed budget on a task of several stages. In each stage a model is sampled a number "
    "of times, and its answers are combined into one. You choose model and number of samples for each stage, see the scores, "
    "and choose again, to find the best score with few trials."
)
LISTED: Final = 20
"""Of the plans known so far, how many of the last are shown where only new ones are wanted."""
RECALLED: Final = 5
"""Best trials that MLCopilot's agent is shown when it recommends a setting."""
RIVAL_TASKS: Final = {
    "hpo": (
        "You tune the settings of a system with a fixed budget and several stages. In each stage a model is sampled a number of "
        "times, and its answers are combined into one. You read the log of all experiments, say what they show, and propose the "
        "next experiment, one change at a time, to find the best score with few of them."
    ),
    "copilot": (
        "You recommend settings of a system with a fixed budget and several stages. In each stage a model is sampled a number of "
        "times, and its answers are combined into one. From past experiences you draw knowledge in a few short statements, with "
        "numbers of samples as low, medium or high; by the best experiences and this knowledge you recommend the next setting."
    ),
    "zero_shot": (
        "You choose settings of a system with a fixed budget and several stages. In each stage a model is sampled a number of "
        "times, and its answers are combined into one. You are not told how settings do: propose those that you expect to be best."
    ),
}
"""What the rivals AgentHPO, MLCopilot and LLM zero-shot are told instead; they know no insights."""
SHARES: Final = (
    " The task has several stages, each of which is asked what the one before answered. A nudge of the table 'share', whose "
    "option is the name of a stage, moves budget to that stage or away from it; what one stage has is not there for the others."
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
        Which of the three insights it is told; all or none if true or false.
    history
        How many rounds of its own words it is shown, >= 0.
    """

    name = "language_model"
    proposes = True

    def __init__(
        self,
        model: Model,
        *,
        max_tokens: int = 4096,
        temperature: float = 0.0,
        insights: Sequence[int] | bool = True,
        history: int = 2,
    ) -> None:
        self.model = model
        self.sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
        self.insights = _numbers(insights)
        if type(history) is not int or history < 0:
            raise ConfigError(f"agent.history={history!r} must be a whole number of at least 0")
        self.history = history
        self._call: ModelCall | None = None

    def connect(self, call: ModelCall) -> None:
        self._call = call

    def feedback(self, evidence: Evidence, complaint: str = "") -> str:
        wanted = RULES if len(evidence.distribution.stages) == 1 else RULES + SHARES
        if evidence.plans:
            wanted += f" You may also propose up to {evidence.plans} whole plans to try next, in 'plans'. {FORM}"
        format_ = FeedbackWithPlans if evidence.plans else Feedback
        return self._ask(evidence, f"{render(evidence)}\n\n{wanted}", complaint, format_)

    def choose(
        self, evidence: Evidence, mixes: Sequence[Sequence[int]], count: int, complaint: str = "", *, stage: int = 0
    ) -> str:
        stages = evidence.distribution.stages
        where = "" if len(stages) == 1 else f" that stage {stages[stage].space.name} has"
        listed = mixes_text(evidence.distribution, mixes, stage)
        text = (
            f"{render(evidence)}\n\nMixes of models that spend the budget{where}:\n{listed}\n\n"
            f"Choose the {count} mixes (by number) to start from."
        )
        return self._ask(evidence, text, complaint, Choice)

    def plans(self, space: Space, count: int, known: Sequence[Plan], complaint: str = "", *, replicate: int = 0) -> str:
        listed = "\n".join(written(plan) for plan in known[-LISTED:]) or "none"
        wanted = Proposal.model_json_schema()
        text = (
            f"Propose {count} different collaboration graphs of language models that answer questions as well as possible. "
            f"A node is a role played by a model; it reads the messages of its parents. {FORM}\n{space_text(space)}\n"
            f"Proposed before: {listed}\n"
            f"Answer with one JSON object and nothing else, of this schema: {json.dumps(wanted)}"
        )
        if complaint:
            text = f"{text}\n\nOf your last answer this could not be used: {complaint}. Answer again."
        return self._call_model("", text, replicate, wanted)

    def guideline(self, history: History) -> str:
        text = [shown(history), *self._guidelines(history)]
        if history.guidelines and history.manner == "tts":
            text.append(f"The last {history.last} trials are of the last batch. If scores hardly vary, explore more.")
        text.append(
            "Write a guideline of a few sentences for the next settings: which models, how many samples, where the budget goes."
        )
        insights = (1, 2, 3) if not history.guidelines else (2, 3)
        return self._call_model(self._tts_system(history, insights), "\n\n".join(text), 2 * history.round)

    def settings(self, history: History, complaint: str = "") -> str:
        if history.manner == "copilot":
            history = replace(history, trials=history.ranked[:RECALLED])
        wanted = f"Return exactly {history.count} different settings that were not tried and are within the budget."
        text = "\n\n".join([shown(history), *self._guidelines(history), wanted])
        return self._ask_json(self._tts_system(history, (1, 2, 3)), text, complaint, Settings, 2 * history.round + 1)

    def _tts_system(self, history: History, insights: Sequence[int]) -> str:
        told = [f"({n}) {TTS_INSIGHTS[n]}" for n in insights if n in self.insights and n in history.insights]
        task = RIVAL_TASKS.get(history.manner, TTS_TASK)
        return " ".join([task, *(["What is known:"] if told else []), *told])

    @staticmethod
    def _guidelines(history: History) -> list[str]:
        """The first guideline and the last two, with what they led to."""
        kept = dict.fromkeys([*history.guidelines[:1], *history.guidelines[-2:]])
        return [f"Your guideline after batch {one.round} ({one.outcome()}): {one.text}" for one in kept]

    def _ask(self, evidence: Evidence, text: str, complaint: str, format_: type[BaseModel]) -> str:
        told = [f"({number}) {INSIGHTS[number]}" for number in self.insights if number in evidence.insights]
        system = " ".join([TASK, *(["What is known:"] if told else []), *told])
        return self._ask_json(system, text, complaint, format_, evidence.round)

    def _ask_json(self, system: str, text: str, complaint: str, format_: type[BaseModel], replicate: int) -> str:
        wanted = schema(format_)
        text = f"{text} Answer with one JSON object and nothing else, of this schema: {json.dumps(wanted)}"
        if complaint:
            text = f"{text}\n\nYour last answer could not be used: {complaint}. Answer again."
        return self._call_model(system, text, replicate, wanted)

    def _call_model(self, system: str, text: str, replicate: int, wanted: dict[str, Any] | None = None) -> str:
        if self._call is None:
            raise ConfigError("the agent is not connected to a model; run it inside a search")
        request = Request(
            model=self.model.served_name,
            fingerprint=f"agent/{self.model.identity}",
            messages=(*((("system", system),) if system else ()), ("user", text)),
            settings=self.sampling,
            replicate=replicate,
            schema=wanted,
        )
        reply = self._call(request, self.model.backend)
        self.cut = reply.finish == "length"
        return reply.text


def _numbers(insights: Sequence[int] | bool) -> tuple[int, ...]:
    """Numbers of the insights, ascending."""
    if isinstance(insights, bool):
        return tuple(INSIGHTS) if insights else ()
    listed = isinstance(insights, (list, tuple))
    if not listed or any(type(number) is not int or number not in INSIGHTS for number in insights):
        raise ConfigError(f"agent.insights={insights!r} must be a list of some of {', '.join(map(str, INSIGHTS))}")
    return tuple(sorted(set(insights)))
