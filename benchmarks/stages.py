"""How soon do searches of both stages come near the best plan, by trials and by calls? And do graphs in stages beat samples?

Two worlds of two stages whose every plan is known: the embedded pipeline (`stage_tables.py`) and livecodebench's generation and
test output (composed: declared independent given the question). Each is searched in two spaces: *samples*, of each
stage a model and a number of samples (AgentTTS's space, where its rivals are random search, TPE, GP and NSGA-II over just these),
and *graphs*, every plan. All methods are marked on the same questions, all of them in every trial.

    python benchmarks/stages.py [data=<folder of the tables>] [worlds=pipeline-samples,…] [optimizers=x,y] [seeds=20] [trials=60]
        [cache=<folder>] [agent=<url>] [replies=<folder>] [out=<file>]
    python benchmarks/stages.py report=<file>

Results go to ``out`` line by line; what is there is not run again. GP, whose fits take seconds, is run with the seeds given by
``gp_seeds`` (5). Zero-shot search and ``…language-model`` (ours with a language model as agent) ask a model whose replies are
kept in ``replies``; prompts that are new are sent to the server ``agent``.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from quality import arguments, results
from quality.figures import NEAR, SHARE, Group, mean_of
from quality.language import Language, language_of
from quality.methods import ASKING, Method
from quality.setting_rivals import SAMPLERS, SettingMethod
from quality.stage_run import PLANS, stage_run
from quality.stage_worlds import NAMES, open_world

from agentgraph.errors import AgentGraphError
from agentgraph.plan import Plan

KEYS: Final = (
    "data",
    "worlds",
    "optimizers",
    "seeds",
    "gp_seeds",
    "trials",
    "cache",
    "agent",
    "replies",
    "out",
    "report",
)
OURS: Final = {"samples": "agent_tts", "graphs": "agent_reinforce"}
ABLATIONS: Final = {
    "agent_tts": ("full", "about 10"),
    "agent_tts+insights=[2,3]": ("no insight 1", "never"),
    "agent_tts+insights=[1,3]": ("no insight 2", "29"),
    "agent_tts+insights=[1,2]": ("no insight 3", "38"),
}
"""Variants with the paper's trials to reach the optimum."""
AGENTS: Final = ("agent_hpo", "ml_copilot")
METHODS: Final = {
    "samples": (
        *ABLATIONS, "agent_tts+batch=5", *AGENTS, "setting_random", "setting_tpe", "setting_tpe+plans_per_round=1",
        "setting_tpe_tuned", "setting_nsga2", "setting_nsga2_tuned", "zero_shot_settings", "agent_tts-language-model", "setting_gp",
    ),
    "graphs": (
        "agent_reinforce", "agent_tts", *AGENTS, "random_search", "tpe", "tpe+plans_per_round=1", "tpe_tuned", "nsga2",
        "nsga2_tuned", "evolution", "zero_shot", "language-model", "gp",
    ),
}  # fmt: skip
FEWEST: Final = 5
"""Seeds that a rival needs to be called the best, if ours has as many."""
STEPS: Final = (6, 10, 20, 30, 40, 60, 100, 150, 200)


class Job(NamedTuple):
    """A search to do."""

    world: str
    method: str
    seed: int
    trials: int


@cache
def method_of(name: str) -> Method | SettingMethod:
    """The method of that name."""
    base, *loop = name.split("+")
    if base.startswith("setting_"):
        if base.removeprefix("setting_") not in SAMPLERS:
            raise AgentGraphError(
                f"there is no rival {base!r}; there are {', '.join(f'setting_{n}' for n in SAMPLERS)}"
            )
        return SettingMethod(name=base, loop={k: int(v) for k, _, v in (entry.partition("=") for entry in loop)})
    return Method.named(name)


def run_of(job: Job, world: Any, outcome: dict[str, Any]) -> results.Run:  # noqa: ANN401
    """A search as it is written down."""
    method = method_of(job.method)
    settings = {"optimizer": dict(method.optimizer), "loop": {"plans": PLANS, **method.loop}}
    facts = {"note": world.note, "best": asdict(world.best)}
    return results.Run(job.world, job.method, settings, job.seed, job.trials, facts, outcome)


def jobs_of(given: dict[str, str], worlds: dict[str, Any]) -> Iterator[Job]:
    """Every search that is asked for, seed by seed."""
    trials, seeds = int(given.get("trials", 60)), int(given.get("seeds", 20))
    for seed in range(seeds):
        for name in worlds:
            kind = name.rpartition("-")[2]
            asked = _listed(given["optimizers"]) if "optimizers" in given else METHODS[kind]
            for method in asked:
                few = method.partition("+")[0].endswith("gp")
                if method in METHODS[kind] and not (few and seed >= int(given.get("gp_seeds", 5))):
                    yield Job(name, method, seed, trials)


