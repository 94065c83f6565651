"""How near does the executor come to the hardware's limit, and what does it cost itself?

(a) A backend whose calls take 2 s, always or on average, and which takes any number of them at once: makespan over the
    longest critical path of the drawn times, at 1,000 and at 10,000 calls in flight, with a reply store on disk.
(b) An OpenAI-compatible server that gives 200 replies a second: makespan over replies / rate.
(c) Requests that one core sends a second through the openai client, beside the client's own loop and raw aiohttp.

Rivals in the same run: asyncio.gather level by level; LangGraph (pip install langgraph; a dash where it is absent); and,
computed from the drawn times, one node after another with four questions at a time, as GPTSwarm does.

    python benchmarks/executor.py [--only abc] [--flight 1000 10000] [--shapes star chain …] [--requests 2000] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from executors.load import MEAN, POOL, ROLES, SPREAD, Echo, Shape, Sleeper, Times, resident, shapes
from executors.rivals import critical_path, langgraph, level_by_level, one_node_after_another
from executors.server import served

from agentgraph.backends.base import Backend
from agentgraph.backends.openai_server import OpenAIServer
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.model import Model, Pool
from agentgraph.plan import Plan
from agentgraph.request import Request, Settings
from agentgraph.store import ReplyStore

GPTSWARM_QUESTIONS = 4
"""Questions at a time, its default."""
RATE = 200.0
"""Replies a second of the server in (b)."""
CONNECTIONS = 64


def cpu() -> float:
    """Seconds of processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def execute(graph: Graph, questions: int, backend: Backend, pool: Pool) -> tuple[float, float, float, int]:
    """Run a graph on questions; makespan, longest critical path, processor time (seconds) and calls made."""
    task = Echo(questions)
    with tempfile.TemporaryDirectory() as folder:
        store = ReplyStore(Path(folder, "replies.jsonl"))
        roles = {role.name: role for role in ROLES}
        with Executor(task, pool, roles, {backend.name: backend}, store) as executor:
            job = Job(Plan((graph,)), task.questions("train"))
            gc.collect()
            used, start = cpu(), time.perf_counter()
            answers = executor.run([job])[0]
            seconds, used = time.perf_counter() - start, cpu() - used
            made = executor.counts.made
        store.close()
    wrong = [answer.question for answer in answers if answer.mark != 1.0]
    if wrong or made != questions * len(graph.nodes):
        raise RuntimeError(f"{made} calls made; not answered: {wrong[:5]}")
    return seconds, max(answer.charge.seconds for answer in answers), used, made


def floor(calls: int, times: Times) -> float:
    """Processor time of a call (microseconds) that asyncio itself takes, with a task, a timer and a key hash."""

    async def one(i: int) -> str:
        text = f"What is {i} times {i}?"
        request = Request("model", "model", (("user", text),), Settings(max_tokens=64), sample=i)
        key = request.key
        await asyncio.sleep(times.of(request.seed))
        return key

    async def run() -> None:
        await asyncio.gather(*[asyncio.ensure_future(one(i)) for i in range(calls)])

    used = cpu()
    asyncio.run(run())
    return 1e6 * (cpu() - used) / calls


def over(seconds: float | None, limit: float) -> str:
    """A ratio, or a dash."""
    return "-" if seconds is None else f"{seconds / limit:.2f}"


