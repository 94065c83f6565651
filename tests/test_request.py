"""When two requests are the same."""

import dataclasses
import hashlib
import json

import pytest
from standin import ask

from agentgraph.request import Reply, Request, Settings, stable_hash

SCHEMA = {"type": "object", "properties": {"a": {"type": "number"}}}


def test_a_schema_makes_another_request():
    plain = ask()
    one, same, other = (dataclasses.replace(plain, schema=schema) for schema in (SCHEMA, dict(SCHEMA), {}))
    assert one.key == same.key
    assert len({plain.key, one.key, other.key}) == 3
    assert hash(one) == hash(same)
    assert dataclasses.replace(one, schema=None) == plain
    assert dataclasses.replace(one, schema=None).key == plain.key


def test_keys_of_requests_without_a_schema_stay_what_they_were():
    assert ask().key == "5ff54f064d61bd68422479d5a6b8c7de"  # reply stores of earlier runs stay good


ODD = ["", 'a"b\\c', "\n\t\x00\x1f\x7f", "ü\u2028\u2029🙂", "\ud800 half", "</think>", "1e5"]


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("temperature", [0, 0.0, 1, 0.3, 1e-7])
def test_keys_and_seeds_are_hashes_of_json(text, temperature):
    settings = Settings(temperature, 0.9, None if text else 7)
    made = Request("m", text, (("system", text), ("user", f"{text}?")), settings, sample=3, replicate=2, attempt=1)
    sampled = temperature > 0
    parts = [text, [["system", text], ["user", f"{text}?"]], [temperature, 0.9, settings.max_tokens]]
    parts += [3 if sampled else 0, 2 if sampled else 0, 1]
    told = json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    assert made.key == hashlib.blake2b(told, digest_size=16).hexdigest()
    assert made.seed == stable_hash(0, made.key) >> 1


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("number", [None, 0.0, -1e-300, 12.5, 7, float("inf")])
def test_a_reply_comes_back_from_its_line(text, number):
    reply = Reply(text, 3, 4, finish=text or "stop", logprob=number, seconds=number, usd=number, reasoning_tokens=2)
    entry = json.loads(reply.json("k"))
    assert entry.pop("key") == "k"
    assert Reply(**entry) == reply
    assert reply.json("k").isascii()
