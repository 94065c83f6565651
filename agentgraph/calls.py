"""Calls: one reply for each request, from the store, the same request in flight, or a backend that is tried again.

Everything here happens on the executor's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agentgraph.backends.base import Backend
from agentgraph.budget import Tokens, flops
from agentgraph.errors import BackendDown, BackendError, BackendOverloaded
from agentgraph.gate import Gate
from agentgraph.model import Model
from agentgraph.request import Reply, Request
from agentgraph.store import ReplyStore

__all__ = ["Calls", "Counts"]

_TRIES: Final = 4  # of a request, with back-off, before it counts as a failure
_BACKOFF: Final = 0.5  # seconds before the second try, on average; doubles
_LONGEST: Final = 15.0  # seconds between two tries at most
_PATIENCE: Final = 20  # failures before their share is looked at
_DOUBLED: Final = 0.02  # share of the calls that may be sent a second time because the first is late


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
    failures, retries
        Calls given up, and calls tried again, by the kind of failure.
    doubled
        Calls sent a second time because the first was late.
    late
        Calls that nodes did not wait for, because of a deadline.
    tokens
        Tokens of the calls made, prompt and output.
    reasoning_tokens
        Those of them that a model spent on reasoning, where its server says so.
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
    failures: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    doubled: int = 0
    late: int = 0
    tokens: int = 0
    reasoning_tokens: int = 0
    flops: float = 0.0
    agent_calls: int = 0
    agent_tokens: int = 0
    looked: int = 0
    questions: int = 0
    questions_total: int = 0


class Calls:
    """Makes the calls of an executor.

    Parameters
    ----------
    backends
        By the name that models give.
    store
        Replies already paid for.
    failure_share, outage
        As of the executor.
    timed
        Whether callers set time limits (``within``).

    Attributes
    ----------
    counts
        What was done so far.
    blind
        Names of models that replied without a log-probability.
    ended
        Of the work in progress: done when going on is no use.
    """

    def __init__(
        self, backends: Mapping[str, Backend], store: ReplyStore, *, failure_share: float, outage: float, timed: bool
    ) -> None:
        self.backends, self.store = backends, store
        self.failure_share, self.outage, self.timed = failure_share, outage, timed
        self.counts = Counts()
        self.blind: set[str] = set()
        self.ended: asyncio.Future[None] | None = None
        self._in_flight: dict[str, list[asyncio.Future[Reply | None]] | None] = {}  # with those who wait for the same
        self._sent: dict[str, float] = {}  # when those in flight were sent, if timed
        self._unawaited: set[asyncio.Task[Reply]] = set()  # calls that have a time limit: they live on when it is over
        self._gates: dict[str, Gate] = {}
        self._answered: set[str] = set()  # backends that replied at least once
        self._ready: set[str] = set()  # backends that were started
        self._flush_due = False
        self._broken: BaseException | None = None

    def begin(self) -> asyncio.Future[None]:
        """Start work anew, whatever broke the last; what is returned is done when going on is no use."""
        self._broken = None
        self.ended = asyncio.get_running_loop().create_future()
        return self.ended

    @property
    def in_flight(self) -> int:
        """Calls that were sent, or wait for a place."""
        return len(self._in_flight)

    async def landed(self) -> None:
        """Wait until nothing is in flight."""
        await asyncio.gather(*map(self._landing, list(self._in_flight)), return_exceptions=True)

    async def finish(self) -> None:
        """Cancel the calls that nobody waits for, and store what came."""
        late = list(self._unawaited)
        for call in late:
            call.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        self._sent.clear()
        self.ended = None
        self.store.flush()

    def stop(self, error: BaseException) -> None:
        """Note what makes going on useless; those who wait for a place find out."""
        if self._broken is None:
            self._broken = error
        for gate in self._gates.values():
            gate.open_all()
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)

    def check_broken(self) -> None:
        """Raise what makes going on useless, if anything does."""
        if self._broken is not None:
            raise self._broken.with_traceback(
                None
            )  # every task raises this one error; its traceback would name them all

    async def reply(self, request: Request, model: Model, within: float | None = None) -> Reply | None:
        """The reply to a request: from the store, from the same request in flight, or from the backend.

        Parameters
        ----------
        within
            Seconds that it may take once it was sent; ``None`` waits.

        Returns
        -------
        Reply or None
            ``None`` if it takes longer than that; it is stored all the same if it comes before the jobs are done.
        """
        stored = self.store.get(request.key)
        if within is None:
            reply = stored or await self._reply(request, model)
        else:
            in_time = stored or await self._in_time(request, model, within)
            if in_time is None or (in_time.seconds or 0.0) > within:
                self.counts.late += 1
                return None
            reply = in_time
        if reply.logprob is None and reply.text:  # from the store as well: a run that goes on must see the same
            self.blind.add(model.name)
        return reply

    async def _in_time(self, request: Request, model: Model, within: float) -> Reply | None:
        sending = asyncio.ensure_future(self._reply(request, model))  # a task of its own, so that it lives on if late
        self._unawaited.add(sending)
        sending.add_done_callback(self._unawaited.discard)
        left = within
        while left > 0:
            done, _ = await asyncio.wait([sending], timeout=left)
            if done:
                return sending.result()
            sent = self._sent.get(request.key)
            left = (
                within if sent is None else within - (asyncio.get_running_loop().time() - sent)
            )  # time in line does not count
        return None

    async def _reply(self, request: Request, model: Model) -> Reply:
        """The reply to a request that is not stored."""
        key = request.key
        while key in self._in_flight:
            landed = await self._landing(key)
            if landed is not None:
                return landed
            stored = self.store.get(key)  # who asked was cancelled; unless it has come, somebody must ask again
            if stored is not None:
                return stored
        self._in_flight[key] = None
        reply: Reply | None = None
        try:
            reply = await self._send(request, model)
        except BackendError as error:
            self._land(key, error)
            raise
        finally:
            self._land(key, reply)
        return reply

    def _landing(self, key: str) -> asyncio.Future[Reply | None]:
        """What a request in flight will come to: ``None`` if it was given up."""
        waiting = asyncio.get_running_loop().create_future()
        others = self._in_flight[key]
        if others is None:
            self._in_flight[key] = [waiting]
        else:
            others.append(waiting)
        return waiting

    def _land(self, key: str, result: Reply | BackendError | None) -> None:
        for waiting in self._in_flight.pop(key, None) or ():
            if waiting.done():
                continue
            if isinstance(result, BackendError):
                waiting.set_exception(result)
            else:
                waiting.set_result(result)

    async def _send(self, request: Request, model: Model) -> Reply:
        backend = self.backends[model.backend]
        reply = await self.tried(request, backend)
        self._answered.add(backend.name)
        counts = self.counts
        counts.made += 1
        counts.tokens += reply.prompt_tokens + reply.output_tokens
        counts.reasoning_tokens += reply.reasoning_tokens
        counts.flops += flops(model.size, Tokens(reply.prompt_tokens, reply.output_tokens))
        self.store.put(request.key, reply)
        if not self._flush_due:  # once per batch of replies: after all that woke up in this turn of the loop
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)
        return reply

    async def tried(self, request: Request, backend: Backend) -> Reply:
        """The backend's reply, after as many tries as help."""
        gate = self._gates.get(backend.name)
        if gate is None:
            gate = self._gates[backend.name] = Gate(backend.limit, timeout=backend.timeout, outage=self.outage)
        tries, busy_since = 0, 0.0
        while True:
            await gate.enter()
            start = asyncio.get_running_loop().time()
            try:
                self.check_broken()  # what waited for a place is not asked of a service that is of no use
                if backend.name not in self._ready:
                    await backend.ready()
                    self._ready.add(backend.name)
                    start = asyncio.get_running_loop().time()  # how long it took to start is nothing to the request
                if self.timed:
                    self._sent[request.key] = start
                reply = await (self._hedged(request, backend, gate) if backend.redundant else backend.reply(request))
            except BackendError as error:
                failure = error
            except asyncio.CancelledError:
                gate.given_up()
                raise
            else:
                gate.answered(asyncio.get_running_loop().time() - start)
                return reply
            finally:
                gate.leave()
            self.check_broken()
            self.counts.retries[failure.kind] += 1
            self._note_failure(gate, backend, failure)
            if gate.away:
                continue  # waits in line until it is back
            busy_since = busy_since or start
            patient = (
                isinstance(failure, BackendOverloaded) and asyncio.get_running_loop().time() - busy_since < self.outage
            )
            tries += not patient or tries < _TRIES - 1
            if tries >= _TRIES or not failure.retry:
                self.counts.retries[failure.kind] -= 1
                self._count_failure(backend, failure)
                raise failure
            seconds = min(_LONGEST, _BACKOFF * 2 ** (tries - 1))
            jitter = 0.5 + (request.seed >> 8 * tries) % 256 / 256  # so that they do not all come back at once
            await asyncio.sleep(jitter * seconds)

    def _note_failure(self, gate: Gate, backend: Backend, failure: BackendError) -> None:
        was_away = gate.away
        try:
            gate.failed(failure)
        except BackendDown as gone:
            self.stop(gone)
            raise
        if gate.away and not was_away:
            logging.getLogger(__name__).warning(
                "backend %r seems to be away (%s); trying again for up to %g s", backend.name, failure, self.outage
            )

    async def _hedged(self, request: Request, backend: Backend, gate: Gate) -> Reply:
        """The backend's reply; if it is late, and few were, the request is sent a second time and the first reply counts."""
        counts = self.counts
        if gate.late is None:
            return await backend.reply(request)
        calls = {asyncio.ensure_future(backend.reply(request))}
        try:
            done, _ = await asyncio.wait(calls, timeout=gate.late)
            if not done and counts.doubled < _DOUBLED * counts.made and gate.taken < gate.limit:
                counts.doubled += 1
                calls.add(asyncio.ensure_future(backend.reply(request)))
            left = set(calls)
            while True:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for call in done:
                    if call.exception() is None or not left:
                        return call.result()
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def _flush(self) -> None:
        self._flush_due = False
        try:
            self.store.flush()
        except BaseException as error:  # noqa: BLE001  a full disk must stop the run, not only this callback
            self.stop(error)

    def _count_failure(self, backend: Backend, error: BackendError) -> None:
        self.counts.failed += 1
        self.counts.failures[error.kind] += 1
        share = self.counts.failed / (self.counts.failed + self.counts.made)
        if not error.retry and backend.name not in self._answered:
            self.stop(error)
        elif self.counts.failed >= _PATIENCE and share > self.failure_share:
            self.stop(
                BackendError(
                    f"{self.counts.failed} of {self.counts.failed + self.counts.made} calls failed after retries, more "
                    f"than the {self.failure_share:.0%} allowed; the last: {error}; what was answered is stored, go on with "
                    "run=<folder>",
                    retry=False,
                )
            )
