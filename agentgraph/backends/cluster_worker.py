"""What answers on a machine of a cluster: an actor with an event loop and backends of its own."""

from __future__ import annotations

import asyncio
import os
import platform
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from agentgraph.backends.base import Backend
from agentgraph.backends.batching import Outcome
from agentgraph.errors import AgentGraphError, BackendRefused
from agentgraph.request import Request

__all__ = ["Asked", "Maker", "Taken", "Worker"]

Maker = Callable[[], Backend]
"""Makes a backend; it travels to the workers, so it must pickle and hold no key."""

_TURNS: Final = 4  # of the event loop, for what is answered at the same time to go back together
_BEAT: Final = 5.0  # seconds after which a worker that has nothing to say says so


class Asked(NamedTuple):
    """A request on its way to a worker."""

    number: int
    backend: str
    request: Request
    fingerprint: str


class Taken(NamedTuple):
    """What a worker has to say."""

    outcomes: Sequence[tuple[int, Outcome]]
    has_logprobs: Mapping[str, bool]


class Worker:
    """Answers requests on some machine; an actor of Ray, with an event loop and backends of its own.

    Parameters
    ----------
    makers
        Make its backends, when first asked for; keys come from the environment that Ray was started in there.

    Notes
    -----
    Each `begin` starts a life, with nothing running and nothing to say. Who asks for another life than the present one,
    because Ray started the worker anew or somebody else began one, learns that it is over (``None``).
    """

    def __init__(self, makers: Mapping[str, Maker]) -> None:
        self._makers = makers
        self._backends: dict[str, Backend] = {}
        self._same: set[tuple[str, str, str]] = set()  # fingerprints that were compared
        self._running: dict[int, asyncio.Task[None]] = {}
        self._done: list[tuple[int, Outcome]] = []
        self._news = asyncio.Event()
        self._life = ""

    async def begin(self) -> str:
        """Forget everything; the name of the life that begins."""
        for task in self._running.values():
            task.cancel()
        self._running.clear()
        self._done.clear()
        self._news.set()  # whoever waits learns that it is over
        self._life = os.urandom(8).hex()
        return self._life

    async def ask(self, life: str, asked: Sequence[Asked], dropped: Sequence[int]) -> bool | None:
        """Begin to answer requests, and leave off others that nobody waits for any more."""
        if life != self._life:
            return None
        for number in dropped:
            if number in self._running:
                self._running.pop(number).cancel()
        for one in asked:
            self._running[one.number] = asyncio.ensure_future(self._answer(one))
        return True

    async def take(self, life: str) -> Taken | None:
        """Outcomes since the last time, as soon as there are any; after a while also if there are none."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), _BEAT)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        if life != self._life:
            return None
        done, self._done = self._done, []
        self._news.clear()
        return Taken(done, {name: backend.has_logprobs for name, backend in self._backends.items()})

    async def served(self, backend: str) -> tuple[str, ...] | Exception:
        """What a backend serves as seen from here, or why it does not say."""
        try:
            return await self._backend(backend).served()
        except Exception as error:  # noqa: BLE001  it travels to whoever asked
            return _portable(error)

    async def close(self) -> None:
        """End what is running, and close the backends."""
        await self.begin()
        backends, self._backends = self._backends, {}
        for backend in backends.values():
            await backend.close()

    def _backend(self, name: str) -> Backend:
        if name not in self._backends:
            self._backends[name] = self._makers[name]()
        return self._backends[name]

    async def _answer(self, asked: Asked) -> None:
        outcome: Outcome
        try:
            self._check(asked.backend, asked.request.model, asked.fingerprint)
            outcome = await self._backend(asked.backend).reply(asked.request)
        except Exception as error:  # noqa: BLE001  it travels to whoever asked
            outcome = _portable(error)
        if self._running.pop(asked.number, None) is not None:
            self._done.append((asked.number, outcome))
            self._news.set()

    def _check(self, name: str, model: str, fingerprint: str) -> None:
        """Refuse a model whose weights are others here: the archive would depend on who answers."""
        if (name, model, fingerprint) in self._same:
            return
        here = self._backend(name).fingerprint(model)
        if here != fingerprint:
            raise BackendRefused(
                f"backend {name!r} has another model {model!r} on {platform.node()} (fingerprint {here!r}) than where the "
                f"search runs ({fingerprint!r}); install the same version of everything on all machines"
            )
        self._same.add((name, model, fingerprint))


def _portable(error: Exception) -> Exception:
    """The error as it can travel: ours as they are, others (bugs) with their traceback as text."""
    return error if isinstance(error, AgentGraphError) else RuntimeError("".join(traceback.format_exception(error)))
