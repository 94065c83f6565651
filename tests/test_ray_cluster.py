"""What a cluster of workers keeps, on a stand-in for Ray: `test_ray.py` has the real one."""

import asyncio
import pickle
import re
import socket
import sys
from functools import partial

import pytest
from fake_ray import FakeRay, RayActorError, travelled
from omegaconf import OmegaConf
from standin import ask

from agentgraph.backends.base import Backend
from agentgraph.backends.ray_cluster import Cluster
from agentgraph.backends.scripted import Scripted
from agentgraph.cli import _move
from agentgraph.config import build_models, load
from agentgraph.errors import (
    BackendDown,
    BackendError,
    BackendMalformed,
    BackendOverloaded,
    BackendRefused,
    BackendTimeout,
    ConfigError,
    TaskError,
)
from agentgraph.request import Reply

FAILURES = [
    BackendError("other", retry=False),
    BackendRefused("refused"),
    BackendRefused("refused, but only now", retry=True),
    BackendDown("down"),
    BackendTimeout("timeout"),
    BackendOverloaded("slowly", retry_after=2.5),
    BackendMalformed("malformed"),
    TaskError("what a question"),
]


class Inner(Backend):
    """Answers with the prompt and the seed; on demand waits, fails, or has no log-probabilities."""

    started, cancelled, closed = 0, 0, 0
    gate: asyncio.Event | None = None  # who asks for 'wait' waits for it

    def __init__(self, name="inner", *, limit=64, weights="same"):
        super().__init__(name, limit=limit, has_logprobs=True)
        self.timeout, self.redundant, self.weights = 7.0, True, weights

    async def reply(self, request):
        text = request.messages[-1][1]
        if text.startswith("fail"):
            raise FAILURES[int(text[4:])]
        if text == "bug":
            raise ZeroDivisionError("a bug of ours")
        if text == "blind":
            self.has_logprobs = False
        if text.startswith("wait"):
            Inner.started += 1
            try:
                await Inner.gate.wait()
            except asyncio.CancelledError:
                Inner.cancelled += 1
                raise
        return Reply(f"{text}/{request.seed}", len(text), 1)

    async def served(self):
        return ("m", "n")

    def fingerprint(self, model):
        return f"{self.weights} {model}"

    def samples(self, model):
        return {"few": 3}.get(model)

    async def close(self):
        Inner.closed += 1


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    for name, module in fake.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    Inner.started, Inner.cancelled, Inner.closed = 0, 0, 0
    return fake


def on(work, *, limit=64, **settings):
    """Result of work with a spread backend."""

    async def run():
        Inner.gate = asyncio.Event()
        backend = Cluster(**settings).spread({"inner": partial(Inner, limit=limit)})["inner"]
        try:
            return await work(backend)
        finally:
            await backend.close()

    return asyncio.run(run())


