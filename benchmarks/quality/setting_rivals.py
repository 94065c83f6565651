"""Rivals in AgentTTS's own space, a model and a number of samples for each stage, as its paper has them: random, TPE, GP, NSGA-II.

Optuna is asked for a model of each stage and, in [0, 1], how many of the samples that the budget still pays: every
suggestion is a setting within the budget. One that was tried is told Optuna again with the utility it had, at most `TRIES`
times a plan.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import optuna

from agentgraph.backends.base import Backend
from agentgraph.optimizers.base import Optimizer
from agentgraph.plan import Plan
from agentgraph.samplings import Sampling, Samplings, Setting
from agentgraph.trial import Trial

from .language import Language

TRIES: Final = 16
SAMPLERS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "random": ("RandomSampler", {}),
    "tpe": ("TPESampler", {}),
    "tpe_tuned": ("TPESampler", {"multivariate": True, "n_ei_candidates": 8}),
    "gp": ("GPSampler", {}),
    "nsga2": ("NSGAIISampler", {}),
    "nsga2_tuned": ("NSGAIISampler", {"population_size": 8, "mutation_prob": 0.1}),
}


class SettingSearch(Optimizer):
    """One of Optuna's samplers over settings.

    Parameters
    ----------
    sampler
        One of `SAMPLERS`.
    """

    def __init__(self, sampler: str) -> None:
        self.sampler = sampler

    def setup(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
        super().setup(*arguments, **named)
        self.samplings = Samplings(self.space)
        self._study: optuna.Study | None = None
        self._asked: dict[str, optuna.Trial] = {}
        self._known: dict[str, float] = {}

    def ask(self, k: int, rng: np.random.Generator) -> list[Plan]:
        study = self._begun(int(rng.integers(2**31)))
        plans: dict[str, Plan] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental notices of samplers
            for _ in range(TRIES * k):
                if len(plans) == k:
                    break
                trial = study.ask()
                plan = self.samplings.plan(self._setting(trial))
                if plan.id in self._known:
                    study.tell(trial, self._known[plan.id])
                elif plan.id not in plans:
                    plans[plan.id], self._asked[plan.id] = plan, trial
        return list(plans.values())

    def _begun(self, seed: int) -> optuna.Study:
        if self._study is None:
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            name, settings = SAMPLERS[self.sampler]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sampler = getattr(optuna.samplers, name)(seed=seed, **settings)
            self._study = optuna.create_study(direction="maximize", sampler=sampler)
        return self._study

    def _setting(self, trial: optuna.Trial) -> Setting:
        """What a suggestion stands for: stage after stage, with a sample of the cheapest models kept in reserve for later ones."""
        samplings = self.samplings
        reserves = [Sampling(model, 1) for model in self.space.reserves]
        setting = tuple(reserves)
        for s, stage in enumerate(self.space.stages):
            left = samplings.left(setting, s)
            wanted = trial.suggest_categorical(f"model of {stage.name}", samplings.models(s))
            part = trial.suggest_float(f"samples of {stage.name}", 0.0, 1.0)
            most = samplings.most(s, wanted, left)
            model, most = (wanted, most) if most else (reserves[s].model, samplings.most(s, reserves[s].model, left))
            setting = (*setting[:s], Sampling(model, 1 + min(most - 1, int(part * most))), *setting[s + 1 :])
        return setting

    def tell(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._known[trial.plan.id] = value = self.objective.utility(trial)
            if self._study is not None and trial.plan.id in self._asked:
                self._study.tell(self._asked.pop(trial.plan.id), value)

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        raise NotImplementedError("a benchmark's search is not gone on with")


@dataclass(frozen=True)
class SettingMethod:
    """A rival over settings, in the form of `methods.Method`.

    Parameters
    ----------
    name
        ``setting_`` and the name of the sampler.
    loop
        Arguments of the loop that differ from the harness's own.
    """

    name: str
    loop: Mapping[str, Any] = field(default_factory=dict)

    @property
    def optimizer(self) -> dict[str, Any]:
        """What tells its runs apart."""
        kind, settings = SAMPLERS[self.sampler]
        return {"sampler": kind, "settings": dict(settings)}

    @property
    def sampler(self) -> str:
        """Name in `SAMPLERS`."""
        return self.name.removeprefix("setting_")

    def loop_arguments(self) -> dict[str, Any]:
        """The loop's arguments."""
        return dict(self.loop)

    def backends(self, language: Language) -> dict[str, Backend]:
        """It asks no model."""
        del language
        return {}

    def build(self) -> Optimizer:
        """The optimizer, fresh."""
        return SettingSearch(self.sampler)
