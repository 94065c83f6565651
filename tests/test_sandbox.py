"""Programs that try to get out, to take too much, or to pass without being right."""

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agentgraph import cell
from agentgraph.errors import SandboxError
from agentgraph.sandbox import Limits, Sandbox, Verdict

RIGHT = "def double(x):\n    return 2 * x"
TEST = "assert double(4) == 8, 'not doubled'"


@pytest.fixture(scope="module")
def sandbox():
    return Sandbox(Limits(seconds=1, memory_mb=256))


def passes(sandbox, program, tests=TEST, names=("double",)):
    return sandbox.run(program, tests, names)


def test_right_passes_and_wrong_does_not(sandbox):
    assert passes(sandbox, RIGHT) == Verdict(True)
    assert passes(sandbox, RIGHT.replace("2", "3")) == Verdict(False, "AssertionError: not doubled")
    assert passes(sandbox, "def double(x:") == Verdict(False, "SyntaxError: '(' was never closed (program, line 1)")
    assert passes(sandbox, "") == Verdict(False, "NameError: the program defines no 'double'")


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 1, -(10**5000), 1.5, float("inf"), "ü\ud800", b"\xff", bytearray(b"a"), 1j, [1, [2]], (1,), ()),
        *({1, 2}, frozenset({(1, 2)}), set(), {"a": [1], 2: None, (1, 2): {3: 4}}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_pass_the_pipe(value):
    sys.set_int_max_str_digits(0)
    again = cell.decode(cell.encode(value))
    assert again == value
    assert type(again) is type(value)


def test_values_with_manners_become_plain():
    from collections import Counter, OrderedDict, namedtuple
    from enum import IntEnum

    kind = IntEnum("kind", ["one"])
    for value, plain in [(Counter("aa"), {"a": 2}), (OrderedDict(a=1), {"a": 1}), (kind.one, 1)]:
        assert type(cell.decode(cell.encode(value))) is type(plain)
        assert cell.decode(cell.encode(value)) == plain
    assert cell.decode(cell.encode(namedtuple("P", "x")(3))) == (3,)
    assert list(cell.decode(cell.encode(x for x in "ab"))) == ["a", "b"]
    assert type(cell.decode(cell.encode(object()))) is object
    for bad in ({}, ["os.system", 1], [], ["complex", "x"], object()):
        with pytest.raises((ValueError, KeyError, TypeError)):
            cell.decode(bad)


# ---- out of the cell


OUT = {
    "connect": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
    "datagram": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "unix socket": "import socket\nsocket.socketpair()",
    "read": "open({secret!r}).read()",
    "home": "import os, pathlib\nos.listdir({home!r})",
    "passwords": "open('/etc/passwd').read()",
    "memory of the judge": "import os\nopen(f'/proc/{{os.getppid()}}/mem', 'rb')",
    "environment of the judge": "import os\nopen(f'/proc/{{os.getppid()}}/environ')",
    "write": "open({outside!r}, 'w')",
    "write here": "open('x', 'w')",
    "append": "open({secret!r}, 'a')",
    "device": "open('/dev/tty', 'r+')",
    "shared memory": "open('/dev/shm/x', 'w')",
    "truncate": "import os\nos.open({secret!r}, os.O_RDONLY | os.O_TRUNC)",
    "library": "import os\nopen(os.__file__, 'r+')",
    "empty the library": "import os\nos.open(os.__file__, os.O_TRUNC)",
    "delete": "import os\nos.remove({secret!r})",
    "rename": "import os\nos.rename({secret!r}, {outside!r})",
    "mode": "import os\nos.chmod({secret!r}, 0o777)",
    "owner": "import os\nos.chown({secret!r}, 1, 1)",
    "times": "import os\nos.utime({secret!r})",
    "link": "import os\nos.symlink({secret!r}, {outside!r})",
    "mount": "import ctypes\nif ctypes.CDLL(None).mount(b'x', b'/', b'tmpfs', 0, None): raise OSError",
    "ptrace": "import ctypes, os\nif ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0): raise OSError",
    "io_uring": "import ctypes\nif ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120)) < 0: raise OSError",
    "memory file": "import os\nos.memfd_create('x')",
    "fork": "import os\nos.fork() or os._exit(0)",
    "program": "import subprocess\nsubprocess.run(['true'])",
    "exec": "import os\nos.execv('/bin/true', ['true'])",
    "kill": "import os\nos.kill(os.getppid(), 9)",
    "kill all": "import os\nos.kill(-1, 9)",
    "signal by file": "import fcntl, os\nfcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "more memory": "import ctypes\nif ctypes.CDLL(None).setrlimit(9, b'\\xff' * 16): raise OSError",
    "less nice": "import os\nos.nice(-5)",
    "new session": "import os\nos.setsid()",
    "other user": "import os\nos.setuid(1)",
    "new lock": "import ctypes\nif ctypes.CDLL(None).prctl(1, 0, 0, 0, 0): raise OSError",
    "old system calls": "import ctypes\nif ctypes.CDLL(None).syscall(0x40000029, 2, 1, 0) < 0: raise OSError",
}


@pytest.mark.parametrize("name", OUT)
def test_no_way_out(sandbox, tmp_path, name):
    secret, outside = tmp_path / "secret", tmp_path / "outside"
    secret.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        places = {"secret": str(secret), "outside": str(outside), "home": str(Path.home())}
        attempt = OUT[name].format(port=listener.getsockname()[1], **places)
        tried = (
            f"{RIGHT}\ntry:\n    "
            + attempt.replace("\n", "\n    ")
            + "\nexcept OSError:\n    pass\nelse:\n    double = 1"
        )
        assert passes(sandbox, tried) == Verdict(True)
        assert "Errno" in passes(sandbox, attempt).why or "OSError" in passes(sandbox, attempt).why
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert secret.read_text() == "secret"
    assert sorted(tmp_path.iterdir()) == [secret]


def test_nothing_is_inherited(sandbox, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_SECRET_KEY", "sk-secret")
    with (tmp_path / "open").open("w") as file:
        file.fileno()
        look = "import os\ndef look():\n    return dict(os.environ), [n for n in range(3, 60) if is_open(n)]\n"
        look += "def is_open(n):\n    try:\n        os.fstat(n)\n    except OSError:\n        return False\n    return True\n"
        tests = (
            "names, files = look()\nassert files == [], files\nassert not set(names) - {'PYTHONHASHSEED', 'LC_CTYPE'}"
        )
        assert passes(sandbox, look, tests, ["look"]) == Verdict(True)


def test_reading_gives_nothing(sandbox):
    program = "import sys, os\ndef read():\n    return sys.stdin.read(), os.read(0, 9), os.write(1, b'{}'), input()"
    assert passes(sandbox, program, "read()", ["read"]) == Verdict(False, "EOFError: EOF when reading a line")


# ---- passing without being right


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "def double(x):\n    raise SystemExit(0)",
        "def double(x):\n    raise KeyboardInterrupt",
        "import atexit, os\natexit.register(os._exit, 0)\ndef double(x): exit()",
        "class Yes:\n    def __eq__(self, other):\n        return True\n    __ne__ = __lt__ = __eq__\ndef double(x): return Yes()",
        "class Yes(int):\n    def __eq__(self, other):\n        return True\ndef double(x): return Yes(3)",
        "class Yes(str):\n    def __eq__(self, other):\n        return True\ndef double(x): return Yes('8')",
        "import builtins\nbuiltins.AssertionError = SystemExit\nbuiltins.exec = print\ndef double(x): return 1",
        'print(\'{"why": ""}\')\nimport os\nfor i in range(64):\n    try: os.write(i, b\'{"why": ""}\')\n    except OSError: pass',
        "import sys\nf = sys._getframe()\nwhile f.f_back: f = f.f_back\nf.f_globals['_say'](why='')\n",
        'import sys, json\njson.dumps = lambda message: \'{"value": ["object"]}\'\ndef double(x): return 1',
        'import sys, json\njson.dumps = lambda message: \'{"why": ""}\'\ndef double(x): return 1',
        "def double(x):\n    raise AssertionError",
        "assert_ = None\ndef check(x): pass\ndef double(x): return None",
    ],
)
def test_verdicts_cannot_be_forged(sandbox, program):
    verdict = passes(sandbox, program)
    assert not verdict.passed
    assert verdict.why