async def until(true):
    """Wait for a state of affairs that must come."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0)


def test_replies_belong_to_whom_they_belong_and_go_in_batches(ray):
    requests = [ask("x" * n) for n in range(1, 1001)]

    async def many(backend):
        return await asyncio.gather(*map(backend.reply, requests))

    replies = on(many, limit=500)
    assert [reply.text for reply in replies] == [f"{r.messages[-1][1]}/{r.seed}" for r in requests]
    assert [count for name, count in ray.log if name == "ask"] == [256, 256, 244, 244]
    assert ray.inits[0][0] == "local"
    assert ray.actors[0].settings["max_restarts"] == -1


def test_says_what_the_inner_backend_says(ray):  # noqa: ARG001
    backend = Cluster(workers=3).spread({"inner": partial(Inner, limit=5)})["inner"]
    assert (backend.name, backend.limit, backend.timeout, backend.redundant) == ("inner", 15, 7.0, True)
    assert (backend.has_logprobs, backend.samples("few"), backend.samples("m")) == (True, 3, None)
    assert backend.fingerprint("m") == "same m"
    assert on(lambda b: b.served()) == ("m", "n")


@pytest.mark.parametrize("number", range(len(FAILURES)))
def test_errors_come_back_as_they_are(ray, number):  # noqa: ARG001
    failure = FAILURES[number]
    with pytest.raises(type(failure), match=re.escape(str(failure))) as caught:
        on(lambda b: b.reply(ask(f"fail{number}")))
    assert type(caught.value) is type(failure)
    assert vars(caught.value) == vars(failure)


def test_bug_keeps_its_traceback_and_spoils_no_other(ray):  # noqa: ARG001
    async def both(backend):
        return await asyncio.gather(backend.reply(ask("bug")), backend.reply(ask("good")), return_exceptions=True)

    bug, good = on(both)
    assert re.search(r"(?s)in reply.*ZeroDivisionError: a bug of ours", str(bug))
    assert good.text.startswith("good/")


def test_what_a_dead_worker_had_goes_to_the_others(ray):
    requests = [ask(f"wait{n}") for n in range(40)]

    async def bereaved(backend):
        replies = asyncio.gather(*map(backend.reply, requests))
        await until(lambda: Inner.started == 40)
        ray.held = True
        ray.actors[0].die()
        await until(lambda: Inner.started == 60)
        Inner.gate.set()
        return await replies

    replies = on(bereaved)
    assert [reply.text for reply in replies] == [f"wait{n}/{r.seed}" for n, r in enumerate(requests)]


def test_worker_that_comes_back_works_again(ray):
    async def bereaved(backend):
        first = asyncio.ensure_future(backend.reply(ask("wait")))
        await until(lambda: Inner.started == 1)
        ray.actors[0].die()
        await until(lambda: Inner.started == 2)
        Inner.gate.set()
        return [await first, await backend.reply(ask("next"))]

    assert [reply.text[:4] for reply in on(bereaved, workers=1)] == ["wait", "next"]
    assert ray.actors[0].deaths == 2  # the last of them at the end


def test_request_under_which_workers_die_is_given_up(ray):
    async def poisonous(backend):
        call = asyncio.ensure_future(backend.reply(ask("wait")))
        for time in range(3):
            await until(lambda time=time: Inner.started == time + 1)
            for actor in ray.actors:
                actor.die()
        await call

    with pytest.raises(BackendDown, match="3 workers died while they had this request"):
        on(poisonous)


def test_no_request_waits_for_another_of_its_batch(ray):  # noqa: ARG001
    async def quick_and_slow(backend):
        slow = asyncio.ensure_future(backend.reply(ask("wait")))
        quick = await backend.reply(ask("quick"))
        assert not slow.done()
        Inner.gate.set()
        return quick, await slow

    assert [reply.text[:4] for reply in on(quick_and_slow, workers=1)] == ["quic", "wait"]


def test_worker_has_no_more_than_its_backend_takes(ray):
    async def crowd(backend):
        ray.held = True
        replies = asyncio.gather(*(backend.reply(ask(f"wait{n}")) for n in range(20)))
        await until(lambda: len(ray.actors) == 2)
        ray.actors[0].let_up()
        await until(lambda: Inner.started == 10)
        for _ in range(100):
            await asyncio.sleep(0)
        assert Inner.started == 10
        ray.actors[1].let_up()
        await until(lambda: Inner.started == 20)
        Inner.gate.set()
        return await replies

    assert len(on(crowd, limit=10)) == 20


def test_cancelled_request_is_left_off_there_too(ray):  # noqa: ARG001
    async def cancel_one(backend):
        calls = [asyncio.ensure_future(backend.reply(ask(f"wait{n}"))) for n in range(3)]
        await until(lambda: Inner.started == 3)
        calls[1].cancel()
        await until(lambda: Inner.cancelled == 1)
        Inner.gate.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    assert [type(reply) for reply in on(cancel_one)] == [Reply, asyncio.CancelledError, Reply]


def test_lack_of_logprobs_that_a_worker_finds_out_is_known_here(ray):  # noqa: ARG001
    async def blind(backend):
        await backend.reply(ask("blind"))
        return backend.has_logprobs

    assert on(blind) is False


def test_other_weights_there_are_refused(ray):
    async def changed(backend):
        backend.fingerprint("m")
        backend._here.weights = "mine"
        backend._fingerprint.cache_clear()
        await backend.reply(ask("x"))

    with pytest.raises(
        BackendRefused, match=r"another model 'm' on .*'same m'\) than where the search runs \('mine m'\)"
    ):
        on(changed)
    assert not ray.running


def test_no_worker_for_too_long_is_refused_with_what_it_needs(ray):
    ray.held = True
    with pytest.raises(BackendRefused, match=r"no worker in 0.01 s; each needs 0.5 CPUs and 2 GPUs of one machine"):
        on(lambda b: b.reply(ask("x")), start_limit=0.01, gpus=2)


def test_workers_that_cannot_be_made_are_refused(ray):
    async def gone(backend):
        ray.held = True
        call = asyncio.ensure_future(backend.reply(ask("x")))
        await until(lambda: len(ray.actors) == 2)
        for actor in ray.actors:
            actor.die(for_good=True)
        with pytest.raises(
            BackendRefused, match=r"cannot be started again: The actor died.*agentgraph must be installed"
        ):
            await call
        await backend.reply(ask("x"))

    with pytest.raises(BackendRefused, match="the workers of the cluster are gone"):
        on(gone)


@pytest.mark.parametrize(
    "refusal", [ConnectionError("no such head"), RuntimeError("Version mismatch"), RayActorError("no")]
)
def test_cluster_that_cannot_be_joined_is_refused_and_may_be_tried_again(ray, refusal):
    async def twice(backend):
        ray.refusal = refusal
        with pytest.raises(BackendRefused, match=rf"cluster.address=auto: {refusal}; 'ray status' there"):
            await backend.reply(ask("x"))
        ray.refusal = None
        return await backend.reply(ask("x"))

    assert on(twice, address="auto").text.startswith("x/")
    assert [address for address, _ in ray.inits] == ["auto"] * 2


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nobody_at_the_address_is_refused_before_ray_waits_for_it(ray, scheme):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BackendRefused, match=f"cluster.address={address}: .*Connection refused"):
            on(lambda b: b.reply(ask("x")), address=address)
    assert not ray.inits


def test_close_ends_what_it_started_and_no_more(ray):
    on(lambda b: b.reply(ask("x")))
    assert not ray.running
    assert all(actor.gone for actor in ray.actors)
    assert Inner.closed == 2  # the one that was used there, and the one here
    ray.running = True  # somebody else's
    on(lambda b: b.reply(ask("x")))
    assert ray.running
    assert len(ray.inits) == 1


def test_backends_share_the_workers_until_the_last_is_closed(ray):
    async def two():
        backends = Cluster().spread({"one": Inner, "other": Inner})
        replies = [await backend.reply(ask("x")) for backend in backends.values()]
        await backends["one"].close()
        await backends["one"].close()
        replies.append(await backends["other"].reply(ask("x")))
        assert ray.running
        await backends["other"].close()
        return replies

    assert len({reply.text for reply in asyncio.run(two())}) == 1
    assert len(ray.actors) == 2
    assert not ray.running


def test_lives_again_on_another_loop_and_closes_without_a_call(ray):  # noqa: ARG001
    backend = Cluster().spread({"inner": Inner})["inner"]

    async def once():
        reply = await backend.reply(ask("x"))
        await backend.close()
        await backend.close()
        return reply

    assert asyncio.run(once()) == asyncio.run(once())
    asyncio.run(Cluster().spread({"inner": Inner})["inner"].close())


# ---- settings


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'cluster=ray needs Ray: pip install "agentgraph\[ray\]"'):
        Cluster()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("address", "", "cluster.address='' must be null, auto"),
        ("workers", 0, "cluster.workers=0 must be a whole number of at least 1"),
        ("workers", 1.5, "cluster.workers=1.5 must be a whole number"),
        ("cpus", -1, "cluster.cpus=-1 must be 0 or more"),
        ("gpus", "one", "cluster.gpus='one' must be 0 or more"),
        ("start_limit", 0, "cluster.start_limit=0 must be a positive number of seconds"),
    ],
)
def test_bad_settings(ray, setting, value, message):  # noqa: ARG001
    with pytest.raises(ConfigError, match=re.escape(message)):
        Cluster(**{setting: value})


def test_settings_build_a_spread_pool_and_no_key_travels(ray, monkeypatch):  # noqa: ARG001
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    pool = {"members": {"m": {"parameters": 1e9, "base_url": "http://127.0.0.1:9/v1", "api_key_env": "MY_KEY"}}}
    cluster = load("check", ["cluster=ray", "cluster.workers=3"]).cluster
    (model,), backends = build_models(OmegaConf.create(pool), cluster)
    alone = build_models(OmegaConf.create(pool))
    assert [model] == list(alone[0])
    backend = backends[model.backend]
    assert backend.limit == 3 * alone[1][model.backend].limit
    travels = pickle.dumps(backend._cluster._makers)
    assert b"MY_KEY" in travels
    assert b"sk-very-secret" not in travels
    made = [make() for make in travelled(backend._cluster._makers).values()]
    assert [server.url for server in made] == ["http://127.0.0.1:9/v1"]


@pytest.mark.parametrize(
    "spec",
    [
        {"members": {"m": {"parameters": 1e9, "base_url": "http://me:secret@127.0.0.1:9/v1"}}},
        {
            "backends": {"b": {"_target_": f"{Scripted.__module__}.Scripted", "script": [], "api_key": "secret"}},
            "members": {},
        },
    ],
)
def test_key_among_the_settings_is_refused(ray, spec, monkeypatch):  # noqa: ARG001
    spec["members"].setdefault("n", {"parameters": 1e9, "base_url": "http://127.0.0.1:9/v1"})
    monkeypatch.setattr("agentgraph.config.build", lambda _: None)
    with pytest.raises(ConfigError, match="would travel to the machines of the cluster; name the variable") as caught:
        build_models(OmegaConf.create(spec), OmegaConf.create({"_target_": "any"}))
    assert "secret" not in str(caught.value)


def test_run_goes_on_elsewhere():
    config = OmegaConf.create({"rounds": 3})  # of a run older than clusters
    _move(config, ["cluster=ray", "cluster.address=ray://head:10001"])
    assert (config.cluster.address, config.cluster.workers) == ("ray://head:10001", 2)
    _move(config, ["cluster.workers=5"])
    assert (config.cluster.address, config.cluster.workers) == ("ray://head:10001", 5)
    _move(config, ["cluster=none"])
    assert config.cluster == {}
    with pytest.raises(ConfigError, match=r"the key 'cluster\.workers' is unknown"):
        _move(config, ["cluster.workers=5"])
    with pytest.raises(ConfigError, match="cluster=dask is unknown; there are none, ray"):
        _move(config, ["cluster=dask"])


def test_recorded_models_are_not_spread(ray):  # noqa: ARG001
    with pytest.raises(ConfigError, match="choose cluster=none"):
        build_models(OmegaConf.create({"_target_": "any"}), OmegaConf.create({"_target_": "any"}))
