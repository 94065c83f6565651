"""Backend that answers from a script, without any model: for tests, demonstrations and dry runs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence

from agentgraph.backends.base import Backend
from agentgraph.errors import BackendError, BackendRefused, ConfigError
from agentgraph.request import Reply, Request

__all__ = ["Line", "Script", "Scripted"]

Line = str | Reply | BackendError
"""One entry of a script: a text, a whole reply, or the failure to raise."""

Script = Callable[[Request], Line | Awaitable[Line]] | Sequence[Line]
"""A function of the request (plain or async), or entries handed out in the order of the calls."""


class Scripted(Backend):
    """Answers from a function or from a list.

    Parameters
    ----------
    script
        Where replies come from. A `BackendError` that is returned, handed out or raised is the service failing.
        What else the function raises is a bug in it and passes through.
    name
        What models call it.
    limit
        Requests in flight, >= 1.
    latency
        Seconds that each call takes, >= 0.
    models
        Names it serves; others are refused. ``None`` answers to any name and `served` is empty.
    logprob
        Log-probability given to texts, nats, <= 0; ``None`` gives none.
    has_logprobs
        Whether it claims log-probabilities; ``None`` says yes if ``logprob`` is given.

    Attributes
    ----------
    calls
        How many requests it was asked, failed ones included.

    Notes
    -----
    The tokens of a text are counted as characters: prompt tokens are the characters of all messages, output tokens
    those of the text plus one for the end.
    """

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted",
        limit: int = 64,
        latency: float = 0.0,
        models: Sequence[str] | None = None,
        logprob: float | None = None,
        has_logprobs: bool | None = None,
    ) -> None:
        super().__init__(name, limit=limit, has_logprobs=logprob is not None if has_logprobs is None else has_logprobs)
        if isinstance(script, str):
            raise ConfigError(f"script={script!r} is one text; give a list of texts or a function of the request")
        if limit < 1:
            raise ConfigError(f"backend {name!r}: limit={limit} must be at least 1")
        if latency < 0:
            raise ConfigError(f"backend {name!r}: latency={latency} must be 0 or more seconds")
        if logprob is not None and not logprob <= 0:
            raise ConfigError(f"backend {name!r}: logprob={logprob} must be 0 or less")
        self.script = script
        self.latency = latency
        self.models = None if models is None else tuple(sorted(models))
        self.logprob = logprob
        self.calls = 0

    async def reply(self, request: Request) -> Reply:
        position = self.calls  # taken before any await: the order of calls, not of arrivals
        self.calls += 1
        if self.models is not None and request.model not in self.models:
            raise BackendRefused(
                f"backend {self.name!r} serves {list(self.models)}, not {request.model!r}; "
                "add it to models= or change served_as of the model"
            )
        line = self._listed(position) if isinstance(self.script, Sequence) else self.script(request)
        if self.latency:
            await asyncio.sleep(self.latency)
        said = await line if inspect.isawaitable(line) else line
        if isinstance(said, BackendError):
            raise said
        if isinstance(said, Reply):
            return said
        if isinstance(said, str):
            return self._of_text(request, said)
        raise ConfigError(f"the script of backend {self.name!r} gave {said!r}; give a str, a Reply or a BackendError")

    async def served(self) -> tuple[str, ...]:
        return self.models or ()

    def _listed(self, position: int) -> Line:
        lines = self.script
        assert isinstance(lines, Sequence)  # noqa: S101  reply() asks only then
        if position >= len(lines):
            raise BackendError(
                f"backend {self.name!r} was given {len(lines)} replies and asked for number {position + 1}; "
                "give it more, or a function of the request",
                retry=False,
            )
        return lines[position]

    def _of_text(self, request: Request, text: str) -> Reply:
        prompt_tokens = sum(len(content) for _, content in request.messages)
        return Reply(text, prompt_tokens, len(text) + 1, logprob=self.logprob, seconds=self.latency)
