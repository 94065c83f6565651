"""Tables as text: one for each world, and what they come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from .figures import NEAR, SHARE, Group, difference, mean_of
from .methods import OURS
from .results import Run, latest

EVALUATIONS = (256, 512, 1024, 1536, 2560, 5120, 10240)
CALLS = (100, 200, 500, 1000, 2000, 5000, 10000)

Worlds = Mapping[str, Sequence[Group]]


def report(runs: Sequence[Run], ours: str = OURS) -> Iterator[str]:
    """All lines."""
    chosen = latest(runs)
    worlds = {
        world: [Group.of(by) for by in _by([r for r in there if r.points], "method").values()]
        for world, there in _by(chosen, "world").items()
    }
    yield f"± is half of the {100 * SHARE:.0f} % interval of the mean over seeds; (in brackets: regret on unseen questions)"
    for world, groups in worlds.items():
        there = [run for run in chosen if run.world == world]
        yield from ("", *_heading(world, there[-1]))
        if groups:
            yield from _regrets(groups, "evaluations", EVALUATIONS)
            yield from _regrets(groups, "calls", CALLS)
            yield from _needs(groups)
        yield from _errors(there)
    yield from ("", *_summary(worlds, ours))
    yield from ("", *_settings(chosen))


def _by(runs: Sequence[Run], field: str) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(getattr(run, field), []).append(run)
    return found


def _heading(world: str, run: Run) -> Iterator[str]:
    best = run.world_facts["best"]
    count = f"{best['plans']:,} plans; " if best["plans"] else ""
    yield f"== {world}: {run.world_facts['note']}"
    floor = 100 * (best["unseen"] - best["chosen"])
    yield (
        f"{count}best plan {100 * best['search']:.2f}; on unseen questions {100 * best['unseen']:.2f}, with a floor of regret "
        f"there, by the plan that is best on the search questions, of {floor:.2f}"
    )


def _regrets(groups: Sequence[Group], effort: str, steps: Sequence[int]) -> Iterator[str]:
    spent = max(run.points[-1]._asdict()[effort] for group in groups for run in group.runs)
    shown = [step for step in steps if step <= max(spent, steps[0])]
    yield f"regret, points, by {'question evaluations used' if effort == 'evaluations' else 'calls made'}"
    yield f"{'method':<28}{'seeds':>5} " + "".join(f"{step:>23,}" for step in shown)
    for group in groups:
        cells = [_cell(group, effort, step) for step in shown]
        yield f"{group.method:<27} {len(group.runs):>5} " + "".join(f"{cell:>23}" for cell in cells)


def _cell(group: Group, effort: str, step: int) -> str:
    search, unseen = group.regrets(effort, step)
    if not search:
        return "-"
    mean = mean_of(search)
    part = "" if mean.count == len(group.runs) else f" of {mean.count}"  # seeds that had a plan
    other = f" ({statistics.fmean(unseen):.2f})" if group.best.plans else ""  # a landscape has no unseen questions
    return f"{mean.value:.2f} ±{mean.half:.2f}{other}{part}"


def _needs(groups: Sequence[Group]) -> Iterator[str]:
    yield (
        f"{f'first within {NEAR:g} point, median':<28}{'came':>8}{'evaluations':>13}{'calls':>9}{'run to':>8}"
        f"{'seconds a search':>18}{'of these ask+tell':>19}{'CPU seconds':>13}{'agent tokens':>14}"
    )
    for group in groups:
        needed = group.needed("evaluations")
        came = f"{sum(map(math.isfinite, needed))}/{len(needed)}"
        yield (
            f"{group.method:<27} {came:>8}{_median(group, 'evaluations'):>13}{_median(group, 'calls'):>9}"
            f"{group.evaluations:>8}{group.mean('seconds'):>18.2f}{group.thinking():>19.2f}{group.mean('cpu_seconds'):>13.2f}"
            f"{group.mean('agent_tokens'):>14.0f}"
        )


def _median(group: Group, effort: str) -> str:
    median = statistics.median(group.needed(effort))
    return f"{median:,.0f}" if math.isfinite(median) else f"> {group.spent(effort):,.0f}"


def _errors(runs: Sequence[Run]) -> Iterator[str]:
    for method, by in _by([run for run in runs if not run.points], "method").items():
        yield f"{method:<27} could not run ({len(by)} seeds): {by[-1].outcome['error']}"


def _summary(worlds: Worlds, ours: str) -> Iterator[str]:
    yield f"{ours} : best method without an agent = ratio of median effort to come within {NEAR:g} point"
    yield f"{'world':<26}{'evaluations':>40}{'calls':>44}   worse at equal evaluations by more than the interval"
    for world, groups in worlds.items():
        mine = next((group for group in groups if group.method == ours), None)
        rivals = [group for group in groups if not group.has_agent]
        if mine is None or not rivals:
            yield f"{world:<26}{'no runs of ' + (ours if mine is None else 'rivals'):>40}"
            continue
        yield (
            f"{world:<26}{_ratio(mine, rivals, 'evaluations'):>40}{_ratio(mine, rivals, 'calls'):>44}   "
            f"{_worse(mine, rivals)}"
        )


def _ratio(mine: Group, rivals: Sequence[Group], effort: str) -> str:
    """Our median, the best rival's, and their ratio: a bound where one is censored."""

    def rank(group: Group) -> tuple[float, float]:
        return statistics.median(group.needed(effort)), statistics.fmean(
            group.regrets("evaluations", math.inf)[0] or [100.0]
        )

    rival = min(rivals, key=rank)
    us, them = rank(mine)[0], rank(rival)[0]
    if math.isinf(us) and math.isinf(them):
        ratio = "?"
    elif math.isinf(them):
        ratio = f"< {us / rival.spent(effort):.2f}"
    elif math.isinf(us):
        ratio = f"> {mine.spent(effort) / max(them, 1.0):.2f}"
    else:
        ratio = f"{us / max(them, 1.0):.2f}"
    return f"{_median(mine, effort)} : {_median(rival, effort)} {rival.method} = {ratio}"


def _worse(mine: Group, rivals: Sequence[Group]) -> str:
    """Where our regret exceeds the best rival's by more than the interval of the difference."""
    found = []
    for step in EVALUATIONS:
        there = {
            rival.method: values
            for rival in rivals
            if rival.evaluations >= step and (values := rival.regrets("evaluations", step)[0])
        }
        if step > mine.evaluations or not there:
            continue
        name = min(there, key=lambda method: statistics.fmean(there[method]))
        us = mine.regrets("evaluations", step)[0]
        if not us:
            found.append(f"no plan yet at {step}")
            continue
        gap = difference(us, there[name])
        if gap.value > gap.half:
            found.append(f"yes, at {step}: {gap.value:.2f} ±{gap.half:.2f} more than {name}")
    return "; ".join(found) or "no"


def _settings(runs: Sequence[Run]) -> Iterator[str]:
    """What methods with an agent were run with."""
    yield "settings, the same in every world unless listed twice:"
    seen: dict[str, None] = {}
    for run in runs:
        if "agent" in run.settings["optimizer"]:
            given = {**run.settings["optimizer"], **run.settings["loop"]}
            agent = given.pop("agent")
            shown = ", ".join(f"{k}={v}" for k, v in {**given, **{f"agent.{k}": v for k, v in agent.items()}}.items())
            seen.setdefault(f"  {run.method}: {shown}", None)
    yield from seen or ("  no method with an agent",)
