"""AgentTTS: initial trials of every model, then batches of settings that an agent proposes by guidelines of its own.

Source: arXiv 2508.00890 and its published code. A setting is a model and a number of samples for each stage
(`agentgraph.samplings`). Departures:

- A reply that cannot be read is asked for again, three times in all, then settings are drawn at random, and both are counted;
  the published code stops.
- Every guideline obeys the switches of the insights; in the published code the first one does not.
- Trials of every score are kept; there only those above 0. The outcome is chosen on validation questions.
- A setting that was tried is not run again; the batch is then smaller.
- How many batches there are is the search's number of rounds less one; the paper has five.

Its rivals, agents that tune settings without the insights, are manners of the same loop over the same settings:

- ``hpo``, AgentHPO (arXiv 2402.01881): one setting at a time, from the log of all. Departures: one agent both reads the log and
  proposes, where there are a creator and an executor; the first setting is drawn at random.
- ``copilot``, MLCopilot (arXiv 2304.14979): knowledge in words from past experiences, then a setting from the best experiences
  and the knowledge. Departures: the experiences are this search's own trials, there is no other task; so the first five
  settings are drawn at random by the rule-based agent, and knowledge is drawn anew after each trial.
- ``zero_shot``, AgentTTS's own LLM zero-shot: a language model's settings from the description alone. Departure: it goes on
  batch after batch, and is told which settings it has proposed, never how they did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from agentgraph.agents.base import Agent, ModelCall
from agentgraph.agents.guidelines import MANNERS, Guideline, History, parse_settings, shown
from agentgraph.agents.reading import listen
from agentgraph.errors import ConfigError
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Look, Optimizer
from agentgraph.plan import Plan
from agentgraph.samplings import Samplings, Setting
from agentgraph.space import Space
from agentgraph.trial import Trial

__all__ = ["AgentTTS"]

INSIGHTS: Final = (1, 2, 3)


class AgentTTS(Optimizer):
    """Asks an agent for a guideline, then for settings, batch after batch.

    Parameters
    ----------
    agent
        A language model, or the rule-based agent.
    batch
        Settings of a batch (the paper: 10); ``None`` is as many as the search asks for.
    insights
        Which of the paper's three are used. 1: the initial trials are each model of each stage, else one random setting;
        1, 2 and 3: what the agent is told.
    fuse
        The role that combines the samples of a stage, by name, or by stage; ``None`` is a fuser, where there is one.
    manner
        'tts', or one of the rivals 'hpo', 'copilot' and 'zero_shot', which needs a language model.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        batch: int | None = 10,
        insights: Collection[int] = INSIGHTS,
        fuse: str | Mapping[str, str] | None = None,
        manner: str = "tts",
    ) -> None:
        if manner not in MANNERS:
            raise ConfigError(f"optimizer.manner={manner!r} is unknown; use one of {', '.join(MANNERS)}")
        if not set(insights) <= set(INSIGHTS):
            raise ConfigError(f"optimizer.insights={list(insights)} must be some of {list(INSIGHTS)}, or [] for none")
        if batch is not None and (type(batch) is not int or batch < 1):
            raise ConfigError(f"optimizer.batch={batch!r} must be a whole number of at least 1, or null")
        self.agent, self.batch, self.insights, self.fuse = agent, batch, frozenset(insights), fuse
        self.manner = manner

    def setup(
        self, space: Space, objective: Objective, *, rounds: int, call: ModelCall, look: Look | None = None
    ) -> None:
        super().setup(space, objective, rounds=rounds, call=call, look=look)
        if self._blind and not self.agent.proposes:
            raise ConfigError(
                f"optimizer.manner=zero_shot asks a language model, got agent {self.agent.name!r}; "
                f"add agent=language_model agent.model=<name in the pool>, or agent.base_url=…"
            )
        self.agent.connect(call)
        self.samplings = Samplings(space, self.fuse)
        self.round = 0
        self.guidelines: list[Guideline] = []
        self.rejects: Counter[str] = Counter()  # what of the agent's replies could not be used, by kind
        self.dropped = 0  # batches that were drawn at random
        self._task, self._said = "", ""
        self._trials: dict[str, Trial] = {}
        self._report = ""

    def introduce(self, task: str, questions: Mapping[str, tuple[str, str]]) -> None:
        del questions
        self._task = task

    def ask(self, k: int, rng: np.random.Generator) -> list[Plan]:
        if self.round == 0 and not self._blind:
            settings = self.samplings.initial() if 1 in self.insights else []
            settings = settings or [self.samplings.random(rng)]
            self._said = ""
        else:
            settings = self._candidates(self.batch or k, rng)
        plans = {plan.id: plan for plan in map(self.samplings.plan, settings)}
        return [plan for name, plan in plans.items() if name not in self._trials]

    def _candidates(self, count: int, rng: np.random.Generator) -> list[Setting]:
        history = self._history(0, count, int(rng.integers(2**62)))
        heard = listen(
            lambda complaint: self.agent.settings(history, complaint),
            lambda raw: parse_settings(raw, self.samplings, cut=self.agent.cut),
            self.rejects,
        )
        self._said = heard.raw
        if heard.value is None:
            self.dropped += 1
            self._said += f"\n(not used: {heard.complaint}; settings are drawn at random)"
            return [self.samplings.random(rng) for _ in range(count)]
        return heard.value[:count]

    def tell(self, trials: Sequence[Trial]) -> None:
        before = self._best()
        self._trials.update((trial.plan.id, trial) for trial in trials)
        values = [self.objective.utility(trial) for trial in trials if trial.marks]
        if self.guidelines and values:
            led = {"best": max(values), "mean": float(np.mean(values))}
            self.guidelines[-1] = self.guidelines[-1].model_copy(update=led)
        self.round += 1
        history = self._history(len(trials), self.batch or len(trials), 0)
        if not self._blind:
            text = self.agent.guideline(history).rpartition("</think>")[2].strip()
            if not text:
                self.rejects["empty"] += 1
            self.guidelines.append(Guideline(round=self.round - 1, text=text, before=self._best()))
        self._report = self._account(history, trials, before)

    @property
    def _blind(self) -> bool:
        """Whether scores are kept from the agent."""
        return self.manner == "zero_shot"

    def _best(self) -> float:
        return max((self.objective.utility(trial) for trial in self._trials.values() if trial.marks), default=0.0)

    def _history(self, last: int, count: int, seed: int) -> History:
        trials = sorted(self._trials.values(), key=lambda trial: trial.number)
        known = [(self.samplings.of(trial.plan), trial) for trial in trials]
        return History(
            round=self.round,
            seed=seed,
            task=self._task,
            samplings=self.samplings,
            trials=[(setting, trial) for setting, trial in known if setting is not None],
            last=last,
            guidelines=self.guidelines,
            insights=self.insights,
            utility=self.objective.utility,
            count=count,
            manner=self.manner,
        )

    def _account(self, history: History, trials: Sequence[Trial], before: float) -> str:
        """A round's readable account: what was tried, what the guideline led to, and the next one."""
        led = self.guidelines[-2] if len(self.guidelines) > 1 else None
        names = {trial.plan.id: setting for setting, trial in history.trials}
        batch = [
            f"  {self.samplings.text(names[trial.plan.id])}: {self.objective.utility(trial):.3f} ± {trial.stderr:.3f}, "
            f"cost {self.space.budget.text(trial.price)}"
            for trial in trials
            if trial.plan.id in names
        ]
        counted = ", ".join(f"{kind}: {count}" for kind, count in sorted(self.rejects.items())) or "none"
        sections = [
            f"BATCH {self.round - 1}, {'initial trials' if self.round == 1 and not self._blind else f'{len(trials)} settings'}",
            f"GUIDELINE FOLLOWED\n{led.text}\nled to: {led.outcome()}" if led else "GUIDELINE FOLLOWED\nnone before",
            "TRIED\n" + ("\n".join(batch) or "  nothing new"),
            f"BEST SO FAR\n{before:.3f} -> {self._best():.3f}",
            f"SHOWN\n{shown(history)}",
            f"SETTINGS AS THE AGENT {self.agent.name} WROTE THEM\n{self._said or 'initial trials: not asked'}",
            f"NEXT GUIDELINE\n{self.guidelines[-1].text if self.guidelines else 'none: it is not told how settings did'}",
            f"REJECTED SO FAR\n{counted}; batches drawn at random: {self.dropped}",
        ]
        return "\n\n".join(sections)

    def state(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "guidelines": [one.model_dump() for one in self.guidelines],
            "rejects": dict(sorted(self.rejects.items())),
            "dropped": self.dropped,
        }

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        self.round, self.dropped = state["round"], state["dropped"]
        self.guidelines = [Guideline.model_validate(one) for one in state["guidelines"]]
        self.rejects = Counter(state["rejects"])
        self._trials = {trial.plan.id: trial for trial in trials}

    def report(self) -> str:
        return self._report

    def headline(self) -> str:
        return " ".join(self.guidelines[-1].text.split()) if self.guidelines else ""
