"""Optuna's samplers on the encoding of plans: TPE, Gaussian processes, NSGA-II.

Source: Bayesian optimisation as a rival in Agent-REINFORCE (arXiv 2511.00086), there TPE over edges and roles of one
random mix of models. Departures:

- Models are searched as well, every vector decodes to a valid plan within the budget, and cyclic edges do not occur.
- The study is built anew for every round, from the trials alone: each plan is entered with a vector that names it, the
  same one whenever it is built, and with its utility by all marks so far. So a search that goes on is the search that
  did not stop. What that costs: a vector is not the one Optuna asked for but one of the same plan (nodes in canonical
  order), and the Gaussian process starts its fit cold in each round.
- A plan that was tried is asked for no second time: Optuna is asked again, at most `TRIES` times a plan; what is then
  missing from the round is drawn as random search draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agentgraph.agents.base import ModelCall
from agentgraph.errors import ConfigError
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Look, Optimizer, draw_new
from agentgraph.optimizers.encoding import Encoding, Vectors
from agentgraph.plan import Plan
from agentgraph.space import Space
from agentgraph.trial import Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

TRIES: Final = 4
SAMPLERS: Final = {"tpe": "TPESampler", "gp": "GPSampler", "nsga2": "NSGAIISampler"}


class OptunaSearch(Optimizer):
    """One of Optuna's samplers.

    Parameters
    ----------
    sampler
        'tpe', 'gp' or 'nsga2'.
    settings
        Keyword arguments of Optuna's sampler; none are Optuna's own defaults.
    categorical
        Whether Optuna sees an entry as a choice among named options rather than as a number in [0, 1].
    most_trials
        With so many trials, rounds are drawn as random search draws: fits that take ever longer end here.
    """

    def __init__(
        self,
        sampler: str = "tpe",
        *,
        settings: Mapping[str, Any] | None = None,
        categorical: bool = False,
        most_trials: int | None = None,
    ) -> None:
        if sampler not in SAMPLERS:
            raise ConfigError(f"optimizer.sampler={sampler!r} is unknown; use one of {', '.join(SAMPLERS)}")
        self.sampler, self.settings = sampler, dict(settings or {})
        self.categorical, self.most_trials = categorical, most_trials

    def setup(
        self, space: Space, objective: Objective, *, rounds: int, call: ModelCall, look: Look | None = None
    ) -> None:
        super().setup(space, objective, rounds=rounds, call=call, look=look)
        self.encoding = Encoding(space)
        self._trials: dict[str, Trial] = {}
        self._attrs: dict[str, dict[str, Any]] = {}  # what Optuna noted of a plan: NSGA-II its generation
        self._vectors: dict[str, Vectors] = {}
        self._known: set[str] = set()

    @property
    def over(self) -> bool:
        """Whether there are too many trials for the sampler."""
        return self.most_trials is not None and len(self._trials) >= self.most_trials

    def ask(self, k: int, rng: np.random.Generator) -> list[Plan]:
        plans = {} if self.over else self._proposed(k, int(rng.integers(2**31)))
        missing = k - len(plans)
        more = draw_new(self.encoding.tables, missing, rng, self._known | set(plans)) if missing else []
        return [*plans.values(), *more]

    def _proposed(self, k: int, seed: int) -> dict[str, Plan]:
        plans: dict[str, Plan] = {}
        space = self._distributions()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental notices of samplers and their settings
            study = self._study(seed, space)
            for _ in range(TRIES * k):
                trial = study.ask(space)
                plan = self.encoding.decode(self._vector(trial.params))[0]
                if plan.id not in self._known and plan.id not in plans:
                    plans[plan.id] = plan
                    self._attrs[plan.id] = study.get_trials(deepcopy=False)[trial.number].system_attrs
                if len(plans) == k:
                    break
        return plans

    def tell(self, trials: Sequence[Trial]) -> None:
        self._trials.update((trial.plan.id, trial) for trial in trials)
        self._known.update(self._trials)
        self._attrs = {name: attrs for name, attrs in self._attrs.items() if name in self._known}

    def state(self) -> dict[str, Any]:
        return {"attrs": self._attrs}

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        self._attrs = dict(state["attrs"])
        self.tell(trials)

    def headline(self) -> str:
        if self.over:
            return f"{self.sampler} ends at {self.most_trials} trials; plans are now drawn at random"
        return f"{self.sampler} on {len(self._trials)} trials"

    # Optuna's side ---------------------------------------------------------------------------------------------------

    def _distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        if self.categorical:
            return {
                name: CategoricalDistribution(range(len(ends)))
                for name, ends in zip(self.encoding.names, self.encoding.ends, strict=True)
            }
        return {name: FloatDistribution(0.0, 1.0) for name in self.encoding.names}

    def _study(self, seed: int, space: dict[str, BaseDistribution]) -> Study:
        """A study of all marked trials, in the order in which they were first drawn."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = getattr(optuna.samplers, SAMPLERS[self.sampler])
        try:
            study = optuna.create_study(direction="maximize", sampler=sampler(seed=seed, **self.settings))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"optimizer.settings={self.settings} do not fit Optuna's {sampler.__name__}: {error}"
            ) from error
        marked = sorted((trial for trial in self._trials.values() if trial.marks), key=lambda trial: trial.number)
        for trial in marked:
            study.add_trial(
                optuna.trial.create_trial(
                    value=self.objective.utility(trial),
                    params=self._params(trial.plan),
                    distributions=space,
                    system_attrs=self._attrs.get(trial.plan.id, {}),
                )
            )
        return study

    def _params(self, plan: Plan) -> dict[str, Any]:
        """What Optuna is told of a plan: always the same for the same plan."""
        if plan.id not in self._vectors:
            self._vectors[plan.id] = self.encoding.encode([plan], np.random.default_rng(int(plan.id, 16)))
        vector = self._vectors[plan.id]
        entries = self.encoding.options(vector) if self.categorical else vector
        return dict(zip(self.encoding.names, entries[0].tolist(), strict=True))

    def _vector(self, params: Mapping[str, Any]) -> Vectors:
        """Vector of what Optuna asks for, shape (1, C)."""
        entries = np.array([[params[name] for name in self.encoding.names]])
        return self.encoding.numbers(entries, np.full(entries.shape, 0.5)) if self.categorical else entries
