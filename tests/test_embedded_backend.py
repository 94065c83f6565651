"""The embedded backend: gathering on stand-ins, then the family itself."""

import asyncio
import hashlib
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from standin import EmbeddedStandIn, ask

from agentgraph.backends.embedded.backend import Embedded, fingerprints
from agentgraph.backends.embedded.network import Network, Shape
from agentgraph.backends.embedded.tokenizer import BOS, EOS, encode
from agentgraph.errors import BackendError, BackendRefused, ConfigError, TaskError
from agentgraph.request import Request, Settings
from agentgraph.tasks import calc, recall


def replies(backend, requests):
    """Replies, or what was raised, in order."""

    async def run():
        try:
            return await asyncio.gather(*map(backend.reply, requests), return_exceptions=True)
        finally:
            await backend.close()

    return asyncio.run(run())


def reply(backend, request):
    (result,) = replies(backend, [request])
    if isinstance(result, BaseException):
        raise result
    return result


def test_what_waits_becomes_one_batch(tmp_path):
    backend = EmbeddedStandIn(tmp_path, batch=256)
    requests = [ask(f"q{i:03d}", "a", sample=i) for i in range(100)]
    results = replies(backend, requests)
    assert [len(batch) for batch in backend.stand_ins["a"].batches] == [100]
    for i, (request, result) in enumerate(zip(requests, results, strict=True)):
        assert result.text == f"q{i:03d}"[::-1] + f"/{request.seed}"
        assert (result.prompt_tokens, result.output_tokens, result.logprob, result.finish) == (5, 4, -0.5, "stop")
    assert backend.stand_ins["a"].threads == {"agentgraph-embedded"}


def test_batches_hold_one_model_and_one_length_and_the_largest_goes_first(tmp_path):
    backend = EmbeddedStandIn(tmp_path, batch=16)
    requests = [ask("x" * (1 + i % 3), "ab"[i % 2], sample=i) for i in range(60)]
    requests += [ask("yyyyyy", "b", sample=i) for i in range(40)]
    replies(backend, requests)
    batches = {name: stand_in.batches for name, stand_in in backend.stand_ins.items()}
    assert all(len({len(prompt) for prompt in batch}) == 1 for name in "ab" for batch in batches[name])
    assert [len(batch) for batch in batches["b"]][:2] == [16, 16]
    assert batches["b"][0] == ["yyyyyy"] * 16
    assert sum(len(batch) for name in "ab" for batch in batches[name]) == 100
    assert len(batches["a"]) + len(batches["b"]) == 3 + 6


def test_what_a_batch_sets_off_is_gathered_too(tmp_path):
    backend = EmbeddedStandIn(tmp_path)

    async def chain(i):
        for step in range(5):
            await backend.reply(ask(f"{step}-{i:02d}", "a"))
            await asyncio.sleep(0)  # as when a node hands on to the next

    async def run():
        await asyncio.gather(*(chain(i) for i in range(50)))
        await backend.close()

    asyncio.run(run())
    assert [len(batch) for batch in backend.stand_ins["a"].batches] == [50] * 5


def test_more_gather_while_a_batch_runs(tmp_path):
    backend = EmbeddedStandIn(tmp_path)
    stand_in = backend.stand_ins["a"]

    async def run():
        stand_in.may_go.clear()
        first = asyncio.ensure_future(backend.reply(ask("one", "a")))
        while not stand_in.batches:
            await asyncio.sleep(0.001)
        others = []
        for i in range(20):  # the loop goes on, and each arrives in a turn of its own
            others.append(asyncio.ensure_future(backend.reply(ask(f"{i:03d}", "a"))))
            await asyncio.sleep(0)
        stand_in.may_go.set()
        await asyncio.gather(first, *others)
        await backend.close()

    asyncio.run(run())
    assert [len(batch) for batch in stand_in.batches] == [1, 20]