def test_the_program_cannot_end_a_loop_of_the_tests(sandbox):
    loop = "assert all(map(lambda i: double(i) == 2 * i, range(3)))"
    assert passes(sandbox, RIGHT, loop).passed
    for error in ("StopIteration", "StopAsyncIteration", "GeneratorExit"):
        assert not passes(sandbox, f"def double(x): raise {error}", loop).passed


def test_tests_may_expect_an_error(sandbox):
    tests = "try:\n    double(1)\nexcept ValueError as error:\n    assert str(error) == 'odd'\nelse:\n    assert False"
    assert passes(sandbox, "def double(x): raise ValueError('odd')", tests).passed
    assert not passes(sandbox, "def double(x): raise TypeError('odd')", tests).passed
    assert not passes(sandbox, "class ValueError(Exception): pass\ndef double(x): raise KeyError('odd')", tests).passed


def test_the_program_cannot_see_the_tests(sandbox):
    # Whatever lies in its memory: the text of the tests came to the judge after the two had parted.
    program = (
        "import gc, sys\ndef spy():\n    frame, seen = sys._getframe(), []\n    while frame:\n"
        "        seen.append(repr(frame.f_locals))\n        frame = frame.f_back\n    return ''.join(seen) + repr(gc.get_objects())"
    )
    tests = "seen = spy()\nassert len(seen) > 1000\nassert 'hidden gold' not in seen"
    assert passes(sandbox, program, tests, ["spy"]) == Verdict(True)