def _listed(text: str) -> list[str]:
    """Names with commas between; not those within [1,2]."""
    parts = text.replace("[", "\0[").split(",")
    found: list[str] = []
    for part in parts:
        if found and found[-1].count("[") > found[-1].count("]"):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return [name.replace("\0", "") for name in found]


def run_all(jobs: Sequence[Job], worlds: dict[str, Any], out: Path, language: Language) -> None:
    """Do the searches that are not known, and write each down as it ends."""
    known = {run.key: run.evaluations for run in results.read(out) if run.points}
    todo = [job for job in jobs if known.get(run_of(job, worlds[job.world], {}).key, -1) < job.trials]
    print(f"{len(todo)} searches to do; results in {out}", flush=True)
    for number, job in enumerate(todo, start=1):
        world = worlds[job.world]
        try:
            outcome = stage_run(world, method_of(job.method), job.seed, job.trials, language)
        except AgentGraphError as error:  # others go on without this method
            outcome = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        results.append(out, run_of(job, world, outcome))
        print(f"{number}/{len(todo)} {job.world} {job.method} {job.seed}: {outcome.get('error', 'done')}", flush=True)


# Tables --------------------------------------------------------------------------------------------------------------


def report(runs: Sequence[results.Run]) -> Iterator[str]:
    """All tables."""
    yield f"± is half of the {100 * SHARE:.0f} % interval of the mean over seeds; regret in points (on unseen questions)"
    worlds: dict[str, dict[str, list[results.Run]]] = {}
    for run in results.latest(runs):
        worlds.setdefault(run.world, {}).setdefault(run.method, []).append(run)
    for world, by_method in worlds.items():
        ended = {method: [run for run in there if run.points] for method, there in by_method.items()}
        groups = [Group.of(there) for there in ended.values() if there]
        yield ""
        yield from _heading(world, next(iter(by_method.values()))[0])
        yield from _regrets(groups)
        for method, there in by_method.items():
            if failed := [run.outcome["error"] for run in there if not run.points]:
                yield f"{method}: could not run ({len(failed)} of {len(there)} seeds): {failed[-1]}"
        yield from _verdict(world, groups)
        yield from _ablation(groups)


def _heading(world: str, run: results.Run) -> Iterator[str]:
    best = run.world_facts["best"]
    yield f"== {world}: {run.world_facts['note']}"
    yield (
        f"{best['plans']:,} plans; the best has {100 * best['search']:.2f} on search questions and {100 * best['chosen']:.2f} on "
        f"unseen ones, where the best of all has {100 * best['unseen']:.2f}"
    )


def _regrets(groups: Sequence[Group]) -> Iterator[str]:
    most = max(group.evaluations for group in groups)
    steps = [step for step in STEPS if step <= most]
    yield (
        f"{'regret after so many trials':<32}{'seeds':>6}{'first':>6}"
        + "".join(f"{step:>20}" for step in steps)
        + f"{'came':>8}{'trials':>8}{'tried':>8}{'calls':>9}"
    )
    for group in groups:
        cells = [_cell(group, step) for step in steps]
        needed = group.needed("trials")
        ends = f"{_median(group, 'trials'):>8}{_tried(group):>8}{_median(group, 'calls'):>9}"
        yield (
            f"{group.method:<32}{len(group.runs):>6}{initial(group):>6.0f}"
            + "".join(f"{cell:>20}" for cell in cells)
            + f"{sum(map(math.isfinite, needed)):>5}/{len(needed)}{ends}"
        )


def _cell(group: Group, step: int) -> str:
    search, unseen = group.regrets("trials", step)
    if not search:
        return "-"
    mean = mean_of(search)
    return f"{mean.value:.1f} ±{mean.half:.1f} ({statistics.fmean(unseen):.1f})"


def _median(group: Group, effort: str) -> str:
    median = statistics.median(group.needed(effort))
    return f"{median:,.0f}" if math.isfinite(median) else f"> {group.spent(effort):,.0f}"


def _tried(group: Group) -> str:
    """Median trials until a plan near the optimum was tried, whether or not it was chosen then."""
    found = [
        next(
            (i for i, value in enumerate(run.outcome["tried"], 1) if 100 * (group.best.search - value) <= NEAR + 1e-9),
            math.inf,
        )
        for run in group.runs
    ]
    median = statistics.median(found)
    return f"{median:,.0f}" if math.isfinite(median) else f"> {group.spent('trials'):,.0f}"


def initial(group: Group) -> float:
    """Trials that the method makes before it first learns."""
    return statistics.median(run.outcome["initial"] for run in group.runs)


def _verdict(world: str, groups: Sequence[Group]) -> Iterator[str]:
    """Ours against the best rival: median trials until the choice is near the optimum, ours after the initial ones."""
    name = OURS[world.rpartition("-")[2]]
    mine = next((group for group in groups if group.method == name), None)
    if mine is None:
        return
    enough = min(FEWEST, len(mine.runs))
    ours = (*OURS.values(), "language-model")
    rivals = [g for g in groups if not g.method.startswith(ours) and len(g.runs) >= enough]
    alone = [group for group in rivals if group.method not in ASKING]
    for among, said in ((rivals, "best rival"), (alone, "best rival without a language model")):
        if among and (among is rivals or len(alone) < len(rivals)):
            yield _against(mine, among, said)


