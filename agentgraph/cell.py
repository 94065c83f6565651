"""The locked process that runs generated code: started by `agentgraph.sandbox` as a script, it needs the standard library only.

It makes itself small (limits, no way to new rights, Landlock for files, a seccomp allow-list of system calls) and splits in two
that share nothing but a pipe: the *candidate* runs the generated program and answers calls of its functions; the *judge* runs
the tests, which call them, and alone can tell the verdict. Only plain values pass the pipe, so an answer cannot pretend to be
equal, and a candidate that exits, hangs or lies has no more than failed.
"""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO, Final, NoReturn

__all__ = ["SYSCALLS", "confine", "decode", "encode", "lock"]

SYSCALLS: Final = {
    "x86_64": (0xC000003E, {
        "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "lseek": 8, "mmap": 9, "mprotect": 10,
        "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "readv": 19,
        "writev": 20, "access": 21, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getitimer": 36,
        "setitimer": 38, "getpid": 39, "exit": 60, "uname": 63, "fcntl": 72, "getcwd": 79, "readlink": 89, "gettimeofday": 96,
        "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110,
        "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204, "getdents64": 217,
        "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231,
        "openat": 257, "newfstatat": 262, "readlinkat": 267, "faccessat": 269, "getrandom": 318, "statx": 332, "faccessat2": 439,
    }),
    "aarch64": (0xC00000B7, {
        "getcwd": 17, "fcntl": 25, "faccessat": 48, "openat": 56, "close": 57, "getdents64": 61, "lseek": 62, "read": 63,
        "write": 64, "readv": 65, "writev": 66, "pread64": 67, "readlinkat": 78, "newfstatat": 79, "fstat": 80, "exit": 93,
        "exit_group": 94, "futex": 98, "nanosleep": 101, "getitimer": 102, "setitimer": 103, "clock_gettime": 113,
        "clock_getres": 114, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128,
        "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "times": 153, "uname": 160,
        "getrusage": 165, "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176,
        "getegid": 177, "gettid": 178, "sysinfo": 179, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222, "mprotect": 226,
        "madvise": 233, "getrandom": 278, "statx": 291, "faccessat2": 439,
    }),
}  # fmt: skip
"""By machine: its audit number, and the system calls that are left. None of them makes a process, thread, socket or file."""

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC  # flags of open that are refused
_ARGUMENTS: Final = {"open": (1, _WRITING), "openat": (2, _WRITING)}  # which argument, and the bits it may not have
_FCNTL: Final = (1, 2, 3, 1030)  # F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC: the others can send signals
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # Landlock's system calls, the same on every machine
_READ: Final = 0b1100  # LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR
_MESSAGE: Final = 1 << 22  # bytes of one message between candidate and judge
_ITEMS: Final = 100_000  # taken from an iterator
# What cannot be made of a text, and what would quietly end a loop of the tests, such as all(map(...)).
_NOT_RAISED: Final = (UnicodeError, StopIteration, StopAsyncIteration)
_SCALARS: Final = (bool, int, float, str)

_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """The system does not give what the cell needs."""


# ---- the lock


def confine(readable: Iterable[str], *, memory: int, seconds: int) -> None:
    """Give up new rights, and all files but those in ``readable`` folders; limit memory (bytes) and processor time.

    Raises
    ------
    Refused
        Naming what the system lacks.
    """
    if sys.platform != "linux":
        raise Refused(f"Linux, this is {sys.platform}")
    if platform.machine() not in SYSCALLS:
        raise Refused(f"a processor of {', '.join(SYSCALLS)}, this is {platform.machine()}")
    limits = {"AS": memory, "DATA": memory, "CPU": seconds, "FSIZE": 0, "NOFILE": 64, "CORE": 0, "MSGQUEUE": 0}
    for name, value in limits.items():
        which = getattr(resource, f"RLIMIT_{name}")
        allowed = resource.getrlimit(which)[1]
        least = value if allowed == resource.RLIM_INFINITY else min(value, allowed)
        resource.setrlimit(which, (least, least))
    if _call(_libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise Refused(f"prctl(PR_SET_NO_NEW_PRIVS) ({_errno()})")
    _landlock(readable)


def _landlock(readable: Iterable[str]) -> None:
    abi = _call(_libc.syscall, _CREATE_RULESET, None, 0, 1)
    if abi < 1:
        raise Refused(f"Landlock, Linux 5.13 or newer with 'landlock' among its security modules ({_errno()})")
    rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)
    attributes = struct.pack("QQQ", (1 << rights) - 1, 3, 3)  # files; TCP from version 4; signals, sockets from 6
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _call(_libc.syscall, _CREATE_RULESET, attributes, size, 0)
    for path in readable:
        if os.path.isdir(path):  # noqa: PTH112  pathlib would double the time to start
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if _call(_libc.syscall, _ADD_RULE, ruleset, 1, struct.pack("=Qi", _READ, folder), 0):
                raise Refused(f"Landlock with a rule for {path} ({_errno()})")
            os.close(folder)
    if ruleset < 0 or _call(_libc.syscall, _RESTRICT_SELF, ruleset, 0):
        raise Refused(f"Landlock rules ({_errno()})")
    os.close(ruleset)


