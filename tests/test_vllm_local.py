"""In-process vLLM: what is handed on, on a stand-in; then the real engine, where it is installed."""

import asyncio
import importlib.util
import json
import logging
import os
import re
import sys
from pathlib import Path

import pytest
import tiny_model
from fake_vllm import RequestOutputKind, VLLMError
from standin import ask

import agentgraph.backends.embedded
from agentgraph.backends.embedded.backend import Embedded
from agentgraph.backends.vllm_local import VllmLocal
from agentgraph.config import build_search, load
from agentgraph.errors import BackendError, BackendRefused, ConfigError
from agentgraph.prompt import Prompt, render
from agentgraph.request import Request, Settings
from agentgraph.run import run
from agentgraph.run_folder import RunFolder
from agentgraph.tasks import recall

SCHEMA = {"title": "t", "type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}


def replies(backend, requests):
    """Replies, or what was raised, in order."""

    async def work():
        try:
            return await asyncio.gather(*map(backend.reply, requests), return_exceptions=True)
        finally:
            await backend.close()

    return asyncio.run(work())


def reply(backend, request):
    (result,) = replies(backend, [request])
    if isinstance(result, BaseException):
        raise result
    return result


def with_schema(text="x", schema=SCHEMA, max_tokens=8, model="m"):
    return Request(model, "f", (("user", text),), Settings(max_tokens=max_tokens), schema=schema)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


# ---- batches


def test_requests_join_and_leave_the_batch_at_every_step(vllm):
    backend = VllmLocal({"m": "org/m"})

    async def work():
        vllm.may_go.clear()
        long = asyncio.ensure_future(backend.reply(ask("long", max_tokens=6)))
        await until(lambda: vllm.engines and vllm.engines[0].steps)
        # They arrive while a step runs, each in a turn of its own.
        short = []
        for i in range(20):
            short.append(asyncio.ensure_future(backend.reply(ask(f"{i:02d}", max_tokens=2))))
            await asyncio.sleep(0)
        vllm.may_go.set()
        await asyncio.gather(long, *short)
        await backend.close()

    asyncio.run(work())
    (engine,) = vllm.engines
    shorts = [f"{i:02d}" for i in range(20)]
    assert engine.steps == [["long"], ["long", *shorts], ["long", *shorts], ["long"], ["long"], ["long"]]
    assert engine.threads == {"agentgraph-vllm"}
    assert engine.closed


def test_each_model_has_its_engine_and_they_take_turns_in_one_thread(vllm):
    backend = VllmLocal({"a": "org/a", "b": {"model": "org/b", "max_model_len": 50}, "never": "org/never"})
    results = replies(backend, [ask(f"q{i}", "ab"[i % 2], sample=i) for i in range(10)])
    assert [result.text[:2] for result in results] == [f"{i}q" for i in range(10)]
    assert {engine.arguments.model for engine in vllm.engines} == {"org/a", "org/b"}
    assert {name for engine in vllm.engines for name in engine.threads} == {"agentgraph-vllm"}


def test_cancelled_request_leaves_the_engine(vllm):
    backend = VllmLocal({"m": "org/m"})

    async def work():
        vllm.may_go.clear()
        first, second = (asyncio.ensure_future(backend.reply(ask(text, max_tokens=4))) for text in "xy")
        await until(lambda: vllm.engines and vllm.engines[0].live)
        first.cancel()
        await asyncio.sleep(0)
        vllm.may_go.set()
        good = await second
        await backend.close()
        return good

    assert asyncio.run(work()).text.startswith("y/")
    (engine,) = vllm.engines
    assert engine.aborted == ["1"]
    assert engine.steps[-1] == ["y"]


def test_close_cancels_what_waits_and_shuts_the_engine_down(vllm):
    backend = VllmLocal({"m": "org/m"})

    async def work():
        waiting = asyncio.ensure_future(backend.reply(ask("x", max_tokens=10**9)))
        await until(lambda: vllm.engines and vllm.engines[0].steps)
        await backend.close()
        return await asyncio.gather(waiting, return_exceptions=True)

    (outcome,) = asyncio.run(work())
    assert isinstance(outcome, asyncio.CancelledError)
    assert vllm.engines[0].closed


# ---- what is asked and what comes back


def test_settings_seed_and_logprobs_are_handed_on(vllm):
    requests = [ask("q", sample=i, temperature=0.3, top_p=0.9, max_tokens=5) for i in range(3)]
    results = replies(VllmLocal({"m": "org/m"}), requests)
    (engine,) = vllm.engines
    assert sorted(one.seed for one in engine.asked) == sorted(request.seed for request in requests)
    for one in engine.asked:
        assert (one.temperature, one.top_p, one.max_tokens, one.logprobs) == (0.3, 0.9, 5, 0)
        assert one.output_kind is RequestOutputKind.FINAL_ONLY
        assert one.structured_outputs is None
    for request, result in zip(requests, results, strict=True):
        assert result.text == f"q/{request.seed}"
        assert (result.prompt_tokens, result.output_tokens, result.finish) == (2, 5, "length")
        assert result.logprob == -1.25
        assert result.seconds >= 0


def test_logprobs_are_those_at_temperature_one(vllm):
    reply(VllmLocal({"m": "org/m"}), ask())
    assert vllm.engines[0].arguments.logprobs_mode == "raw_logprobs"


@pytest.mark.parametrize(("value", "expected"), [(None, None), (float("-inf"), None), (1e-9, 0.0), (-2.5, -2.5)])
def test_logprob_that_is_no_number_is_unknown(vllm, value, expected):
    vllm.logprob = lambda _: value
    assert reply(VllmLocal({"m": "org/m"}), ask()).logprob == expected


def test_tokenizer_makes_the_chat_form(vllm):
    backend = VllmLocal({"m": {"model": "org/m", "chat_template_kwargs": {"enable_thinking": False}}})
    reply(backend, ask("half of a pair: \ud83d"))
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False, "enable_thinking": False}
    assert vllm.engines[0].templates == [options]
    assert vllm.engines[0].steps[0] == ["half of a pair: ?"]