def _against(mine: Group, rivals: Sequence[Group], said: str) -> str:
    rival = min(
        rivals,
        key=lambda group: (statistics.median(group.needed("trials")), sum(map(math.isinf, group.needed("trials")))),
    )
    us, them = (statistics.median(group.needed("trials")) for group in (mine, rival))
    after = max(0.0, us - initial(mine))
    shown = _median(mine, "trials") if math.isinf(us) else f"{after:,.0f} after the first {initial(mine):.0f}"
    bound = rival.spent("trials") if math.isinf(them) else them
    ratio = "?" if math.isinf(us) else f"{'< ' if math.isinf(them) else ''}{after / bound:.2f}"
    return (
        f"within {NEAR:g} point, median trials: {mine.method} {shown}; {said} {rival.method} {_median(rival, 'trials')}; "
        f"ratio {ratio}"
    )


def _ablation(groups: Sequence[Group]) -> Iterator[str]:
    known = {group.method: group for group in groups}
    if not all(name in known for name in ABLATIONS):
        return
    yield f"{'ablation':<16}{'came':>8}{'median trials':>15}{'the paper':>12}"
    for name, (shown, paper) in ABLATIONS.items():
        needed = known[name].needed("trials")
        yield f"{shown:<16}{sum(map(math.isfinite, needed)):>5}/{len(needed)}{_median(known[name], 'trials'):>15}{paper:>12}"


def graphs_against_samples(worlds: dict[str, Any]) -> Iterator[str]:
    """The best plan of graphs and the best setting of samples at one budget: chosen on search questions, scored on unseen ones."""
    for name, world in worlds.items():
        base, _, kind = name.rpartition("-")
        other = worlds.get(f"{base}-samples")
        if kind != "graphs" or other is None:
            continue
        questions, _ = world.unseen
        mine, theirs = (where.unseen[1](Plan.from_compact(where.best.plan)) for where in (world, other))
        low, high = _interval([question.text for question in questions], mine - theirs)
        yield (
            f"{base}, equal budget, unseen questions: graphs {100 * mine.mean():.1f} %, samples {100 * theirs.mean():.1f} %; "
            f"paired difference {100 * (mine - theirs).mean():+.1f} points, {100 * SHARE:.0f} % interval [{low:+.1f}, {high:+.1f}]"
        )


def _interval(texts: Sequence[str], difference: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """Interval of a mean in points by drawing questions again, those with the same text together."""
    groups = [np.flatnonzero(np.array(texts) == text) for text in dict.fromkeys(texts)]
    sums, sizes = np.array([difference[group].sum() for group in groups]), np.array([len(group) for group in groups])
    chosen = np.random.default_rng(0).integers(len(groups), size=(draws, len(groups)))
    means = 100 * sums[chosen].sum(1) / sizes[chosen].sum(1)
    low, high = np.quantile(means, ((1 - SHARE) / 2, (1 + SHARE) / 2))
    return float(low), float(high)


def opened(names: Sequence[str], data: Path | None, folder: Path) -> dict[str, Any]:
    """The worlds that are there; says which are not."""
    worlds = {}
    for name in names:
        try:
            worlds[name] = open_world(name, data, folder)
        except FileNotFoundError as error:
            print(f"skipped {name}: {error}", flush=True)
    return worlds


def trouble(given: dict[str, str]) -> str:
    """What is wrong with the arguments; '' if nothing is."""
    every = {method for methods in METHODS.values() for method in methods}
    absent = [name for name in _listed(given["optimizers"]) if name not in every] if "optimizers" in given else []
    if absent:
        return f"unknown optimizers: {', '.join(absent)}; there are {', '.join(sorted(every))}"
    return arguments.trouble(given, keys=KEYS, counts=("seeds", "gp_seeds", "trials"), worlds=NAMES)


def main(argv: Sequence[str]) -> int:
    """Run what is not known yet, and print the tables."""
    given = dict(argument.partition("=")[::2] for argument in argv)
    if problem := trouble(given):
        print(problem)
        return 2
    out, worlds = Path(given.get("report", "")), dict[str, Any]()
    if "report" not in given:
        folder = Path(given.get("cache", Path(tempfile.gettempdir()) / "agentgraph-stages")).expanduser()
        out = Path(given["out"]).expanduser() if "out" in given else folder / "runs.jsonl"
        data = Path(given["data"]).expanduser() if given.get("data") else None
        worlds = opened(given.get("worlds", ",".join(NAMES)).split(","), data, folder)
        run_all(list(jobs_of(given, worlds)), worlds, out, language_of(given))
    for line in (*report(results.read(out)), *graphs_against_samples(worlds)):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
