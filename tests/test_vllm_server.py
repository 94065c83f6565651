"""Servers that are started and stopped, on a program that takes vLLM's command line (`fake_vllm_command`)."""

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from servers.loopback import chat
from standin import ask

import agentgraph.backends.embedded
from agentgraph.backends import vllm_server
from agentgraph.backends.embedded.backend import Embedded
from agentgraph.backends.local_model import specs
from agentgraph.backends.vllm_local import VllmLocal
from agentgraph.backends.vllm_server import VllmServer, shares
from agentgraph.cli import main
from agentgraph.errors import BackendError, BackendRefused, BackendTimeout, ConfigError
from agentgraph.prompt import Prompt, render
from agentgraph.request import Request, Settings

FAKE = [sys.executable, str(Path(__file__).parent / "fake_vllm_command.py")]
LIMIT = 30  # seconds; only a broken program reaches it


class Notes:
    """What the fakes wrote when they started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[dict]:
        return sorted((json.loads(path.read_text()) for path in self.folder.glob("*.json")), key=lambda n: n["began"])

    def of(self, model: str) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob(f"{model}-*.json"))]

    @property
    def pids(self) -> list[int]:
        return [pid for note in self.all() for pid in note["pids"]]


def lives(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "notes").mkdir()
    found = Notes(tmp_path / "notes")
    yield found
    left = [pid for pid in found.pids if lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def make(notes, tmp_path):
    """A backend of fakes; ``models`` as for the backend, a word is what the fake shall do."""

    def call(models, **options):
        told = {name: {"model": f"org/{name}", "fake": v} if isinstance(v, str) else v for name, v in models.items()}
        backend = VllmServer(told, **{"command": FAKE, "cpu": True, "flags": {"notes": notes.folder}, **options})
        backend.log_folder = tmp_path / "logs"
        return backend

    return call


def worked(backend, work):
    async def run():
        try:
            return await work(backend)
        finally:
            await backend.close()

    return asyncio.run(run())


def replies(backend, *requests):
    return worked(backend, lambda b: asyncio.gather(*map(b.reply, requests)))


# ---- what is started


def test_two_models_two_servers_two_ports(make, notes):
    backend = make({"a": "", "b": ""})
    assert notes.all() == []  # lazy
    texts = [reply.text for reply in replies(backend, ask("x", "a"), ask("y", "b"), ask("z", "a"))]
    assert texts == ["a: x", "b: y", "a: z"]
    first, second = notes.all()
    assert first["port"] != second["port"]
    assert first["key"] != second["key"]
    assert not any(map(lives, notes.pids))


def test_served_starts_them_and_a_second_use_on_another_loop_starts_them_again(make, notes):
    backend = make({"b": "", "a": ""})
    assert worked(backend, lambda b: b.served()) == ("a", "b")
    assert [reply.text for reply in replies(backend, ask("x", "a"))] == ["a: x"]
    assert len(notes.of("a")) == 2


def test_flags_become_words(make, notes):
    flags = {
        "max-model-len": 50,
        "enforce_eager": True,
        "enable_chunked_prefill": True,
        "rope_scaling": {"factor": 2.0},
        "allowed_origins": ["x", "y"],
        "seed": None,
    }
    backend = make(
        {"m": {"model": "org/m", **flags}}, flags={"notes": notes.folder, "max_model_len": 40, "swap_space": 1}
    )
    replies(backend, ask())
    (note,) = notes.all()
    words = shlex.join(note["argv"])
    for part in (
        "--max-model-len 50",
        "--enforce-eager",
        "--enable-chunked-prefill",
        "--rope-scaling '{\"factor\": 2.0}'",
        "--allowed-origins x y",
        "--swap-space 1",
        "--dtype float32",
        "--logprobs-mode raw_logprobs",
        '--structured-outputs-config \'{"backend": "xgrammar", "disable_any_whitespace": true}\'',
    ):
        assert part in words
    assert "--seed" not in words
    assert "gpu-memory" not in words  # on a CPU
    assert note["threads"] == "1"


def test_on_gpus_each_model_sees_its_own_and_takes_its_share(make, notes, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    models = {
        "a": {"model": "org/a", "devices": [0]},
        "b": {"model": "org/b", "devices": "0"},
        "c": {"model": "org/c", "devices": [1, 2], "tensor_parallel_size": 2},
    }
    backend = make(models, cpu=False, env={"OMP_NUM_THREADS": 3})
    assert worked(backend, lambda b: b.served()) == ("a", "b", "c")
    told = {note["devices"]: note for note in notes.all()}
    assert set(told) == {"0", "1,2"}
    argv = {name: shlex.join(notes.of(name)[0]["argv"]) for name in models}
    assert "--gpu-memory-utilization 0.45" in argv["a"]
    assert "--gpu-memory-utilization 0.45" in argv["b"]
    assert "--gpu-memory-utilization 0.9" in argv["c"]
    assert {note["threads"] for note in notes.all()} == {"3"}


def test_models_that_share_a_gpu_start_one_after_another(make, notes, capsys):
    backend = make({"a": "late", "b": "late"}, cpu=False)
    worked(backend, lambda b: b.served())
    said = [line for line in capsys.readouterr().err.splitlines() if " is up at " in line]
    assert len(said) == 2
    first, second = notes.all()
    assert second["began"] - first["began"] > 0.5  # 'late' is healthy after half a second


def test_command(make, notes, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "vllm").write_text(f'#!/bin/sh\nexec {shlex.join(FAKE)} "$@"\n')
    (tmp_path / "bin" / "vllm").chmod(0o755)
    monkeypatch.setattr(vllm_server.importlib.util, "find_spec", lambda _: None)
    assert replies(make({"m": ""}, command=None), ask())[0].text == "m: x"  # 'vllm serve MODEL'
    assert replies(make({"m": ""}, command=shlex.join(FAKE)), ask())[0].text == "m: x"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        BackendRefused, match="needs vLLM, which is neither in this Python nor on the PATH; pip install"
    ):
        replies(make({"m": ""}, command=None), ask())
    with pytest.raises(BackendRefused, match="there is no program 'vlm'; change command='vlm serve'"):
        replies(make({"m": ""}, command="vlm serve"), ask())
    monkeypatch.setattr(vllm_server.importlib.util, "find_spec", lambda _: object())
    assert make({"m": ""}, command=None)._command() == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    assert len(notes.all()) == 2


def test_chat_template_arguments_go_with_each_request(make):
    backend = make(
        {"m": {"model": "org/m", "chat_template_kwargs": {"enable_thinking": False}}}, extra_body={"top_k": 5}
    )

    async def work(b):
        await b.reply(ask())
        return (await b._started())["m"].client.extra_body

    assert worked(backend, work) == {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 5}


# ---- what goes wrong


def failure(backend, *requests):
    with pytest.raises(BackendError) as caught:
        replies(backend, *(requests or [ask()]))
    assert "\n" not in str(caught.value)
    assert not caught.value.retry
    return caught.value


def test_one_that_dies_at_start_is_told_with_its_log_and_stops_the_others(make, notes, tmp_path):
    error = failure(make({"good": "", "m": "dies"}), ask(model="good"), ask())
    assert isinstance(error, BackendRefused)
    assert re.search(
        rf"server of model 'm' ended before it was healthy \(exit status 1; the log {tmp_path}/logs/vllm-m.log ends: "
        r".*No available memory for the cache blocks\)",
        str(error),
    )
    assert not any(map(lives, notes.pids))


def test_one_that_serves_another_name(make):
    assert "started for model 'm' serves ['another']; change command of backend 'vllm_server'" in str(
        failure(make({"m": "other"}))
    )


def test_one_that_never_gets_healthy(make, notes):
    error = failure(make({"m": "hangs"}, start_limit=0.5))
    assert isinstance(error, BackendTimeout)
    assert "was not healthy within 0.5 s" in str(error)
    assert "raise start_limit of backend 'vllm_server'" in str(error)
    assert not any(map(lives, notes.pids))


def test_one_that_ignores_the_request_to_end_is_killed(make, notes):
    assert replies(make({"m": "deaf"}, stop_limit=0.2), ask())[0].text == "m: x"
    assert not any(map(lives, notes.pids))


def test_one_that_ends_while_it_is_used(make, tmp_path):
    async def work(b):
        with pytest.raises(BackendError):
            await b.reply(ask())
        process = (await b._started())["m"].process
        await asyncio.to_thread(process.wait, LIMIT)
        with pytest.raises(BackendRefused) as caught:
            await b.reply(ask())
        return caught.value

    error = worked(make({"m": "mortal"}, retries=0), work)
    assert not error.retry
    told = f"(exit status 3; the log {tmp_path}/logs/vllm-m.log ends: EngineDeadError); start again"
    assert f"the server of model 'm' ended {told}" in str(error)


def test_port_that_somebody_took_in_between(make, monkeypatch, notes):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = itertools.chain([taken.getsockname()[1]], iter(vllm_server._free_port, None))
        monkeypatch.setattr(vllm_server, "_free_port", lambda: next(ports))
        assert replies(make({"m": ""}), ask())[0].text == "m: x"
    assert len(notes.of("m")) == 2


def test_port_that_is_always_taken(make, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(vllm_server, "_free_port", lambda: taken.getsockname()[1])
        assert "Address already in use" in str(failure(make({"m": ""})))


@pytest.mark.parametrize(
    ("models", "options", "expected"),
    [
        ({}, {}, r"models=\{\} must name one or more"),
        ({"m": {"port": 8000, "model": "org/m"}}, {}, "model 'm' must not set port"),
        ({"m": {"dtype": "half"}}, {}, "model 'm': .* names no model"),
        ({"m": {"model": "./nowhere"}}, {}, "there is no ./nowhere"),
        ({"m": ""}, {"start_limit": 0}, "start_limit=0 must be a positive number of seconds"),
        ({"m": ""}, {"limit": 0}, r"limit=0 must be in 1\.\."),
        ({"m": ""}, {"timeout": -1}, "timeout=-1 must be a positive"),
        ({"m": ""}, {"extra_body": {"seed": 1}}, r"extra_body must not hold \['seed'\]"),
    ],
)
def test_bad_settings(make, models, options, expected):
    with pytest.raises(ConfigError, match=expected):
        make(models, **options)


def test_unknown_model_is_refused_before_anything_starts(make, notes):
    assert "serves ['m'], not 'n'; change served_as" in str(failure(make({"m": ""}), ask(model="n")))
    assert notes.all() == []


# ---- shares


def shared(**models):
    told = {name: {"model": f"org/{name}", **arguments} for name, arguments in models.items()}
    return shares("b", specs("b", told, ours=()))


def test_shares(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    part = "gpu_memory_utilization"
    assert shared(a={}) == {"a": 0.9}
    assert shared(a={}, b={}, c={}) == {"a": 0.3, "b": 0.3, "c": 0.3}
    assert shared(a={part: 0.5}, b={}, c={}) == {"a": 0.5, "b": 0.2, "c": 0.2}
    assert shared(a={part: 0.5}, b={part: 0.45}) == {"a": 0.5, "b": 0.45}
    assert shared(a={"devices": [0]}, b={"devices": [1]}) == {"a": 0.9, "b": 0.9}
    # b is on both GPUs: its part is what the fuller one leaves.
    assert shared(a={"devices": 0}, b={"tensor_parallel_size": 2}) == {"a": 0.45, "b": 0.45}
    for bad in ({"a": {part: 0.6}, "b": {part: 0.4}}, {"a": {part: 0.9}, "b": {}}, {"a": {part: 0}}):
        with pytest.raises(
            ConfigError, match=r"backend 'b': gpu_memory_utilization of a.* on GPU 0 is .*lower them, or spread"
        ):
            shared(**bad)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert shared(a={"devices": 7}, b={"tensor_parallel_size": 2}, c={"devices": 0}) == {"a": 0.45, "b": 0.45, "c": 0.9}


def test_fingerprint_is_that_of_the_same_model_in_this_process(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    for model in (str(folder), "org/m"):
        arguments = {"model": model, "dtype": "float32", "max_model_len": 9}
        theirs = VllmLocal({"m": arguments}).fingerprint("m")
        assert VllmServer({"m": {**arguments, "devices": [1]}}).fingerprint("m") == theirs
        assert VllmServer({"m": model}, cpu=True).fingerprint("m") == theirs
        assert VllmServer({"m": model}).fingerprint("m") != theirs


# ---- how it ends

SCRIPT = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from servers.loopback import chat
from standin import ask
from agentgraph.backends.vllm_server import VllmServer

async def work():
    backend = VllmServer({{"a": {{"model": "org/a"}}, "b": {{"model": "org/b", "fake": {fake!r}}}}}, command={command!r}, cpu=True,
                         flags={{"notes": {notes!r}}})
    try:
        if not {fake!r}:
            await backend.reply(ask(model="a"))
            print("ready", flush=True)
        else:
            starting = asyncio.ensure_future(backend.reply(ask(model="a")))
            while not backend._starting:
                await asyncio.sleep(0)
            print("ready", flush=True)
        await asyncio.sleep(1000)
    finally:
        await backend.close()

asyncio.run(work())
"""


