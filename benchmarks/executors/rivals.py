"""Other ways to run the same graphs on the same questions, on the same backend."""

from __future__ import annotations

import asyncio
import heapq
import operator
import time
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from agentgraph.request import Request, Settings
from executors.load import Shape, Sleeper, Times

SETTINGS = Settings(max_tokens=64)


def request(question: int, node: int) -> Request:
    """A call of a rival: what it costs to make one is part of its time."""
    return Request("model", "model", (("user", f"What is {question} times {question}?"),), SETTINGS, sample=node)


def critical_path(shape: Shape, questions: int, times: Times) -> float:
    """Longest path of any question by drawn times, seconds: nobody can be done before."""
    longest = 0.0
    for q in range(questions):
        ends: list[float] = []
        for i, parents in enumerate(shape.graph.parents):
            ends.append(times.of(request(q, i).seed) + max((ends[p] for p in parents), default=0.0))
        longest = max(longest, ends[-1])
    return longest


def one_node_after_another(shape: Shape, questions: int, times: Times, workers: int) -> float:
    """Seconds that GPTSwarm's way takes: nodes of a question one by one, ``workers`` questions at a time.

    Computed from the drawn times, without any cost of its own: running it would take many minutes.
    """
    free = [0.0] * workers
    for q in range(questions):
        whole = sum(times.of(request(q, i).seed) for i in range(len(shape.graph.nodes)))
        heapq.heappush(free, heapq.heappop(free) + whole)
    return max(free)


def level_by_level(shape: Shape, questions: int, backend: Sleeper) -> float:
    """Seconds of asyncio.gather over all nodes of a level of all questions, then the next level."""

    async def run() -> None:
        for level in shape.levels:
            await asyncio.gather(*[backend.reply(request(q, i)) for q in range(questions) for i in level])

    start = time.perf_counter()
    asyncio.run(run())
    return time.perf_counter() - start


class _State(TypedDict):
    question: int
    answers: Annotated[list[str], operator.add]


def langgraph(shape: Shape, questions: int, backend: Sleeper) -> float | None:
    """Seconds of LangGraph, all questions at once, no limit; ``None`` if it is not installed."""
    try:
        from langgraph.graph import END, START, StateGraph
    except ImportError:
        return None

    def node(i: int) -> Any:  # noqa: ANN401  a coroutine function
        async def call(state: _State) -> dict[str, list[str]]:
            reply = await backend.reply(request(state["question"], i))
            return {"answers": [reply.text]}

        return call

    graph = StateGraph(_State)
    for i, parents in enumerate(shape.graph.parents):
        graph.add_node(f"n{i}", node(i))
        graph.add_edge([f"n{p}" for p in parents] if parents else START, f"n{i}")
    graph.add_edge(f"n{len(shape.graph.nodes) - 1}", END)
    compiled = graph.compile()

    async def run() -> None:
        inputs: Sequence[_State] = [{"question": q, "answers": []} for q in range(questions)]
        await asyncio.gather(*[compiled.ainvoke(state, {"recursion_limit": 100}) for state in inputs])

    start = time.perf_counter()
    asyncio.run(run())
    return time.perf_counter() - start
