"""How fast does each embedded model answer inside a search, compared with the same model alone at its best batch size?

Alone: `Llama.generate` on prompts of the task, in batches of 16 to 512; the best counts. Inside: a search with a pool of that model
alone; replies made, divided by the time that plans were being run. Two clocks: processor time of the whole process, which counts
the event loop and all else against the models wherever it ran, and the wall, which a busy machine spoils. The last
line is the default search, whose models take turns: the time that their replies would take alone, over the time it took.

    python benchmarks/embedded_throughput.py [--task calc] [--models a-small …] [key=value …]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from agentgraph.backends import embedded
from agentgraph.backends.embedded.backend import Embedded
from agentgraph.backends.embedded.llama import Llama
from agentgraph.config import build_search, load, load_models, load_task
from agentgraph.execute import Executor, Job
from agentgraph.prompt import embedded_text
from agentgraph.request import Reply, Request
from agentgraph.run import run
from agentgraph.trial import Answer

WEIGHTS = Path(embedded.__file__).parent / "weights"
BATCHES = (16, 32, 64, 128, 256, 512)
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


def alone(name: str, task: str, repeats: int = 5) -> tuple[int, float, float]:
    """Best batch size, and replies a second at it by processor and by wall time."""
    llama = Llama.load(WEIGHTS / name)
    stage = load_task(task).stages[0]
    texts = [question.text for question in load_task(task).questions("train")]
    rates = {}
    for batch in BATCHES:
        chosen = [stage.view(texts[i % len(texts)], i) for i in range(batch)]
        same = Counter(map(len, chosen)).most_common(1)[0][0]  # prompts of one length run together
        prompts = [embedded_text("solve", stage.tag, text) for text in chosen if len(text) == same]
        prompts = [prompts[i % len(prompts)] for i in range(batch)]
        rates[batch] = _rate(llama, prompts, stage.max_tokens, repeats)
    best = max(rates, key=lambda batch: rates[batch][0])
    return best, *rates[best]


def _rate(llama: Llama, prompts: Sequence[str], max_tokens: int, repeats: int) -> tuple[float, float]:
    count, cpu, wall = len(prompts), [], []
    for seed in range(repeats):
        clocks = Clocks()
        with clocks:
            llama.generate(
                prompts, temperatures=[1.0] * count, seeds=[seed * count + i for i in range(count)],
                max_tokens=[max_tokens] * count,
            )  # fmt: skip
        cpu.append(clocks.cpu)
        wall.append(clocks.wall)
    return count / statistics.median(cpu), count / statistics.median(wall)


def inside(settings: Sequence[str], models: Sequence[str]) -> tuple[Counter[str], Clocks, int]:
    """Search; replies made by model, the time that plans were being run, and calls needed."""
    config = load("search", list(settings))
    if models:
        config.models.members = {name: config.models.members[name] for name in models}
    clocks, made, execute, generate = Clocks(), Counter[str](), Executor.run, Embedded.reply

    def timed(self: Executor, jobs: Sequence[Job]) -> list[list[Answer]]:
        with clocks:
            return execute(self, jobs)

    async def counted(self: Embedded, request: Request) -> Reply:
        made[request.model] += 1
        return await generate(self, request)

    Executor.run, Embedded.reply = timed, counted
    try:
        needed = run(build_search(config)).summary["calls_asked"]
    finally:
        Executor.run, Embedded.reply = execute, generate
    return made, clocks, needed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="calc")
    parser.add_argument("--models", nargs="+", default=list(load_models("embedded")[0].names))
    parser.add_argument("settings", nargs="*", help="of the search, as on the command line")
    given = parser.parse_args()
    settings = [f"task={given.task}", *given.settings]
    print(f"{'':<12}{'best':>6}{'replies/s':>11}{'':>5}in a search: {'needed':>9}{'made':>9}{'replies/s':>11}", end="")
    print(f"{'ratio':>8}{'by the wall':>13}   (processor time; aim {AIM} for the largest)")
    rates = {}
    for name in given.models:
        batch, rate, wall_rate = alone(name, given.task)
        rates[name] = rate, wall_rate
        made, clocks, needed = inside(settings, [name])
        count = made.total()
        inner, inner_wall = count / clocks.cpu, count / clocks.wall
        print(
            f"{name:<12}{batch:>6}{rate:>11,.0f}{'':>18}{needed:>9,}{count:>9,}{inner:>11,.0f}{inner / rate:>8.2f}"
            f"{inner_wall / wall_rate:>13.2f}",
            flush=True,
        )
    if len(rates) > 1 and set(rates) == set(load_models("embedded")[0].names):
        made, clocks, needed = inside(settings, [])
        ideal, ideal_wall = (sum(made[name] / rates[name][k] for name in made) for k in (0, 1))
        print(
            f"{'all':<12}{'':>17}{'':>18}{needed:>9,}{made.total():>9,}{made.total() / clocks.cpu:>11,.0f}"
            f"{ideal / clocks.cpu:>8.2f}{ideal_wall / clocks.wall:>13.2f}"
        )


if __name__ == "__main__":
    main()