def test_schema_is_handed_on(vllm):
    reply(VllmLocal({"m": "org/m"}), with_schema())
    assert vllm.engines[0].asked[0].structured_outputs.json == SCHEMA


@pytest.mark.parametrize("failure", [ValueError("unsupported feature"), VLLMError("unsupported feature")])
def test_schema_that_is_refused_is_left_out_and_said_once(vllm, caplog, failure):
    vllm.schema_failure = failure
    with caplog.at_level(logging.WARNING):
        results = replies(VllmLocal({"m": "org/m"}), [with_schema("x"), with_schema("y")])
    assert [result.text[:2] for result in results] == ["x/", "y/"]
    assert [one.structured_outputs for one in vllm.engines[0].asked] == [None, None]
    (record,) = caplog.records
    assert f"cannot hold 'm' to a JSON Schema ({type(failure).__name__}: unsupported feature)" in record.getMessage()


def test_schema_is_not_blamed_for_a_prompt_that_is_too_long(vllm):
    backend = VllmLocal({"m": "org/m"})
    results = replies(backend, [with_schema("x" * 200), with_schema("y")])
    assert isinstance(results[0], BackendRefused)
    assert vllm.engines[0].asked[0].structured_outputs.json == SCHEMA


# ---- engine arguments


@pytest.mark.parametrize("cpu", [True, False])
def test_arguments_that_are_sound_unless_told_otherwise(vllm, cpu):
    vllm.cpu = cpu
    reply(VllmLocal({"m": "org/m"}), ask())
    reply(VllmLocal({"m": {"model": "org/m", "enable_chunked_prefill": True, "tensor_parallel_size": 2}}), ask())
    plain, told = (engine.arguments for engine in vllm.engines)
    assert plain.enable_chunked_prefill is (False if cpu else None)
    assert plain.distributed_executor_backend == "uni"
    assert told.enable_chunked_prefill is True
    assert told.distributed_executor_backend is None
    assert plain.structured_outputs_config == {"backend": "xgrammar", "disable_any_whitespace": True}


@pytest.mark.usefixtures("vllm")
def test_environment_of_the_engine_is_set_where_nobody_did(monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    reply(VllmLocal({"m": "org/m"}), ask())
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_folder_is_handed_on_as_a_path(vllm, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    reply(VllmLocal({"m": "~/mine"}), ask())
    assert vllm.engines[0].arguments.model == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ({}, r"models=\{\} must name one or more"),
        (None, "models=None must name one or more"),
        ({"m": 3}, "model 'm': 3 names no model; give a folder or Hugging Face id"),
        ({"m": {"max_model_len": 5}}, "names no model"),
        ({"m": {"model": ""}}, "names no model"),
        ({"m": {"model": "x", "logprobs_mode": "processed_logprobs"}}, "must not set logprobs_mode"),
        ({"m": {"model": "x", "chat_template_kwargs": 3}}, "chat_template_kwargs=3 must be a mapping"),
        ({"m": "/nowhere/at/all"}, "there is no /nowhere/at/all; give a folder that is there"),
    ],
)
def test_bad_models(models, expected):
    with pytest.raises(ConfigError, match=expected):
        VllmLocal(models)


