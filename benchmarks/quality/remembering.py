"""A backend that asks another for each reply once in the life of a process, whatever search wants it."""

from __future__ import annotations

from agentgraph.backends.base import Backend
from agentgraph.request import Reply, Request


class Remembering(Backend):
    """Another backend's replies, each asked of it once in the life of the process: searches of many seeds share them.

    Parameters
    ----------
    inner
        The backend.
    replies
        By the seed of a request, which names run and request; what is new is put there.
    """

    def __init__(self, inner: Backend, replies: dict[int, Reply]) -> None:
        super().__init__(inner.name, limit=inner.limit, has_logprobs=inner.has_logprobs)
        self._inner, self._replies = inner, replies

    async def reply(self, request: Request) -> Reply:
        if request.seed not in self._replies:
            self._replies[request.seed] = await self._inner.reply(request)
        return self._replies[request.seed]

    async def served(self) -> tuple[str, ...]:
        return await self._inner.served()

    async def close(self) -> None:
        await self._inner.close()
