"""Contract of a backend: the one seam to the outside world."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from agentgraph.request import Reply, Request

__all__ = ["Backend"]


class Backend(ABC):
    """Answers requests; everything above it can be tested with `agentgraph.backends.scripted`.

    Parameters
    ----------
    name
        What models call it (``Model.backend``).
    limit
        How many requests it can have in flight, >= 1. The executor never has more.
    has_logprobs
        Whether replies carry log-probabilities; roles that need them are left out of the space where not.

    Attributes
    ----------
    timeout
        Seconds after which it gives a request up; ``None`` if it never does.
    redundant
        Whether the same request sent again may come back sooner than the first: where a connection can hang, or several
        machines answer. The executor then sends a few stragglers a second time.

    Notes
    -----
    A backend lives on one event loop, from its first `reply` to `close`. One that is fast in batches gathers what
    is waiting by itself. It raises `BackendError` for failures of the service and `TaskError` for a prompt that the
    model cannot read; whatever the model says, however odd, is a `Reply`.
    """

    timeout: float | None = None
    redundant: bool = False
    log_folder: Path | None = None
    """Where programs that it starts write their logs: the run's folder in a run, ``None`` for a temporary one."""

    def __init__(self, name: str, *, limit: int, has_logprobs: bool) -> None:
        self.name = name
        self.limit = limit
        self.has_logprobs = has_logprobs

    @abstractmethod
    async def reply(self, request: Request) -> Reply:
        """Answer one request.

        Raises
        ------
        BackendError
            `BackendRefused`, `BackendDown`, `BackendTimeout`, `BackendOverloaded`, `BackendMalformed`: the service failed;
            nothing is stored.
        """

    @abstractmethod
    async def served(self) -> tuple[str, ...]:
        """Names of the models it serves, sorted.

        Raises
        ------
        BackendError
            If it cannot be reached.
        """

    async def ready(self) -> None:  # noqa: B027  most have nothing to start
        """Start what must be running before it can answer; called before the first request, and may be called again.

        Raises
        ------
        BackendError
            If that fails.
        """

    def fingerprint(self, model: str) -> str:
        """What tells a model's weights from any other's; '' where only its name does."""
        del model
        return ""

    def samples(self, model: str) -> int | None:
        """How many independent replies to one question a model has at most; ``None`` where there is no end of them."""
        del model
        return None

    async def close(self) -> None:  # noqa: B027  most backends hold nothing
        """Release connections and threads; called once, on the same event loop."""