def part_a(chosen: list[Shape], flights: list[int], spreads: list[float]) -> None:
    """Print (a)."""
    print(f"(a) calls of {MEAN:g} s, any number at once; makespan / longest critical path of the drawn times")
    print("    floor: processor time of an asyncio task with a timer of the same drawn time and a request's key\n")
    command = [
        sys.executable,
        __file__,
        "--memory",
        str(max(flights)),
    ]  # in a process of its own: memory is not given back
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    head = f"{'graph':<16}{'times':<12}{'in flight':>9}{'calls':>8} {'ours':>6}{'us/call':>9}{'floor':>6}"
    print(f"{head} {'by level':>9}{'LangGraph':>10}{'one by one':>11}")
    for flight in flights:
        for spread in spreads:
            least = floor(flight, Times(spread))
            for shape in chosen:
                questions = -(-flight // shape.sources)
                times = Times(spread)
                backend = Sleeper(times)
                seconds, path, used, made = execute(shape.graph, questions, backend, POOL)
                limit = critical_path(shape, questions, times)
                print(
                    f"{shape.name:<16}{'log-normal' if spread else 'equal':<12}{backend.peak:>9,}{made:>8,} "
                    f"{over(seconds, path):>6}{1e6 * used / made:>9.0f}{least:>6.0f} "
                    f"{over(level_by_level(shape, questions, Sleeper(times)), limit):>9}"
                    f"{over(langgraph(shape, questions, Sleeper(times)), limit):>10}"
                    f"{over(one_node_after_another(shape, questions, times, GPTSWARM_QUESTIONS), limit):>11}",
                    flush=True,
                )


def memory(flight: int) -> None:
    """Print what a call in flight takes of memory."""
    shape = shapes()[0]
    execute(shape.graph, 2, Sleeper(Times(0.0, scale=0.01)), POOL)  # warms up
    before, backend = resident(), Sleeper(Times(0.0))
    execute(shape.graph, -(-flight // shape.sources), backend, POOL)
    print(
        f"    a call in flight takes {(backend.resident - before) / backend.peak / 1024:.1f} KiB ({backend.peak:,} of {shape.name})"
    )


def part_b(chosen: list[Shape], requests: int) -> None:
    """Print (b)."""
    print(f"\n(b) server of {RATE:g} replies a second, {CONNECTIONS} connections; makespan / (replies / rate)\n")
    print(f"{'graph':<16}{'calls':>8} {'ours':>6}")
    import openai  # noqa: F401  takes half a second, once

    pool = Pool([Model("model", 1e9, backend="server")])
    for shape in chosen:
        with served(RATE) as url:
            backend = OpenAIServer(url, name="server", limit=CONNECTIONS, api_key_env=None)
            questions = -(-requests // len(shape.graph.nodes))
            seconds, _, _, made = execute(shape.graph, questions, backend, pool)
        print(f"{shape.name:<16}{made:>8,} {over(seconds, made / RATE):>6}", flush=True)


def part_c(requests: int) -> None:
    """Print (c)."""
    print(f"\n(c) requests a second of processor time of the sending process, {CONNECTIONS} at once\n")
    graph, pool = Graph((Node("assistant", "model"),)), Pool([Model("model", 1e9, backend="server")])
    rates: dict[str, float] = {}
    with served() as url:
        for _ in range(2):  # the first warms up imports and connections
            backend = OpenAIServer(url, name="server", limit=CONNECTIONS, api_key_env=None)
            _, _, used, made = execute(graph, requests, backend, pool)
            rates["executor, openai client"] = made / used
            rates["openai client alone"] = asyncio.run(_client(url, requests, over_aiohttp=False))
            rates["the same over aiohttp"] = asyncio.run(_client(url, requests, over_aiohttp=True))
            rates["raw aiohttp"] = _aiohttp(url, requests)
    print(f"{'':<26}{'requests/s':>10}  {'over the client alone':>22}  {'over aiohttp':>12}")
    alone, over_aiohttp = rates["openai client alone"], rates["the same over aiohttp"]
    for name, rate in rates.items():
        print(f"{name:<26}{rate:>10,.0f}  {rate / alone:>22.2f}  {rate / over_aiohttp:>12.2f}")


async def _workers(requests: int, send: Any) -> float:  # noqa: ANN401  an async function
    left = iter(range(requests))

    async def worker() -> None:
        for i in left:
            await send(i)

    used = cpu()
    await asyncio.gather(*[worker() for _ in range(CONNECTIONS)])
    return requests / (cpu() - used)


def _message(i: int) -> list[Any]:
    return [
        {"role": "system", "content": "Answer with one number."},
        {"role": "user", "content": f"What is {i} times {i}? Think step by step."},
    ]


async def _client(url: str, requests: int, *, over_aiohttp: bool) -> float:
    from openai import AsyncOpenAI, DefaultAioHttpClient

    transport = DefaultAioHttpClient() if over_aiohttp else None
    async with AsyncOpenAI(base_url=url, api_key="none", timeout=120, http_client=transport) as client:

        async def send(i: int) -> None:
            await client.chat.completions.with_raw_response.create(
                model="model", messages=_message(i), max_tokens=64, temperature=1.0, top_p=1.0, seed=i, logprobs=True
            )

        return await _workers(requests, send)


def _aiohttp(url: str, requests: int) -> float:
    import aiohttp

    async def run() -> float:
        async with aiohttp.ClientSession() as session:

            async def send(i: int) -> None:
                body = {"model": "model", "messages": _message(i), "max_tokens": 64, "seed": i}
                async with session.post(f"{url}/chat/completions", json=body) as response:
                    await response.json()

            return await _workers(requests, send)

    return asyncio.run(run())


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="abc", help="parts to run")
    parser.add_argument("--flight", type=int, nargs="+", default=[1000, 10_000], help="calls in flight in (a)")
    parser.add_argument("--shapes", nargs="+", default=[], help="beginnings of the names of graphs; all if left out")
    parser.add_argument("--requests", type=int, default=2000, help="calls in (b) and (c)")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="equal times only")
    given = parser.parse_args()
    chosen = [shape for shape in shapes() if shape.name.startswith(tuple(given.shapes) or "")]
    if not chosen:
        parser.error(f"--shapes {given.shapes}: there are {[shape.name for shape in shapes()]}")
    if given.memory:
        memory(given.memory)
        return
    if "a" in given.only:
        part_a(chosen, given.flight, [0.0] if given.quick else [0.0, SPREAD])
    if "b" in given.only:
        part_b(chosen, given.requests)
    if "c" in given.only:
        part_c(given.requests)


if __name__ == "__main__":
    main()
