"""Backend of the embedded family: tiny models inside this process, answering in batches."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agentgraph.backends.base import Backend
from agentgraph.backends.batching import Batches, Outcome
from agentgraph.errors import BackendError, BackendRefused, ConfigError, TaskError
from agentgraph.request import Reply, Request

if TYPE_CHECKING:
    from agentgraph.backends.embedded.llama import Generation, Llama

__all__ = ["Embedded", "fingerprints"]

_NARROW, _WIDE, _GPU = 256, 64, 1024  # rows of a batch of narrow and of wide models on a CPU, and on a GPU
_WEIGHTS: Final = Path(__file__).parent / "weights"


class Embedded(Backend):
    """Answers with models of the embedded family; gathers what is waiting into batches.

    Parameters
    ----------
    name
        What models call it.
    folder
        Where the models are, each a folder with ``config.json`` and ``model.safetensors``; ``None`` takes those that
        ship with the package.
    device
        'cpu', 'cuda', 'cuda:1' …, or 'auto': cuda where there is one, else cpu.
    limit
        Requests in flight, >= 1.
    batch
        Most requests in one batch, >= 1; ``None`` takes what was quickest where it was measured: on a CPU 256 for models so
        narrow that their activations then stay in its cache, else 64; on a GPU 1024.

    Notes
    -----
    The content of the last user message is the prompt, as in the family's chat template. Waiting requests are kept by
    model and prompt length, for only prompts of one length run together; a thread of its own takes the most numerous
    kind. Torch is imported and models are loaded there, when first asked for. A question that the family cannot read
    is a `TaskError`, for it is the task that does not fit. ``Reply.seconds`` is not known:
    how long a batch takes says nothing of one call.
    """

    def __init__(
        self,
        name: str = "embedded",
        *,
        folder: str | Path | None = None,
        device: str = "auto",
        limit: int = 4096,
        batch: int | None = None,
    ) -> None:
        super().__init__(name, limit=limit, has_logprobs=True)
        if limit < 1 or (batch is not None and batch < 1):
            raise ConfigError(f"backend {name!r}: limit={limit} and batch={batch} must be at least 1")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ConfigError(f"backend {name!r}: device={device!r} must be auto, cpu, cuda or cuda:<number>")
        self.folder = _WEIGHTS if folder is None else Path(folder)
        self.device, self.batch = device, batch
        self._folders: dict[str, Path] = {}
        self._models: dict[str, Llama] = {}  # touched by the worker's thread only
        self._worker: Batches[tuple[str, int], _Row] | None = None

    async def reply(self, request: Request) -> Reply:
        settings = request.settings
        if settings.top_p < 1:
            raise BackendRefused(
                f"backend {self.name!r} has no top_p, got {settings.top_p}; set top_p to 1 in the role's settings"
            )
        if settings.max_tokens is None:
            raise BackendRefused(f"backend {self.name!r} needs max_tokens, got None; set it in the role's settings")
        if request.model not in self._folders:
            self._find(request.model)
        if self._worker is None:
            self._worker = Batches(asyncio.get_running_loop(), self._answer, self._most, "agentgraph-embedded")
        row = _Row(_prompt(request), settings.temperature, request.seed, settings.max_tokens)
        return await self._worker.ask((request.model, len(row.prompt)), row)

    async def served(self) -> tuple[str, ...]:
        found = tuple(sorted(_folders(self.folder)))
        if not found:
            raise BackendRefused(
                f"{self.folder} holds no models; set folder of backend {self.name!r} to where they are"
            )
        return found

    def fingerprint(self, model: str) -> str:
        """Fingerprint of a model's weights, see `fingerprints`.

        Raises
        ------
        BackendRefused
            If there is no such model.
        """
        self._find(model)
        return _fingerprint_of(self._folders[model])

    async def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _find(self, model: str) -> None:
        self._folders = _folders(self.folder)
        if model not in self._folders:
            raise BackendRefused(
                f"{self.folder} holds {sorted(self._folders)}, not {model!r}; change served_as of the model, or folder of "
                f"backend {self.name!r}"
            )

    def _answer(self, kind: tuple[str, int], rows: Sequence[_Row]) -> list[Outcome]:
        """Outcomes of a batch of one model and one prompt length in characters; called by the worker."""
        model, _ = kind
        try:
            return _generate(self._load(model), model, rows)
        except RuntimeError as error:  # torch: out of memory, a lost device
            failure = BackendError(
                f"model {model!r} failed on a batch of {len(rows)} ({error}); lower batch=", retry=False
            )
            failure.__cause__ = error
            return [failure] * len(rows)

    def _load(self, model: str) -> Llama:
        """The model of that name; called by the worker."""
        if model not in self._models:
            self._models[model] = self._read(self._folders[model])
        return self._models[model]

    def _most(self, kind: tuple[str, int]) -> int:
        """Most rows of a batch of a model; called by the worker."""
        llama = self._models.get(kind[0])
        if self.batch is not None or llama is None:  # not loaded yet
            return self.batch or _WIDE
        if llama.device.type != "cpu":
            return _GPU
        return _NARROW if llama.shape.hidden <= 32 else _WIDE

    def _read(self, folder: Path) -> Llama:
        import torch
        from safetensors import SafetensorError

        from agentgraph.backends.embedded.llama import Llama

        # Results are bit-equal for one number of threads only, and models this small do not gain from a second.
        torch.set_num_threads(1)
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device != "cpu" and not torch.cuda.is_available():
            raise BackendRefused(f"device={device!r} of backend {self.name!r} is not there; use auto or cpu")
        try:
            return Llama.load(folder, device=device)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise BackendRefused(
                f"cannot load {folder} on {device} ({error!r}); install it again or choose another"
            ) from error


class _Row(NamedTuple):
    """One waiting request."""

    prompt: str
    temperature: float
    seed: int
    max_tokens: int


def _generate(llama: Llama, model: str, rows: Sequence[_Row]) -> list[Outcome]:
    try:
        done = llama.generate(
            [row.prompt for row in rows],
            temperatures=[row.temperature for row in rows],
            seeds=[row.seed for row in rows],
            max_tokens=[row.max_tokens for row in rows],
        )
    except ValueError as error:
        if len(rows) == 1:
            return [
                TaskError(
                    f"model {model!r} cannot be asked {_shown(rows[0].prompt)}: {error}; the embedded models know the tasks "
                    "calc, recall and pipeline: name others with models="
                )
            ]
        # One bad question spoils no other: halves until it stands alone.
        middle = len(rows) // 2
        return _generate(llama, model, rows[:middle]) + _generate(llama, model, rows[middle:])
    return list(map(_reply, done))


def _reply(generation: Generation) -> Reply:
    return Reply(
        generation.text,
        generation.prompt_tokens,
        generation.output_tokens,
        generation.finish_reason,
        generation.logprob,
    )


def _prompt(request: Request) -> str:
    """Content of the last user message."""
    for speaker, text in reversed(request.messages):
        if speaker == "user":
            return text
    speakers = [speaker for speaker, _ in request.messages]
    raise TaskError(f"model {request.model!r} reads the last user message, got messages by {speakers}; add one")


def _shown(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else prompt[:60] + "…")


def _folders(folder: Path) -> dict[str, Path]:
    """Folders of models by name."""
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/model.safetensors"))}


def fingerprints(folder: str | Path | None = None) -> dict[str, str]:
    """Fingerprint of each model in a folder: the first 16 hex digits of the SHA-256 of its weights file.

    Parameters
    ----------
    folder
        As for `Embedded`.
    """
    return {
        name: _fingerprint_of(path) for name, path in _folders(_WEIGHTS if folder is None else Path(folder)).items()
    }


def _fingerprint_of(folder: Path) -> str:
    path = folder / "model.safetensors"
    return _digest(path, path.stat().st_mtime_ns)


@cache
def _digest(path: Path, _written: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