def lock() -> None:
    """Leave this process only the system calls in `SYSCALLS`; the others fail with EPERM, for ever.

    Raises
    ------
    Refused
        If the kernel has no seccomp filters.
    """
    audit, calls = SYSCALLS[platform.machine()]
    # Classic BPF on struct seccomp_data: number at 0, machine at 4, arguments (low half first) from 16.
    load, jump, masked, give = 0x20, 0x15, 0x45, 0x06
    allow, deny, kill = 0x7FFF0000, 0x00050001, 0x80000000
    code = [(load, 0, 0, 4), (jump, 1, 0, audit), (give, 0, 0, kill), (load, 0, 0, 0)]
    for name, number in calls.items():
        block = [(give, 0, 0, allow)]
        if name in _ARGUMENTS:
            place, bits = _ARGUMENTS[name]
            block = [(load, 0, 0, 16 + 8 * place), (masked, 0, 1, bits), (give, 0, 0, deny), *block]
        elif name == "fcntl":
            commands = [(jump, len(_FCNTL) - i, 0, command) for i, command in enumerate(_FCNTL)]
            block = [(load, 0, 0, 24), *commands, (give, 0, 0, deny), *block]
        code += [(jump, 0, len(block), number), *block]
    code.append((give, 0, 0, deny))
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(program))
    if _call(_libc.prctl, _PR_SET_SECCOMP, 2, header, 0, 0):
        raise Refused(f"seccomp filters ({_errno()})")


def _call(function: Callable[..., int], *values: int | bytes | None) -> int:
    """Call the C library; whole numbers as long, which is what the kernel reads."""
    return function(*(ctypes.c_long(value) if isinstance(value, int) else value for value in values))


def _errno() -> str:
    return os.strerror(ctypes.get_errno())


# ---- what passes between the two: plain values, as JSON


def encode(value: Any) -> Any:  # noqa: ANN401, PLR0911  any value of a program
    """A value as JSON; subclasses become the plain type, iterators their first items, what is not plain a mere object."""
    if value is None or isinstance(value, _SCALARS):
        return value if value is None else next(kind for kind in _SCALARS if isinstance(value, kind))(value)
    if isinstance(value, dict):
        return ["dict", *([encode(key), encode(item)] for key, item in value.items())]
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, *map(encode, value)]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, bytes | bytearray):
        return [type(value).__name__, bytes(value).hex()]
    if isinstance(value, Iterable):
        return ["iter", *(encode(item) for item, _ in zip(value, range(_ITEMS), strict=False))]
    return ["object"]


def decode(value: Any) -> Any:  # noqa: ANN401  any plain value
    """The value that `encode` gave away; made of builtin types only."""
    if not isinstance(value, list):
        if value is None or isinstance(value, _SCALARS):
            return value
        raise ValueError("not a value")
    kind, *items = value
    makers: dict[str, Callable[[], Any]] = {
        "dict": lambda: {decode(key): decode(item) for key, item in items},
        "list": lambda: list(map(decode, items)),
        "tuple": lambda: tuple(map(decode, items)),
        "set": lambda: set(map(decode, items)),
        "frozenset": lambda: frozenset(map(decode, items)),
        "complex": lambda: complex(*items),
        "bytes": lambda: bytes.fromhex(*items),
        "bytearray": lambda: bytearray.fromhex(*items),
        "iter": lambda: iter(list(map(decode, items))),
        "object": object,
    }
    return makers[kind]()


