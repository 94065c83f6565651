"""A thread that answers in batches what an event loop asks one by one; for backends that are fast in batches."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

from agentgraph.request import Reply

__all__ = ["Batches", "Outcome"]

Kind = TypeVar("Kind", bound=Hashable)
Item = TypeVar("Item")
Outcome = Reply | Exception
_TURNS: Final = 4  # of the event loop, for what follows on a reply to be asked before the next batch is chosen


class Batches(Generic[Kind, Item]):
    """Waiting items by kind; only items of one kind go together.

    Parameters
    ----------
    loop
        Where futures live; `ask` and `close` are called there.
    answer
        Outcomes of items of one kind, in order; called in the thread. What it raises is the outcome of them all.
    most
        How many items of a kind a batch has at most; called in the thread.
    name
        Of the thread.

    Notes
    -----
    A request costs the loop one future and one append. What was appended goes to the thread in one piece, a few
    turns of the loop later, so that the first batch is not the first request; a batch's outcomes come back in one
    piece as well, and the thread then waits for what they set off, unless a full batch is waiting already. It takes the most
    numerous kind.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        answer: Callable[[Kind, Sequence[Item]], Sequence[Outcome]],
        most: Callable[[Kind], int],
        name: str,
    ) -> None:
        self._loop, self._answer, self._most = loop, answer, most
        self._fresh: list[tuple[Kind, Item, asyncio.Future[Reply]]] = []  # the loop's
        self._waiting: dict[Kind, deque[tuple[Item, asyncio.Future[Reply]]]] = {}  # the thread's
        self._change = threading.Condition()  # guards the next three
        self._handed: list[tuple[Kind, Item, asyncio.Future[Reply]]] = []
        self._settled = True  # whether what the last batch set off has been handed over
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def ask(self, kind: Kind, item: Item) -> asyncio.Future[Reply]:
        """Put an item on the queue."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if not self._fresh:
            self._loop.call_soon(self._turn, _TURNS, False)
        self._fresh.append((kind, item, future))
        return future

    def close(self) -> None:
        """Stop the thread after the batch it is at; what waits is cancelled."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join()
        for _, _, future in self._fresh + self._handed:
            future.cancel()
        for queue in self._waiting.values():
            for _, future in queue:
                future.cancel()
        self._fresh.clear()

    def _turn(self, left: int, settled: bool) -> None:
        """Let some turns of the loop pass, then hand over what was asked."""
        if left:
            self._loop.call_soon(self._turn, left - 1, settled)
            return
        with self._change:
            self._handed += self._fresh
            self._settled = self._settled or settled
            self._change.notify()
        self._fresh = []

    def _deliver(self, futures: Sequence[asyncio.Future[Reply]], outcomes: Sequence[Outcome]) -> None:
        for future, outcome in zip(futures, outcomes, strict=True):
            if future.done():  # cancelled by whoever asked
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._loop.call_soon(self._turn, _TURNS, True)

    def _work(self) -> None:
        while (kind := self._next_kind()) is not None:
            queue = self._waiting[kind]
            rows = [queue.popleft() for _ in range(min(len(queue), self._most(kind)))]
            if not queue:
                del self._waiting[kind]
            rows = [(item, future) for item, future in rows if not future.cancelled()]
            outcomes = self._outcomes(kind, [item for item, _ in rows])
            with self._change:
                self._settled = False
            try:
                self._loop.call_soon_threadsafe(self._deliver, [future for _, future in rows], outcomes)
            except RuntimeError:  # the loop was closed under us: nobody waits any more
                return

    def _next_kind(self) -> Kind | None:
        """Wait for the kind of item that most wait for; ``None`` means stop."""
        while True:
            with self._change:
                if self._closing:
                    return None
                handed, self._handed, settled = self._handed, [], self._settled
            for kind, item, future in handed:
                self._waiting.setdefault(kind, deque()).append((item, future))
            most = max(self._waiting, key=lambda kind: len(self._waiting[kind]), default=None)
            if most is not None and (settled or len(self._waiting[most]) >= self._most(most)):
                return most
            with self._change:
                while not self._changed(settled):
                    self._change.wait()

    def _changed(self, settled: bool) -> bool:
        return self._closing or bool(self._handed) or self._settled != settled

    def _outcomes(self, kind: Kind, items: Sequence[Item]) -> Sequence[Outcome]:
        try:
            return self._answer(kind, items) if items else ()
        except Exception as error:  # noqa: BLE001  whoever waits must see it: here nobody would
            return [error] * len(items)
