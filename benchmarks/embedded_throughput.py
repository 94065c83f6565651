"""How fast does each embedded model answer inside a search, compared with the same model alone at its best batch size?

Inside: a search with a pool of that model alone; replies made, divided by the time that plans were being run. Alone: the very
requests of that search again, `Llama.generate` on as many of one prompt length as the batch size says, which is the best
of 16 to 512. Two clocks: processor time of the whole process, which counts the event loop and all else against the
search, on whatever core it ran, and the wall, which a busy machine spoils. Each search is done as it is by default, and with
``race.ahead=true``, which begins the next block of a race before the slowest of this one is done: fewer batches are small. The
last lines are the default search, whose models take turns: the time that its replies take alone, over the time it took.

    python benchmarks/embedded_throughput.py [--task calc] [--models a-small …] [key=value …]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from agentgraph.backends import embedded
from agentgraph.backends.embedded.backend import Embedded
from agentgraph.backends.embedded.llama import Llama
from agentgraph.config import build_search, load, load_models
from agentgraph.execute import Executor, Job
from agentgraph.request import Reply, Request
from agentgraph.run import run
from agentgraph.trial import Answer

WEIGHTS = Path(embedded.__file__).parent / "weights"
BATCHES = (16, 32, 64, 128, 256, 512)
TRIED = 1024
"""Requests that each batch size is tried on."""
AIM = 0.9


class Clocks:
    """Processor time and wall time, seconds, while plans were being run."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __enter__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time() - self._cpu
        self.wall += time.perf_counter() - self._wall


def inside(settings: Sequence[str], models: Sequence[str]) -> tuple[dict[str, list[Request]], Clocks, int]:
    """Search; requests made by model, the time that plans were being run, and calls needed."""
    config = load("search", list(settings))
    if models:
        config.models.members = {name: config.models.members[name] for name in models}
    clocks, execute, reply = Clocks(), Executor.run, Embedded.reply
    made: dict[str, list[Request]] = {}

    def timed(self: Executor, jobs: Sequence[Job], ahead: Sequence[Job] = ()) -> list[list[Answer]]:
        with clocks:
            return execute(self, jobs, ahead)

    async def noted(self: Embedded, request: Request) -> Reply:
        made.setdefault(request.model, []).append(request)
        return await reply(self, request)

    Executor.run, Embedded.reply = timed, noted
    try:
        needed = run(build_search(config)).summary["calls_asked"]
    finally:
        Executor.run, Embedded.reply = execute, reply
    return made, clocks, needed


def alone(name: str, requests: Sequence[Request]) -> tuple[int, Clocks]:
    """Best batch size, and the time that the requests take at it."""
    llama = Llama.load(WEIGHTS / name)
    best = min(BATCHES, key=lambda batch: _generate(llama, requests[:TRIED], batch).cpu)
    return best, _generate(llama, requests, best)


def _generate(llama: Llama, requests: Sequence[Request], batch: int) -> Clocks:
    by_length: dict[int, list[Request]] = {}
    for request in requests:
        by_length.setdefault(len(request.messages[-1][1]), []).append(request)
    clocks = Clocks()
    for same in by_length.values():
        for start in range(0, len(same), batch):
            rows = same[start : start + batch]
            with clocks:
                llama.generate(
                    [request.messages[-1][1] for request in rows],
                    temperatures=[request.settings.temperature for request in rows],
                    seeds=[request.seed for request in rows],
                    max_tokens=[request.settings.max_tokens or 1 for request in rows],
                )
    return clocks


def main() -> None:
    """Measure and print."""
    names = load_models("embedded")[0].names
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="calc")
    parser.add_argument("--models", nargs="+", default=list(names), choices=names)
    parser.add_argument("settings", nargs="*", help="of the search, as on the command line")
    given = parser.parse_args()
    settings = [f"task={given.task}", *given.settings]
    print(
        f"{'':<10}{'ahead':<7}{'needed':>9}{'made':>8}  replies/s: {'in a search':>12}{'alone':>8}{'in batches of':>15}",
        end="",
    )
    print(f"{'ratio':>7}{'by the wall':>13}   (processor time; aim {AIM} for the largest)")
    pools = [[name] for name in given.models] + ([[]] if len(given.models) == len(names) else [])
    for pool, ahead in product(pools, ("false", "true")):
        made, clocks, needed = inside([*settings, f"race.ahead={ahead}"], pool)
        best = {name: alone(name, requests) for name, requests in made.items()}
        count = sum(map(len, made.values()))
        cpu, wall = (sum(getattr(time_, clock) for _, time_ in best.values()) for clock in ("cpu", "wall"))
        sizes = "/".join(str(size) for size in sorted({size for size, _ in best.values()}))
        print(
            f"{pool[0] if pool else 'all':<10}{ahead:<7}{needed:>9,}{count:>8,}{count / clocks.cpu:>25,.0f}{count / cpu:>8,.0f}"
            f"{sizes:>15}{cpu / clocks.cpu:>7.2f}{wall / clocks.wall:>13.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
