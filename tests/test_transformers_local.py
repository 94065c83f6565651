"""Models of transformers: what is gathered and drawn, on stand-ins; then real ones, where transformers is installed."""

import asyncio
import importlib.util
import itertools
import logging
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from standin import TransformersStandIn, ask

import agentgraph.backends.embedded
from agentgraph.backends.embedded.backend import Embedded
from agentgraph.backends.transformers_local import TransformersLocal, _Draws
from agentgraph.errors import BackendError, BackendRefused, ConfigError
from agentgraph.request import Request, Settings

WEIGHTS = Path(agentgraph.backends.embedded.__path__[0]) / "weights"


def replies(backend, requests):
    """Replies, or what was raised, in order."""

    async def work():
        try:
            return await asyncio.gather(*map(backend.reply, requests), return_exceptions=True)
        finally:
            await backend.close()

    return asyncio.run(work())


# ---- batches


def test_what_waits_is_one_batch_by_model_and_length():
    backend = TransformersStandIn(["a", "b"])
    texts = ["x" * 5, "y" * 7, "z" * 9]
    replies(backend, [ask(text, model) for text in texts for model in "ab"])
    assert sorted(backend.batches) == sorted([texts[:2], texts[2:]] * 2)
    assert sorted(backend.loaded) == ["a", "b"]


def test_no_batch_is_larger_than_allowed():
    backend = TransformersStandIn(batch=4)
    replies(backend, [ask(f"{i:02d}") for i in range(10)])
    assert [len(batch) for batch in backend.batches] == [4, 4, 2]


def test_schema_is_left_out_and_told_once(caplog):
    held = Request("m", "f", (("user", "x"),), Settings(max_tokens=8), schema={"type": "object"})
    with caplog.at_level(logging.WARNING):
        assert [reply.text for reply in replies(TransformersStandIn(), [held, held])] == ["x", "x"]
    (record,) = caplog.records
    assert record.getMessage() == "backend 'transformers_local' cannot hold a model to a JSON Schema: asking without"


def test_failure_of_a_batch():
    backend = TransformersStandIn(batch=7)
    backend.failure = RuntimeError("out of memory")
    for error in replies(backend, [ask("x"), ask("y")]):
        assert isinstance(error, BackendError)
        assert not error.retry
        told = "failed on a batch of 2 (RuntimeError: out of memory); lower batch=7 of backend 'transformers_local'"
        assert told in str(error)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"limit": 0}, "limit=0 and batch=32 must be at least 1"),
        ({"batch": 0}, "limit=256 and batch=0 must be"),
        ({"device": "tpu"}, "device='tpu' must be auto, cpu, cuda"),
        ({"models": {}}, r"models=\{\} must name one or more"),
        ({"models": {"m": "./nowhere"}}, "there is no ./nowhere"),
    ],
)
def test_bad_settings(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        TransformersLocal(**{"models": {"m": "org/m"}, **settings})


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    (error,) = replies(TransformersLocal({"m": "org/m"}), [ask()])
    assert isinstance(error, BackendRefused)
    assert "needs transformers, which cannot be imported" in str(error)
    assert "pip install 'agentgraph[hf]'" in str(error)


def test_fingerprint_is_of_what_the_model_is():
    def fingerprint(**arguments):
        return TransformersLocal({"m": {"model": "org/m", **arguments}}).fingerprint("m")

    assert fingerprint() == fingerprint(device_map="auto")
    assert len({fingerprint(), fingerprint(dtype="float32"), fingerprint(revision="abc")}) == 3


# ---- draws

LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0])
END = 3


def drawn(temperatures, top_ps=None, seeds=None, limits=None, logits=LOGITS):
    """The draws of rows that all see the same logits at each step, until they are done."""
    rows = len(temperatures)
    seeds = range(rows) if seeds is None else seeds
    draws = _Draws(temperatures, top_ps or [1.0] * rows, seeds, limits or [1] * rows, (END,))
    tokens = torch.zeros(rows, 1, dtype=torch.long)
    while not draws.finished(tokens, None).all():
        left = draws(tokens, logits.expand(rows, -1))
        assert (left.isfinite().sum(-1) == 1).all()
    return draws


