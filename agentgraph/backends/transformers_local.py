"""Models that Hugging Face transformers runs inside this process, in batches: for those that vLLM cannot run."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agentgraph.backends.base import Backend
from agentgraph.backends.batching import Batches, Outcome
from agentgraph.backends.local_model import Spec, short, specs
from agentgraph.errors import BackendError, BackendRefused, ConfigError
from agentgraph.request import Reply, Request

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TransformersLocal"]

_RESOURCES: Final = ("device_map", "max_memory", "cache_dir", "local_files_only", "low_cpu_mem_usage")
_FOR_BOTH: Final = (
    "revision",
    "trust_remote_code",
    "cache_dir",
    "local_files_only",
)  # arguments of model and tokenizer
_Kind = tuple[str, int]  # model, and the power of two that bounds its prompt in characters


class TransformersLocal(Backend):
    """Answers with models of transformers; what waits is generated together.

    Parameters
    ----------
    models
        By name: a folder or Hugging Face id, or a mapping with that as ``model`` and any arguments of ``from_pretrained``
        (``dtype``, ``revision``, ``device_map`` …); ``chat_template_kwargs`` are handed to the chat template.
    name
        What models of the pool call the backend.
    limit
        Requests in flight, >= 1.
    batch
        Most requests in one batch, >= 1.
    device
        'cpu', 'cuda', 'cuda:1' …, or 'auto': cuda where there is one, else cpu; unused with ``device_map``.

    Notes
    -----
    A batch holds prompts of one model whose lengths differ by less than a factor of two, each with its own temperature, top_p,
    limit and seed: every row draws from a generator of its own, one number a token. What it draws depends on the batch only
    as far as its logits do, in the last digits: with ``dtype: float32`` replies are nearly always the same in every batch. The
    log-probability is the sum at temperature 1. Sampling settings of the model's own generation config (top_k, penalties)
    are not used. A JSON Schema cannot be enforced: it is left out, which is logged once. ``Reply.seconds`` is not known.
    """

    def __init__(
        self,
        models: Mapping[str, str | Mapping[str, Any]],
        *,
        name: str = "transformers_local",
        limit: int = 256,
        batch: int = 32,
        device: str = "auto",
    ) -> None:
        super().__init__(name, limit=limit, has_logprobs=True)
        if limit < 1 or batch < 1:
            raise ConfigError(f"backend {name!r}: limit={limit} and batch={batch} must be at least 1")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ConfigError(f"backend {name!r}: device={device!r} must be auto, cpu, cuda or cuda:<number>")
        self._specs = specs(name, models, ours=())
        self.batch, self.device = batch, device
        self._engines: dict[str, _Engine] = {}  # the worker's
        self._told = False  # that schemas are left out
        self._worker: Batches[_Kind, Request] | None = None

    async def reply(self, request: Request) -> Reply:
        self._specs.named(request.model)
        if request.schema is not None and not self._told:
            self._told = True
            logging.getLogger(__name__).warning(
                "backend %r cannot hold a model to a JSON Schema: asking without", self.name
            )
        if self._worker is None:
            self._worker = Batches(
                asyncio.get_running_loop(), self._answer, lambda _: self.batch, "agentgraph-transformers"
            )
        length = sum(len(text) for _, text in request.messages)
        return await self._worker.ask((request.model, length.bit_length()), request)

    async def served(self) -> tuple[str, ...]:
        if importlib.util.find_spec("transformers") is None:
            raise self._missing("no module of that name")
        return tuple(sorted(self._specs))

    def fingerprint(self, model: str) -> str:
        """Fingerprint of a model: of its files where they are in a folder here, else its id and revision.

        Raises
        ------
        BackendRefused
            If there is no such model.
        """
        return self._specs.named(model).fingerprint(_RESOURCES)

    async def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _missing(self, why: object) -> BackendRefused:
        return BackendRefused(
            f"backend {self.name!r} needs transformers, which cannot be imported ({why}); pip install 'agentgraph[hf]'"
        )

    def _answer(self, kind: _Kind, requests: Sequence[Request]) -> Sequence[Outcome]:
        """Outcomes of a batch; called by the worker."""
        model, _ = kind
        if model not in self._engines:
            self._engines[model] = self._load(self._specs.named(model))
        try:
            return self._engines[model].answers(requests)
        except RuntimeError as error:  # torch: out of memory, a lost device
            raise BackendError(
                f"model {model!r} failed on a batch of {len(requests)} ({short(error)}); lower batch={self.batch} of backend "
                f"{self.name!r}",
                retry=False,
            ) from error

    def _load(self, spec: Spec) -> _Engine:
        """Load a model.

        Raises
        ------
        BackendRefused
            If transformers is not there or cannot load it.
        """
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        except ImportError as error:
            raise self._missing(error) from error
        arguments = {key: value for key, value in spec.arguments.items() if key != "model"}
        shared = {key: arguments[key] for key in _FOR_BOTH if key in arguments}
        try:
            tokenizer = AutoTokenizer.from_pretrained(spec.model, **shared)
            model = AutoModelForCausalLM.from_pretrained(spec.model, **arguments).eval()
            if "device_map" not in arguments:
                auto = "cuda" if torch.cuda.is_available() else "cpu"
                model = model.to(auto if self.device == "auto" else self.device)
        except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError, RuntimeError) as error:
            raise BackendRefused(
                f"transformers cannot load model {spec.name!r} of backend {self.name!r} ({short(error)}); change its arguments, "
                f"which are {dict(spec.arguments)}"
            ) from error
        ends = model.generation_config.eos_token_id
        ends = tokenizer.eos_token_id if ends is None else ends
        ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
        model.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=pad)  # none of its sampling
        return _Engine(spec, model, tokenizer, tuple(ends), pad)


@dataclass(frozen=True)
class _Engine:
    """One loaded model."""

    spec: Spec
    model: Any
    tokenizer: Any
    ends: tuple[int, ...]
    pad: int

    def answers(self, requests: Sequence[Request]) -> Sequence[Outcome]:
        """Outcomes in order; a request that cannot be asked spoils no other."""
        prompts = [self._tokens(request) for request in requests]
        good = [i for i, prompt in enumerate(prompts) if isinstance(prompt, list)]
        made = iter(self._generate([requests[i] for i in good], [prompts[i] for i in good]) if good else [])
        return [next(made) if isinstance(prompt, list) else prompt for prompt in prompts]

    def _tokens(self, request: Request) -> list[int] | BackendRefused:
        """The prompt in the model's chat form."""
        from jinja2 import TemplateError

        try:
            tokens = self.spec.tokens(self.tokenizer, request)
        except (ValueError, TemplateError) as error:
            return BackendRefused(
                f"model {self.spec.name!r} cannot be asked this ({short(error)}); use another model or give a chat_template in "
                "chat_template_kwargs"
            )
        if len(tokens) >= self._context:
            return BackendRefused(
                f"model {self.spec.name!r} reads {self._context} tokens, got a prompt of {len(tokens)}; give nodes fewer parents"
            )
        return tokens

    @property
    def _context(self) -> int:
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2**31)

    def _generate(self, requests: Sequence[Request], prompts: Sequence[Any]) -> list[Reply]:
        import torch

        width = max(map(len, prompts))
        rows = [[self.pad] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        room = [self._context - len(prompt) for prompt in prompts]
        limits = [min(r.settings.max_tokens or left, left) for r, left in zip(requests, room, strict=True)]
        draws = _Draws(
            [request.settings.temperature for request in requests],
            [request.settings.top_p for request in requests],
            [request.seed for request in requests],
            limits,
            self.ends,
        )
        with torch.inference_mode():
            self.model.generate(
                input_ids=torch.tensor(rows, device=self.model.device),
                attention_mask=torch.tensor(mask, device=self.model.device),
                max_new_tokens=max(limits),
                do_sample=False,
                logits_processor=[draws],
                stopping_criteria=[draws.finished],
            )
        return [
            Reply(
                self.tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True),
                len(prompt),
                len(tokens),
                "stop" if ended else "length",
                min(logprob, 0.0),
            )
            for prompt, tokens, ended, logprob in zip(prompts, draws.tokens, draws.ended, draws.logprobs, strict=True)
        ]