def test_a_function_of_the_program_does_not_replace_one_of_the_tests(sandbox):
    program = "def double(x): return 1\ndef sorted(x): return 0"
    assert not passes(sandbox, program, "assert sorted([double(4)]) == sorted([8])").passed


# ---- too much


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("while True: pass", "the program"),  # its processor time ends it, or on a busy machine the clock
        ("def double(x):\n    while True: pass", "the program"),
        ("import time\ntime.sleep(1000)", "the program took more than 3 seconds"),
        (
            "import sys\ndef double(x): sys.stdout.flush(); open(0).read(); import time; time.sleep(100)",
            "more than 3 seconds",
        ),
        ("x = [0] * 10**9", "MemoryError"),
        ("x = []\nwhile True: x.append(x[:] + [0] * 10**6)", "MemoryError"),
        ("def double(x): return 'x' * 10**7", "more than 4194304 bytes"),
        ("def double(x):\n    while True: yield 1", "AssertionError"),
        ("def double(x): return double(x)", "RecursionError"),
        ("def double(x):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x", "RecursionError"),
        ("import ctypes\nctypes.string_at(0)", "the program ended"),
        (
            "import re\nre.match('(a+)+b', 'a' * 99)",
            "the program",
        ),  # its processor time ends it, or a busy machine's clock
        ("import threading\nthreading.Thread(target=print).start()", "can't start new thread"),
    ],
)
def test_limits(sandbox, program, why):
    verdict = passes(sandbox, program)
    assert not verdict.passed
    assert why in verdict.why


def test_what_is_printed_is_thrown_away():
    assert passes(
        Sandbox(Limits(seconds=30, memory_mb=256)),
        f"import sys\n{RIGHT}\nfor _ in range(100): print('x' * 10**6)\nsys.stderr.write('x')",
    ).passed