def test_temperature_0_takes_the_most_likely():
    draws = drawn([0.0, 0.0], limits=[3, 1])
    assert draws.tokens == [[1, 1, 1], [1]]
    logprob = LOGITS.log_softmax(-1)[1].item()
    assert draws.logprobs == pytest.approx([3 * logprob, logprob])
    assert draws.ended == [False, False]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution_at_that_temperature(temperature):
    count = 20_000
    seen = Counter(row[0] for row in drawn([temperature] * count).tokens)
    wanted = (LOGITS / temperature).softmax(-1).tolist()
    for token, probability in enumerate(wanted):
        error = math.sqrt(probability * (1 - probability) / count)
        assert abs(seen[token] / count - probability) < 5 * error


def test_log_probability_is_at_temperature_1_and_counts_the_end():
    draws = drawn([3.0] * 50, limits=[20] * 50)
    known = LOGITS.log_softmax(-1)
    for tokens, logprob, ended in zip(draws.tokens, draws.logprobs, draws.ended, strict=True):
        assert logprob == pytest.approx(sum(known[token].item() for token in tokens), rel=1e-5)
        assert ended == (tokens[-1] == END)
        assert END not in tokens[:-1]
        assert ended or len(tokens) == 20
    assert any(draws.ended)


def test_top_p_keeps_the_fewest_that_reach_it():
    # Probabilities .64 (1), .24 (2), .09 (0), .03 (3): 0.7 takes two tokens, 0.6 one.
    def said(rows):
        return set(itertools.chain.from_iterable(rows))

    assert said(drawn([1.0] * 300, [0.7] * 300).tokens) == {1, 2}
    assert said(drawn([1.0] * 300, [0.6] * 300).tokens) == {1}
    mixed = drawn([1.0] * 300, [0.6] * 150 + [1.0] * 150)
    assert said(mixed.tokens[:150]) == {1}
    assert len(said(mixed.tokens[150:])) == 4


def test_a_row_draws_the_same_in_every_batch():
    seeds = list(np.random.default_rng(0).integers(0, 2**62, 20).tolist())
    together = drawn([1.0] * 20, seeds=seeds, limits=[8] * 20).tokens
    assert [drawn([1.0], seeds=[seed], limits=[8]).tokens[0] for seed in seeds] == together
    assert len(set(map(tuple, together))) > 10


# ---- real ones

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)


@pytest.mark.server
@needs_transformers
@pytest.mark.filterwarnings("ignore")
def test_real_model_says_what_the_embedded_backend_says():
    name = "a-small"
    texts = [f"SK:{a}{b}c" for a in "abcdef" for b in "abcdef"] + ["FK123|456|:abc"]
    greedy = [ask(text, name, temperature=0.0) for text in texts]
    sampled = [ask(text, name, sample=i) for i, text in enumerate(texts)]
    arguments = {"model": str(WEIGHTS / name), "dtype": "float32"}
    backend = TransformersLocal({name: arguments}, device="cpu")
    together = replies(backend, [*greedy, *sampled, ask("S" * 300, name)])
    alone = replies(TransformersLocal({name: arguments}, device="cpu", batch=1), sampled)
    for mine, theirs in zip(replies(Embedded(device="cpu"), greedy), together, strict=False):
        assert (mine.text, mine.finish) == (theirs.text, theirs.finish)
        assert (mine.prompt_tokens, mine.output_tokens) == (theirs.prompt_tokens, theirs.output_tokens)
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)
    assert [one.text for one in alone] == [one.text for one in together[len(texts) : -1]]
    assert isinstance(together[-1], BackendRefused)
    assert "model 'a-small' reads" in str(together[-1])


@pytest.mark.server
@needs_transformers
@pytest.mark.filterwarnings("ignore")
def test_real_folder_without_a_model(tmp_path):
    (error,) = replies(TransformersLocal({"m": str(tmp_path)}), [ask()])
    assert isinstance(error, BackendRefused)
    assert "transformers cannot load model 'm'" in str(error)
