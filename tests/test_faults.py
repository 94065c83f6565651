"""A server that breaks one call in five in every way, and a search that is killed again and again: what it finds is the same."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from fakes import skilled
from servers.loopback import Answer, Loopback, as_json, chat, error, html

from agentgraph.request import stable_hash
from agentgraph.run_folder import RunFolder

pytestmark = pytest.mark.faults

KILLS = 20
WAYS = {
    "drop": Answer(drop=True),
    "hang": Answer(hang=True),
    "html": html(),
    "html 502": html(502),
    "not utf-8": Answer(body=b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "cut json": Answer(body=b'{"choices": [{"mess'),
    "empty": Answer(),
    "no choices": as_json({"choices": []}),
    "no usage": Answer(body=b'{"choices": [{"message": {"content": "042"}}], "usa'),
    "ten megabytes": Answer(body=b"x" * 10_000_000),
    "429": error(429, "slow down", **{"retry-after": "0.05"}),
    "503": error(503, "busy"),
    "500": error(500, "engine died"),
}


class Server:
    """Answers as models of known skill; breaks one request in five, each at most twice, and knows how often."""

    def __init__(self, *, breaks):
        self.breaks, self.tries, self.broken, self.answered = breaks, Counter(), Counter(), Counter()

    def __call__(self, body, _number):
        text, seed = body["messages"][-1]["content"], body["seed"]
        key = hashlib.blake2b(json.dumps(body, sort_keys=True).encode()).digest()
        self.tries[key] += 1
        luck = random.Random(key + bytes([self.tries[key]]))
        if self.breaks and self.tries[key] <= 2 and luck.random() < 0.2:
            way = luck.choice(sorted(WAYS))
            self.broken[way] += 1
            return WAYS[way]
        self.answered[seed] += 1
        reply = skilled(SimpleNamespace(messages=(("user", text),), model=body["model"], seed=seed))
        usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.output_tokens}
        good = chat(reply.text, [reply.logprob], usage)
        return Answer(good.status, good.body, good.headers, seconds=0.02)


def command(folder, server):
    """The command line of a search on a server."""
    pool = folder / "pool.yaml"
    pool.parent.mkdir(exist_ok=True)
    sizes = {"a-small": (28416, 2, 32), "b-small": (28416, 2, 32), "b-medium": (110080, 2, 64)}
    members = {
        name: {"parameters": m, "layers": layers, "hidden_size": h, "base_url": server.url, "prompt_form": "embedded"}
        | {"fingerprint": name}  # by itself it would be made of the URL, and each server has a port of its own
        for name, (m, layers, h) in sizes.items()
    }
    pool.write_text(json.dumps({"timeout": 1.0, "limit": 16, "members": members}))
    search = [sys.executable, "-c", "from agentgraph.cli import main; main()", "search"]
    if (folder / "run" / "config.yaml").exists():
        return [*search, f"run={folder / 'run'}"]
    sizes = "{train: 32, validation: 12, test: 12}"
    size = ["rounds=4", "plans_per_round=4", "questions_per_round=12", "finalists=2", "max_nodes=5"]
    return [*search, "task=calc", f"models={pool}", f"task.sizes={sizes}", *size, f"hydra.run.dir={folder / 'run'}"]


def trials(folder):
    """The archive; how long calls took was measured, and differs."""
    rows = [json.loads(line) for line in (folder / "run" / "trials.jsonl").read_text().splitlines()]
    for row in rows:
        for cost in ("price", "charged"):
            row[cost].pop("seconds")
    return rows


def stored(folder):
    """Seeds of the requests whose replies the store acknowledged, in its order."""
    path = folder / "run" / "replies.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    keys = [json.loads(line)["key"] for line in lines if line.endswith(b"\n")]
    return [stable_hash(0, key) >> 1 for key in keys]


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "sk-secret-of-the-faults", **more}


def run(folder, server):
    """A search that is left alone; what it printed."""
    done = subprocess.run(command(folder, server), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def killed(folder, server, times):
    """A search that is killed at random moments; how often a request was asked though its reply was in the store."""
    rng, again, process = random.Random(0), 0, None
    script = server.script
    for _ in range(times):
        before, acknowledged, answered = len(server.received), set(stored(folder)), Counter(script.answered)
        process = subprocess.Popen(
            command(folder, server), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while len(server.received) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.4))
        assert process.poll() is None, "the search was done before it could be killed; make it longer"
        process.send_signal(signal.SIGKILL)
        process.wait()
        again += sum((script.answered - answered)[seed] for seed in acknowledged)
    return again


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """What a search finds whose server never fails."""
    folder = tmp_path_factory.mktemp("clean")
    with Loopback(Server(breaks=False), models=("a-small", "b-small", "b-medium")) as server:
        run(folder, server)
    return folder


def check(folder, clean):
    """The archive is the clean run's: nothing lost, nothing doubled, nothing scored otherwise; and no file holds the key."""
    assert trials(folder) == trials(clean)
    marked = Counter((json.dumps(row["plan"]), question) for row in trials(folder) for question in row["marks"])
    assert set(marked.values()) == {1}
    seeds = stored(folder)
    assert len(set(seeds)) == len(seeds)
    files = [path for path in (folder / "run").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        assert b"secret-of-the-faults" not in path.read_bytes(), path


def test_one_call_in_five_breaks(tmp_path, clean):
    script = Server(breaks=True)
    with Loopback(script, models=("a-small", "b-small", "b-medium")) as server:
        printed = run(tmp_path, server)
    assert set(script.broken) == set(WAYS)
    calls = sum(script.tries.values())
    assert 0.12 < sum(script.broken.values()) / calls < 0.25
    check(tmp_path, clean)
    assert " 0 failed" in printed
    assert "retried: " in printed
    summary = json.loads(RunFolder(tmp_path / "run").summary.read_text())
    assert sum(summary["calls_retried_by_kind"].values()) >= sum(script.broken.values()) - summary["calls_doubled"]
    assert set(summary["calls_retried_by_kind"]) == {"down", "malformed", "overloaded", "timeout"}


def test_killed_again_and_again_on_a_server_that_breaks(tmp_path, clean):
    script = Server(breaks=True)
    with Loopback(script, models=("a-small", "b-small", "b-medium")) as server:
        again = killed(tmp_path, server, KILLS)
        run(tmp_path, server)
    check(tmp_path, clean)
    assert again == 0
