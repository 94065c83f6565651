"""What every backend keeps, whichever it is."""

import asyncio
import itertools
import sys
from pathlib import Path

import pytest
from servers.loopback import error
from standin import EmbeddedStandIn, TransformersStandIn, ask

import agentgraph.backends
from agentgraph.backends.base import Backend
from agentgraph.backends.openai_server import OpenAIServer
from agentgraph.backends.scripted import Scripted
from agentgraph.backends.vllm_local import VllmLocal
from agentgraph.backends.vllm_server import VllmServer
from agentgraph.errors import BackendError, BackendRefused
from agentgraph.request import Reply

FAKE = [sys.executable, str(Path(__file__).parent.parent / "fake_vllm_command.py")]
FOLDER = Path(agentgraph.backends.__file__).parent


@pytest.fixture(params=["embedded", "openai_server", "scripted", "transformers_local", "vllm_local", "vllm_server"])
def backend(request, loopback, tmp_path, vllm):  # noqa: ARG001  a stand-in for the import
    """One of the family, serving the model 'm'."""
    return {
        "embedded": lambda: EmbeddedStandIn(tmp_path, ["m"]),
        "openai_server": lambda: OpenAIServer(loopback.url, retries=0),
        "scripted": lambda: Scripted(lambda _: "ok", models=["m"], latency=0.001),
        "transformers_local": TransformersStandIn,
        "vllm_local": lambda: VllmLocal({"m": "org/m"}),
        "vllm_server": lambda: VllmServer({"m": "org/m"}, command=FAKE),
    }[request.param]()


def with_backend(backend, work):
    async def run():
        try:
            return await work(backend)
        finally:
            await backend.close()

    return asyncio.run(run())


def test_every_member_is_here():
    members = {path.stem for path in FOLDER.iterdir() if path.suffix == ".py" or path.name == "embedded"}
    assert members - {"__init__", "base", "batching", "cluster_worker", "leash", "local_model"} == {
        "callable",
        "embedded",
        "openai_server",
        "ray_cluster",
        "recorded",
        "scripted",
        "synthetic",
        "transformers_local",
        "vllm_local",
        "vllm_server",
    }


def test_reply(backend):
    assert isinstance(backend, Backend)
    reply = with_backend(backend, lambda b: b.reply(ask()))
    assert isinstance(reply, Reply)
    assert reply.text
    assert reply.prompt_tokens > 0
    assert reply.output_tokens > 0
    assert reply.seconds is None or reply.seconds >= 0
    assert (reply.logprob is not None) == backend.has_logprobs


def test_many_at_once_come_back_to_whom_they_belong(backend):
    async def many(b):
        return await asyncio.gather(*(b.reply(ask("x" * n)) for n in range(1, 40)))

    replies = with_backend(backend, many)
    assert len(replies) == 39
    if not isinstance(backend, OpenAIServer):  # the loopback counts every prompt as 7
        counts = [reply.prompt_tokens for reply in replies]
        assert [b - a for a, b in itertools.pairwise(counts)] == [1] * 38


def test_served(backend, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert with_backend(backend, lambda b: b.served()) == ("m",)


def test_other_model_is_refused_with_what_there_is(backend, loopback):
    loopback.script = lambda *_: error(404, "The model `elsewhere` does not exist.")
    with pytest.raises(BackendRefused, match=r"\['m'\], not 'elsewhere'") as caught:
        with_backend(backend, lambda b: b.reply(ask(model="elsewhere")))
    assert not caught.value.retry


def test_close_twice_and_without_a_call(backend):
    async def closed(b):
        await b.close()
        await b.close()

    with_backend(backend, closed)


def test_lives_again_on_another_loop_after_close(backend):
    first, second = (with_backend(backend, lambda b: b.reply(ask())) for _ in range(2))
    assert first.text == second.text


def test_cancelled_call_leaves_the_others_alone(backend):
    async def cancel_one(b):
        tasks = [asyncio.ensure_future(b.reply(ask("x" * n))) for n in range(1, 6)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    replies = with_backend(backend, cancel_one)
    kinds = [type(reply) for reply in replies]
    assert kinds == [Reply, Reply, asyncio.CancelledError, Reply, Reply]


def test_fingerprint_is_text(backend):
    assert isinstance(backend.fingerprint("m"), str)


@pytest.mark.parametrize("failing", ["embedded", "openai_server", "scripted", "transformers_local", "vllm_local"])
def test_failures_of_the_service_are_backend_errors(failing, loopback, tmp_path, vllm):
    loopback.script = lambda *_: error(500)
    embedded = EmbeddedStandIn(tmp_path, ["m"])
    embedded.stand_ins["m"].failure = RuntimeError("out of memory")
    vllm.failure = RuntimeError("out of memory")
    transformers = TransformersStandIn()
    transformers.failure = RuntimeError("out of memory")
    backend = {
        "embedded": embedded,
        "openai_server": OpenAIServer(loopback.url, retries=0),
        "scripted": Scripted([BackendError("down")]),
        "transformers_local": transformers,
        "vllm_local": VllmLocal({"m": "org/m"}),
    }[failing]
    with pytest.raises(BackendError):
        with_backend(backend, lambda b: b.reply(ask()))
