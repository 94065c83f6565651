"""The language model of the methods that ask one: its replies are kept in a file, so that their searches run again without it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentgraph.backends.base import Backend
from agentgraph.backends.openai_server import OpenAIServer
from agentgraph.errors import BackendRefused
from agentgraph.request import Reply, Request

BACKEND = "language model"
REPLIES = Path(__file__).parents[1] / "replies"
"""Where replies are kept that belong to the benchmark."""
_PATIENCE = 3600.0  # seconds that a server may take for a reply


@dataclass(frozen=True)
class Language:
    """Where replies come from.

    Parameters
    ----------
    folder
        ``<model>.jsonl`` there holds the replies of a model, one JSON object a line with the request's key, ``<model>.jsonl.gz``
        those that come with the benchmark.
    url
        An OpenAI-compatible server that is asked what is not kept; ``None`` if there is none.
    """

    folder: Path = REPLIES
    url: str | None = None

    def backend(self, model: str) -> Backend:
        """The backend of that model for one search."""
        return _Kept(self.folder / f"{model}.jsonl", self.url)


def language_of(given: Mapping[str, str]) -> Language:
    """As the arguments ``replies=<folder>`` and ``agent=<url>`` say."""
    return Language(Path(given.get("replies", REPLIES)).expanduser(), given.get("agent"))


KEPT = Language()
"""What belongs to the benchmark, and nothing new."""


class _Kept(Backend):
    """Kept replies by request key; what is new is asked of the server and kept."""

    def __init__(self, path: Path, url: str | None) -> None:
        super().__init__(BACKEND, limit=8, has_logprobs=False)
        self._path, self._url = path, url
        self._replies: dict[str, Reply] = {}
        packed = path.with_suffix(".jsonl.gz")
        lines = gzip.decompress(packed.read_bytes()).decode("ascii").splitlines() if packed.is_file() else []
        lines += path.read_text("ascii").splitlines() if path.is_file() else []
        for line in lines:
            entry: dict[str, Any] = json.loads(line)
            self._replies.setdefault(entry.pop("key"), Reply(**entry))

    async def reply(self, request: Request) -> Reply:
        """The reply to a request.

        Raises
        ------
        BackendRefused
            If it is not kept and there is no server.
        """
        if request.key not in self._replies:
            self._replies[request.key] = reply = await self._asked(request)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="ascii") as file:
                file.write(f"{reply.json(request.key)}\n")
        return self._replies[request.key]

    async def _asked(self, request: Request) -> Reply:
        if self._url is None:
            raise BackendRefused(
                f"{self._path} has no reply to prompt {request.key}; give agent=<URL of an OpenAI-compatible server>"
            )
        server = OpenAIServer(name=self.name, base_url=self._url, logprobs=False, timeout=_PATIENCE)
        try:
            return await server.reply(request)
        finally:
            await server.close()

    async def served(self) -> tuple[str, ...]:
        return (self._path.stem,)
