"""A module that looks like vLLM: an engine that makes one token of every request per step, without arithmetic."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any


class VLLMError(Exception):
    """What vLLM raises for a request that it cannot serve; no ValueError."""


class RequestOutputKind(enum.Enum):
    """When outputs are wanted."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class StructuredOutputsParams:
    """What a reply is held to."""

    json: Mapping[str, Any]


@dataclass
class SamplingParams:
    """The fields that the backend may set; any other is a TypeError, as in vLLM."""

    temperature: float
    top_p: float
    max_tokens: int | None
    seed: int
    logprobs: int
    output_kind: RequestOutputKind
    structured_outputs: StructuredOutputsParams | None


@dataclass
class EngineArgs:
    """The engine arguments that tests use."""

    model: str
    logprobs_mode: str
    disable_log_stats: bool
    use_tqdm_on_load: bool
    structured_outputs_config: Mapping[str, Any]
    distributed_executor_backend: str | None = None
    enable_chunked_prefill: bool | None = None
    tensor_parallel_size: int = 1
    max_model_len: int = 100


@dataclass
class Live:
    """One request in an engine."""

    number: str
    tokens: Sequence[int]
    params: SamplingParams
    made: int = 0

    @property
    def text(self) -> str:
        """The last message reversed, and the seed."""
        return "".join(map(chr, reversed(self.tokens[1:]))) + f"/{self.params.seed}"


@dataclass
class LLMEngine:
    """One engine; its attributes say what happened and what shall go wrong."""

    arguments: EngineArgs
    module: Vllm
    live: dict[str, Live] = field(default_factory=dict)
    asked: list[SamplingParams] = field(default_factory=list)
    steps: list[list[str]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    aborted: list[str] = field(default_factory=list)
    closed: bool = False
    templates: list[dict[str, Any]] = field(default_factory=list)

    def get_tokenizer(self) -> LLMEngine:
        return self

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], **options: Any) -> list[int]:
        """A start token and the last message, a character a token."""
        self.templates.append(options)
        if messages[-1]["content"] == "no template":
            raise ValueError("tokenizer.chat_template is not set")
        return [1, *map(ord, messages[-1]["content"])]

    @property
    def engine_core(self) -> SimpleNamespace:
        return SimpleNamespace(shutdown=lambda: setattr(self, "closed", True))

    def add_request(self, number: str, prompt: Mapping[str, Sequence[int]], params: SamplingParams) -> None:
        if self.module.schema_failure is not None and params.structured_outputs is not None:
            raise self.module.schema_failure
        if len(prompt["prompt_token_ids"]) >= self.arguments.max_model_len:
            raise VLLMError("The decoder prompt is longer than the maximum model length")
        self.asked.append(params)
        self.live[number] = Live(number, prompt["prompt_token_ids"], params)

    def abort_request(self, numbers: Sequence[str]) -> None:
        self.aborted += numbers
        for number in numbers:
            del self.live[number]

    def step(self) -> list[SimpleNamespace]:
        self.threads.add(threading.current_thread().name)
        self.steps.append(["".join(map(chr, live.tokens[1:])) for live in self.live.values()])
        assert self.module.may_go.wait(10)
        if self.module.failure is not None:
            raise self.module.failure
        done = []
        for live in list(self.live.values()):
            live.made += 1
            if live.made == live.params.max_tokens:
                del self.live[live.number]
                done.append(self._output(live))
        return done

    def _output(self, live: Live) -> SimpleNamespace:
        said = SimpleNamespace(
            text=live.text,
            token_ids=[7] * live.made,
            finish_reason=self.module.finish_reason,
            cumulative_logprob=self.module.logprob(live.made),
        )
        return SimpleNamespace(
            request_id=live.number, finished=True, prompt_token_ids=list(live.tokens), outputs=[said]
        )


class Vllm:
    """The module, and the engines that were started in it."""

    def __init__(self) -> None:
        self.engines: list[LLMEngine] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.failure: Exception | None = None  # of a step
        self.start_failure: Exception | None = None
        self.schema_failure: Exception | None = None
        self.finish_reason = "length"
        self.logprob: Callable[[int], float | None] = lambda made: -0.25 * made  # by number of tokens
        self.cpu = True

    def start(self, arguments: EngineArgs) -> LLMEngine:
        if self.start_failure is not None:
            raise self.start_failure
        self.engines.append(LLMEngine(arguments, self))
        return self.engines[-1]

    def modules(self) -> dict[str, ModuleType]:
        """For ``sys.modules``."""
        parts = {
            "vllm": {
                "EngineArgs": EngineArgs,
                "SamplingParams": SamplingParams,
                "LLMEngine": SimpleNamespace(from_engine_args=self.start),
            },
            "vllm.sampling_params": {
                "RequestOutputKind": RequestOutputKind,
                "StructuredOutputsParams": StructuredOutputsParams,
            },
            "vllm.exceptions": {"VLLMError": VLLMError},
            "vllm.platforms": {"current_platform": SimpleNamespace(is_cpu=lambda: self.cpu)},
        }
        made = {}
        for name, content in parts.items():
            made[name] = ModuleType(name)
            made[name].__spec__ = ModuleSpec(name, None)  # find_spec looks at it
            vars(made[name]).update(content)
        return made
