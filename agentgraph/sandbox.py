"""Runs generated programs against tests, each in a locked process of its own (`agentgraph.cell`), and tells whether they pass.

What a program cannot do: reach a network, write or make a file, read one outside Python's library, start a process or thread, send
a signal, see the environment, the tests or the verdict, print, or outlive its time. It cannot pass by ending early, by values
that claim to be equal, or by what it prints: the tests run in another process, which gets plain values only.

What remains: whether a file of a known name exists, and its size, can be seen; the folder of Python's library can be read; a
program that needs threads, asyncio, temporary files or installed packages fails. It is the kernel that locks; a hole there is a
hole here.

Needs Linux on x86-64 or ARM64 with seccomp filters and Landlock (5.13 or newer); no rights, no package, no container. Where that is
not so, or where a program that tries to get out gets out, `Sandbox` refuses.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from agentgraph.errors import SandboxError

__all__ = ["BURGLAR", "Limits", "Sandbox", "Verdict"]

_CELL: Final = Path(__file__).with_name("cell.py")
_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")  # shared libraries of Python's compiled modules
_GRACE: Final = 5.0  # seconds more than its own clock gives it before a cell is killed from outside
_NEEDS: Final = "needs Linux 5.13 or newer on x86-64 or ARM64 with Landlock and seccomp"

BURGLAR: Final = """
import os, socket, subprocess

def holes(port, secret, outside, home):
    def connect():
        with socket.create_connection(("127.0.0.1", port), 1):
            pass
    def environment():
        if set(os.environ) - {"PYTHONHASHSEED", "LC_CTYPE"}:
            return
        raise OSError
    attempts = {
        "connect to 127.0.0.1": connect,
        "read a file": lambda: open(secret).read(),
        "list the home folder": lambda: os.listdir(home),
        "write a file": lambda: open(outside + ".txt", "w"),
        "empty a file": lambda: os.truncate(secret, 0),
        "make a folder": lambda: os.mkdir(outside + "/"),
        "change a file's mode": lambda: os.chmod(secret, 0o777),
        "delete a file": lambda: os.unlink(secret),
        "fork": lambda: os.fork() or os._exit(0),
        "start a program": lambda: subprocess.run(["true"]),
        "signal the process above": lambda: os.kill(os.getppid(), 0),
        "read the environment": environment,
    }
    found = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except (OSError, RuntimeError):
            continue
        found.append(name)
    return found
"""
"""Runs inside once, before the sandbox is trusted: everything that it manages to do is a hole."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Parameters
    ----------
    seconds
        Processor time, a whole number of at least 1; its clock stops at three times as many, for programs that wait.
    memory_mb
        Address space in MiB, at least 64.
    """

    seconds: int = 5
    memory_mb: int = 512

    def __post_init__(self) -> None:
        for name, least in (("seconds", 1), ("memory_mb", 64)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise SandboxError(f"{name}={value!r} of the sandbox must be a whole number of at least {least}")


@dataclass(frozen=True)
class Verdict:
    """Whether a program passed its tests, and if not, why."""

    passed: bool
    why: str = ""


class Sandbox:
    """Runs programs against tests; may be used from many threads at once, runs one program per processor.

    Parameters
    ----------
    limits
        What one program may use.

    Raises
    ------
    SandboxError
        If the system cannot lock a process as described above; it is tried, once in each process.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        holes = _holes()
        if holes:
            raise SandboxError(f"generated code cannot be run safely on this system: {holes}; the sandbox {_NEEDS}")
        self._free = threading.BoundedSemaphore(os.cpu_count() or 1)

    def run(self, program: str, tests: str, names: Sequence[str]) -> Verdict:
        """Run a program and tests of it.

        Parameters
        ----------
        program
            Python source; nothing in it is trusted.
        tests
            Python source that raises if the program is wrong; it calls the program's functions.
        names
            The functions of the program that the tests call; arguments and results are plain values: numbers, texts, ``None``, and
            lists, tuples, sets and dicts of them (an iterator arrives as an iterator, anything else as a mere object).

        Raises
        ------
        SandboxError
            If the process cannot be started.
        """
        with self._free:
            return _run(self.limits, program, tests, names)


def _run(limits: Limits, program: str, tests: str, names: Sequence[str]) -> Verdict:
    wall = 3.0 * limits.seconds
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), f"{sys.base_prefix}/lib", *_LIBRARIES}
    settings = {
        "readable": sorted(paths),
        "memory": limits.memory_mb << 20,
        "seconds": limits.seconds,
        "wall": wall,
    }
    # The hash seed is fixed, so that the order of a set, and with it the verdict, is the same every time.
    command = [sys.executable, "-s", "-S", "-P", "-B", str(_CELL), json.dumps(settings)]
    try:
        done = subprocess.run(  # noqa: S603  our own script
            command,
            input=json.dumps([program, tests, list(names)]).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0"},
            cwd="/",
            start_new_session=True,
            timeout=wall + _GRACE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Verdict(False, f"no verdict after {wall:g} seconds")
    except OSError as error:
        raise SandboxError(f"cannot start the sandbox: {error}; is {sys.executable} there, and memory free?") from error
    if not done.stdout:  # the judge was ended: by its clock, or by a limit that the program's values made it break
        return Verdict(False, f"no verdict: {_ending(done.returncode, wall)}")
    verdict = json.loads(done.stdout)
    if "refused" in verdict:
        raise SandboxError(f"the sandbox {_NEEDS}; it lacks {verdict['refused']}")
    return Verdict(not verdict["why"], verdict["why"])


def _ending(status: int, wall: float) -> str:
    if status == -signal.SIGALRM:
        return f"the program took more than {wall:g} seconds"
    return f"the judge ended with {signal.Signals(-status).name if status < 0 else f'status {status}'}"


@cache
def _holes() -> str:
    """What a program that tries to get out of the sandbox manages to do; '' if nothing."""
    if sys.platform != "linux":
        return f"this is {sys.platform}"
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        secret = Path(folder, "secret")
        secret.write_text("secret")
        work = [listener.getsockname()[1], str(secret), str(Path(folder, "outside")), str(Path.home())]
        tests = f"found = holes(*{work!r})\nassert not found, 'a program can ' + ', '.join(found)"
        try:
            return _run(Limits(), BURGLAR, tests, ["holes"]).why
        except SandboxError as error:
            return str(error).rsplit("; ", 1)[-1]
