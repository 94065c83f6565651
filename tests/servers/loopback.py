"""An OpenAI-compatible server on 127.0.0.1 that answers, and fails, as scripted.

Each chat request is answered by ``script(body, number)``: the request's JSON body and how many chat requests came
before it. The functions below make answers.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

Headers = dict[str, str]
Script = Callable[[dict[str, Any], int], "Answer"]


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, or the lack of one.

    Parameters
    ----------
    status, body, headers
        As sent; the length is added.
    hang
        Never answer.
    drop
        Close the connection instead of answering.
    seconds
        Wait before answering.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    hang: bool = False
    drop: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    method: str
    path: str
    headers: Headers
    body: dict[str, Any]


def as_json(value: object, status: int = 200, **more: Any) -> Answer:
    """Any JSON."""
    return Answer(status, json.dumps(value).encode(), **more)


def chat(
    text: str | None = "ok",
    logprobs: Sequence[float] | None = (-0.5, -0.25),
    usage: Mapping[str, Any] | None = None,
    finish: str = "stop",
    **message: Any,
) -> Answer:
    """A chat completion; ``message`` adds fields such as ``reasoning_content``."""
    tokens = None if logprobs is None else {"content": [{"token": "t", "logprob": value} for value in logprobs]}
    said = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish, "logprobs": tokens}
    counts = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9} if usage is None else usage
    return as_json({"id": "1", "object": "chat.completion", "choices": [choice], "usage": counts})


def error(status: int, message: str = "scripted", *, code: str | None = None, **headers: str) -> Answer:
    """An error as OpenAI and vLLM write it."""
    body = {"error": {"message": message, "type": "scripted", "param": None, "code": code}}
    return as_json(body, status, headers={"content-type": "application/json", **headers})


def html(status: int = 200) -> Answer:
    """What a proxy says."""
    return Answer(status, b"<html><body>Bad gateway</body></html>", {"content-type": "text/html"})


class Loopback:
    """The server, in a thread of its own, on a free port; a context manager.

    Parameters
    ----------
    script
        Answers to chat requests.
    models
        Names listed at ``/v1/models``; ``None`` answers 404 there.
    port
        Where it listens; 0 takes a free one.
    tls
        What it proves who it is with; ``None`` speaks plainly.

    Attributes
    ----------
    received
        Requests so far.
    connections
        Connections opened so far.
    """

    def __init__(
        self,
        script: Script | None = None,
        models: Sequence[str] | None = ("m",),
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script: Script = script or (lambda _body, _number: chat())
        self.models = models
        self.received: list[Received] = []
        self.connections = 0
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self.port, self.tls = port, tls

    @property
    def url(self) -> str:
        """Base URL for a client."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/v1"

    @property
    def chats(self) -> list[dict[str, Any]]:
        """Bodies of the chat requests so far."""
        return [one.body for one in self.received if one.path.endswith("/chat/completions")]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), "the loopback server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, limit=2**20, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the server stops
        finally:
            self._open.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection lives on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        request = Received(method, path, headers, json.loads(raw) if raw else {})
        number = len(self.chats)
        self.received.append(request)
        answer = self._answer(request, number)
        await asyncio.sleep(answer.seconds)
        if answer.hang:
            await self._stopping.wait()
        if answer.drop or answer.hang:
            return False
        lines = [f"HTTP/1.1 {answer.status} Scripted", f"content-length: {len(answer.body)}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + answer.body)
        await writer.drain()
        return True

    def _answer(self, request: Received, number: int) -> Answer:
        if request.path.endswith("/chat/completions"):
            return self.script(request.body, number)
        if request.path.endswith("/models") and self.models is not None:
            return as_json({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})
        return Answer() if request.path == "/health" else error(404, "Not Found")