@pytest.mark.parametrize("fake", ["", "hangs"], ids=["running", "starting"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_parent_that_ends_leaves_no_server_behind(notes, fake, number):
    script = SCRIPT.format(tests=str(Path(__file__).parent), command=FAKE, notes=str(notes.folder), fake=fake)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout.readline() == b"ready\n"
        until(lambda: len(notes.all()) == 2)
        assert all(map(lives, notes.pids))
        parent.send_signal(number)
        assert parent.wait(LIMIT) != 0
    until(lambda: not any(map(lives, notes.pids)))


def test_leash_that_is_killed_takes_the_server_along(make, notes):
    async def work(b):
        await b.reply(ask())
        leash = (await b._started())["m"].process
        leash.kill()
        await asyncio.to_thread(until, lambda: not lives(notes.of("m")[0]["pids"][0]))

    worked(make({"m": ""}), work)
    for pid in notes.pids[1:]:  # the real engine watches its parent; a sleeping child does not
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not lives(pid))


def test_cancelled_while_it_starts(make, notes):
    async def work(b):
        asking = asyncio.ensure_future(b.reply(ask()))
        await asyncio.to_thread(until, notes.all)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    worked(make({"m": "hangs"}), work)
    assert not any(map(lives, notes.pids))


def test_what_is_said_while_waiting(make, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(vllm_server, "_NEWS", 0.1)
    replies(make({"m": "late"}), ask())
    said = capsys.readouterr().err
    assert f"vllm_server: starting m ({shlex.join(FAKE)}); logs in {tmp_path}/logs\n" in said
    assert re.search(r"vllm_server: waiting for m \(0 s\); vllm-m.log says: ", said)
    assert re.search(r"vllm_server: m is up at http://127.0.0.1:\d+/v1 after \d+ s\n", said)


# ---- in a pool


def test_pool_of_three_kinds_of_backends(notes, loopback, tmp_path, monkeypatch, capsys):
    """A server that is started, one that is there, and a model in this process: checked, then searched."""
    monkeypatch.chdir(tmp_path)
    loopback.script = lambda _body, _number: chat("007")
    loopback.models = ("there",)
    members = (
        f"{{there: {{parameters: 2e9, base_url: '{loopback.url}'}}, started: {{parameters: 1e9}}, "
        "a-small: {parameters: 1e9, backend: embedded, prompt_form: embedded}}"
    )
    pool = [
        *("models=vllm_server", "models.use=[]", f"+models.members={members}"),
        "+models.backends.vllm.models={started: org/started}",
        "models.backends.vllm.cpu=true",
        f"models.backends.vllm.command=[{','.join(FAKE)}]",
        f"+models.backends.vllm.flags.notes={notes.folder}",
        "+models.backends.embedded={_target_: agentgraph.backends.embedded.backend.Embedded}",
    ]
    small = ["rounds=1", "plans_per_round=2", "questions_per_round=4", "finalists=2", "budget.units=3"]
    sizes = "task.sizes={train: 8, validation: 4, test: 4}"

    def agentgraph_(*arguments):
        monkeypatch.setattr(sys, "argv", ["agentgraph", *arguments])
        main()
        assert not any(map(lives, notes.pids))
        return capsys.readouterr().out

    out = agentgraph_("check", *pool, sizes)
    assert f"{loopback.url}: serves there\n" in out
    assert "vllm: serves started\n" in out
    assert "embedded: serves a-large" in out
    assert out.count("ok, mark") == 3

    out = agentgraph_("search", *pool, sizes, *small, f"hydra.run.dir={tmp_path}/run")
    assert (tmp_path / "run" / "vllm-started.log").exists()
    command = shlex.split(out.rpartition("Replay: agentgraph ")[2].splitlines()[0])
    out = agentgraph_(*command, sizes)
    assert " 0 made" in out
    assert len(notes.of("started")) == 2  # the replay needed none


# ---- the real one

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
WEIGHTS = Path(agentgraph.backends.embedded.__path__[0]) / "weights"
TINY = {"kv_cache_memory_bytes": 2**27, "enforce_eager": True}
BLOCK = 128  # tokens; a prefix cache on a CPU keeps whole blocks
SCHEMA = {"title": "t", "type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}


def counter(server, name):
    """A number that a server counts."""
    with urllib.request.urlopen(f"{server.client.url.removesuffix('/v1')}/metrics") as page:  # noqa: S310
        (line,) = [line for line in page.read().decode().splitlines() if line.startswith(f"vllm:{name}{{")]
    return float(line.rsplit(" ", 1)[1])


def running(folder):
    """Processes that name a folder on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes() and lives(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found


@pytest.mark.server
@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_real_servers(babbler):
    """One test, for vLLM takes long to start: greedy, seeded, log-probabilities, schema, shared prefixes, refusal, the end."""
    name = "a-small"
    greedy = [ask(f"SK:{a}{b}c", name, temperature=0.0) for a in "abcdef" for b in "abcdef"]
    sampled = [ask(f"SK:{a}{b}c", name) for a in "abcdef" for b in "abcdef"]
    held = [Request("babbler", "f", (("user", f"{i}?"),), Settings(max_tokens=40), schema=SCHEMA) for i in range(4)]
    instructions = "Answer the question with a number. " * 5
    words = {
        (word, i): render("chat", Prompt(word, "T", instructions, "Merge these answers.", f"{i}? " * 60, candidates))
        for word, candidates in (("solve", ()), ("fuse", ("one answer", "another answer")))
        for i in range(10, 30)
    }
    prompts = {key: Request("babbler", "f", text, Settings(max_tokens=4)) for key, text in words.items()}
    backend = VllmServer({name: str(WEIGHTS / name), "babbler": str(babbler)}, cpu=True, flags=TINY)

    async def work(b):
        together = await asyncio.gather(*map(b.reply, [*greedy, *sampled, *held]))
        alone = [await b.reply(one) for one in sampled[:5]]
        refused = await asyncio.gather(b.reply(ask("S" * 300, name)), return_exceptions=True)
        server = (await b._started())["babbler"]
        await asyncio.gather(*(b.reply(one) for (word, _), one in prompts.items() if word == "solve"))
        before = [
            await asyncio.to_thread(counter, server, f"prefix_cache_{what}_total") for what in ("hits", "queries")
        ]
        await asyncio.gather(*(b.reply(one) for (word, _), one in prompts.items() if word == "fuse"))
        after = [await asyncio.to_thread(counter, server, f"prefix_cache_{what}_total") for what in ("hits", "queries")]
        assert running(babbler)
        return together, alone, refused[0], [b - a for a, b in zip(before, after, strict=True)]

    together, alone, refused, (hits, tokens) = worked(backend, work)
    assert not running(babbler)
    n = len(greedy)
    local = Embedded(device="cpu")
    for mine, theirs in zip(worked(local, lambda b: asyncio.gather(*map(b.reply, greedy))), together, strict=False):
        assert (mine.text, mine.finish) == (theirs.text, theirs.finish)
        assert (mine.prompt_tokens, mine.output_tokens) == (theirs.prompt_tokens, theirs.output_tokens)
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)
    assert [(one.text, one.logprob) for one in alone] == [(one.text, one.logprob) for one in together[n : n + 5]]
    assert all(json.loads(one.text) in ({"a": 1}, {"a": 2}) for one in together[2 * n :])
    assert isinstance(refused, BackendRefused)
    assert "the prompt is too long" in str(refused)
    # A fuser reads instructions and question as the solvers before it did: all whole blocks of them come from the cache.
    shared = [len(f"<|im_start|>system\n{i}<|im_end|>\n<|im_start|>user\n{q}") for (_, i), (_, q) in words.values()]
    whole = sum(len_ // BLOCK * BLOCK for len_, (word, _) in zip(shared, words, strict=True) if word == "solve")
    assert hits >= whole * 0.9
    assert hits / tokens > 0.5


@pytest.mark.server
@needs_vllm
def test_real_search_killed_resumed_and_replayed(babbler, tmp_path):
    """A pool of two and an agent held to its schema; kill -9 half-way leaves no server, and the end is the undisturbed run's."""
    served = json.dumps({"a-small": str(WEIGHTS / "a-small"), "babbler": str(babbler)}).replace('"', "")
    sizes = "{a-small: {parameters: 28416, layers: 2, hidden_size: 32, prompt_form: embedded}, babbler: {parameters: 30000}}"
    pool = [
        *("models=vllm_server", "models.use=[]", f"+models.members={sizes}", f"+models.backends.vllm.models={served}"),
        "models.backends.vllm.cpu=true",
        f"+models.backends.vllm.flags={json.dumps({**TINY, 'max_model_len': None})}".replace('"', ""),
    ]
    task = ["task=recall", "task.sizes={train: 32, validation: 16, test: 16}"]
    agent = ["agent=language_model", "agent.model=babbler", "agent.temperature=1.0", "agent.max_tokens=400"]
    small = ["rounds=3", "plans_per_round=3", "questions_per_round=8", "finalists=2", "budget.units=4"]

    agentgraph_ = [sys.executable, "-c", "from agentgraph.cli import main; main()"]

    def done(*arguments):
        ended = subprocess.run([*agentgraph_, *arguments], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def search(folder):
        return ("search", *task, *pool, *agent, *small, f"hydra.run.dir={folder}")

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done(*search(whole))
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["agent_calls"] >= 3
    # What a random model says makes no sense, but it keeps to the schema: it is JSON, and has the fields.
    assert set(summary["agent_rejects"]) <= {"schema", "unknown id", "probability", "empty"}
    texts = [json.loads(line)["text"] for line in (whole / "replies.jsonl").read_text().splitlines()]
    said = [json.loads(text) for text in texts if text.startswith('{"critique"')]
    assert {"critique"} <= set.intersection(*map(set, said))
    assert len(said) == summary["agent_calls"]
    assert (whole / "vllm-a-small.log").stat().st_size > 0

    replies = cut / "replies.jsonl"
    lines = (whole / "replies.jsonl").read_text().count("\n")
    with subprocess.Popen(
        [*agentgraph_, *search(cut)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 300
        while not replies.exists() or replies.read_text().count("\n") < lines // 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    until(lambda: not running(babbler))
    kept = replies.read_bytes().rpartition(b"\n")[0] + b"\n"
    assert kept.count(b"\n") < lines
    done("search", f"run={cut}")
    assert replies.read_bytes().startswith(kept)  # what was acknowledged is not asked again …
    assert keys(cut) == keys(whole)
    assert len(keys(cut)) == len(set(keys(cut)))  # … nor anything else twice
    assert trials(cut) == trials(whole)

    # From the store alone: byte-equal, measured seconds too, and no server is started.
    again = tmp_path / "again"
    again.mkdir()
    (again / "replies.jsonl").write_bytes(replies.read_bytes())
    out = done(*search(again))
    assert (again / "trials.jsonl").read_bytes() == (cut / "trials.jsonl").read_bytes()
    out += done("replay", f"plan={cut}/best.json", *task, *pool)
    assert " 0 made" in out
    assert "vllm_server: " not in out


def keys(folder):
    """Requests of a run's reply store, sorted."""
    return sorted(json.loads(line)["key"] for line in (folder / "replies.jsonl").read_text().splitlines())


def trials(folder):
    """A run's archive without the seconds that were measured."""
    text = (folder / "trials.jsonl").read_text()
    return re.sub(r'"seconds":[^,}]*', "", text).splitlines()
