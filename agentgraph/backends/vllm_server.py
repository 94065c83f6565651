"""Starts a vLLM server for each model on this machine, asks them over the loopback, and stops them again."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentgraph.backends import leash
from agentgraph.backends.base import Backend
from agentgraph.backends.local_model import SOUND, VLLM_RESOURCES, Spec, specs
from agentgraph.backends.openai_server import OpenAIServer
from agentgraph.errors import BackendError, BackendRefused, BackendTimeout, ConfigError
from agentgraph.request import Reply, Request

__all__ = ["VllmServer", "shares"]

_OURS: Final = ("host", "port", "uds", "served_model_name", "api_key", "logprobs_mode", "model_tag")
_ON_CPU: Final[Mapping[str, Any]] = {
    "dtype": "float32",  # replies that are the same in every batch
    # A seeded request whose prompt comes in two chunks ends vLLM's engine on a CPU.
    "enable_chunked_prefill": False,
    "distributed_executor_backend": "uni",
}
_ENVIRONMENT: Final = {"VLLM_NO_USAGE_STATS": "1"}  # else vLLM reports its use over the network
_ENVIRONMENT_ON_CPU: Final = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
_WHOLE: Final = 0.9  # of a device's memory, for all models on it together, unless told otherwise
_PORTS: Final = 3  # tries, should somebody else take a port in between
_LOOK: Final = 0.1  # seconds between two looks at a server that starts
_PATIENCE: Final = 1.0  # seconds that one look may take
_NEWS: Final = 15.0  # seconds between two lines about what is waited for
_TAIL: Final = 5  # lines of a log in an error
_SHOWN: Final = 1000  # characters of a log in an error


class VllmServer(Backend):
    """Answers with servers that it starts itself, ``vllm serve`` for each model, and stops at the end.

    Parameters
    ----------
    models
        By name: a folder or Hugging Face id, or a mapping with that as ``model`` and any flags of ``vllm serve``, with ``_``
        or ``-``: ``max_model_len: 8192`` is ``--max-model-len 8192``, true is the flag alone, false ``--no-…``, a mapping JSON.
        ``devices: [0, 1]`` are the GPUs it sees (CUDA_VISIBLE_DEVICES); ``chat_template_kwargs`` are handed to the chat template.
    name
        What models of the pool call the backend.
    flags
        Flags of every model; its own come first.
    command
        What starts a server: a list or one line. ``None`` takes the vLLM of this Python, else ``vllm serve``. The model comes
        as ``--model``, after a last word ``serve`` without.
    cpu
        For vLLM's CPU build: flags with which seeded requests are safe and replies the same in every batch.
    env
        Further variables of the servers' environment.
    limit
        Requests in flight, of all models together.
    start_limit, stop_limit
        Seconds that a server has to become healthy, and to end before it is killed, > 0.
    timeout, retries, logprobs, extra_body
        As for `agentgraph.backends.openai_server.OpenAIServer`, which sends the requests.

    Notes
    -----
    Servers start at the first request or `served`; those that share a GPU one after another, for vLLM counts what another
    loads meanwhile as its own, all others together. Models on one GPU share 0.9 of its memory equally, less what
    ``gpu_memory_utilization`` gives to some of them. Each listens on a free port of 127.0.0.1 with a key of its own, writes a log
    into `log_folder` (the run's folder in a search), and ends with this process, however that ends (`agentgraph.backends.leash`).
    """

    def __init__(
        self,
        models: Mapping[str, str | Mapping[str, Any]],
        *,
        name: str = "vllm_server",
        flags: Mapping[str, Any] | None = None,
        command: str | Sequence[str] | None = None,
        cpu: bool = False,
        env: Mapping[str, str] | None = None,
        limit: int = 256,
        start_limit: float = 900.0,
        stop_limit: float = 20.0,
        timeout: float = 120.0,
        retries: int = 2,
        logprobs: bool = True,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, limit=limit, has_logprobs=logprobs)
        for key, value in (("start_limit", start_limit), ("stop_limit", stop_limit)):
            if not value > 0:
                raise ConfigError(f"backend {name!r}: {key}={value} must be a positive number of seconds")
        shared = {**(_ON_CPU if cpu else {}), **{k.replace("-", "_"): v for k, v in (flags or {}).items()}}
        self._specs = specs(name, _with(shared, models), ours=_OURS)
        self._shares = {} if cpu else shares(name, self._specs)
        self.cpu, self.start_limit, self.stop_limit = cpu, start_limit, stop_limit
        self.command = shlex.split(command) if isinstance(command, str) else list(command or ())
        self.env = {
            **_ENVIRONMENT,
            **(_ENVIRONMENT_ON_CPU if cpu else {}),
            **{k: str(v) for k, v in (env or {}).items()},
        }
        self._client_options = {"limit": limit, "timeout": timeout, "retries": retries, "logprobs": logprobs}
        self._extra_body = dict(extra_body or {})
        self._client("http://127.0.0.1:1/v1", next(iter(self._specs.values())), "")  # a bad option is an error here
        self._starting: asyncio.Task[dict[str, _Server]] | None = None

    async def reply(self, request: Request) -> Reply:
        self._specs.named(request.model)
        server = (await self._started())[request.model]
        server.check()
        try:
            reply = await server.client.reply(request)
        except BackendError:
            server.check()
            raise
        self.has_logprobs = self.has_logprobs and server.client.has_logprobs
        return reply

    async def ready(self) -> None:
        await self._started()

    async def served(self) -> tuple[str, ...]:
        return tuple(sorted(await self._started()))

    def fingerprint(self, model: str) -> str:
        """Fingerprint of a model: of its files where they are in a folder here, else its id and revision.

        Flags that may change what it answers are part of it; it is the one of `VllmLocal` with the same arguments.

        Raises
        ------
        BackendRefused
            If there is no such model.
        """
        return self._specs.named(model).fingerprint((*VLLM_RESOURCES, "devices"))

    async def close(self) -> None:
        starting, self._starting = self._starting, None
        if starting is None:
            return
        starting.cancel()
        (done,) = await asyncio.gather(starting, return_exceptions=True)
        if isinstance(done, dict):
            await self._stop(list(done.values()))

    def _client(self, url: str, spec: Spec, key: str) -> OpenAIServer:
        body = {**({"chat_template_kwargs": dict(spec.template)} if spec.template else {}), **self._extra_body}
        options: dict[str, Any] = {**self._client_options, "extra_body": body}
        return OpenAIServer(url, name=self.name, api_key=key, api_key_env=None, **options)

    async def _started(self) -> dict[str, _Server]:
        """The servers, all healthy; one that gives up waiting does not stop the start, which others wait for."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> dict[str, _Server]:
        command = self._command()
        folder = self.log_folder or Path(tempfile.mkdtemp(prefix="agentgraph-vllm-"))
        folder.mkdir(parents=True, exist_ok=True)
        _say(f"starting {', '.join(self._specs)} ({shlex.join(command)}); logs in {folder}")
        turns = {device: asyncio.Lock() for spec in self._specs.values() for device in _devices(spec)}
        servers: dict[str, _Server] = {}

        async def start(spec: Spec) -> None:
            async with AsyncExitStack() as stack:
                for device in [] if self.cpu else sorted(_devices(spec)):
                    await stack.enter_async_context(turns[device])
                await self._start_one(spec, command, folder, servers)

        tasks = [asyncio.ensure_future(start(spec)) for spec in self._specs.values()]
        try:
            await asyncio.gather(*tasks)
        except BaseException:  # also when cancelled: no server that was started may stay behind
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._stop(list(servers.values()))
            raise
        return servers

    async def _start_one(self, spec: Spec, command: Sequence[str], folder: Path, servers: dict[str, _Server]) -> None:
        log = folder / f"vllm-{re.sub(r'[^A-Za-z0-9._-]', '_', spec.name)}.log"
        for attempt in range(_PORTS):
            port, key = _free_port(), secrets.token_hex(16)
            arguments = [*_model_words(command, spec.model), "--served-model-name", spec.name, *self._flags(spec)]
            environment = {**os.environ, **self.env, "VLLM_API_KEY": key}
            if "devices" in spec.arguments:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(_devices(spec))
            process = _launch(
                [*command, *arguments, "--host", "127.0.0.1", "--port", str(port)], environment, log, self.stop_limit
            )
            client = self._client(f"http://127.0.0.1:{port}/v1", spec, key)
            server = servers[spec.name] = _Server(spec.name, process, port, log, client)
            try:
                await server.becomes_healthy(self.start_limit, self.name)
            except BackendRefused:
                if attempt + 1 == _PORTS or not server.port_was_taken():
                    raise
                await self._stop([server])
            else:
                return

    def _flags(self, spec: Spec) -> list[str]:
        ours = {"logprobs_mode": "raw_logprobs", "disable_uvicorn_access_log": True, **SOUND}
        share = {"gpu_memory_utilization": self._shares[spec.name]} if spec.name in self._shares else {}
        given = {key: value for key, value in spec.arguments.items() if key not in ("model", "devices")}
        return _words_of({**ours, **share, **given})

    def _command(self) -> list[str]:
        """What starts a server."""
        command = self.command
        if not command and importlib.util.find_spec("vllm") is not None:
            return [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        if not command and shutil.which("vllm"):
            return ["vllm", "serve"]
        if not command:
            raise BackendRefused(
                f"backend {self.name!r} needs vLLM, which is neither in this Python nor on the PATH; "
                "pip install 'agentgraph[vllm]', or say what starts it with command="
            )
        if shutil.which(command[0]) is None:
            raise BackendRefused(
                f"backend {self.name!r}: there is no program {command[0]!r}; change command={shlex.join(command)!r}"
            )
        return command

    async def _stop(self, servers: Sequence[_Server]) -> None:
        await asyncio.gather(*(server.stop(self.stop_limit) for server in servers))


@dataclass
class _Server:
    """One server that was started."""

    model: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    client: OpenAIServer
    since: float = field(default_factory=time.monotonic)

    async def becomes_healthy(self, limit: float, backend: str) -> None:
        """Wait until it answers and serves its model.

        Raises
        ------
        BackendRefused
            If it ends or serves another model; `BackendTimeout` after ``limit`` seconds.
        """
        news = _NEWS
        while not await self._healthy():
            waited = time.monotonic() - self.since
            if self.process.poll() is not None:
                raise BackendRefused(f"the server of model {self.model!r} ended before it was healthy ({self.told()})")
            if waited > limit:
                raise BackendTimeout(
                    f"the server of model {self.model!r} was not healthy within {limit:g} s ({self.told()}); raise start_limit "
                    f"of backend {backend!r} or look at the log",
                    retry=False,
                )
            if waited > news:
                news += _NEWS
                _say(f"waiting for {self.model} ({waited:.0f} s); {self.log.name} says: {_tail(self.log, 1)}")
            await asyncio.sleep(_LOOK)
        names = await self.client.served()
        if self.model not in names:
            raise BackendRefused(
                f"the server that was started for model {self.model!r} serves {list(names)}; change command of backend "
                f"{backend!r}, it must take --served-model-name (log: {self.log})"
            )
        _say(f"{self.model} is up at {self.client.url} after {time.monotonic() - self.since:.0f} s")

    async def _healthy(self) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                    return (await reader.readline()).split()[1:2] == [b"200"]
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    def check(self) -> None:
        """Raise `BackendRefused` if it has ended."""
        if self.process.poll() is not None:
            raise BackendRefused(
                f"the server of model {self.model!r} ended ({self.told()}); start again: what was answered is stored"
            )

    def told(self) -> str:
        """How it ended, if it has, and the last lines of its log."""
        status = self.process.poll()
        ended = "" if status is None else f"exit status {status}; "
        return f"{ended}the log {self.log} ends: {_tail(self.log, _TAIL)}"

    def port_was_taken(self) -> bool:
        """Whether it ended because somebody else had its port."""
        return self.process.poll() is not None and "address already in use" in _tail(self.log, 100).lower()

    async def stop(self, limit: float) -> None:
        """End it and all it started; what does not end within ``limit`` seconds is killed."""
        await self.client.close()
        assert self.process.stdin is not None  # noqa: S101  it is a pipe, see `_launch`
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            await asyncio.to_thread(self.process.wait, limit + _PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()  # of the leash; the server is told by the system
            self.process.wait()


def shares(backend: str, models: Mapping[str, Spec]) -> dict[str, float]:
    """Share of the memory of its GPUs that each model takes, in (0, 1).

    What is not given (``gpu_memory_utilization``) is split equally: 0.9 of each GPU, less what is given away there; a model on
    several GPUs takes the smallest of its parts on all of them.

    Raises
    ------
    ConfigError
        If the shares on a GPU are not below 1 together.
    """
    given = {
        name: float(spec.arguments["gpu_memory_utilization"])
        for name, spec in models.items()
        if spec.arguments.get("gpu_memory_utilization") is not None
    }
    on: dict[str, list[str]] = {}  # models by device
    for name, spec in models.items():
        for device in _devices(spec):
            on.setdefault(device, []).append(name)
    equal = {}
    for device, names in on.items():
        here = [given.get(name) for name in names]
        taken, left = sum(share or 0.0 for share in here), here.count(None)
        most = _WHOLE if left else 1
        if taken >= most or any(share is not None and share <= 0 for share in here):
            told = ", ".join("the rest" if share is None else f"{share:g}" for share in here)
            raise ConfigError(
                f"backend {backend!r}: gpu_memory_utilization of {', '.join(names)} on GPU {device} is {told}; each must be "
                f"above 0 and all together below {most}: lower them, or spread the models with devices: [0], devices: [1]"
            )
        if left:
            equal[device] = (_WHOLE - taken) / left
    rest = {name: min(equal[d] for d in _devices(spec)) for name, spec in models.items() if name not in given}
    return {name: given[name] if name in given else round(rest[name], 4) for name in models}


def _devices(spec: Spec) -> tuple[str, ...]:
    """GPUs that a model runs on, as CUDA_VISIBLE_DEVICES names them."""
    given = spec.arguments.get("devices")
    if given is not None:
        named = given if isinstance(given, (list, tuple)) else str(given).split(",")
        return tuple(str(device).strip() for device in named)
    sizes = [int(spec.arguments.get(f"{way}_parallel_size") or 1) for way in ("tensor", "pipeline", "data")]
    count = sizes[0] * sizes[1] * sizes[2]
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return tuple(visible[:count]) or tuple(map(str, range(count)))


def _with(shared: Mapping[str, Any], models: object) -> object:
    """The models, each with the shared flags under its own."""
    if not isinstance(models, Mapping):
        return models
    result: dict[object, object] = {}
    for name, given in models.items():
        if isinstance(given, Mapping):
            result[name] = {**shared, **{str(key).replace("-", "_"): value for key, value in given.items()}}
        else:
            result[name] = {**shared, "model": given} if isinstance(given, str) and given else given
    return result


def _words_of(flags: Mapping[str, Any]) -> list[str]:
    """Flags as words of a command line."""
    words = []
    for key, value in flags.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            many = value if isinstance(value, (list, tuple)) else [value]
            words += [f"--{flag}", *(json.dumps(one) if isinstance(one, Mapping) else str(one) for one in many)]
    return words


def _model_words(command: Sequence[str], model: str) -> list[str]:
    return [model] if command[-1] == "serve" else ["--model", model]


def _launch(command: Sequence[str], environment: Mapping[str, str], log: Path, grace: float) -> subprocess.Popen[bytes]:
    """Start a program on a leash, its words going to a log."""
    leashed = [sys.executable, "-I", "-S", str(Path(leash.__file__)), str(grace), *command]
    with log.open("ab") as file:
        return subprocess.Popen(  # noqa: S603  the user's own command
            leashed,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,  # a Ctrl-C in the terminal is for us alone
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log: Path, lines: int) -> str:
    """Last lines of a log, as one."""
    with contextlib.suppress(OSError):
        said = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        return " | ".join(said[-lines:])[-_SHOWN:] or "(nothing)"
    return "(nothing)"


def _say(line: str) -> None:
    """Tell who waits, on standard error."""
    sys.stderr.write(f"vllm_server: {line}\n")
    sys.stderr.flush()
