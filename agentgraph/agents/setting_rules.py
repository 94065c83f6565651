"""AgentTTS's guideline and settings without a language model: arithmetic on the trials, by the insights that are switched on.

1. Of each stage the smallest model that is not clearly worse than the best is preferred (else all models are alike).
2. Numbers of samples are looked for around the best one, half and twice and in between (else they are drawn at random).
3. Stages change together, and what one gives up another may take (else one stage changes at a time).

The rivals have rules of their own, simple readings of their papers. As AgentHPO (arXiv 2402.01881): from the best, one thing
of one stage is changed by one step. As MLCopilot (arXiv 2304.14979): numbers of samples are levels, and the next setting is
what the best experiences have on average, then parts of each of them, then one part drawn anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final

import numpy as np

from agentgraph.agents.guidelines import History
from agentgraph.samplings import Sampling, Setting

__all__ = ["guideline", "settings"]

_BASES: Final = 3  # best settings that are changed
_TURNS: Final = 40  # tries for each setting that is wanted
_FLAT: Final = 0.01  # spread of a batch's scores below which more is explored
_FACTORS: Final = (0.5, 0.75, 1.0, 1.5, 2.0)
_ASTRAY: Final = 0.15  # chance of a model that is not preferred
_RECALLED: Final = 5  # best settings that MLCopilot recalls; so many are drawn at random first


def guideline(history: History) -> str:
    """What to try next, and why, in words."""
    ranked = history.ranked()
    if not ranked:
        return "No trial has marks yet: try settings at random."
    best, trial = ranked[0]
    said = [f"Best so far: {history.samplings.text(best)}, score {history.utility(trial):.3f} ± {trial.stderr:.3f}."]
    if history.manner != "tts":
        return f"{said[0]} {_RIVALS[history.manner]}"
    names = [stage.name for stage in history.samplings.space.stages]
    if 1 in history.insights:
        for s, name in enumerate(names):
            by_model = _by_model(history, s)
            known = ", ".join(f"{model} {value:.3f}" for model, (value, _) in by_model.items())
            said.append(f"Stage {name} did best with {known}: prefer {' or '.join(_preferred(history, s))}.")
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
    ranked = history.ranked()
    known = {setting for setting, _ in history.trials}
    found: dict[Setting, None] = {}
    anywhere = history.count // 2 if _flat(history) else 0
    for turn in range(_TURNS * history.count):
        if len(found) == history.count:
            break
        if not ranked or len(found) < anywhere:
            setting: Setting | None = history.samplings.random(rng)
        else:
            setting = _changed(history, ranked[turn % min(_BASES, len(ranked))][0], rng)
        if setting is not None and setting not in known:
            found[setting] = None
    return list(found)


def _by_model(history: History, s: int) -> dict[str, tuple[float, float]]:
    """Best utility, and its standard error, of the trials that have each model in a stage; by size."""
    found: dict[str, tuple[float, float]] = {}
    for model in history.samplings.models(s):
        values = [
            (history.utility(trial), trial.stderr) for setting, trial in history.ranked() if setting[s].model == model
        ]
        if values:
            found[model] = max(values)
    return found


def _preferred(history: History, s: int) -> list[str]:
    """The smallest model that is not clearly worse than the best, and the best; models not tried yet count as well."""
    by_model = _by_model(history, s)
    untried = [model for model in history.samplings.models(s) if model not in by_model]
    if not by_model:
        return untried
    top, error = max(by_model.values())
    close = [model for model, (value, _) in by_model.items() if value >= top - error]
    return list(dict.fromkeys([close[0], max(by_model, key=lambda model: by_model[model])]))


def _changed(history: History, base: Setting, rng: np.random.Generator) -> Setting | None:
    """A setting with one or more stages changed; ``None`` if it is not within the budget."""
    count = len(base)
    if 3 in history.insights:
        which = [s for s in range(count) if rng.random() < 0.5] or [int(rng.integers(count))]
    else:
        which = [int(rng.integers(count))]
    setting = base
    for s in which:
        model = _model(history, s, base[s].model, rng)
        setting = (*setting[:s], Sampling(model, _samples(history, s, base[s], model, rng)), *setting[s + 1 :])
    if 3 in history.insights and not history.samplings.allows(setting):  # the other stages give up what is missing
        for s in [s for s in range(count) if s not in which] or which[1:]:
            most = history.samplings.most(s, setting[s].model, history.samplings.left(setting, s))
            if most:
                setting = (*setting[:s], Sampling(setting[s].model, min(most, setting[s].samples)), *setting[s + 1 :])
    return setting if history.samplings.allows(setting) else None


def _model(history: History, s: int, now: str, rng: np.random.Generator) -> str:
    models: Sequence[str] = history.samplings.models(s)
    if 1 in history.insights and rng.random() >= _ASTRAY:
        models = list(dict.fromkeys([now, *_preferred(history, s)]))
    return models[int(rng.integers(len(models)))]


def _samples(history: History, s: int, now: Sampling, model: str, rng: np.random.Generator) -> int:
    """How many samples of a model: around those it has, or around the same price where the model is another."""
    samplings = history.samplings
    most = max(1, samplings.most(s, model, samplings.space.budget.limits))
    if 2 not in history.insights:
        return 1 + int(rng.integers(most))
    tried = [
        (history.utility(trial), setting[s].samples) for setting, trial in history.ranked() if setting[s].model == model
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
    for base, _ in history.ranked():
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
    best = [setting for setting, _ in history.ranked()[:_RECALLED]]
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
