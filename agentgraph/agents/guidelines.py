"""What AgentTTS asks of an agent: a guideline in words, then settings in JSON; what it is shown, and what of it can be used.

Source: AgentTTS (arXiv 2508.00890). A setting is a model and a number of samples for each stage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agentgraph.agents.reading import Reading, entry, sole_object, tally
from agentgraph.errors import FeedbackError
from agentgraph.samplings import MOST_SAMPLES, Sampling, Samplings, Setting
from agentgraph.trial import Trial

__all__ = ["INSIGHTS", "MANNERS", "Guideline", "History", "Settings", "as_written", "parse_settings", "shown"]

INSIGHTS: Final = {
    1: "Each stage prefers some size of model: first find out which; take a large one only if it is clearly better.",
    2: "Within a stage the score rises with the number of samples up to an optimum, then it wavers or falls, for small models "
    "sooner: look for the optimum, more samples are not always better.",
    3: "What an early stage has changes what is best for later ones: a good early stage needs fewer samples after it, a poor "
    "one more. Trade budget between stages, and look again at later stages when an early one has changed.",
}
"""The findings of AgentTTS by number; each can be left out."""
MANNERS: Final = ("tts", "hpo", "copilot", "zero_shot")
"""How an agent searches: as AgentTTS or its rivals AgentHPO, MLCopilot and LLM zero-shot (`agentgraph.optimizers.agent_tts`)."""


def _whole(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not true or false")  # noqa: TRY004  pydantic catches this one
    return value


class _Sampling(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES), BeforeValidator(_whole)]


class Settings(BaseModel):
    """Settings to try: for each stage, by its name, a model and a number of samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: list[dict[str, _Sampling]]


class Guideline(BaseModel):
    """What an agent said before a batch, and what the batch led to.

    Parameters
    ----------
    round
        Round after which it was said.
    before, best, mean
        Best utility before the batch, and best and mean of the batch; ``None`` until it was run.
    """

    model_config = ConfigDict(frozen=True)

    round: int
    text: str
    before: float
    best: float | None = None
    mean: float | None = None

    def outcome(self) -> str:
        """One line: what it led to."""
        if self.best is None or self.mean is None:
            return "not run yet"
        change = self.best - self.before
        return f"best of the batch {self.best:.3f} (before {self.before:.3f}, {change:+.3f}), mean {self.mean:.3f}"


@dataclass(frozen=True)
class History:
    """What an agent may see.

    Parameters
    ----------
    round, seed
        Round that comes next, and a number for whoever draws.
    task
        The task's name and instructions.
    samplings
        Stages, models and prices.
    trials, last
        All trials so far as (setting, trial), in the order drawn, and how many of them are of the last batch.
    guidelines
        All so far.
    insights
        Which of the paper's three are used.
    utility
        Utility of a trial.
    count
        How many settings are wanted.
    manner
        One of `MANNERS`.
    """

    round: int
    seed: int
    task: str
    samplings: Samplings
    trials: Sequence[tuple[Setting, Trial]]
    last: int
    guidelines: Sequence[Guideline]
    insights: Collection[int]
    utility: Callable[[Trial], float]
    count: int
    manner: str = "tts"

    @cached_property
    def ranked(self) -> list[tuple[Setting, Trial]]:
        """Marked trials, best first."""
        marked = [(setting, trial) for setting, trial in self.trials if trial.marks]
        return sorted(marked, key=lambda pair: (pair[1].stderr - self.utility(pair[1]), pair[1].price.flops))


def as_written(samplings: Samplings, settings: Sequence[Setting]) -> str:
    """Settings as a reply has them."""
    names = [stage.name for stage in samplings.space.stages]
    rows = [{name: one._asdict() for name, one in zip(names, setting, strict=True)} for setting in settings]
    return json.dumps({"settings": rows})


def parse_settings(text: str, samplings: Samplings, *, cut: bool = False) -> Reading[list[Setting]]:
    """Settings of a reply that are in the space and the budget, none twice; what is dropped is counted by kind.

    Raises
    ------
    FeedbackError
        If none can be used.
    """
    found = sole_object(text, ("settings",), cut=cut)
    given = found.value["settings"]
    if not isinstance(given, list):
        raise FeedbackError(f"'settings' must be a list, got {str(given)[:60]!r}")
    settings, errors = dict[Setting, None](), []
    for i, raw in enumerate(given):
        try:
            settings[_setting(raw, samplings, f"settings.{i}")] = None
        except FeedbackError as error:
            errors.append(error)
    return tally(list(settings), errors, found.flaw, usable=bool(settings))


def _setting(raw: object, samplings: Samplings, where: str) -> Setting:
    names = [stage.name for stage in samplings.space.stages]
    if not isinstance(raw, dict) or set(raw) != set(names):
        raise FeedbackError(f"{where} must have the stages {', '.join(names)}, got {str(raw)[:60]!r}")
    found = []
    for s, name in enumerate(names):
        one = entry(raw[name], _Sampling, f"{where}.{name}")
        if one.model not in samplings.models(s):
            raise FeedbackError(
                f"{where}.{name} has the model {one.model!r}; there are {', '.join(samplings.models(s))}",
                kind="unknown id",
            )
        if one.samples > (most := samplings.ceiling(s, one.model)):
            raise FeedbackError(
                f"{where}.{name} has {one.samples} samples of {one.model}; 1 to {most} are allowed", kind="invalid plan"
            )
        found.append(Sampling(one.model, one.samples))
    setting = tuple(found)
    if not samplings.allows(setting):
        raise FeedbackError(f"{where}, {samplings.text(setting)}, is not within the budget", kind="over budget")
    return setting


def shown(history: History) -> str:
    """Task, stages with their prices, budget, and all trials so far, as text; to a zero-shot agent without their scores."""
    space = history.samplings.space
    lines = [
        history.task,
        "A setting gives each stage a model and a number of samples; their answers are combined into one, which the next stage "
        "is asked.",
        f"Budget: the stages together may cost {space.budget.text()} per question.",
    ]
    for s, stage in enumerate(space.stages):
        lines.append(f"Stage {stage.name}:")
        for model in history.samplings.models(s):
            tokens = stage.lengths.tokens("solve", 0, model)
            most = history.samplings.ceiling(s, model)
            prices = [
                f"{n} for {space.budget.text(history.samplings.cost(s, Sampling(model, n)))}"
                for n in (1, 2, 10)
                if n <= most
            ]
            lines.append(
                f"  {model} ({stage.pool.named(model).parameters:.3g} parameters; {tokens.prompt:g} prompt and {tokens.output:g} "
                f"output tokens a sample): 1 to {most} samples; {', '.join(prices)}"
            )
    if history.manner == "zero_shot":
        lines.append("Proposed before:")
        lines += [f"  {history.samplings.text(setting)}" for setting, _ in history.trials] or ["  none"]
    else:
        lines.append("Trials so far, in the order they were made:")
        lines += [_line(history, setting, trial) for setting, trial in history.trials] or ["  none"]
    return "\n".join(lines)


def _line(history: History, setting: Setting, trial: Trial) -> str:
    said = f"{history.utility(trial):.3f} ± {trial.stderr:.3f}" if trial.marks else "no marks"
    for stage, marks in trial.stage_marks.items():
        said += f", stage {stage} alone {fmean(marks.values()):.3f}"
    return f"  {history.samplings.text(setting)}: score {said}, cost {history.samplings.space.budget.text(trial.price)}"