def test_bad_limit():
    with pytest.raises(ConfigError, match="limit=0 must be at least 1"):
        VllmLocal({"m": "x"}, limit=0)


# ---- failures


@pytest.mark.usefixtures("vllm")
def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    backend = VllmLocal({"m": "org/m"})
    for ask_it in (lambda: reply(backend, ask()), lambda: asyncio.run(backend.served())):
        with pytest.raises(BackendRefused, match=r"needs vLLM, .* pip install 'agentgraph\[vllm\]'") as caught:
            ask_it()
        assert not caught.value.retry


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (
            ValueError("no memory for the cache"),
            "vLLM cannot run model 'm' .*no memory for the cache.*'max_model_len': 50",
        ),
        (OSError("org/m is not a local folder"), "org/m is not a local folder"),
        (RuntimeError("CUDA out of memory"), "CUDA out of memory"),
    ],
)
def test_engine_that_does_not_start_is_tried_once_and_refuses_all(vllm, failure, expected):
    vllm.start_failure = failure
    backend = VllmLocal({"m": {"model": "org/m", "max_model_len": 50}})
    results = replies(backend, [ask("x"), ask("y")])
    assert results[0] is results[1]
    assert isinstance(results[0], BackendRefused)
    assert re.search(expected, str(results[0]))


@pytest.mark.usefixtures("vllm")
def test_unknown_engine_argument_is_named():
    with pytest.raises(BackendRefused, match="unexpected keyword argument 'max_length'"):
        reply(VllmLocal({"m": {"model": "org/m", "max_length": 5}}), ask())


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("text", "expected"), [("x" * 200, "longer than the maximum"), ("no template", "chat_template is not set")]
)
def test_prompt_that_cannot_be_asked_spoils_no_other(text, expected):
    results = replies(VllmLocal({"m": "org/m"}), [ask("a"), ask(text), ask("b")])
    assert isinstance(results[1], BackendRefused)
    assert re.search(f"model 'm' cannot be asked this .*{expected}", str(results[1]))
    assert [results[i].text[0] for i in (0, 2)] == ["a", "b"]


def test_engine_that_fails_is_not_asked_again_and_others_go_on(vllm):
    backend = VllmLocal({"a": "org/a", "b": "org/b"})

    async def work():
        await backend.reply(ask("x", "b"))
        vllm.failure = RuntimeError("out of memory")
        failed = await asyncio.gather(*(backend.reply(ask(t, "a")) for t in "xyz"), return_exceptions=True)
        vllm.failure = None
        again = await asyncio.gather(backend.reply(ask("x", "a")), return_exceptions=True)
        good = await backend.reply(ask("y", "b"))
        await backend.close()
        return failed + again, good

    failed, good = asyncio.run(work())
    assert good.text.startswith("y/")
    for one in failed:
        assert isinstance(one, BackendError)
        assert not one.retry
        assert re.search(r"the engine of model 'a' failed on \d requests \(RuntimeError: out of memory\)", str(one))
    assert len(vllm.engines) == 2


def test_request_that_vllm_gives_up_may_be_tried_again(vllm):
    vllm.finish_reason = "abort"
    with pytest.raises(BackendError, match=r"gave up a request to model 'm' \(abort\)") as caught:
        reply(VllmLocal({"m": "org/m"}), ask())
    assert caught.value.retry


# ---- fingerprint


def model_folder(path, weights=b"weights", **config):
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(weights)
    (path / "config.json").write_text(json.dumps(config))
    return path


def fingerprint(model, **arguments):
    return VllmLocal({"m": {"model": str(model), **arguments}}).fingerprint("m")


def test_fingerprint_is_of_what_the_model_is(tmp_path):
    plain = fingerprint(model_folder(tmp_path / "one"))
    assert fingerprint(model_folder(tmp_path / "deeper" / "two")) == plain
    assert fingerprint(tmp_path / "one", gpu_memory_utilization=0.4, max_num_seqs=3) == plain
    (tmp_path / "one" / "README.md").write_text("words")
    others = [
        fingerprint(model_folder(tmp_path / "three", b"Weights")),
        fingerprint(model_folder(tmp_path / "four", layers=2)),
        fingerprint(tmp_path / "one", dtype="float32"),
        fingerprint(tmp_path / "one", chat_template_kwargs={"enable_thinking": False}),
        fingerprint("org/m"),
        fingerprint("org/m", revision="abc"),
    ]
    assert fingerprint(tmp_path / "one") == plain
    assert len({plain, *others}) == 7
    assert fingerprint("org/m").startswith("org/m ")


