"""Models that vLLM runs inside this process: requests join and leave its batches at every step."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from agentgraph.backends.base import Backend
from agentgraph.backends.local_model import SOUND, VLLM_RESOURCES, Spec, short, specs
from agentgraph.errors import BackendError, BackendRefused, ConfigError
from agentgraph.request import Reply, Request

__all__ = ["VllmLocal"]

_ENVIRONMENT: Final = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process, not in a child of it
    "VLLM_NO_USAGE_STATS": "1",  # else vLLM reports its use over the network
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""What vLLM reads from the environment; a variable that is set already stays as it is."""
_OURS: Final = ("logprobs_mode", "skip_tokenizer_init")
_ONE_AT_A_TIME: Final = threading.Lock()
"""vLLM keeps what it is computing in variables of its modules: no two engines of a process may run at once."""


class VllmLocal(Backend):
    """Answers with models that vLLM runs in this process; any model of a pool can be one, and so can the agent.

    Parameters
    ----------
    models
        By name: a folder or Hugging Face id, or a mapping with that as ``model`` and any of vLLM's engine arguments
        (``max_model_len``, ``dtype``, ``gpu_memory_utilization`` …); ``chat_template_kwargs`` are handed to the chat template.
    name
        What models of the pool call the backend.
    limit
        Requests in flight, >= 1; vLLM queues what does not fit into a step.

    Notes
    -----
    A model is loaded when it is first asked, in the one thread that runs all engines, step by step in turn. On a GPU
    each takes its ``gpu_memory_utilization`` of the whole, 0.9 unless told: with several models, share. The tokenizer's
    own chat template makes the prompt. Log-probabilities are those at temperature 1, before masks. A JSON Schema that
    vLLM cannot hold a model to is left out, which is logged once. ``Reply.seconds`` is from the start of the request
    in the engine to its end. Greedy and seeded replies are the same in every batch with ``dtype: float32`` on a CPU; on a
    GPU only with ``VLLM_BATCH_INVARIANT=1``. vLLM is imported when it is first needed.
    """

    def __init__(
        self, models: Mapping[str, str | Mapping[str, Any]], *, name: str = "vllm_local", limit: int = 512
    ) -> None:
        super().__init__(name, limit=limit, has_logprobs=True)
        if limit < 1:
            raise ConfigError(f"backend {name!r}: limit={limit} must be at least 1")
        self._specs = specs(name, models, ours=_OURS)
        self._worker: _Worker | None = None

    async def reply(self, request: Request) -> Reply:
        if self._worker is None:
            self._specs.named(request.model)
            self._worker = _Worker(asyncio.get_running_loop(), self._start)
        return await self._worker.ask(self._specs.named(request.model).name, request)

    async def served(self) -> tuple[str, ...]:
        if importlib.util.find_spec("vllm") is None:
            raise self._missing("no module of that name")
        return tuple(sorted(self._specs))

    def fingerprint(self, model: str) -> str:
        """Fingerprint of a model: of its files where they are in a folder here, else its id and revision.

        Engine arguments that may change what it answers are part of it. Of files above 256 MiB every 64th part is read.

        Raises
        ------
        BackendRefused
            If there is no such model.
        """
        return self._specs.named(model).fingerprint(VLLM_RESOURCES)

    async def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _missing(self, why: object) -> BackendRefused:
        return BackendRefused(
            f"backend {self.name!r} needs vLLM, which cannot be imported ({why}); pip install 'agentgraph[vllm]'"
        )

    def _start(self, model: str) -> _Engine:
        """Load a model; called by the worker.

        Raises
        ------
        BackendRefused
            If vLLM is not there or cannot run the model.
        """
        spec = self._specs.named(model)
        for variable, value in _ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        try:
            import vllm
        except ImportError as error:
            raise self._missing(error) from error
        failures: tuple[type[Exception], ...]
        failures = (OSError, TypeError, KeyError, ImportError, AttributeError, RuntimeError, *_complaints())
        try:
            arguments = vllm.EngineArgs(**_engine_arguments(spec, cpu=_on_cpu()))
            return _Engine(spec, vllm.LLMEngine.from_engine_args(arguments))
        except failures as error:
            raise BackendRefused(
                f"vLLM cannot run model {model!r} of backend {self.name!r} ({short(error)}); change its engine arguments, "
                f"which are {spec.arguments}"
            ) from error


