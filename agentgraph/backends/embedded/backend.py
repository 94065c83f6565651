"""Backend of the embedded family: tiny models inside this process, answering in batches."""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agentgraph.backends.base import Backend
from agentgraph.errors import BackendError, BackendRefused, ConfigError, TaskError
from agentgraph.request import Reply, Request

if TYPE_CHECKING:
    from agentgraph.backends.embedded.llama import Generation, Llama

__all__ = ["Embedded", "fingerprints"]

_WEIGHTS: Final = Path(__file__).parent / "weights"
_TURNS: Final = 4  # of the event loop, for what follows on a reply to be asked before the next batch is chosen


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
        Most requests in one batch, >= 1.

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
        batch: int = 256,
    ) -> None:
        super().__init__(name, limit=limit, has_logprobs=True)
        if limit < 1 or batch < 1:
            raise ConfigError(f"backend {name!r}: limit={limit} and batch={batch} must be at least 1")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ConfigError(f"backend {name!r}: device={device!r} must be auto, cpu, cuda or cuda:<number>")
        self.folder = _WEIGHTS if folder is None else Path(folder)
        self.device, self.batch = device, batch
        self._folders: dict[str, Path] = {}
        self._models: dict[str, Llama] = {}  # touched by the worker's thread only
        self._worker: _Worker | None = None

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
            self._worker = _Worker(asyncio.get_running_loop(), self._load, self.batch)
        prompt = _prompt(request)
        return await self._worker.ask(request.model, prompt, settings.temperature, request.seed, settings.max_tokens)

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

    def _load(self, model: str) -> Llama:
        """The model of that name; called by the worker."""
        if model not in self._models:
            self._models[model] = self._read(self._folders[model])
        return self._models[model]

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
    future: asyncio.Future[Reply]


_Kind = tuple[str, int]  # model, prompt length in characters
_Outcome = Reply | Exception


class _Worker:
    """A thread that generates in batches what an event loop asks.

    Parameters
    ----------
    loop
        Where futures live; `ask` and `close` are called there.
    load
        Gives a model by name; called in the thread.
    batch
        Most rows of a batch.

    Notes
    -----
    A request costs the loop one future and one append. What was appended goes to the thread in one piece, a few
    turns of the loop later, so that the first batch is not the first request; a batch's outcomes come back in one
    piece as well, and the thread then waits for what they set off, unless a full batch is waiting already.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, load: Callable[[str], Llama], batch: int) -> None:
        self._loop, self._load, self._batch = loop, load, batch
        self._fresh: list[tuple[_Kind, _Row]] = []  # the loop's
        self._waiting: dict[_Kind, deque[_Row]] = {}  # the thread's
        self._change = threading.Condition()  # guards the next three
        self._handed: list[tuple[_Kind, _Row]] = []
        self._settled = True  # whether what the last batch set off has been handed over
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="agentgraph-embedded", daemon=True)
        self._thread.start()

    def ask(self, model: str, prompt: str, temperature: float, seed: int, max_tokens: int) -> asyncio.Future[Reply]:
        """Put a request on the queue."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if not self._fresh:
            self._loop.call_soon(self._turn, _TURNS, False)
        self._fresh.append(((model, len(prompt)), _Row(prompt, temperature, seed, max_tokens, future)))
        return future

    def close(self) -> None:
        """Stop the thread after the batch it is at; what waits is cancelled."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join()
        rows = [row for _, row in self._fresh + self._handed]
        for row in [*rows, *(row for queue in self._waiting.values() for row in queue)]:
            row.future.cancel()
        self._fresh.clear()

    def _turn(self, left: int, settled: bool) -> None:
        """Let some turns of the loop pass, then hand over what was asked."""
        if left:
            self._loop.call_soon(self._turn, left - 1, settled)
            return
        with self._change:
            self._handed += self._fresh
            self._settled = self._settled or settled
            self._change.notify()
        self._fresh = []

    def _deliver(self, rows: Sequence[_Row], outcomes: Sequence[_Outcome]) -> None:
        for row, outcome in zip(rows, outcomes, strict=True):
            if row.future.done():  # cancelled by whoever asked
                continue
            if isinstance(outcome, Exception):
                row.future.set_exception(outcome)
            else:
                row.future.set_result(outcome)
        self._loop.call_soon(self._turn, _TURNS, True)

    def _work(self) -> None:
        while (kind := self._next_kind()) is not None:
            queue = self._waiting[kind]
            rows = [queue.popleft() for _ in range(min(len(queue), self._batch))]
            if not queue:
                del self._waiting[kind]
            rows = [row for row in rows if not row.future.cancelled()]
            outcomes = self._outcomes(kind[0], rows)
            with self._change:
                self._settled = False
            try:
                self._loop.call_soon_threadsafe(self._deliver, rows, outcomes)
            except RuntimeError:  # the loop was closed under us: nobody waits any more
                return

    def _next_kind(self) -> _Kind | None:
        """Wait for the kind of request that most wait for; ``None`` means stop."""
        while True:
            with self._change:
                if self._closing:
                    return None
                handed, self._handed, settled = self._handed, [], self._settled
            for kind, row in handed:
                self._waiting.setdefault(kind, deque()).append(row)
            most = max(self._waiting, key=lambda kind: len(self._waiting[kind]), default=None)
            if most is not None and (settled or len(self._waiting[most]) >= self._batch):
                return most
            with self._change:
                while not self._changed(settled):
                    self._change.wait()

    def _changed(self, settled: bool) -> bool:
        return self._closing or bool(self._handed) or self._settled != settled

    def _outcomes(self, model: str, rows: Sequence[_Row]) -> Sequence[_Outcome]:
        if not rows:
            return ()
        try:
            return self._generate(self._load(model), model, rows)
        except RuntimeError as error:  # torch: out of memory, a lost device
            failure = BackendError(
                f"model {model!r} failed on a batch of {len(rows)} ({error}); lower batch=", retry=False
            )
            failure.__cause__ = error
            return [failure] * len(rows)
        except Exception as error:  # noqa: BLE001  whoever waits must see it: here nobody would
            return [error] * len(rows)

    def _generate(self, llama: Llama, model: str, rows: Sequence[_Row]) -> list[_Outcome]:
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
                    TaskError(f"model {model!r} cannot be asked {_shown(rows[0].prompt)}: {error}; use another model")
                ]
            # One bad question spoils no other: halves until it stands alone.
            middle = len(rows) // 2
            return self._generate(llama, model, rows[:middle]) + self._generate(llama, model, rows[middle:])
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