def test_unreadable_question_is_named_and_spoils_no_other(tmp_path):
    backend = EmbeddedStandIn(tmp_path)
    texts = ["aaaa", "What", "bbbb", "cccc", "WWWW", "dddd"]
    results = replies(backend, [ask(text, "a") for text in texts])
    assert [isinstance(result, TaskError) for result in results] == [text in ("What", "WWWW") for text in texts]
    assert "model 'a' cannot be asked 'What': the embedded models have no token for 'W'" in str(results[1])
    assert "name others with models=" in str(results[1])
    assert results[5].text.startswith("dddd/")


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (RuntimeError("CUDA out of memory"), BackendError, r"model 'a' failed on a batch of 3 \(CUDA out of memory\)"),
        (KeyError("a bug"), KeyError, "a bug"),
    ],
)
def test_failure_in_the_thread_reaches_all_who_wait_and_the_thread_lives_on(tmp_path, failure, kind, message):
    backend = EmbeddedStandIn(tmp_path)
    stand_in = backend.stand_ins["a"]

    async def run():
        stand_in.failure = failure
        failed = await asyncio.gather(*(backend.reply(ask(t, "a")) for t in "xyz"), return_exceptions=True)
        stand_in.failure = None
        good = await backend.reply(ask("x", "a"))
        await backend.close()
        return failed, good

    failed, good = asyncio.run(run())
    assert good.text.startswith("x/")
    for one in failed:
        with pytest.raises(kind, match=message):
            raise one


def test_close_stops_the_thread_and_cancels_what_waits(tmp_path):
    backend = EmbeddedStandIn(tmp_path)

    async def run():
        backend.stand_ins["a"].may_go.clear()
        running = asyncio.ensure_future(backend.reply(ask("x", "a")))
        while not backend.stand_ins["a"].batches:
            await asyncio.sleep(0.001)
        waiting = asyncio.ensure_future(backend.reply(ask("y", "a")))
        await asyncio.sleep(0)
        threading.Timer(0.05, backend.stand_ins["a"].may_go.set).start()
        await backend.close()
        return await asyncio.gather(running, waiting, return_exceptions=True)

    done, cancelled = asyncio.run(run())
    assert done.text.startswith("x/")
    assert isinstance(cancelled, asyncio.CancelledError)
    assert "agentgraph-embedded" not in {thread.name for thread in threading.enumerate()}


def test_prompt_is_the_last_user_message(tmp_path):
    messages = (("system", "be brief"), ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "no"))
    request = Request("a", "f", messages, Settings(max_tokens=4))
    assert reply(EmbeddedStandIn(tmp_path), request).text.startswith("eerht/")
    request = Request("a", "f", (("system", "be brief"),), Settings(max_tokens=4))
    with pytest.raises(TaskError, match=r"got messages by \['system'\]"):
        reply(EmbeddedStandIn(tmp_path), request)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"top_p": 0.9}, r"has no top_p, got 0\.9; set top_p to 1"), ({"max_tokens": None}, "needs max_tokens, got None")],
)
def test_settings_it_does_not_have(tmp_path, settings, message):
    with pytest.raises(BackendRefused, match=message):
        reply(EmbeddedStandIn(tmp_path), ask(model="a", **settings))


@pytest.mark.parametrize(
    ("settings", "shown"), [({"limit": 0}, "limit=0"), ({"batch": 0}, "batch=0"), ({"device": "tpu"}, "device='tpu'")]
)
def test_bad_settings(settings, shown):
    with pytest.raises(ConfigError, match=shown):
        Embedded(**settings)


def test_damaged_and_missing_weights(tmp_path):
    damaged = Embedded(folder=EmbeddedStandIn(tmp_path).folder)
    with pytest.raises(BackendRefused, match=r"cannot load .*/a on cpu"):
        reply(damaged, ask(model="a"))
    empty = Embedded(folder=tmp_path / "nowhere")
    with pytest.raises(BackendRefused, match="nowhere holds no models"):
        asyncio.run(empty.served())
    with pytest.raises(BackendRefused, match=r"nowhere holds \[\], not 'a'"):
        empty.fingerprint("a")