def _engine_arguments(spec: Spec, *, cpu: bool) -> dict[str, Any]:
    """All arguments of the engine: what is sound for our requests, unless told otherwise."""
    sound: dict[str, Any] = {"disable_log_stats": True, "use_tqdm_on_load": False, **SOUND}
    if not any(key.endswith("_parallel_size") for key in spec.arguments):
        sound["distributed_executor_backend"] = "uni"
    if cpu:
        # A seeded request whose prompt comes in two chunks ends vLLM's engine on a CPU.
        sound["enable_chunked_prefill"] = False
    return {**sound, **spec.arguments, "model": spec.model, "logprobs_mode": "raw_logprobs"}


class _Row(NamedTuple):
    """One waiting request."""

    model: str
    request: Request
    future: asyncio.Future[Reply]


_Outcome = tuple[_Row, Reply | Exception]


@dataclass
class _Engine:
    """One model's engine and what it is at; used by the worker's thread only."""

    spec: Spec
    engine: Any
    rows: dict[str, tuple[_Row, float]] = field(default_factory=dict)
    count: int = 0
    takes_schema: bool = True

    def add(self, row: _Row) -> None:
        """Let a request join the next step.

        Raises
        ------
        BackendRefused
            If the engine does not take it.
        """
        try:
            number = self._add(row.request, self.spec.tokens(self.engine.get_tokenizer(), row.request))
        except _complaints() as error:
            raise BackendRefused(
                f"model {self.spec.name!r} cannot be asked this ({short(error)}); if the prompt is too long, give nodes fewer "
                "parents or raise max_model_len; if its chat template does not fit, use another model or give a "
                "chat_template in chat_template_kwargs"
            ) from error
        self.rows[number] = row, time.perf_counter()

    def _add(self, request: Request, tokens: Sequence[int]) -> str:
        """Number of the request in the engine; asked without its schema if the engine refuses it with."""
        schema = request.schema if self.takes_schema else None
        try:
            return self._ask(request, tokens, schema)
        except _complaints() as error:
            if schema is None:
                raise
            number = self._ask(request, tokens, None)
            self.takes_schema = False
            logging.getLogger(__name__).warning(
                "vLLM cannot hold %r to a JSON Schema (%s): asking without", self.spec.name, short(error)
            )
            return number

    def _ask(self, request: Request, tokens: Sequence[int], schema: Mapping[str, Any] | None) -> str:
        import vllm
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        settings = request.settings
        sampling = vllm.SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=settings.max_tokens,
            seed=request.seed,
            logprobs=0,  # of the chosen token alone
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=None if schema is None else StructuredOutputsParams(json=dict(schema)),
        )
        self.count += 1
        self.engine.add_request(str(self.count), {"prompt_token_ids": list(tokens)}, sampling)
        return str(self.count)

    def step(self) -> list[_Outcome]:
        """One step of all that is asked, except by those who gave up; what is complete."""
        dropped = [number for number, (row, _) in self.rows.items() if row.future.cancelled()]
        if dropped:
            self.engine.abort_request(dropped)
        for number in dropped:
            del self.rows[number]
        if not self.rows:
            return []
        done: list[_Outcome] = []
        for output in self.engine.step():
            if output.finished and output.request_id in self.rows:
                row, start = self.rows.pop(output.request_id)
                done.append((row, self._reply(output, time.perf_counter() - start)))
        return done

    def _reply(self, output: Any, seconds: float) -> Reply | BackendError:  # noqa: ANN401  vLLM has no types for us
        said = output.outputs[0]
        if said.finish_reason in ("abort", "error"):
            return BackendError(f"vLLM gave up a request to model {self.spec.name!r} ({said.finish_reason})")
        logprob = said.cumulative_logprob
        known = logprob is not None and math.isfinite(logprob)
        return Reply(
            said.text,
            len(output.prompt_token_ids),
            len(said.token_ids),
            said.finish_reason or "unknown",
            min(float(logprob), 0.0) if known else None,
            seconds,
        )

    def close(self) -> None:
        """Give back memory and child processes."""
        self.engine.engine_core.shutdown()


