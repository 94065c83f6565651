"""How near to the best plan do searches come, with how many question evaluations and how many calls?

Each method searches each world by the real loop on a fresh executor: 32 questions a plan, 8 plans a round. After every
round the plan that would be chosen is valued exactly. Regret is how far it lies below the world's best plan, in points.

    python benchmarks/search_quality.py data=<folder of the tables> [worlds=a,b] [optimizers=x,y] [seeds=20]
        [evaluations=2560] [training=100,50] [jobs=1] [cache=<folder>] [agent=<url>] [replies=<folder>] [out=<file>]
        [ours=agent_reinforce]
    python benchmarks/search_quality.py report=<file>

``optimizers`` are names in ``conf/optimizer``, each perhaps with overrides of its settings or of the loop
(``agent_reinforce+rate=0.3+agent.focus=0.2``); ``optimizers=ablations`` stands for the variants of ours. ``zero_shot`` and
``language-model+race=true`` (ours with a language model as agent) ask a model whose replies are kept in ``replies``; prompts
that are new are sent to the server ``agent``. ``training`` limits the questions that are searched on. Results go to ``out`` line by
line; what is there is not run again, so that runs can be spread over time and processes. Where tables are absent, that is
said and the other worlds are run.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

from quality import arguments, results
from quality.language import Language, language_of
from quality.methods import ABLATIONS, OURS, RIVALS, SLOW, Method
from quality.one_run import PLANS, QUESTIONS, one_run
from quality.registry import NAMES, open_world
from quality.tables import report

from agentgraph.errors import AgentGraphError

KEYS = (
    "data", "worlds", "optimizers", "seeds", "evaluations", "training", "jobs", "cache", "agent", "replies", "out", "ours",
    "report",
)  # fmt: skip
SLOW_IN = ("synthetic-mix", "mot_cascade-date-20")
"""Worlds in which slow methods are run unless they are asked for by name."""


class Job(NamedTuple):
    """A search to do."""

    world: str
    train: int | None
    method: str
    seed: int
    evaluations: int
    data: Path | None
    cache: Path
    language: Language

    @property
    def shown(self) -> str:
        """The world's name in results."""
        return self.world if self.train is None else f"{self.world}@{self.train}"


world_of = cache(open_world)
method_of = cache(Method.named)


def settings_of(method: str) -> dict[str, Any]:
    """What tells runs of a method apart; an unknown method has its name alone."""
    try:
        known = method_of(method)
    except AgentGraphError:
        return {"optimizer": {"name": method}, "loop": {}}
    return {"optimizer": known.optimizer, "loop": {"questions": QUESTIONS, "plans": PLANS, **known.loop}}


def done(job: Job) -> results.Run:
    """Do one search."""
    world = world_of(job.world, job.data, job.cache)
    try:
        outcome = one_run(world, method_of(job.method), job.seed, job.evaluations, job.train, job.language)
    except (AgentGraphError, ValueError, RuntimeError) as error:  # others go on without this method
        outcome = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return as_run(job, outcome)


def as_run(job: Job, outcome: dict[str, Any]) -> results.Run:
    """A search as it is written down."""
    world = world_of(job.world, job.data, job.cache)
    facts = {"note": world.note, "best": asdict(world.best)}
    return results.Run(job.shown, job.method, settings_of(job.method), job.seed, job.evaluations, facts, outcome)


def jobs_of(given: dict[str, str], cache_folder: Path) -> Iterator[Job]:
    """Every search that is asked for, in worlds that are there; says which are not."""
    data = Path(given["data"]).expanduser() if given.get("data") else None
    sizes = [int(size) for size in given["training"].split(",")] if given.get("training") else [None]
    asked = re.split(
        r",(?![^\[]*\])", given.get("optimizers", ",".join((*RIVALS, *SLOW, "zero_shot", OURS)))
    )  # not within [1,2]
    methods = [name for entry in asked for name in (ABLATIONS if entry == "ablations" else (entry,))]
    language = language_of(given)
    there = list(_there(given.get("worlds", ",".join(NAMES)).split(","), data, cache_folder))
    for seed in range(int(given.get("seeds", 20))):
        for name in there:
            here = [m for m in methods if m not in SLOW or name in SLOW_IN or "optimizers" in given]
            for size in sizes:
                for method in here:
                    evaluations = int(given.get("evaluations", 2560))
                    yield Job(name, size, method, seed, evaluations, data, cache_folder, language)


def _there(names: Sequence[str], data: Path | None, cache_folder: Path) -> Iterator[str]:
    """The worlds that can be opened."""
    for name in names:
        try:
            world_of(name, data, cache_folder)
        except FileNotFoundError as error:
            print(f"skipped {name}: {error}", flush=True)
        else:
            yield name


def left(jobs: Sequence[Job], known: Sequence[results.Run]) -> list[Job]:
    """The searches that are not known, or not to their end; those that could not run are tried again."""
    ran = {run.key: run.evaluations for run in known if run.points}
    return [job for job in jobs if ran.get(as_run(job, {}).key, -1) < job.evaluations]


def run_all(jobs: Sequence[Job], processes: int, out: Path) -> None:
    """Do the searches and write each down as it ends."""
    if processes == 1:
        _write(map(done, jobs), len(jobs), out)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        _write((ended.result() for ended in as_completed([pool.submit(done, job) for job in jobs])), len(jobs), out)


def _write(finished: Iterator[results.Run], count: int, out: Path) -> None:
    for number, run in enumerate(finished, start=1):
        results.append(out, run)
        said = run.outcome.get("error") or f"{run.outcome['seconds']:.1f} s"
        print(f"{number}/{count} {run.world} {run.method} seed {run.seed}: {said}", flush=True)


def trouble(given: dict[str, str]) -> str:
    """What is wrong with the arguments; '' if nothing is."""
    if any(not size.isdigit() or int(size) < 1 for size in given.get("training", "1").split(",")):
        return f"training={given['training']} must be whole numbers of at least 1, with commas between"
    return arguments.trouble(given, keys=KEYS, counts=("seeds", "evaluations", "jobs"), worlds=NAMES)


def main(argv: Sequence[str]) -> int:
    """Run what is not known yet, and print the tables."""
    given = dict(argument.partition("=")[::2] for argument in argv)
    if problem := trouble(given):
        print(problem)
        return 2
    if "report" in given:
        out = Path(given["report"])
    else:
        cache_folder = Path(given.get("cache", Path(tempfile.gettempdir()) / "agentgraph-search-quality")).expanduser()
        out = Path(given["out"]).expanduser() if "out" in given else cache_folder / "runs.jsonl"
        todo = left(list(jobs_of(given, cache_folder)), results.read(out))
        print(f"{len(todo)} searches to do; results in {out}", flush=True)
        run_all(todo, int(given.get("jobs", 1)), out)
    for line in report(results.read(out), given.get("ours", OURS)):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
