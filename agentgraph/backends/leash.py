"""Runs a program that does not outlive whoever started it.

As ``python leash.py SECONDS command …``. Standard input is the leash: when its other end closes, for whatever reason (kill -9
too), the program and all it started are told to end, and killed if they have not within so many seconds. Imports nothing of
the package, so that it starts at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

__all__ = ["main"]

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> None:
    """Run the command of the command line; ends with its exit status."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what the program leaves behind becomes ours to wait for
    program = subprocess.Popen(  # noqa: S603  the user's own command
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_end_with_us if _LIBC else None,  # noqa: PLW1509  there is one thread so far
    )

    def end() -> None:
        _signal(program.pid, signal.SIGTERM)
        try:
            program.wait(grace)
        except subprocess.TimeoutExpired:
            _signal(program.pid, signal.SIGKILL)

    def hold() -> None:
        while os.read(0, 1):
            pass
        end()

    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=end, daemon=True).start())
    threading.Thread(target=hold, daemon=True).start()
    status = program.wait()
    _signal(program.pid, signal.SIGKILL)  # what it left behind
    try:
        while True:  # until memory and ports are free again
            os.waitpid(-program.pid, 0)
    except ChildProcessError:
        pass
    os._exit(status if status >= 0 else 128 - status)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_us() -> None:
    """In the program, before it starts: a signal for it if the leash itself is killed (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
