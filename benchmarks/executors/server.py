"""An OpenAI-compatible server for benchmarks, in a process of its own: it answers at once, or a fixed number a second."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_BODY = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60},
    }
).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


class _Connection(asyncio.Protocol):
    """Answers each request whose head and body have come; ``rate`` replies a second over all connections."""

    free = 0.0  # when the next reply may go, on the loop's clock

    def __init__(self, rate: float) -> None:
        self.rate, self.seen = rate, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.seen += data
        while (end := self.seen.find(b"\r\n\r\n")) >= 0:
            head = self.seen[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.seen) < end + 4 + length:
                return
            self.seen = self.seen[end + 4 + length :]
            self.answer()

    def answer(self) -> None:
        if not self.rate:
            self.write()
            return
        loop = asyncio.get_running_loop()
        _Connection.free = max(_Connection.free, loop.time()) + 1 / self.rate
        loop.call_at(_Connection.free, self.write)

    def write(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_ANSWER)


@contextlib.contextmanager
def served(rate: float = 0.0) -> Iterator[str]:
    """Base URL of a server that gives ``rate`` replies a second; 0 is as fast as it can."""
    command = [sys.executable, "-m", "executors.server", str(rate)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline() if process.stdout else 0)}/v1"
    finally:
        process.terminate()
        process.wait()


async def _main(rate: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(rate), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1])))
