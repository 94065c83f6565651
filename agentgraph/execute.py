"""Runs plans on questions: everything that is ready runs at once, and the same request is made once.

One event loop, in a thread of its own, holds every ready node of every question of every plan; nothing waits for a
level of a graph or for another question. Each backend has a gate that adapts to what it takes. The public methods are synchronous.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final, Self, TypeVar

from agentgraph.backends.base import Backend
from agentgraph.budget import is_number
from agentgraph.calls import Calls, Counts
from agentgraph.errors import BackendError, ConfigError
from agentgraph.lookup import Known, Lookup
from agentgraph.model import Pool
from agentgraph.node_run import Deadlines
from agentgraph.plan import Plan
from agentgraph.plan_run import Job, PlanRun, Shared, cancelled
from agentgraph.request import Reply, Request
from agentgraph.roles.base import Role
from agentgraph.store import ReplyStore
from agentgraph.tasks.base import Question, Task
from agentgraph.trial import Answer

__all__ = ["Counts", "Deadlines", "Executor", "Job"]

T = TypeVar("T")
_SELDOM: Final = (100_000, 20, 20)  # thresholds of the garbage collector while plans run


class Executor:
    """Executes plans of one task.

    Parameters
    ----------
    task, pool, roles
        What plans refer to; roles by name.
    backends
        By the name that models give.
    store
        Replies already paid for.
    seed
        Seed of the run.
    failure_share
        Share of calls that may fail after retries, in [0, 1]; above it the run stops.
    outage
        Seconds that a backend which was there may be away, or overloaded, before calls count as failed, >= 0.
    deadlines
        How long a node and a question may take; ``None`` waits.
    """

    def __init__(
        self,
        task: Task,
        pool: Pool,
        roles: Mapping[str, Role],
        backends: Mapping[str, Backend],
        store: ReplyStore,
        *,
        seed: int = 0,
        failure_share: float = 0.05,
        outage: float = 60.0,
        deadlines: Deadlines | None = None,
    ) -> None:
        self.task, self.pool, self.roles, self.backends, self.store = task, pool, dict(roles), backends, store
        self.seed, self.failure_share, self.outage, self.deadlines = seed, failure_share, outage, deadlines
        if type(seed) is not int:
            raise ConfigError(f"seed={seed!r} must be a whole number")
        if not is_number(failure_share) or not 0 <= failure_share <= 1:
            raise ConfigError(f"failure_share={failure_share!r} must be in [0, 1]")
        if not is_number(outage) or outage < 0:
            raise ConfigError(f"outage={outage!r} must be 0 or more seconds")
        self.on_progress = _silent
        for model in pool:
            if model.backend not in backends:
                raise ConfigError(
                    f"model {model.name!r} names the backend {model.backend!r}, which is not there; "
                    f"there are: {', '.join(backends)}"
                )
        self.solves: dict[tuple[object, ...], Request] = {}  # of the plans that are running
        self.shared = Shared()
        self._lookup = Lookup(task, pool, self.roles, store, seed)
        self._answered_jobs: list[tuple[Plan, Sequence[Question]]] = []  # not yet known to the lookup
        self._calls = Calls(backends, store, failure_share=failure_share, outage=outage, timed=deadlines is not None)
        self.counts, self.blind = self._calls.counts, self._calls.blind
        self.reply, self.check_broken = self._calls.reply, self._calls.check_broken  # what plans want of their engine
        self._draining = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agentgraph-executor", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, jobs: Sequence[Job], ahead: Sequence[Job] = ()) -> list[list[Answer]]:
        """Answers of each job, question by question, in the order given.

        Parameters
        ----------
        jobs
            What is waited for.
        ahead
            Jobs that will probably be asked for next: they are begun, and go on after this returns. When the next jobs are
            given, what plans that are not among them had begun is cancelled.

        Raises
        ------
        BackendError
            If a service cannot be used, or too many calls failed after retries. Replies so far are stored.
        """
        results = self._call(self._run(jobs, ahead))
        for job, answers in zip(jobs, results, strict=True):
            if not job.replicate and not job.roles and self.deadlines is None:  # replies do not tell what came too late
                marked = [q for q, answer in zip(job.questions, answers, strict=True) if answer.mark is not None]
                self._answered_jobs.append((job.plan, marked))
        return results

    def known(self, plan: Plan, questions: Sequence[Question]) -> Known:
        """What earlier calls say of a plan, without a new one: its marks, and how many calls are missing."""
        for learned in self._answered_jobs:
            self._lookup.learn(*learned)
        self._answered_jobs.clear()
        known = self._lookup.known(plan, questions)
        self.counts.looked = self._lookup.looked
        return known

    def learn(self, plan: Plan, questions: Sequence[Question]) -> None:
        """Take note, for `known`, that a plan answered questions in an earlier process."""
        if self.deadlines is None:
            self._answered_jobs.append((plan, questions))

    def ask(self, request: Request, backend: str) -> Reply:
        """One request outside any plan (an agent's), stored like all others."""
        if backend not in self.backends:
            raise ConfigError(f"the agent's backend {backend!r} is not there; there are: {', '.join(self.backends)}")
        return self._call(self._agent_reply(request, backend))

    def served(self, backend: str) -> tuple[str, ...]:
        """Names of the models that a backend serves, see `Backend.served`."""
        return self._call(self.backends[backend].served())

    def close(self) -> None:
        """Close the backends and stop the event loop."""
        if self._thread.is_alive():
            self._call(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] | None = None
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            return future.result()
        except KeyboardInterrupt:  # perhaps before the future was there
            try:
                asyncio.run_coroutine_threadsafe(self._drain(), self._loop).result()
                if future is not None:
                    future.exception()  # waits until all is tidied up
            except KeyboardInterrupt:
                if future is not None:
                    future.cancel()
            raise

    async def _drain(self) -> None:
        """Send nothing more, and let what is in flight come in and be stored."""
        if self._calls.in_flight:
            logging.getLogger(__name__).warning(
                "stopping: waiting for %d calls, to store what they bring; Ctrl-C again stops at once",
                self._calls.in_flight,
            )
        self._draining = True
        self._calls.stop(BackendError("stopped", retry=False))
        await self._calls.landed()

    async def _agent_reply(self, request: Request, backend: str) -> Reply:
        stored = self.store.get(request.key)
        if stored is not None:
            return stored
        self._calls.begin()
        reply = await self._calls.tried(request, self.backends[backend])
        self.counts.agent_calls += 1
        self.counts.agent_tokens += reply.prompt_tokens + reply.output_tokens
        self.store.put(request.key, reply)
        self.store.flush()
        return reply

    async def _close(self) -> None:
        await self.shared.clear()
        self.store.flush()
        for backend in self.backends.values():
            await backend.close()

    async def _run(self, jobs: Sequence[Job], ahead: Sequence[Job]) -> list[list[Answer]]:
        self._draining, ended = False, self._calls.begin()
        self.counts.questions = 0
        self.counts.questions_total = sum(len(job.questions) for job in jobs)
        runs = [PlanRun(self, job) for job in jobs]
        await self.shared.keep(runs)
        tasks = [[asyncio.ensure_future(run.question(q)) for q in run.job.questions] for run in runs]
        flat = [task for row in tasks for task in row]
        everything = asyncio.ensure_future(_all(flat))
        everything.add_done_callback(lambda done: done.cancelled() or done.exception())  # raised here, or not at all
        for job in ahead:
            later = PlanRun(self, job)
            for question in job.questions:
                later.begin(question)
        going_on = False
        try:
            with _seldom_collecting():
                await asyncio.wait([everything, ended], return_when=asyncio.FIRST_COMPLETED)
                if self._draining:
                    await self._calls.landed()
            self.check_broken()
            await everything
            going_on = bool(ahead)
            if not going_on:
                await asyncio.gather(
                    *self.shared.unfinished(), return_exceptions=True
                )  # of questions that failed elsewhere
        finally:
            await cancelled([everything, *(task for task in flat if not task.done())])
            if not going_on:
                await self.shared.clear()
                self.solves.clear()
            await self._calls.finish()
            self.on_progress(self.counts)
        return [[task.result() for task in row] for row in tasks]

    def question_done(self, calls: int) -> None:
        """Count a question and the calls it needed, and say so."""
        self.counts.questions += 1
        self.counts.asked += calls
        self.on_progress(self.counts)


async def _all(tasks: Sequence[asyncio.Task[Answer]]) -> None:
    """Wait for all tasks; raises what the first to fail raises."""
    await asyncio.gather(*tasks)


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Let the garbage collector run seldom: with many calls in flight, looking through them again and again costs half the time."""
    before = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _silent(counts: Counts) -> None:
    del counts