class _Worker:
    """A thread that runs the engines for what an event loop asks.

    Parameters
    ----------
    loop
        Where futures live; `ask` and `close` are called there.
    start
        Loads a model by name; called in the thread. What it raises is the answer to all who ask that model.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, start: Callable[[str], _Engine]) -> None:
        self._loop, self._start = loop, start
        self._engines: dict[str, _Engine | Exception] = {}  # the thread's
        self._change = threading.Condition()  # guards the next two
        self._handed: list[_Row] = []
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="agentgraph-vllm", daemon=True)
        self._thread.start()

    def ask(self, model: str, request: Request) -> asyncio.Future[Reply]:
        """Hand over a request; it joins the next step."""
        row = _Row(model, request, self._loop.create_future())
        with self._change:
            self._handed.append(row)
            self._change.notify()
        return row.future

    def close(self) -> None:
        """Stop the thread after the step it is at, and its engines; what waits is cancelled."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join()
        for row in [*self._handed, *(row for engine in self._running() for row, _ in engine.rows.values())]:
            row.future.cancel()

    def _running(self) -> list[_Engine]:
        return [engine for engine in self._engines.values() if isinstance(engine, _Engine)]

    def _deliver(self, outcomes: Sequence[_Outcome]) -> None:
        for row, outcome in outcomes:
            if row.future.done():  # cancelled by whoever asked
                continue
            if isinstance(outcome, Exception):
                row.future.set_exception(outcome)
            else:
                row.future.set_result(outcome)

    def _work(self) -> None:
        while (rows := self._next()) is not None:
            with _ONE_AT_A_TIME:
                outcomes = [*self._admit(rows), *self._step()]
            if outcomes:
                try:
                    self._loop.call_soon_threadsafe(self._deliver, outcomes)
                except RuntimeError:  # the loop was closed under us: nobody waits any more
                    break
        for engine in self._running():
            with _ONE_AT_A_TIME:
                engine.close()

    def _next(self) -> list[_Row] | None:
        """What was handed over since, once there is anything to do; ``None`` means stop."""
        with self._change:
            while not (self._closing or self._handed or any(engine.rows for engine in self._running())):
                self._change.wait()
            if self._closing:
                return None
            rows, self._handed = self._handed, []
            return rows

    def _admit(self, rows: Sequence[_Row]) -> list[_Outcome]:
        """Let requests join; the failures of those that cannot."""
        failed: list[_Outcome] = []
        for row in rows:
            if row.future.cancelled():
                continue
            engine = self._engine(row.model)
            if isinstance(engine, Exception):
                failed.append((row, engine))
                continue
            try:
                engine.add(row)
            except Exception as error:  # noqa: BLE001  whoever waits must see it: here nobody would
                failed.append((row, error))
        return failed

    def _engine(self, model: str) -> _Engine | Exception:
        if model not in self._engines:
            try:
                self._engines[model] = self._start(model)
            except Exception as error:  # noqa: BLE001  as above
                self._engines[model] = error
        return self._engines[model]

    def _step(self) -> list[_Outcome]:
        """A step of every engine that has work; one that fails is of no use any more."""
        outcomes: list[_Outcome] = []
        for engine in self._running():
            try:
                outcomes += engine.step()
            except Exception as error:  # noqa: BLE001  as above
                name = engine.spec.name
                failure = BackendError(
                    f"the engine of model {name!r} failed on {len(engine.rows)} requests ({short(error)}); lower its "
                    "max_num_seqs or max_model_len, and start again: what was answered is stored",
                    retry=False,
                )
                failure.__cause__ = error
                outcomes += [(row, failure) for row, _ in engine.rows.values()]
                self._engines[name] = failure
        return outcomes


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _complaints() -> tuple[type[Exception], ...]:
    """What vLLM and a chat template raise for something they cannot do; older versions of vLLM have no class for it."""
    from jinja2 import TemplateError
    from vllm import exceptions

    return ValueError, TemplateError, getattr(exceptions, "VLLMError", ValueError)
