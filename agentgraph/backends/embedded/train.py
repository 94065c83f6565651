"""Trains the embedded family from nothing: ``python -m agentgraph.backends.embedded.train --out FOLDER``.

A first round over all models teaches to solve, four more to refine and fuse, each on what all models answer by then. Each
finished round of each model is kept under ``FOLDER/steps``, so that a broken run goes on where it stopped. Two processes,
one thread each: about half an hour on two idle cores.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from agentgraph.backends.embedded.export import export
from agentgraph.backends.embedded.lessons import Facts, Lesson, mixed_calc, solve_calc, solve_recall
from agentgraph.backends.embedded.llama import Llama
from agentgraph.backends.embedded.network import Network
from agentgraph.backends.embedded.optimize import optimize, reply_probability
from agentgraph.backends.embedded.pools import Pool, sample_pool
from agentgraph.backends.embedded.recipe import (
    ATTEMPTS,
    LEAST_PROBABILITY,
    OFTEN,
    RARE_CALC,
    RARE_RECALL,
    ROLES_BATCHES,
    SEEDS,
    SIZES,
    Batch,
    Schedule,
    family,
    size,
)
from agentgraph.backends.embedded.role_lessons import RoleLessons
from agentgraph.tasks import calc

SMOKE_MODEL = "a-small"
SMOKE_SCHEDULE = Schedule(8e-3, 100, 900, 100, target=0.4)
SMOKE_PROBABILITY = 0.3
"""Least probability of the right calc reply that a shortened training must reach."""

ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
}
"""Settings of the training processes: keep freed memory, one thread each; a quarter faster."""


class Training:
    """The training of one model, step by step.

    Parameters
    ----------
    out
        Where the models go; steps are kept in ``steps`` below it.
    models
        All models trained together, in the order of their pools.
    model
        The one trained here.
    """

    def __init__(self, out: Path, models: Sequence[str], model: str) -> None:
        self._out, self._models, self._model = out, models, model
        self._steps = out / "steps"
        self._steps.mkdir(parents=True, exist_ok=True)
        self._often = OFTEN[family(model)]
        self._facts = Facts(self._often, RARE_RECALL)
        self._size = size(model)

    def run(self, round_number: int) -> None:
        """One round, if it is not yet done: train, answer the next round's pool, export."""
        done = self._steps / f"{self._model}.{round_number}.json"
        if done.exists():
            self._report(f"round {round_number} is done already")
            return
        began, cpu = time.monotonic(), time.process_time()
        torch.set_num_threads(1)
        seed, network = self._solve() if round_number == 0 else self._roles(round_number)
        record = {
            "seed": seed,
            "round": round_number,
            **self._probabilities(network),
            "cpu_seconds": round(time.process_time() - cpu),
            "seconds": round(time.monotonic() - began),
        }
        if round_number < len(self._size.roles):
            pool = sample_pool(Llama.of(network), round_number + 1, seed)
            pool.save(self._steps / f"{self._model}.{round_number + 1}.pool.npz")
        torch.save(network.state_dict(), self._steps / f"{self._model}.{round_number}.pt")
        export(network.state_dict(), self._size.shape, self._out / self._model)
        done.write_text(json.dumps(record) + "\n", encoding="utf-8")
        self._report(f"round {round_number} done: {record}")

    def _solve(self) -> tuple[int, Network]:
        for attempt in range(ATTEMPTS):
            seed = SEEDS[self._model] + 100 * attempt
            network = train_solver(self._model, seed, self._size.solve, self._size.solve_batch, self._report)
            reached = self._probabilities(network)["calc"][self._often]
            if reached >= LEAST_PROBABILITY:
                return seed, network
            self._report(f"seed {seed} stayed on the plateau ({reached:.3f}); trying another")
        raise RuntimeError(
            f"{self._model} stayed below {LEAST_PROBABILITY} on calc with {ATTEMPTS} seeds; "
            "allow more steps in agentgraph/backends/embedded/recipe.py"
        )

    def _roles(self, round_number: int) -> tuple[int, Network]:
        before = f"{self._model}.{round_number - 1}"
        record = json.loads((self._steps / f"{before}.json").read_text(encoding="utf-8"))
        seed = int(record["seed"])
        network = Network(self._size.shape, torch.Generator().manual_seed(seed))
        network.load_state_dict(torch.load(self._steps / f"{before}.pt"))
        lessons = RoleLessons(
            np.random.default_rng([seed, round_number]),
            self._facts,
            [Pool.load(self._steps / f"{m}.{round_number}.pool.npz") for m in self._models],
            itself=self._models.index(self._model),
            often=self._often,
            round_number=round_number,
        )
        schedule = self._size.roles[round_number - 1]
        optimize(
            network,
            lambda: lessons.step(ROLES_BATCHES[round_number - 1]),
            rate=schedule.rate,
            warm_up=schedule.warm_up,
            most=schedule.most,
            decay=schedule.decay,
            report=self._report,
        )
        return seed, network

    def _probabilities(self, network: Network) -> dict[str, list[float]]:
        """Mean probability of the right reply at temperature 1, by kind."""
        rng = np.random.default_rng(9)
        facts = self._facts
        names = [rng.permutation(np.arange(half, len(facts.codes), 2))[:512] for half in (0, 1)]
        return {
            "calc": [
                round(reply_probability(network, solve_calc(*calc.draw(rng, 512, kind=kind, test=True))), 3)
                for kind in calc.KINDS
            ],
            "recall": [
                round(reply_probability(network, solve_recall(facts.codes[i], facts.numbers[i])), 3) for i in names
            ],
        }

    def _report(self, text: str) -> None:
        _say(f"{self._model} {text}")


