"""Spreads requests over the machines of a Ray cluster, in batches, to workers that hold backends of their own."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import logging
import math
import os
import socket
from collections import Counter, deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from agentgraph.backends.base import Backend
from agentgraph.backends.cluster_worker import Asked, Maker, Taken, Worker
from agentgraph.budget import is_number
from agentgraph.errors import BackendDown, BackendError, BackendRefused, ConfigError
from agentgraph.request import Reply, Request

__all__ = ["Cluster", "Spread"]

_TURNS: Final = 4  # of the event loop, for what follows on a reply to go along with it
_MOST: Final = 256  # requests in one batch
_DEATHS: Final = 3  # of workers, under one request, until it is held to be the cause
_SHOWN: Final = 400  # characters of Ray's words in an error
_FAREWELL: Final = 30.0  # seconds that workers have to close their backends


@dataclass(eq=False)
class _Call:
    """A request that somebody waits for."""

    asked: Asked
    future: asyncio.Future[Reply]
    deaths: int = 0


@dataclass(eq=False)
class _Link:
    """What is known here of a worker.

    Parameters
    ----------
    actor
        Ray's handle of it.
    life
        Its present one; '' while it is down.
    gone
        Whether Ray will not start it again.
    asking
        Whether a batch is on its way to it: what comes meanwhile goes with the next.
    calls
        What it was asked and has not answered, by number.
    load
        How many of them are of each backend.
    dropped
        Numbers to leave off, which it is told with the next batch.
    """

    actor: Any
    life: str = ""
    gone: bool = False
    asking: bool = False
    calls: dict[int, _Call] = field(default_factory=dict)
    load: Counter[str] = field(default_factory=Counter)
    dropped: list[int] = field(default_factory=list)

    def give(self, call: _Call) -> None:
        self.calls[call.asked.number] = call
        self.load[call.asked.backend] += 1

    def take_back(self, number: int) -> _Call | None:
        call = self.calls.pop(number, None)
        if call is not None:
            self.load[call.asked.backend] -= 1
        return call


class Cluster:
    """Long-lived workers on a Ray cluster, and what is on its way to and from them.

    Parameters
    ----------
    address
        ``None`` starts Ray on this machine alone, and stops it at the end. 'auto' is the cluster that this machine belongs
        to, 'host:port' that of a head whose network it shares, 'ray://host:10001' one reached through Ray's client.
    workers
        How many, >= 1; Ray puts them on as many machines as it can.
    cpus, gpus
        What each of them takes of a machine, >= 0. A worker that only talks to servers needs little; one that is to use a GPU
        must say so, for Ray hides it otherwise.
    start_limit
        Seconds without any worker after which requests fail, > 0.

    Raises
    ------
    ConfigError
        If Ray is not installed, or a setting cannot be used.

    Notes
    -----
    Everything is decided here; workers only answer. A worker has one batch on its way at a time, so batches grow with what
    is waiting; outcomes come back as they are there, and no request waits for another of its batch. When a worker dies, what it
    had not answered goes to the others at once, and Ray starts it again, on another machine if need be. Seeds and keys of
    requests are untouched, so it does not matter who answers, or whether two do. Ray's calls cost a millisecond; it is the batch
    that makes them cheap.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int = 2,
        cpus: float = 0.5,
        gpus: float = 0.0,
        start_limit: float = 120.0,
    ) -> None:
        if address is not None and not str(address):
            raise ConfigError(f"cluster.address={address!r} must be null, auto, host:port or ray://host:port")
        if type(workers) is not int or workers < 1:
            raise ConfigError(f"cluster.workers={workers!r} must be a whole number of at least 1")
        for name, value in (("cpus", cpus), ("gpus", gpus)):
            if not is_number(value) or not 0 <= value < math.inf:
                raise ConfigError(f"cluster.{name}={value!r} must be 0 or more")
        if not is_number(start_limit) or not 0 < start_limit < math.inf:
            raise ConfigError(f"cluster.start_limit={start_limit!r} must be a positive number of seconds")
        if importlib.util.find_spec("ray") is None:
            raise ConfigError('cluster=ray needs Ray: pip install "agentgraph[ray]", or choose cluster=none')
        self.address, self.workers, self.cpus, self.gpus, self.start_limit = address, workers, cpus, gpus, start_limit
        self._makers: dict[str, Maker] = {}
        self._spread: dict[str, Spread] = {}
        self._numbers = itertools.count()
        self._users: set[str] = set()  # backends that are in use
        self._ours = False  # whether Ray was started, or joined, here
        self._opening: asyncio.Task[None] | None = None
        self._links: list[_Link] = []
        self._waiting: dict[str, deque[_Call]] = {}  # by backend
        self._tasks: set[asyncio.Task[None]] = set()
        self._due = False  # whether requests will be handed out in a few turns of the loop
        self._patience: asyncio.TimerHandle | None = None  # ends when there was no worker for too long

    def spread(self, makers: Mapping[str, Maker], here: Mapping[str, Backend] | None = None) -> dict[str, Backend]:
        """Backends by name that answer wherever there is a worker.

        Parameters
        ----------
        makers
            Make the backends: here, to say what they are, and in every worker, to answer.
        here
            Those that were made here already.
        """
        made = here or {}
        self._makers = dict(makers)
        self._spread = {
            name: Spread(name, made[name] if name in made else make(), self) for name, make in makers.items()
        }
        return dict(self._spread)

    # What the backends call -------------------------------------------------------------------------------------------

    async def reply(self, backend: str, request: Request, fingerprint: str) -> Reply:
        """Answer a request somewhere."""
        self._open(backend)
        asked = Asked(next(self._numbers), backend, request, fingerprint)
        call = _Call(asked, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(backend, deque()).append(call)
        self._soon()
        try:
            return await call.future
        except asyncio.CancelledError:
            for link in self._links:
                if link.take_back(asked.number) is not None:
                    link.dropped.append(asked.number)
                    self._soon()
            raise

    async def served(self, backend: str) -> tuple[str, ...]:
        """What all workers say that a backend serves; the first failure if one cannot say."""
        await asyncio.shield(self._open(backend))
        answers = [link.actor.served.remote(backend) for link in self._links]
        try:
            said = await asyncio.wait_for(asyncio.gather(*(_result(answer) for answer in answers)), self.start_limit)
        except TimeoutError:
            raise BackendRefused(self._nobody()) from None
        except _actor_error() as error:
            raise _dead(error) from None
        for answer in said:
            if isinstance(answer, Exception):
                raise answer
        return tuple(sorted(set.intersection(*map(set, said))))

    async def close(self, backend: str) -> None:
        """Let go of the workers when the last backend is closed."""
        self._users.discard(backend)
        opening, self._opening = self._opening, None
        if self._users or opening is None:
            self._opening = opening
            return
        await asyncio.gather(opening, return_exceptions=True)
        self._fail(None)
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        links, self._links = self._links, []
        farewells = [asyncio.ensure_future(_result(link.actor.close.remote())) for link in links if link.life]
        if farewells:
            await asyncio.wait(farewells, timeout=_FAREWELL)
        for farewell in farewells:
            farewell.cancel()
        await asyncio.gather(*farewells, return_exceptions=True)
        await asyncio.to_thread(self._disconnect, [link.actor for link in links])

    # Workers come and go ----------------------------------------------------------------------------------------------

    def _open(self, backend: str) -> asyncio.Task[None]:
        """The cluster's start, begun if it was not."""
        self._users.add(backend)
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._start())
            self._opening.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._opening

    async def _start(self) -> None:
        try:
            actors = await asyncio.to_thread(self._connect)
        except BackendError as error:
            self._opening = None  # whoever asks next tries again
            self._fail(error)
            raise
        self._links = [_Link(actor) for actor in actors]
        for link in self._links:
            self._do(self._serve(link))
        self._watch()

    def _connect(self) -> list[Any]:
        """Join or start Ray and have it make the workers; called in a thread, for it takes seconds."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        where = "local" if self.address is None else self.address
        more: dict[str, Any] = {}
        if self.address is None:  # as many as were asked for, on however few processors
            cores = max(os.cpu_count() or 1, math.ceil(self.workers * self.cpus))
            more = {"num_cpus": cores, "include_dashboard": False}
        try:
            if not ray.is_initialized():
                _knock(where)
                ray.init(where, log_to_driver=False, logging_level=logging.ERROR, **more)
                self._ours = True
            kind = ray.remote(Worker).options(
                num_cpus=self.cpus,
                num_gpus=self.gpus,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy="SPREAD",
            )
            return [kind.remote(self._makers) for _ in range(self.workers)]
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            self._disconnect([])
            raise BackendRefused(
                f"cluster.address={self.address or 'null'}: {_short(error)}; 'ray status' there says whether Ray runs; Ray "
                "and Python must have the same versions on all machines, and ~/.ray/auth_token be the same"
            ) from error

    def _disconnect(self, actors: Sequence[Any]) -> None:
        """End the workers, and Ray if it was started or joined here; called in a thread."""
        import ray

        for actor in actors:
            ray.kill(actor)
        if self._ours:
            ray.shutdown()
        self._ours = False

    async def _serve(self, link: _Link) -> None:
        """Deliver what a worker answers, through all its lives."""
        dead = _actor_error()
        while True:
            try:
                life = await link.actor.begin.remote()  # Ray holds this back until the worker is there
            except dead as error:
                link.gone = True
                logging.getLogger(__name__).warning("%s", _dead(error))
                if all(other.gone for other in self._links):
                    self._fail(_dead(error))
                return
            link.life, link.asking = life, False
            self._watch()
            self._soon()
            with suppress(*dead):
                while link.life == life:
                    taken = await link.actor.take.options(max_task_retries=0).remote(life)
                    if taken is None:
                        break
                    self._deliver(link, taken)
            self._lost(link)

    def _lost(self, link: _Link) -> None:
        """Give to others what a worker has not answered."""
        link.life = ""
        link.dropped.clear()
        if link.calls:
            logging.getLogger(__name__).warning(
                "a worker is lost; the %d requests that it had not answered go to others", len(link.calls)
            )
        for number in reversed(list(link.calls)):
            call = link.take_back(number)
            if call is None or call.future.done():
                continue
            call.deaths += 1
            if call.deaths < _DEATHS:
                self._waiting.setdefault(call.asked.backend, deque()).appendleft(call)
            else:
                call.future.set_exception(
                    BackendDown(
                        f"backend {call.asked.backend!r}: {_DEATHS} workers died while they had this request; look at their "
                        "machines' memory (and Ray's logs there)"
                    )
                )
        self._watch()
        self._soon()

    def _watch(self) -> None:
        """Have patience for so long while there is no worker."""
        alive = any(link.life for link in self._links)
        if alive and self._patience is not None:
            self._patience.cancel()
            self._patience = None
        elif not alive and self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(self.start_limit, self._give_up)

    def _give_up(self) -> None:
        self._patience = None
        self._fail(BackendRefused(self._nobody()))

    def _nobody(self) -> str:
        return (
            f"cluster.address={self.address or 'null'}: no worker in {self.start_limit:g} s; each needs {self.cpus:g} CPUs and "
            f"{self.gpus:g} GPUs of one machine ('ray status' says what is free); lower cluster.cpus or cluster.gpus, or raise "
            "cluster.start_limit"
        )

    def _fail(self, error: BackendError | None) -> None:
        """Fail all that was asked, or cancel it if there is no error."""
        waiting, self._waiting = self._waiting, {}
        calls = [call for queue in waiting.values() for call in queue]
        for link in self._links:
            calls += [call for number in list(link.calls) if (call := link.take_back(number)) is not None]
        for call in calls:
            if call.future.done():
                continue
            if error is None:
                call.future.cancel()
            else:
                call.future.set_exception(error)

    # Requests go out, outcomes come in --------------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:  # Ray itself is not there any more
            for link in self._links:
                link.gone = True
            self._fail(BackendRefused(f"cluster.address={self.address or 'null'} is lost: {_short(error)}"))

    def _soon(self, turns: int = _TURNS) -> None:
        """Hand out what is waiting, a few turns of the loop later."""
        if turns == _TURNS and self._due:
            return
        self._due = bool(turns)
        if turns:
            asyncio.get_running_loop().call_soon(self._soon, turns - 1)
        else:
            self._hand_out()

    def _hand_out(self) -> None:
        if not self._links:
            return
        if all(link.gone for link in self._links):
            self._fail(BackendRefused("the workers of the cluster are gone; see the warnings above, and start again"))
        self._watch()
        for link in self._links:
            if link.life and not link.asking:
                batch = list(itertools.islice(self._share(link), _MOST))
                if batch or link.dropped:
                    link.asking = True
                    self._do(self._hand(link, batch))

    def _share(self, link: _Link) -> Iterator[_Call]:
        """What of the waiting a worker gets: as much as makes all equally loaded, and no more than its backends take."""
        alive = [other for other in self._links if other.life]
        for name, queue in self._waiting.items():
            level = math.ceil((sum(other.load[name] for other in alive) + len(queue)) / len(alive))
            while queue and link.load[name] < min(level, self._spread[name].each):
                call = queue.popleft()
                if not call.future.done():
                    link.give(call)
                    yield call

    async def _hand(self, link: _Link, batch: Sequence[_Call]) -> None:
        life, dropped = link.life, link.dropped
        link.dropped = []
        ask = link.actor.ask.options(max_task_retries=0)
        heard = None
        with suppress(*_actor_error()):
            heard = await ask.remote(life, [call.asked for call in batch], dropped)
        if link.life != life:  # it has been lost meanwhile
            return
        link.asking = False
        if heard is None:
            self._lost(link)
        elif any(self._waiting.values()) or link.dropped:
            self._soon()

    def _deliver(self, link: _Link, taken: Taken) -> None:
        for name, has_logprobs in taken.has_logprobs.items():
            if not has_logprobs:  # found out by asking
                self._spread[name].has_logprobs = False
        for number, outcome in taken.outcomes:
            call = link.take_back(number)
            if call is None or call.future.done():
                continue
            if isinstance(outcome, Exception):
                call.future.set_exception(outcome)
            else:
                call.future.set_result(outcome)
        if any(self._waiting.values()):
            self._soon()


class Spread(Backend):
    """A backend whose requests are answered by the workers of a cluster.

    Parameters
    ----------
    name
        What models call it.
    here
        The same backend in this process: it says what it is, and answers nothing.
    cluster
        Where its likes are. It can have as many requests in flight as all of them together.

    Attributes
    ----------
    each
        Requests in flight at one worker.
    """

    def __init__(self, name: str, here: Backend, cluster: Cluster) -> None:
        super().__init__(name, limit=here.limit * cluster.workers, has_logprobs=here.has_logprobs)
        self.timeout, self.redundant, self.each = here.timeout, here.redundant, here.limit
        self._here, self._cluster = here, cluster
        self._fingerprint = cache(here.fingerprint)

    async def reply(self, request: Request) -> Reply:
        return await self._cluster.reply(self.name, request, self._fingerprint(request.model))

    async def served(self) -> tuple[str, ...]:
        return await self._cluster.served(self.name)

    def fingerprint(self, model: str) -> str:
        return self._here.fingerprint(model)

    def samples(self, model: str) -> int | None:
        return self._here.samples(model)

    async def close(self) -> None:
        await self._cluster.close(self.name)
        await self._here.close()


async def _result(reference: Any) -> Any:  # noqa: ANN401  Ray has no types for us
    """What Ray will have, as a coroutine."""
    return await reference


def _knock(address: str) -> None:
    """Raise `OSError` if nobody is at an address: Ray would take minutes to say so."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=_FAREWELL).close()


def _actor_error() -> tuple[type[Exception], ...]:
    """What Ray raises where an actor is not, or no longer, there; known once Ray is imported."""
    from ray.exceptions import RayActorError

    return (RayActorError,)


def _dead(error: Exception) -> BackendRefused:
    return BackendRefused(
        f"a worker cannot be started again: {_short(error)}; agentgraph must be installed on every machine, in "
        "the same version, and ~/.ray/auth_token be the same"
    )


def _short(error: BaseException) -> str:
    """Ray's words in one line, not too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
