"""Stand-ins for models in this process: the same calls, no arithmetic."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path

from agentgraph.backends.embedded.backend import Embedded
from agentgraph.backends.embedded.llama import Generation
from agentgraph.backends.local_model import Spec
from agentgraph.backends.transformers_local import TransformersLocal
from agentgraph.request import Reply, Request, Settings


class StandIn:
    """Answers with the prompt reversed and the seed; refuses capital 'W' as the tokenizer does; notes its batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.failure: Exception | None = None
        self.may_go = threading.Event()
        self.may_go.set()

    def generate(
        self,
        prompts: Sequence[str],
        *,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        max_tokens: Sequence[int],
    ) -> list[Generation]:
        assert len(prompts) == len(temperatures) == len(seeds) == len(max_tokens)
        self.batches.append(list(prompts))
        self.threads.add(threading.current_thread().name)
        assert self.may_go.wait(10)
        if self.failure is not None:
            raise self.failure
        for prompt in prompts:
            if "W" in prompt:
                raise ValueError(
                    f"the embedded models have no token for 'W' (in {prompt!r}); allowed characters are 'a'"
                )
        return [
            Generation(f"{prompt[::-1]}/{seed}", len(prompt) + 1, len(prompt), -0.5, "stop")
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]


class EmbeddedStandIn(Embedded):
    """The embedded backend over stand-ins, one for each model folder."""

    def __init__(self, folder: Path, models: Sequence[str] = ("a", "b"), **settings) -> None:
        for name in models:
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "model.safetensors").write_bytes(name.encode())
            (folder / name / "config.json").write_text(json.dumps({}))
        super().__init__(folder=folder, **settings)
        self.stand_ins = {name: StandIn() for name in models}

    def _load(self, model: str) -> StandIn:
        return self.stand_ins[model]


class TransformersStandIn(TransformersLocal):
    """The transformers backend over an engine that answers with the text reversed, a character a token; notes its batches."""

    def __init__(self, models: Sequence[str] = ("m",), **settings) -> None:
        super().__init__({name: f"org/{name}" for name in models}, **settings)
        self.batches: list[list[str]] = []
        self.loaded: list[str] = []
        self.failure: Exception | None = None

    def _load(self, spec: Spec) -> "TransformersStandIn":
        self.loaded.append(spec.name)
        return self

    def answers(self, requests: Sequence[Request]) -> list[Reply]:
        if self.failure is not None:
            raise self.failure
        texts = [request.messages[-1][1] for request in requests]
        self.batches.append(texts)
        return [Reply(text[::-1], len(text), 2, logprob=-0.5) for text in texts]


def ask(text: str = "x", model: str = "m", *, sample: int = 0, **settings) -> Request:
    """A request with one user message."""
    settings = {"temperature": 1.0, "max_tokens": 8, **settings}
    return Request(model, "f", (("user", text),), Settings(**settings), sample=sample)