def test_fingerprint_of_large_files_sees_their_samples_and_size(tmp_path):
    seen = []
    for number, (size, at) in enumerate([(2**28 + 9, None), (2**28 + 9, 2**22 + 5), (2**28 + 10, None)]):
        path = model_folder(tmp_path / str(number))
        with (path / "model.safetensors").open("wb") as file:
            file.truncate(size)  # sparse: takes no room
            if at is not None:
                file.seek(at)
                file.write(b"x")
        seen.append(fingerprint(path))
    assert len(set(seen)) == 3


# ---- the real one

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
WEIGHTS = Path(agentgraph.backends.embedded.__path__[0]) / "weights"
TINY = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 2**27}


def solve(name, question, **settings):
    text = render("embedded", Prompt("solve", recall.TAG, "", "", question))
    settings = {"temperature": 0.0, "max_tokens": recall.MAX_OUTPUT_TOKENS, **settings}
    return Request(name, name, text, Settings(**settings))


@pytest.mark.server
@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_real_engine(babbler):
    """One test, for vLLM takes long to start: greedy, seeded, log-probabilities, schema, refusal."""
    import numpy as np

    name = "a-small"
    questions = recall.sample_questions(np.random.default_rng(0), 60)
    greedy = [solve(name, question) for question in questions]
    sampled = [
        Request(name, name, one.messages, Settings(temperature=0.5, max_tokens=one.settings.max_tokens), sample=i)
        for i, one in enumerate(greedy)
    ]
    held = [with_schema(f"Say {i}.", max_tokens=40, model="babbler") for i in range(4)]
    backend = VllmLocal({name: {"model": str(WEIGHTS / name), **TINY}, "babbler": {"model": str(babbler), **TINY}})

    async def work():
        try:
            together = await asyncio.gather(*map(backend.reply, [*greedy, *sampled, *held]))
            alone = [await backend.reply(one) for one in sampled[:5]]
            refused = await asyncio.gather(backend.reply(solve(name, "x" * 300)), return_exceptions=True)
            return together, alone, refused[0]
        finally:
            await backend.close()

    together, alone, refused = asyncio.run(work())
    ours = replies(Embedded(device="cpu"), greedy)
    n = len(greedy)
    for mine, theirs in zip(ours, together[:n], strict=True):
        assert (mine.text, mine.finish) == (theirs.text, theirs.finish)
        assert (mine.prompt_tokens, mine.output_tokens) == (theirs.prompt_tokens, theirs.output_tokens)
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)
    # The same text has the same log-probability whatever temperature it was drawn at.
    drawn = [(one, best) for one, best in zip(together[n : 2 * n], ours, strict=True) if one.text == best.text]
    assert len(drawn) > 5
    assert all(one.logprob == pytest.approx(best.logprob, abs=1e-3) for one, best in drawn)
    assert [(one.text, one.logprob) for one in alone] == [(one.text, one.logprob) for one in together[n : n + 5]]
    for one in together[2 * n :]:
        assert json.loads(one.text) in ({"a": 1}, {"a": 2})
    assert isinstance(refused, BackendRefused)
    assert "model 'a-small' cannot be asked this" in str(refused)


@pytest.mark.server
@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_real_search_whose_agent_runs_in_this_process(tmp_path):
    babbler = tiny_model.make(tmp_path / "babbler", brief=-6.0)  # it never ends, and is cut
    served = {name: {"model": str(WEIGHTS / name), **TINY} for name in ("a-small", "b-small")}
    served["babbler"] = {"model": str(babbler), **TINY}
    config = load(
        "search",
        [
            "task=recall",
            "task.sizes={train: 32, validation: 16, test: 16}",
            *("rounds=2", "plans_per_round=3", "questions_per_round=8", "finalists=2"),
            *("models=embedded", "agent=language_model", "agent.max_tokens=64"),
            "+models.members.babbler={parameters: 200000, backend: local}",
            *(f"~models.members.{name}" for name in ("a-medium", "b-medium", "a-large", "b-large")),
            *(f"models.members.{name}.backend=local" for name in ("a-small", "b-small")),
            "agent.model=babbler",
            "+models.backends.local={_target_: agentgraph.backends.vllm_local.VllmLocal}",
            f"+models.backends.local.models={json.dumps(served).replace(chr(34), '')}",
        ],
    )
    result = run(build_search(config), folder=RunFolder(tmp_path / "run"))
    summary = result.summary
    # A choice of mixes and a feedback, or two feedbacks: asked three times each, none of which made sense.
    assert sum(summary["agent_rejects"].values()) == summary["agent_calls"] == 6
    assert summary["agent_tokens"] > 0
    assert {trial.number for trial in result.archive.trials if trial.marks}
    assert (tmp_path / "run" / "best.json").exists()
