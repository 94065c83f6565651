"""Runs plans on questions: everything that is ready runs at once, and the same request is made once.

One event loop, in a thread of its own, holds every ready node of every question of every plan; nothing waits for a
level of a graph or for another question. Limits are per backend. The public methods are synchronous.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from agentgraph.backends.base import Backend
from agentgraph.budget import Cost, Tokens, is_number
from agentgraph.errors import BackendError, ConfigError
from agentgraph.lookup import Known, Lookup
from agentgraph.model import Model, Pool
from agentgraph.plan import Plan
from agentgraph.plan_run import Job, PlanRun
from agentgraph.request import Reply, Request
from agentgraph.roles.base import Role
from agentgraph.store import ReplyStore
from agentgraph.tasks.base import Question, Task
from agentgraph.trial import Answer

__all__ = ["Counts", "Executor", "Job"]

T = TypeVar("T")
_TRIES: Final = 4  # of a request, with back-off, before it counts as a failure
_BACKOFF: Final = 0.5  # seconds before the second try; doubles
_PATIENCE: Final = 20  # failures before their share is looked at


@dataclass
class Counts:
    """What an executor has done so far.

    Attributes
    ----------
    asked
        Calls that plans needed.
    made
        Calls that went to a backend: the others had been made before.
    failed
        Calls given up after retries.
    tokens
        Tokens of the calls made, prompt and output.
    flops
        FLOPs of the calls made.
    agent_calls, agent_tokens
        The search's own: calls made by its agent, and their tokens; not in the figures above.
    looked
        Marks that earlier calls gave for nothing when plans were looked up (`Executor.known`).
    questions, questions_total
        Questions done and to do in the jobs that are running.
    """

    asked: int = 0
    made: int = 0
    failed: int = 0
    tokens: int = 0
    flops: float = 0.0
    agent_calls: int = 0
    agent_tokens: int = 0
    looked: int = 0
    questions: int = 0
    questions_total: int = 0


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
    ) -> None:
        self.task, self.pool, self.roles, self.backends, self.store = task, pool, dict(roles), backends, store
        self.seed, self.failure_share = seed, failure_share
        if type(seed) is not int:
            raise ConfigError(f"seed={seed!r} must be a whole number")
        if not is_number(failure_share) or not 0 <= failure_share <= 1:
            raise ConfigError(f"failure_share={failure_share!r} must be in [0, 1]")
        self.counts = Counts()
        self.on_progress = _silent
        for model in pool:
            if model.backend not in backends:
                raise ConfigError(
                    f"model {model.name!r} names the backend {model.backend!r}, which is not there; "
                    f"there are: {', '.join(backends)}"
                )
        self.solves: dict[tuple[object, ...], Request] = {}  # of the plans that are running
        self._lookup = Lookup(task, pool, self.roles, store, seed)
        self._answered_jobs: list[tuple[Plan, Sequence[Question]]] = []  # not yet known to the lookup
        self._in_flight: dict[str, asyncio.Task[Reply]] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._answered: set[str] = set()  # backends that replied at least once
        self._flush_due = False
        self._broken: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agentgraph-executor", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, jobs: Sequence[Job]) -> list[list[Answer]]:
        """Answers of each job, question by question, in the order given.

        Raises
        ------
        BackendError
            If a service cannot be used, or too many calls failed after retries. Replies so far are stored.
        """
        results = self._call(self._run(jobs))
        for job, answers in zip(jobs, results, strict=True):
            if not job.replicate and not job.roles:
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
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    async def _agent_reply(self, request: Request, backend: str) -> Reply:
        stored = self.store.get(request.key)
        if stored is not None:
            return stored
        self._broken = None
        reply = await self._tried(request, self.backends[backend])
        self.counts.agent_calls += 1
        self.counts.agent_tokens += reply.prompt_tokens + reply.output_tokens
        self.store.put(request.key, reply)
        self.store.flush()
        return reply

    async def _close(self) -> None:
        self.store.flush()
        for backend in self.backends.values():
            await backend.close()

    async def _run(self, jobs: Sequence[Job]) -> list[list[Answer]]:
        self._broken = None
        self.counts.questions = 0
        self.counts.questions_total = sum(len(job.questions) for job in jobs)
        runs = [PlanRun(self, job) for job in jobs]
        tasks = [[asyncio.ensure_future(run.question(q)) for q in run.job.questions] for run in runs]
        flat = [task for row in tasks for task in row]
        try:
            await asyncio.gather(*flat)
        except BaseException:
            for task in flat:
                task.cancel()
            await asyncio.gather(*flat, return_exceptions=True)
            if self._broken is not None:  # every task raised this one error; its traceback names them all
                raise self._broken.with_traceback(None) from None
            raise
        finally:
            left = list(self._in_flight.values())  # asked for questions that were given up
            for sending in left:
                sending.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            self.solves.clear()
            self.store.flush()
            self.on_progress(self.counts)
        self.check_broken()
        return [[task.result() for task in row] for row in tasks]

    async def reply(self, request: Request, model: Model) -> Reply:
        """The reply to a request: from the store, from the same request in flight, or from the backend."""
        self.counts.asked += 1
        stored = self.store.get(request.key)
        if stored is not None:
            return stored
        if request.key not in self._in_flight:
            # A task of its own: a question that is given up must not take the reply from others that wait for it.
            sending = asyncio.ensure_future(self._send(request, model))
            self._in_flight[request.key] = sending
            sending.add_done_callback(lambda done: self._landed(request.key, done))
        return await asyncio.shield(self._in_flight[request.key])

    def _landed(self, key: str, sending: asyncio.Task[Reply]) -> None:
        del self._in_flight[key]
        if not sending.cancelled():
            sending.exception()  # those who wait raise it; if all of them gave up, it is no accident

    async def _send(self, request: Request, model: Model) -> Reply:
        backend = self.backends[model.backend]
        reply = await self._tried(request, backend)
        self._answered.add(backend.name)
        self.counts.made += 1
        self.counts.tokens += reply.prompt_tokens + reply.output_tokens
        self.counts.flops += Cost.of_call(model.size, Tokens(reply.prompt_tokens, reply.output_tokens)).flops
        self.store.put(request.key, reply)
        if not self._flush_due:  # once per batch of replies: after all that woke up in this turn of the loop
            self._flush_due = True
            self._loop.call_soon(self._flush)
        return reply

    async def _tried(self, request: Request, backend: Backend) -> Reply:
        """The backend's reply, after as many tries as help."""
        if backend.name not in self._slots:
            self._slots[backend.name] = asyncio.Semaphore(backend.limit)
        attempt = 0
        while True:
            try:
                async with self._slots[backend.name]:
                    if self._broken is None:  # what waited for a slot is not asked of a service that is of no use
                        return await backend.reply(request)
            except BackendError as error:
                attempt += 1
                if attempt == _TRIES or not error.retry:
                    self._count_failure(backend, error)
                    raise
            self.check_broken()
            await asyncio.sleep(_BACKOFF * 2 ** (attempt - 1))

    def _flush(self) -> None:
        self._flush_due = False
        try:
            self.store.flush()
        except BaseException as error:  # noqa: BLE001  a full disk must stop the run, not only this callback
            self._broken = error

    def _count_failure(self, backend: Backend, error: BackendError) -> None:
        self.counts.failed += 1
        share = self.counts.failed / (self.counts.failed + self.counts.made)
        if not error.retry and backend.name not in self._answered:
            self._broken = error
        elif self.counts.failed >= _PATIENCE and share > self.failure_share:
            self._broken = BackendError(
                f"{self.counts.failed} of {self.counts.failed + self.counts.made} calls failed after retries, more than "
                f"the {self.failure_share:.0%} allowed; the last: {error}; what was answered is stored, go on with run=<folder>",
                retry=False,
            )

    def question_done(self) -> None:
        """Count a question and say so."""
        self.counts.questions += 1
        self.on_progress(self.counts)

    def check_broken(self) -> None:
        """Raise what makes going on useless, if anything does."""
        if self._broken is not None:
            raise self._broken


def _silent(counts: Counts) -> None:
    del counts