def cells(marker):
    """Processes that run a cell with these settings."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if marker in (folder / "cmdline").read_text():
                    found.append(folder.name)
            except OSError:
                continue
    return found


def gone(marker):
    """Fails unless those processes end within ten seconds: the kernel kills them, which takes it a moment."""
    for _ in range(1000):
        if not cells(marker):
            return
        threading.Event().wait(0.01)
    pytest.fail(f"still running: {cells(marker)}")


def test_nothing_is_left_running():
    sandbox = Sandbox(Limits(seconds=1, memory_mb=301))
    leave = "import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
    leave += "    except (OSError, ValueError): pass\n"
    assert not passes(sandbox, leave + "time.sleep(1000)").passed
    assert passes(sandbox, leave + RIGHT).passed
    gone(f'"memory": {301 << 20}')


def test_cells_end_with_whoever_started_them(sandbox):
    assert passes(sandbox, RIGHT).passed
    script = (
        "from agentgraph.sandbox import *; s = Sandbox(Limits(seconds=60, memory_mb=302)); print('ready', flush=True); "
        "s.run('import time; time.sleep(1000)', '', [])"
    )
    marker = f'"memory": {302 << 20}'
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        while len(cells(marker)) < 2 and process.poll() is None:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    gone(marker)


def test_many_at_once(sandbox):
    verdicts = {}

    def run(i):
        verdicts[i] = sandbox.run(f"def f(): return {i}", f"assert f() == {i - i % 2}", ["f"]).passed

    threads = [threading.Thread(target=run, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {i: i % 2 == 0 for i in range(20)}


def test_same_order_of_sets_every_time(sandbox):
    program = "def order():\n    return list({'a', 'b', 'c', 'd', 'e', 'f'})"
    whys = {passes(sandbox, program, "assert False, order()", ["order"]).why for _ in range(4)}
    assert len(whys) == 1
    assert "['" in whys.pop()


# ---- where it cannot be had


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"seconds": 0}, "seconds=0"), ({"seconds": 1.5}, "seconds=1.5"), ({"memory_mb": 8}, "memory_mb=8")],
)
def test_bad_limits(given, expected):
    with pytest.raises(SandboxError, match=f"{expected} of the sandbox must be a whole number of at least"):
        Limits(**given)


def without(number):
    """A script that makes a sandbox where one system call is missing: an older kernel, or a container that forbids it."""
    return (
        "import ctypes, struct\n"
        f"lines = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), (6, 0, 0, 0x50026), (6, 0, 0, 0x7FFF0000)]\n"
        "program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in lines))\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.prctl(38, 1, 0, 0, 0) == 0\n"
        "assert libc.prctl(22, 2, struct.pack('HxxxxxxP', 4, ctypes.addressof(program)), 0, 0) == 0\n"
        "from agentgraph.sandbox import Sandbox\n"
        "from agentgraph.errors import SandboxError\n"
        "try:\n    Sandbox()\nexcept SandboxError as error:\n    print(error)\n"
    )


def test_refuses_without_landlock():
    said = subprocess.run([sys.executable, "-c", without(444)], capture_output=True, text=True, check=True).stdout
    assert said == (
        "generated code cannot be run safely on this system: it lacks Landlock, Linux 5.13 or newer with 'landlock' among its "
        "security modules (Function not implemented); the sandbox needs Linux 5.13 or newer on x86-64 or ARM64 with Landlock and "
        "seccomp\n"
    )


def test_refuses_another_processor(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(cell.Refused, match="a processor of x86_64, aarch64, this is riscv64"):
        cell.confine([], memory=1 << 30, seconds=1)


def test_a_hole_is_found(tmp_path):
    # The burglar of the self-test, let loose outside: every way that it tries is one that is open to a common process.
    from agentgraph.sandbox import BURGLAR

    secret = tmp_path / "secret"
    secret.write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        work = (listener.getsockname()[1], str(secret), str(tmp_path / "outside"), str(tmp_path))
        script = f"{BURGLAR}\nprint(len(holes(*{work!r})))"
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(found) == BURGLAR.count("lambda:") + len(("connect", "environment"))
