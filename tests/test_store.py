"""The reply store: what was acknowledged is there again, whatever happened to the process, the disk or the text."""

import subprocess
import sys
import threading

import pytest

from agentgraph.errors import RunError
from agentgraph.request import Reply
from agentgraph.store import ReplyStore, write_atomically

REPLIES = {
    "plain": Reply("42", 10, 3, logprob=-0.5, seconds=1.25),
    "empty": Reply("", 1, 1, finish="length"),
    "odd": Reply("line\nbreak\u2028\x00 \U0001f600 ü", 2, 2, finish="content_filter"),
    "surrogate": Reply("half \ud83d of a pair", 3, 3),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "replies.jsonl"


def filled(path, replies=REPLIES):
    store = ReplyStore(path)
    for key, reply in replies.items():
        store.put(key, reply)
    store.close()


def test_opened_again(path):
    filled(path)
    store = ReplyStore(path)
    assert {key: store.get(key) for key in REPLIES} == REPLIES
    assert len(store) == 4
    assert "plain" in store
    assert "other" not in store
    assert store.get("other") is None
    store.close()
    assert path.read_bytes().isascii()


def test_in_memory():
    store = ReplyStore()
    store.put("a", REPLIES["surrogate"])
    store.flush()
    assert store.get("a") == REPLIES["surrogate"]
    store.close()


def test_first_reply_stays(path):
    store = ReplyStore(path)
    store.put("a", Reply("first", 1, 1))
    store.put("a", Reply("second", 1, 1))
    assert store.get("a").text == "first"
    store.close()
    with path.open("a") as file:  # two processes wrote the same
        file.write(Reply("third", 1, 1).json("a") + "\n")
    store = ReplyStore(path)
    assert store.get("a").text == "first"
    store.close()


def test_flush_acknowledges(path):
    store = ReplyStore(path)
    store.put("a", REPLIES["plain"])
    assert path.read_bytes() == b""
    store.flush()
    size = len(path.read_bytes())
    assert size > 0
    store.flush()
    assert len(path.read_bytes()) == size
    store.close()


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_cut_last_line_is_dropped(path, cut):
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    store = ReplyStore(path)
    assert "surrogate" not in store
    assert len(store) == 3
    store.put("surrogate", REPLIES["surrogate"])
    store.close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", [b"not json\n", b"{}\n", b'{"key": "a", "text": "b"}\n', b"[1, 2]\n", b"\xff\xfe\n"])
def test_damaged_line(path, line):
    filled(path)
    path.write_bytes(line + path.read_bytes())
    with pytest.raises(RunError, match=f"cannot read the reply store {path}: .*; choose another run folder"):
        ReplyStore(path)


def test_folder_in_its_place(tmp_path):
    with pytest.raises(RunError, match=f"cannot read the reply store {tmp_path}: .*directory"):
        ReplyStore(tmp_path)


FULL = """
import resource, signal, sys
from pathlib import Path
from agentgraph.errors import RunError
from agentgraph.request import Reply
from agentgraph.store import ReplyStore, write_atomically

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
store = ReplyStore(path)
store.put("kept", Reply("x" * 100, 1, 1))
store.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for i in range(50):
    store.put(str(i), Reply("y" * 100, 1, 1))
try:
    store.flush()
except RunError as error:
    print(error)
assert store.get("49").text == "y" * 100  # still known to this process
store.put("later", Reply("z", 1, 1))
store.close()
other = path.with_name("state.json")
other.write_text("before")
try:
    write_atomically(other, b"." * 5000)
except RunError as error:
    print(error)
"""


def test_full_disk(path):
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL, path], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    store_line, state_line = ran.stdout.splitlines()
    assert store_line.startswith(f"cannot write the reply store {path}: File too large; free some space")
    assert state_line.startswith(f"cannot write {path.with_name('state.json')}: File too large")
    store = ReplyStore(path)
    assert store.get("kept").text == "x" * 100
    assert len(store) == 1
    assert path.read_bytes().endswith(b"\n")
    store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["replies.jsonl", "state.json"]
    assert path.with_name("state.json").read_text() == "before"


def test_written_as_a_whole(tmp_path):
    path = tmp_path / "state.json"
    seen = set()
    stop = threading.Event()

    def read():
        while not stop.is_set():
            seen.add(path.read_bytes())

    contents = [bytes([65 + i]) * 100_000 for i in range(8)]
    write_atomically(path, contents[0])
    reader = threading.Thread(target=read)
    reader.start()
    for content in contents:
        write_atomically(path, content)
    stop.set()
    reader.join()
    assert seen <= set(contents)
    assert list(tmp_path.iterdir()) == [path]
