"""Reply store: every reply that was paid for, by request key, so that no request is made twice."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from agentgraph.errors import RunError
from agentgraph.request import Reply

__all__ = ["ReplyStore", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as a whole or not at all.

    Raises
    ------
    RunError
        If it cannot be written (full disk, no permission).
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise RunError(f"cannot write {path}: {error.strerror}; free some space or choose another folder") from error


class ReplyStore:
    """Replies by request key, in memory and in an append-only file of JSON lines.

    Parameters
    ----------
    path
        The file; ``None`` keeps replies in memory only. A line cut by a crash is dropped when the file is opened.

    Notes
    -----
    `put` acknowledges at the next `flush`. What was flushed survives the death of the process.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._replies: dict[str, Reply] = {}
        self._pending: list[str] = []
        self._file: BinaryIO | None = None
        self._path = path
        if path is not None:
            self._open(path)

    def _open(self, path: Path) -> None:
        file = None
        try:
            file = path.open("a+b")
            file.seek(0)
            good = 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                entry = json.loads(line)
                self._replies.setdefault(entry.pop("key"), Reply(**entry))
                good += len(line)
            file.truncate(good)
            file.seek(0, os.SEEK_END)
        except (OSError, ValueError, TypeError, KeyError) as error:
            if file is not None:
                file.close()
            raise RunError(f"cannot read the reply store {path}: {error}; choose another run folder") from error
        self._file = file

    def __len__(self) -> int:
        return len(self._replies)

    def __contains__(self, key: str) -> bool:
        return key in self._replies

    def get(self, key: str) -> Reply | None:
        """The reply to a request, or ``None`` if it was never made."""
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is acknowledged at the next `flush`."""
        if key in self._replies:
            return
        self._replies[key] = reply
        if self._file is not None:
            self._pending.append(f"{reply.json(key)}\n")

    def flush(self) -> None:
        """Write what was put since the last flush.

        Raises
        ------
        RunError
            If the disk is full; what was written before stays readable.
        """
        if not self._pending or self._file is None:
            return
        block, self._pending = "".join(self._pending).encode("ascii"), []
        before = self._file.tell()
        try:
            self._file.write(block)
            self._file.flush()
        except OSError as error:
            self._undo(before)
            raise RunError(
                f"cannot write the reply store {self._path}: {error.strerror}; free some space, then go on with run=<folder>"
            ) from error

    def _undo(self, size: int) -> None:
        """Cut a half-written block, so that the file ends in a whole line."""
        if self._file is not None and self._path is not None:
            self._file.raw.close()  # type: ignore[attr-defined]  # without flushing the buffer again
            self._file = None
            with self._path.open("r+b") as file:
                file.truncate(size)

    def close(self) -> None:
        """Flush and close the file."""
        if self._file is not None:
            self.flush()
            self._file.close()
            self._file = None