class _Pipe:
    """Messages both ways: a length of four bytes, then JSON."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming: BinaryIO = os.fdopen(incoming, "rb")
        self._outgoing: BinaryIO = os.fdopen(outgoing, "wb")

    def send(self, message: object) -> None:
        data = json.dumps(message).encode()
        self._outgoing.write(len(data).to_bytes(4, "little") + data)
        self._outgoing.flush()

    def receive(self) -> Any:  # noqa: ANN401  JSON
        """The next message; EOFError if there is none, ValueError if it is too long or no JSON."""
        head = self._incoming.read(4)
        length = int.from_bytes(head, "little")
        if len(head) < 4:
            raise EOFError
        if length > _MESSAGE:
            raise ValueError(f"a value of {length} bytes; at most {_MESSAGE} are taken")
        return json.loads(self._incoming.read(length))


# ---- the two


def _candidate(pipe: _Pipe) -> NoReturn:
    """Run the program, then answer calls of its functions until the judge ends."""
    module = types.ModuleType("program")
    sys.modules["program"] = module
    space = vars(module)

    def function(name: str) -> Callable[..., Any]:
        if name not in space:
            raise NameError(f"the program defines no {name!r}")
        found: Callable[..., Any] = space[name]
        return found

    def answer(work: Callable[[], Any]) -> None:
        try:
            message = {"value": encode(work())}
            if len(json.dumps(message)) > _MESSAGE:
                message = {"error": "ValueError", "text": f"the value takes more than {_MESSAGE} bytes"}
        except Exception as error:  # noqa: BLE001  whatever generated code raises is its answer
            message = {"error": type(error).__name__, "text": str(error)[:200]}
        pipe.send(message)

    def run() -> None:
        exec(compile(pipe.receive(), "program", "exec"), space)  # noqa: S102  what the cell is for

    answer(run)
    while True:
        name, args, kwargs = pipe.receive()
        answer(lambda: function(name)(*decode(args), **decode(kwargs)))  # noqa: B023  called at once


def _judge(pipe: _Pipe, program: str, tests: str, names: Sequence[str]) -> str:
    """Run the tests on the candidate: '' if they pass, else why not."""

    def asked() -> Any:  # noqa: ANN401  a value of the program
        try:
            message = pipe.receive()
        except EOFError:
            raise RuntimeError("the program ended") from None
        if "error" not in message:
            return decode(message["value"])
        name, text = str(message["error"]), str(message["text"])
        kind = getattr(builtins, name, None)  # tests may expect a certain error
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _NOT_RAISED):
            raise kind(text)
        raise RuntimeError(f"{name}: {text}")

    def function(name: str) -> Callable[..., Any]:
        def call(*args: object, **kwargs: object) -> Any:  # noqa: ANN401
            pipe.send([name, encode(args), encode(kwargs)])
            return asked()

        return call

    try:
        pipe.send(program)
        asked()
        space: dict[str, Any] = {"__name__": "tests", **{name: function(name) for name in names}}
        exec(compile(tests, "tests", "exec"), space)  # noqa: S102  tests of the task, in a locked process as well
    except Exception as error:  # noqa: BLE001  whatever the tests raise is the verdict
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def _say(**verdict: str) -> NoReturn:
    os.write(1, json.dumps(verdict).encode())
    os._exit(0)


def main() -> NoReturn:
    """Split, lock, judge; the verdict goes to standard output as JSON.

    Standard input holds the work: a JSON array of limits, program, tests and names.
    """
    limits = json.loads(sys.argv[1])
    _call(_libc.prctl, _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    sys.set_int_max_str_digits(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    down, up = os.pipe(), os.pipe()
    judge = os.getpid()
    try:
        confine(limits["readable"], memory=limits["memory"], seconds=limits["seconds"])
        if os.fork() == 0:
            # Before the work is read: no trace of the tests is in the candidate's memory.
            _call(_libc.prctl, _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            for number in (0, 1, 2):
                os.dup2(nothing, number)
            pipe = _Pipe(os.dup2(down[0], 60), os.dup2(up[1], 61))
            os.closerange(3, 60)
            lock()
            if os.getppid() == judge:
                _candidate(pipe)
            os._exit(1)
        pipe = _Pipe(up[0], down[1])
        os.close(down[0])
        os.close(up[1])
        signal.setitimer(signal.ITIMER_REAL, limits["wall"])  # ends both if whoever started them is gone
        lock()
    except (Refused, OSError) as error:
        _say(refused=str(error))
    program, tests, names = json.loads(sys.stdin.buffer.read())
    _say(why=_judge(pipe, program, tests, names))


if __name__ == "__main__":
    main()