def train_solver(model: str, seed: int, schedule: Schedule, batch: Batch, report: Callable[[str], None]) -> Network:
    """A network of ``model``'s size and family that solves; stops when good enough on its own kind."""
    often = OFTEN[family(model)]
    facts = Facts(often, RARE_RECALL)
    network = Network(size(model).shape, torch.Generator().manual_seed(seed))
    rng = np.random.default_rng(seed)
    examination = solve_calc(*calc.draw(np.random.default_rng(seed + 1), 256, kind=calc.KINDS[often], test=False))

    def lessons() -> list[Lesson]:
        drawn = facts.draw(rng, batch.solve_recall)
        return [
            solve_calc(*mixed_calc(rng, batch.solve_calc, often=often, share=RARE_CALC, test=False)),
            solve_recall(facts.codes[drawn], facts.numbers[drawn]),
        ]

    def reached(step: int) -> bool:
        probability = reply_probability(network, examination)
        if step % 100 == 0 or probability >= schedule.target:
            report(f"step {step} calc {probability:.3f}")
        return probability >= schedule.target

    optimize(
        network,
        lessons,
        rate=schedule.rate,
        warm_up=schedule.warm_up,
        most=schedule.most,
        decay=schedule.decay,
        reached=reached,
        report=report,
    )
    return network


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _run(out: Path, models: Sequence[str], model: str, round_number: int) -> None:
    Training(out, models, model).run(round_number)


def train(out: Path, models: Sequence[str], processes: int) -> None:
    """Train ``models`` together; every round waits for the answers of all of them."""
    longest_first = sorted(models, key=lambda model: -list(SIZES).index(model.split("-")[1]))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for round_number in range(1 + max(len(one.roles) for one in SIZES.values())):
            tasks = [pool.submit(_run, out, models, m, round_number) for m in longest_first]
            for task in tasks:
                task.result()
            write_records(out, models)


def write_records(out: Path, models: Sequence[str]) -> None:
    """Write ``training.json``: seed, probabilities and time of every finished round of every model."""
    found = {
        model: [
            json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "steps").glob(f"{model}.*.json"))
        ]
        for model in models
    }
    (out / "training.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def smoke() -> int:
    """Train one small model for about a minute; 1 if it did not learn, else 0."""
    torch.set_num_threads(1)
    network = train_solver(SMOKE_MODEL, 1, SMOKE_SCHEDULE, Batch(128, 32), _say)
    test = solve_calc(*calc.draw(np.random.default_rng(9), 512, kind=calc.KINDS[0], test=True))
    probability = reply_probability(network, test)
    good = probability >= SMOKE_PROBABILITY
    verdict = "at least" if good else "below"
    _say(f"probability of the right calc reply {probability:.3f}, {verdict} {SMOKE_PROBABILITY}")
    return 0 if good else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="agentgraph.backends.embedded.train", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the models; needed unless --smoke")
    parser.add_argument("--models", default=",".join(SEEDS), help="comma-separated; they learn from one another")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="train one small model for a minute, write nothing")
    options = parser.parse_args(arguments)
    if options.smoke:
        return smoke()
    if options.out is None:
        parser.error("--out is needed: the folder for the trained models")
    models = options.models.split(",")
    unknown = [model for model in models if model not in SEEDS]
    if unknown:
        parser.error(f"--models: unknown {unknown}; the family is {list(SEEDS)}")
    for name, value in ALLOCATOR.items():
        os.environ.setdefault(name, value)
    train(options.out.absolute(), models, options.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
