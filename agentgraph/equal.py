"""Whether two mathematical expressions are the same: math-verify, in a locked process of its own, with a clock.

SymPy may take for ever on what a model writes, and math-verify's own clock works in a program's main thread only. So it runs apart;
a pair that takes too long counts as different, and ends that process. Nothing a model wrote is run as Python: only LaTeX is read.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import Final, Protocol

from agentgraph.cell import Refused, confine, lock
from agentgraph.errors import TaskError

__all__ = ["SECONDS", "Equality", "serve"]

SECONDS: Final = 10.0
"""For one pair."""
_MEMORY: Final = 2 << 30  # bytes of address space
_LONGEST: Final = 2_000  # characters of an expression that is looked at


class Equality:
    """Compares expressions; may be used from many threads.

    Raises
    ------
    TaskError
        If math-verify is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise TaskError("comparing mathematical answers needs math-verify; pip install 'agentgraph[math]'")
        self._turn = threading.Lock()
        self._worker: _Worker | None = None

    def __call__(self, gold: str, answer: str) -> bool:
        """Whether ``answer`` is the same as ``gold``; both LaTeX without dollars."""
        if max(len(gold), len(answer)) > _LONGEST:
            return False
        with self._turn:
            worker = self._worker or self._start()
            try:
                said = worker.ask(json.dumps([gold, answer]))
            except BrokenPipeError:
                said = ""
            if not said:  # its clock ended it, or its memory
                worker.stop()
                self._worker = None
            return said == "1\n"

    def _start(self) -> _Worker:
        worker = _Worker()
        weakref.finalize(self, worker.stop)
        if worker.ask("") != "ready\n":
            worker.stop()
            raise TaskError("math-verify cannot be started; try: python -c 'import math_verify'")
        self._worker = worker
        return worker


class _Worker:
    """A process that runs `serve`."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-B", "-c", f"from agentgraph.equal import serve; serve({SECONDS})"]
        places = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(  # noqa: S603  our own script
            command, env=places, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, line: str) -> str:
        """The line that answers a line; '' if the process ended. BrokenPipeError if it had ended before."""
        incoming, outgoing = self._process.stdin, self._process.stdout
        if incoming is None or outgoing is None:
            return ""
        incoming.write(f"{line}\n")
        incoming.flush()
        return outgoing.readline()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()


class _Compare(Protocol):
    def __call__(self, gold: str, answer: str) -> bool: ...


def serve(seconds: float) -> None:
    """Answer pairs on standard input, a JSON array a line, with 1 or 0; end if one takes more than so many seconds."""
    same = _comparer()
    same("1", "\\frac{2}{2}")  # brings in what is imported late
    try:
        confine([path for path in sys.path if path], memory=_MEMORY, seconds=1 << 30)
        lock()
    except Refused:
        pass  # LaTeX is read, nothing is run: the lock is a second wall, where it can be had
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        said = str(int(same(*json.loads(line)))) if line.strip() else "ready"
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()


def _comparer() -> _Compare:
    from math_verify import LatexExtractionConfig, parse, verify

    how = [LatexExtractionConfig(boxed_match_priority=0)]

    def same(gold: str, answer: str) -> bool:
        sides = [parse(f"\\boxed{{{text}}}", how, parsing_timeout=None) for text in (gold, answer)]
        return bool(all(sides) and verify(*sides, timeout_seconds=None))

    return same
