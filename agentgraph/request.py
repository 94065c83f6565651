"""One call to a model: what is asked, what came back, and when two requests are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import blake2b
from json.encoder import encode_basestring as quoted
from json.encoder import encode_basestring_ascii as quoted_ascii
from math import isfinite
from typing import Any, Final

from agentgraph.errors import ConfigError

__all__ = ["ChatMessage", "Reply", "Request", "Settings", "stable_hash"]

ChatMessage = tuple[str, str]
"""Role of the speaker ('system', 'user', 'assistant') and text."""


def stable_hash(*parts: object) -> int:
    """64-bit hash of JSON-able values that is the same in every process and on every machine."""
    return _hash64(json.dumps(parts, ensure_ascii=False, separators=(",", ":")))


def _hash64(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Settings:
    """How a model samples its reply.

    Parameters
    ----------
    temperature
        0 takes the most likely token; 1 samples the model's own distribution; at most 5.
    top_p
        Smallest set of tokens whose probability reaches this is sampled from, in (0, 1].
    max_tokens
        Limit of generated tokens; ``None`` takes the task's.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 5:
            raise ConfigError(f"temperature must be in [0, 5], got {self.temperature}; change the role's settings")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {self.top_p}; change the role's settings")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, got {self.max_tokens}; change the role's settings")

    def data(self) -> dict[str, Any]:
        """As JSON-able data."""
        return asdict(self)

    @cached_property
    def json(self) -> str:
        """As they enter a request's key."""
        return json.dumps((self.temperature, self.top_p, self.max_tokens), separators=(",", ":"))


@dataclass(frozen=True)
class Request:
    """One call to a model.

    Parameters
    ----------
    model
        The model's name at its backend.
    fingerprint
        What tells this model from any other: weights, quantisation, server side name.
    messages
        The prompt as chat messages.
    settings
        Sampling settings; ``max_tokens`` is set.
    sample
        Which of several independent samples of the same request this is, >= 0.
    replicate
        0 in the search; fresh ones ask everything again. ``attempt`` 1 is the second try after a bad outcome.
    run_seed
        Seed of the run: enters the seed sent to the backend, never the key.
    schema
        JSON Schema that the reply shall keep to, for backends that can hold a model to one.
    """

    model: str
    fingerprint: str
    messages: tuple[ChatMessage, ...]
    settings: Settings
    sample: int = 0
    replicate: int = 0
    attempt: int = 0
    run_seed: int = 0
    schema: Mapping[str, Any] | None = field(default=None, hash=False)
    key: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # JSON of [fingerprint, messages, settings, sample, replicate, attempt, schema if there is one], written by hand: a
        # search makes tens of thousands, and an encoder takes three times as long.
        messages = ",".join([f"[{quoted(role)},{quoted(text)}]" for role, text in self.messages])
        sampled = self.settings.temperature > 0
        numbers = f"{self.sample if sampled else 0},{self.replicate if sampled else 0},{self.attempt}"
        schema = "" if self.schema is None else f",{json.dumps(self.schema, ensure_ascii=False, separators=(',', ':'))}"
        text = f"[{quoted(self.fingerprint)},[{messages}],{self.settings.json},{numbers}{schema}]"
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        object.__setattr__(self, "key", key)

    @property
    def seed(self) -> int:
        """Seed for the backend, in [0, 2**63): a hash of the run's seed and the key."""
        return _hash64(f'[{self.run_seed},"{self.key}"]') >> 1


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Parameters
    ----------
    text
        Generated text, end token left out.
    prompt_tokens, output_tokens
        As the backend counted them; the end token counts as output.
    finish
        'stop' (the model ended), 'length' (cut at the limit) or another reason the backend gives.
    logprob
        Sum of log-probabilities at temperature 1 of the generated tokens, nats, end token included;
        ``None`` where the backend has none.
    seconds
        How long the backend took; ``None`` where that is not known: then the model's own rate says it.
    usd
        Dollars that the call cost, where the backend says so.
    reasoning_tokens
        Those of the output tokens that were spent on reasoning, where the backend says so.
    """

    text: str
    prompt_tokens: int
    output_tokens: int
    finish: str = "stop"
    logprob: float | None = None
    seconds: float | None = None
    usd: float | None = None
    reasoning_tokens: int = 0

    @property
    def answer_text(self) -> str:
        """The text after the reasoning, for models whose server leaves it in (``<think>…</think>``); '' if that never ends.

        Examples
        --------
        >>> Reply("<think>2 and 2</think> It is 4.", 1, 1).answer_text
        ' It is 4.'
        """
        if _THINKS not in self.text and _THOUGHT not in self.text:
            return self.text
        # Some chat templates put the opening tag into the prompt, so that only the closing one is in the reply.
        _, ended, answer = self.text.rpartition(_THOUGHT)
        return answer if ended else self.text.partition(_THINKS)[0]

    def json(self, key: str) -> str:
        """As a line of a reply store, ASCII: text with lone surrogates, as servers may send it, cannot be written as UTF-8."""
        more = "".join(
            [
                f',"{name}":{value!r}' if type(value) is float and isfinite(value) else f',"{name}":{json.dumps(value)}'
                for name, default in _OPTIONAL
                if (value := getattr(self, name)) != default
            ]
        )
        return (
            f'{{"key":"{key}","text":{quoted_ascii(self.text)},"prompt_tokens":{self.prompt_tokens},'
            f'"output_tokens":{self.output_tokens}{more}}}'
        )


_THINKS: Final = "<think>"
_THOUGHT: Final = "</think>"
_OPTIONAL: Final = [(f.name, f.default) for f in Reply.__dataclass_fields__.values()][3:]