@dataclass
class _Draws:
    """Draws the next token of each row by its own settings, in the place of a logits processor.

    Parameters
    ----------
    temperatures, top_ps, seeds, limits
        Of each row; a row is done after ``limits`` tokens.
    ends
        Tokens that end a row.
    """

    temperatures: Sequence[float]
    top_ps: Sequence[float]
    seeds: Sequence[int]
    limits: Sequence[int]
    ends: tuple[int, ...]
    tokens: list[list[int]] = field(init=False)
    logprobs: list[float] = field(init=False)
    ended: list[bool] = field(init=False)

    def __post_init__(self) -> None:
        import torch

        self._generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        self.tokens = [[] for _ in self.seeds]
        self.logprobs = [0.0] * len(self.seeds)
        self.ended = [False] * len(self.seeds)

    def __call__(self, _tokens: Tensor, logits: Tensor) -> Tensor:
        """Logits (B, V) that leave only the token drawn for each row."""
        import torch

        chosen = self._chosen(logits.float())
        logprobs = logits.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()
        for row, (token, logprob) in enumerate(zip(chosen.tolist(), logprobs, strict=True)):
            if not self._done(row):
                self.tokens[row].append(token)
                self.logprobs[row] += logprob
                self.ended[row] = token in self.ends
        return torch.full_like(logits, -torch.inf).scatter(1, chosen[:, None], 0.0)

    def finished(self, tokens: Tensor, _scores: object, **_: object) -> Tensor:
        """Which rows are done, in the place of a stopping criterion."""
        import torch

        return torch.tensor([self._done(row) for row in range(len(self.seeds))], device=tokens.device)

    def _done(self, row: int) -> bool:
        return self.ended[row] or len(self.tokens[row]) >= self.limits[row]

    def _chosen(self, logits: Tensor) -> Tensor:
        """Token of each row (B,): the most likely one at temperature 0, else where its number falls among the probabilities."""
        import torch

        device = logits.device
        heat = torch.tensor(self.temperatures, device=device)[:, None]
        probs = (logits / heat.clamp(min=1e-6)).softmax(-1).double()
        if min(self.top_ps) < 1:
            ordered, order = probs.sort(-1, descending=True)
            before = ordered.cumsum(-1) - ordered
            kept = before < torch.tensor(self.top_ps, device=device, dtype=torch.double)[:, None]
            probs = torch.zeros_like(probs).scatter(1, order, torch.where(kept, ordered, 0.0))
        numbers = torch.stack([torch.rand((), generator=g, dtype=torch.double) for g in self._generators]).to(device)
        sums = probs.cumsum(-1)
        drawn = torch.searchsorted(sums, (numbers[:, None] * sums[:, -1:]), right=True)[:, 0]
        return torch.where(heat[:, 0] > 0, drawn.clamp(max=logits.shape[-1] - 1), logits.argmax(-1))
