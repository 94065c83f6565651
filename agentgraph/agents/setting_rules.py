"""AgentTTS's guideline and settings without a language model: arithmetic on the trials, by the insights that are switched on.

Of a pipeline what counts is the product of its stages, so the logarithm of the utility is believed to be a sum over stages: a model
whose only trials stood beside a poor stage is not thought poor for it. Where stages are marked by themselves each is judged by its
own marks. Beliefs are a Gaussian over the effects (`_Beliefs`); of a batch the first half are the best of many settings by its
mean, the others each by one draw from it, so that what is not known is tried.

1. Models have effects (else all models are alike).
2. Numbers of samples have effects that bend, of each model its own; they are looked for around the best one, half and twice and in
   between (else they are drawn at random).
3. Stages change together, and what one gives up another may take (else one stage changes at a time).

The rivals have rules of their own, simple readings of their papers. As AgentHPO (arXiv 2402.01881): from the best, one thing
of one stage is changed by one step. As MLCopilot (arXiv 2304.14979): numbers of samples are levels, and the next setting is
what the best experiences have on average, then parts of each of them, then one part drawn anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agentgraph.agents.guidelines import History
from agentgraph.samplings import Sampling, Setting
from agentgraph.trial import Trial

__all__ = ["guideline", "settings"]

_BASES: Final = 3  # best settings that are changed
_TURNS: Final = 40  # settings drawn for each that is wanted
_FLAT: Final = 0.01  # spread of a batch's scores below which more is explored
_FACTORS: Final = (0.5, 0.75, 1.0, 1.5, 2.0)
_SAME: Final = 1e-9
_LEVEL: Final = 3.0  # spread of a stage's level before any trial, in logarithms of the utility
_MODEL: Final = 1.0  # spread of the effects of models before any trial, in logarithms of the utility
_SLOPE: Final = 0.5  # of a doubling of the samples
_BEND: Final = 0.2  # of a doubling squared
_MISFIT: Final = 0.05  # what sums of effects miss, in logarithms
_RECALLED: Final = 5  # best settings that MLCopilot recalls; so many are drawn at random first


def guideline(history: History) -> str:
    """What to try next, and why, in words."""
    ranked = history.ranked
    if not ranked:
        return "No trial has marks yet: try settings at random."
    best, trial = ranked[0]
    said = [f"Best so far: {history.samplings.text(best)}, score {history.utility(trial):.3f} ± {trial.stderr:.3f}."]
    if history.manner != "tts":
        return f"{said[0]} {_RIVALS[history.manner]}"
    names = [stage.name for stage in history.samplings.space.stages]
    if 1 in history.insights:
        beliefs = _Beliefs(history)
        for s, name in enumerate(names):
            effects = beliefs.models(s)
            known = ", ".join(f"{model} {effect:+.2f}" for model, (effect, _) in effects.items())
            said.append(f"Stage {name}, effect of each model: {known}; prefer {' or '.join(_preferred(effects))}.")
    if 2 in history.insights:
        around = [f"{name} {_low(one.samples)} to {2 * one.samples}" for name, one in zip(names, best, strict=True)]
        said.append(f"Look for the number of samples around the best: {', '.join(around)}.")
    if 3 in history.insights and len(names) > 1:
        said.append(
            "Change stages together: what an earlier stage gives up may go to a later one, and the other way round."
        )
    if _flat(history):
        said.append("The scores of the last batch hardly vary: half of the next settings are drawn anywhere.")
    return " ".join(said)


_RIVALS: Final = {
    "hpo": "Change one thing of one stage by one step.",
    "copilot": "Try what the best experiences have on average, or parts of each.",
}


def settings(history: History) -> list[Setting]:
    """Settings to try next, none of them tried before, all within the budget; fewer where none are left."""
    rng = np.random.default_rng((history.round, history.seed))
    if history.manner != "tts":
        return _of_rival(history, rng)
    ranked = history.ranked
    known = {setting for setting, _ in history.trials}
    if not ranked:
        drawn = (history.samplings.random(rng) for _ in range(_TURNS * history.count))
        return list(islice(dict.fromkeys(setting for setting in drawn if setting not in known), history.count))
    anywhere = history.count // 2 if _flat(history) else 0
    found = dict.fromkeys(one for one in (history.samplings.random(rng) for _ in range(anywhere)) if one not in known)
    pool = [setting for setting in _pool(history, rng) if setting not in known and setting not in found]
    if pool:
        forecasts = _Beliefs(history).forecasts(pool, history.count - len(found), rng)
        for row in forecasts:
            best = max((i for i in range(len(pool)) if pool[i] not in found), key=lambda i: row[i], default=None)
            if best is not None:
                found[pool[best]] = None
    return list(found)


def _pool(history: History, rng: np.random.Generator) -> list[Setting]:
    """Settings to choose from: changes of the best, and with insight 3 as many drawn anywhere."""
    pool: dict[Setting, None] = {}
    bases = [setting for setting, _ in history.ranked[:_BASES]]
    for turn in range(_TURNS * history.count):
        anywhere = 3 in history.insights and turn % 2
        setting = history.samplings.random(rng) if anywhere else _changed(history, bases[turn // 2 % len(bases)], rng)
        if setting is not None:
            pool[setting] = None
    return list(pool)


class _Beliefs:
    """What the trials say of settings: the logarithm of the utility is a sum of effects, a Gaussian by Bayes' rule.

    Each stage has a level, an effect of the model, and of the number of samples (in doublings) a slope, one more of each model,
    and a bend. A trial whose stages are marked by themselves tells of each which share of what came to it right left it right.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._names = [history.samplings.models(s) for s in range(len(history.samplings.space.stages))]
        self._spread = self._spreads()
        rows, targets, noise = [], [], []
        for setting, trial in history.ranked:
            parts = self._parts(setting)
            for stages, rate, error in _rates(history, trial):
                rows.append(np.concatenate([part * (s in stages) for s, part in enumerate(parts)]))
                targets.append(np.log(rate))
                noise.append(_MISFIT**2 + (error / rate) ** 2)
        x, weight = np.array(rows), 1.0 / np.array(noise)
        self._covariance = np.linalg.inv(np.diag(self._spread**-2.0) + x.T @ (weight[:, None] * x))
        self._mean = self._covariance @ (x.T @ (weight * np.array(targets)))

    def forecasts(self, settings: Sequence[Setting], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Forecasts of settings, shape (count, settings): the first half of the rows by the mean, the others by draws."""
        drawn = rng.multivariate_normal(self._mean, self._covariance, size=count // 2, method="cholesky")
        effects = np.concatenate([np.tile(self._mean, (count - count // 2, 1)), drawn])
        found: NDArray[np.float64] = effects @ np.array([np.concatenate(self._parts(one)) for one in settings]).T
        return found

    def models(self, s: int) -> dict[str, tuple[float, float]]:
        """Effect of each model of a stage and its standard error, by size."""
        start = 1 + sum(2 * len(self._names[t]) + 3 for t in range(s))
        return {
            model: (float(self._mean[start + m]), float(np.sqrt(self._covariance[start + m, start + m])))
            for m, model in enumerate(self._names[s])
        }

    def _spreads(self) -> NDArray[np.float64]:
        """Of each effect before any trial; nearly 0 where its insight is switched off."""
        on = {n: 1.0 if n in self._history.insights else 1e-6 for n in (1, 2)}
        spreads: list[float] = []
        for names in self._names:
            spreads += [_LEVEL] + [on[1] * _MODEL] * len(names) + [min(on.values()) * _SLOPE / 2] * len(names)
            spreads += [on[2] * _SLOPE, on[2] * _BEND]
        return np.array(spreads)

    def _parts(self, setting: Setting) -> list[NDArray[np.float64]]:
        """What each stage adds, by its effects: shape (1 + 2 models + 2,)."""
        parts = []
        for one, names in zip(setting, self._names, strict=True):
            model = np.array([float(name == one.model) for name in names])
            doublings = float(np.log2(one.samples))
            parts.append(np.array([1.0, *model, *(doublings * model), doublings, doublings**2]))
        return parts


def _rates(history: History, trial: Trial) -> Iterator[tuple[Collection[int], float, float]]:
    """What a trial tells: some stages, the share of questions that these got right, and its standard error.

    Each stage by itself where all but the last have marks of their own, and these are what counts; else all together.
    """
    stages = history.samplings.space.stages
    own = [list(trial.stage_marks.get(stage.name, {}).values()) for stage in stages[:-1]]
    if len(stages) == 1 or not all(own) or abs(history.utility(trial) - trial.accuracy) > _SAME:
        value = max(history.utility(trial), 0.5 / len(trial.marks))
        yield range(len(stages)), value, trial.stderr
        return
    reached = float(len(trial.marks))
    for s, marks in enumerate([*own, list(trial.marks.values())]):
        right = float(sum(marks))
        rate = (right + 0.5) / (reached + 1.0)
        yield (s,), rate, float(np.sqrt(rate * max(1.0 - rate, 0.0) / (reached + 1.0)))
        reached = right


def _preferred(effects: Mapping[str, tuple[float, float]]) -> list[str]:
    """The smallest model that is not clearly worse than the best, and the best."""
    best = max(effects, key=lambda model: effects[model][0])
    top, error = effects[best]
    close = [model for model, (effect, _) in effects.items() if effect >= top - error]
    return list(dict.fromkeys([close[0], best]))


def _changed(history: History, base: Setting, rng: np.random.Generator) -> Setting | None:
    """A setting with one or more stages changed; ``None`` if it is not within the budget."""
    count = len(base)
    if 3 in history.insights:
        which = [s for s in range(count) if rng.random() < 0.5] or [int(rng.integers(count))]
    else:
        which = [int(rng.integers(count))]
    setting = base
    for s in which:
        models = history.samplings.models(s)
        model = models[int(rng.integers(len(models)))]
        setting = (*setting[:s], Sampling(model, _samples(history, s, base[s], model, rng)), *setting[s + 1 :])
    if 3 in history.insights and not history.samplings.allows(setting):  # the other stages give up what is missing
        for s in [s for s in range(count) if s not in which] or which[1:]:
            most = history.samplings.most(s, setting[s].model, history.samplings.left(setting, s))
            if most:
                setting = (*setting[:s], Sampling(setting[s].model, min(most, setting[s].samples)), *setting[s + 1 :])
    return setting if history.samplings.allows(setting) else None


def _samples(history: History, s: int, now: Sampling, model: str, rng: np.random.Generator) -> int:
    """How many samples of a model: around those it has, or around the same price where the model is another."""
    samplings = history.samplings
    most = max(1, samplings.most(s, model, samplings.space.budget.limits))
    if 2 not in history.insights:
        return 1 + int(rng.integers(most))
    tried = [
        (history.utility(trial), setting[s].samples) for setting, trial in history.ranked if setting[s].model == model
    ]
    start = now.samples if model == now.model else max(tried)[1] if tried else max(1, most // 2)
    factor = _FACTORS[int(rng.integers(len(_FACTORS)))]
    step = round(start * factor) + int(rng.integers(-1, 2))
    return int(np.clip(step, 1, most))


def _low(samples: int) -> int:
    return max(1, samples // 2)


def _flat(history: History) -> bool:
    last = (
        [history.utility(trial) for _, trial in history.trials[-history.last :] if trial.marks] if history.last else []
    )
    return len(last) > 2 and float(np.std(last)) < _FLAT


# Rivals --------------------------------------------------------------------------------------------------------------


def _of_rival(history: History, rng: np.random.Generator) -> list[Setting]:
    """The rival's next settings; what its rule leaves open is drawn at random."""
    rule = _one_step if history.manner == "hpo" else _recalled
    drawn = (history.samplings.random(rng) for _ in range(_TURNS * history.count))
    known = {setting for setting, _ in history.trials}
    fresh = (setting for setting in chain(rule(history, rng), drawn) if setting not in known)
    allowed = (setting for setting in fresh if history.samplings.allows(setting))
    return list(islice(dict.fromkeys(allowed), history.count))


def _one_step(history: History, rng: np.random.Generator) -> Iterator[Setting]:
    """Neighbours of the best setting in random order, then those of the second best, and so on."""
    for base, _ in history.ranked:
        steps: list[Setting] = []
        for s, one in enumerate(base):
            models = history.samplings.models(s)
            at = models.index(one.model)
            others = [Sampling(model, one.samples) for model in models[max(0, at - 1) : at + 2] if model != one.model]
            numbers = {one.samples - 1, one.samples + 1, one.samples // 2, 2 * one.samples} - {0, one.samples}
            others += [Sampling(one.model, number) for number in sorted(numbers)]
            steps += [(*base[:s], other, *base[s + 1 :]) for other in others]
        yield from (steps[i] for i in rng.permutation(len(steps)))


def _recalled(history: History, rng: np.random.Generator) -> Iterator[Setting]:
    """What the best experiences have on average, parts of each, and these with one part drawn anew."""
    best = [setting for setting, _ in history.ranked[:_RECALLED]]
    if len(history.trials) < _RECALLED or not best:
        return
    stages = range(len(best[0]))
    yield tuple(_average([setting[s] for setting in best]) for s in stages)
    for turn in range(_TURNS):
        setting = [best[int(rng.integers(len(best)))][s] for s in stages]
        if turn >= _TURNS // 2:
            s = int(rng.integers(len(setting)))
            models = history.samplings.models(s)
            model = models[int(rng.integers(len(models)))]
            most = history.samplings.most(s, model, history.samplings.left(tuple(setting), s))
            if not most:
                continue
            levels = [2**n for n in range(most.bit_length())]
            setting[s] = Sampling(model, levels[int(rng.integers(len(levels)))])
        yield tuple(setting)


def _average(parts: Sequence[Sampling]) -> Sampling:
    """The model that most of them have, the best's of equals, and the level next to their geometric mean of samples."""
    models = Counter(one.model for one in parts)
    level = round(float(np.mean([np.log2(one.samples) for one in parts])))
    return Sampling(max(models, key=lambda model: models[model]), 2**level)
