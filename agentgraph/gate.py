"""How many requests a backend has in flight: as many as it takes, fewer when it asks to slow down, one when it is away.

A gate adapts as TCP does (additive increase, multiplicative decrease): what an overloaded server answers, and what comes
later than half its time limit, lowers the limit by a third, once per turn of requests; every reply raises it
again, up to what the backend says it takes. Latency below that is left alone: in a server that batches it rises with the
batch, and so does what it gets done. A backend that fails several times in a row is taken to be away (a circuit
breaker): nothing is asked until one request, tried now and then, comes back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from agentgraph.errors import BackendDown, BackendError, BackendOverloaded, BackendRefused, BackendTimeout

__all__ = ["Gate"]

_CUT: Final = 0.7  # of the limit that is left when the backend asks to slow down
_TRIP: Final = 4  # failures in a row, from a service that is not there, that open the breaker
_COOLING: Final = 0.5  # seconds before the first trial request; doubles
_LONGEST: Final = 15.0  # seconds between two trial requests at most
_PAUSE: Final = 60.0  # seconds that a server can ask for at most
_KNOWN: Final = 256  # latest latencies that say what is late
_ENOUGH: Final = 64  # of them before anything is
_REFRESH: Final = 32
_LATE: Final = 3.0  # times the time that 95 % of the replies take
_SOON: Final = 1.0  # seconds; nothing is late before


class Gate:
    """Lets requests to one backend pass; used on one event loop.

    Parameters
    ----------
    most
        Requests in flight that the backend takes, >= 1.
    timeout
        Seconds after which the backend gives a request up; ``None`` if it never does.
    outage
        Seconds that the backend may be away before it counts as gone, >= 0.

    Attributes
    ----------
    limit
        Requests that may be in flight now, 1..most.
    taken
        Requests in flight.
    late
        Seconds after which a request is a straggler; ``None`` while too little is known.
    """

    def __init__(self, most: int, *, timeout: float | None = None, outage: float = 60.0) -> None:
        self.most, self.timeout, self.outage = most, timeout, outage
        self.limit = float(most)
        self.taken = 0
        self.late: float | None = None
        self._line: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._since_cut = 0  # replies and failures since the limit was last lowered
        self._paused_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0  # in a row, of a service that is not there
        self._away_since: float | None = None
        self._trial = False  # whether the request that tries a backend that was away is in flight
        self._latencies: deque[float] = deque(maxlen=_KNOWN)
        self._new = 0

    @property
    def away(self) -> bool:
        """Whether the backend is taken to be away."""
        return self._away_since is not None

    async def enter(self) -> None:
        """Wait for a place; `leave` must follow."""
        if not self._line and self._has_room():
            self._take()
            return
        place = self._loop.create_future()
        self._line.append(place)
        self._let_in()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it was given a place at the same moment
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back."""
        self.taken -= 1
        if self._line:
            self._let_in()

    def open_all(self) -> None:
        """Let everything pass that waits: the run ends, and those who wait find out."""
        while self._line:
            place = self._line.popleft()
            if not place.done():
                self.taken += 1
                place.set_result(None)

    def answered(self, seconds: float) -> None:
        """Take note of a reply and of the seconds it took."""
        self._alive()
        self._since_cut += 1
        if self.timeout is not None and seconds > self.timeout / 2:
            self._slow_down()
        elif self.limit < self.most:
            self.limit = min(float(self.most), self.limit + 1 / self.limit)
        self._latencies.append(seconds)
        self._new += 1
        if self._new >= _REFRESH and len(self._latencies) >= _ENOUGH:
            self._new = 0
            self.late = max(_SOON, _LATE * sorted(self._latencies)[int(0.95 * len(self._latencies))])

    def failed(self, error: BackendError) -> None:
        """Take note of a failure.

        Raises
        ------
        BackendError
            If the backend has been away for longer than it may.
        """
        self._since_cut += 1
        if isinstance(error, BackendOverloaded):
            self._alive()
            self._slow_down()
            self._pause(min(error.retry_after, _PAUSE))
        elif error.retry and isinstance(error, BackendDown | BackendTimeout | BackendRefused):
            if isinstance(error, BackendTimeout):
                self._slow_down()
            self._failures += 1
            if self._failures >= _TRIP or self.away:
                self._go_away(error)
        else:
            self._alive()  # an answer, if a useless one

    def given_up(self) -> None:
        """Take note that a request was cancelled: if it was the trial, another shall take its place."""
        self._trial = False

    def _alive(self) -> None:
        self._failures = 0
        if self._away_since is not None:
            self._away_since, self._trial, self._paused_until = None, False, 0.0
            self._let_in()

    def _go_away(self, error: BackendError) -> None:
        now = self._loop.time()
        if self._away_since is None:
            self._away_since = now
        elif not self._trial:
            return  # was sent before the backend went
        self._trial = False
        away = now - self._away_since
        if away > self.outage:
            raise BackendDown(
                f"away for {away:.0f} s, longer than outage={self.outage:g} allows; the last: {error}; what was answered "
                "is stored, go on with run=<folder>",
                retry=False,
            )
        self._pause(min(_LONGEST, max(_COOLING, away)))

    def _slow_down(self) -> None:
        if self._since_cut > min(self.taken, self.limit) or self.limit == self.most:
            self.limit = max(1.0, _CUT * min(self.limit, max(1, self.taken)))
            self._since_cut = 0

    def _pause(self, seconds: float) -> None:
        until = self._loop.time() + seconds
        if until > self._paused_until and seconds > 0:
            self._paused_until = until
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(until, self._let_in)

    def _has_room(self) -> bool:
        if self._paused_until and self._loop.time() < self._paused_until:
            return False
        if self._away_since is not None:
            return not self._trial
        return self.taken < int(self.limit)

    def _take(self) -> None:
        self.taken += 1
        self._trial = self._away_since is not None

    def _let_in(self) -> None:
        while self._line and self._has_room():
            place = self._line.popleft()
            if not place.done():
                self._take()
                place.set_result(None)