def test_fingerprints_follow_the_weights(tmp_path):
    backend = EmbeddedStandIn(tmp_path)
    expected = {name: hashlib.sha256(name.encode()).hexdigest()[:16] for name in "ab"}
    assert fingerprints(tmp_path) == expected
    assert backend.fingerprint("b") == expected["b"]
    (tmp_path / "a" / "model.safetensors").write_bytes(b"other weights")
    assert fingerprints(tmp_path)["a"] != expected["a"]
    assert fingerprints(tmp_path)["b"] == expected["b"]


# From here on the family itself, as it ships.

MODELS = ("a-large", "a-medium", "a-small", "b-large", "b-medium", "b-small")


def mixed_requests(model, n=60):
    """Solve, refine and fuse prompts of both tasks, of several lengths, sampled and greedy."""
    rng = np.random.default_rng(5)
    questions = list(zip(calc.sample_questions(rng, n), recall.sample_questions(rng, n), strict=True))
    forms = ("SC:{0}", "SK:{1}", "RC123|:{0}", "FK123|456|:{1}", "FC123|456|789|:{0}")
    return [
        ask(forms[i % 5].format(*pair), model, sample=i, temperature=float(i % 3 > 0), max_tokens=20)
        for i, pair in enumerate(questions)
    ]


def test_family_is_served_with_distinct_fingerprints():
    assert asyncio.run(Embedded().served()) == MODELS
    assert len(set(fingerprints().values())) == len(MODELS)


@pytest.mark.parametrize("model", ["a-small", "b-large"])
def test_replies_and_log_probabilities_are_bit_equal_in_any_batch(model):
    requests = mixed_requests(model)
    together = replies(Embedded(device="cpu"), requests)
    backwards = replies(Embedded(device="cpu", batch=7), requests[::-1])[::-1]
    backend = Embedded(device="cpu")

    async def one_by_one():
        single = [await backend.reply(request) for request in requests[:20]]
        await backend.close()
        return single

    alone = asyncio.run(one_by_one())
    assert len({result.text for result in together}) > 20

    def bits(result):
        return result.text, result.output_tokens, result.prompt_tokens, result.finish, result.logprob.hex()

    assert [*map(bits, together)] == [*map(bits, backwards)]
    assert [*map(bits, together[:20])] == [*map(bits, alone)]


def test_log_probability_is_that_of_the_network_at_temperature_one():
    """Recomputed by the network as it was trained, in one pass over prompt and reply."""
    backend = Embedded(device="cpu")
    requests = mixed_requests("a-medium", 25)
    results = replies(backend, requests)
    state = load_file(backend.folder / "a-medium" / "model.safetensors")
    network = Network(Shape(64, state["model.layers.0.mlp.up_proj.weight"].shape[0], 2), torch.Generator())
    network.load_state_dict({name.removeprefix("model."): value.float() for name, value in state.items()})
    for request, result in zip(requests, results, strict=True):
        output = encode(result.text) + [EOS] * (result.finish == "stop")
        tokens = torch.tensor([[BOS, *encode(request.messages[-1][1]), *output]])
        with torch.inference_mode():
            log_probs = torch.log_softmax(network(tokens[:, :-1], len(output)).double(), -1)[0]
        expected = log_probs.gather(1, torch.tensor(output)[:, None]).sum().item()
        assert len(output) == result.output_tokens
        assert result.prompt_tokens == tokens.shape[1] - len(output)
        assert result.logprob == pytest.approx(expected, abs=1e-4)


def test_greedy_replies_do_not_depend_on_the_seed():
    requests = [ask("SC:06*02*04*02*08*853", "b-large", sample=i, temperature=0.0, max_tokens=20) for i in range(2)]
    requests[1] = Request("b-large", "f", requests[1].messages, requests[1].settings, run_seed=9)
    first, second = replies(Embedded(device="cpu"), requests)
    assert first.text == second.text


def test_question_the_family_cannot_read():
    with pytest.raises(TaskError, match=r"cannot be asked 'What is 2\+2\?': .*no token for 'W'"):
        reply(Embedded(device="cpu"), ask("What is 2+2?", "a-small"))
    with pytest.raises(TaskError, match="the prompt has 300 tokens"):
        reply(Embedded(device="cpu"), ask("1" * 300, "a-small"))
