"""What a backend that loads models itself is told of each: a folder or Hugging Face id, arguments, and what tells it apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from agentgraph.errors import BackendRefused, ConfigError
from agentgraph.request import Request

__all__ = ["SOUND", "VLLM_RESOURCES", "Spec", "Specs", "short", "specs"]

SOUND: Final[Mapping[str, Any]] = {
    # Models that do not want to end a reply otherwise fill it with blanks.
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}
"""Arguments of vLLM that are sound for our requests, in this process or as a server, unless told otherwise."""
VLLM_RESOURCES: Final = (
    *("gpu_memory_utilization", "kv_cache_memory_bytes", "enforce_eager", "max_num_seqs", "max_num_batched_tokens"),
    *("tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend", "max_model_len"),
    *("enable_chunked_prefill", "enable_prefix_caching", "structured_outputs_config", "download_dir"),
)
"""Arguments of vLLM that say how fast a model answers, not what."""
_TOLD: Final = (".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt")  # files that make a model
_WHOLE: Final = 2**28  # bytes; larger files are read in samples
_STRIDE: Final = 2**22  # bytes from one sample to the next
_SAMPLE: Final = 2**16  # bytes
_SHOWN: Final = 300  # characters of an engine's words in an error


@dataclass(frozen=True)
class Spec:
    """One model as it was asked for.

    Parameters
    ----------
    name
        What requests call it.
    arguments
        Of the engine; ``model`` is the folder or Hugging Face id.
    template
        What the chat template is handed besides the messages.
    """

    name: str
    arguments: Mapping[str, Any]
    template: Mapping[str, Any]

    @property
    def path(self) -> Path | None:
        """Where the model is, if it is on this machine."""
        path = Path(str(self.arguments["model"])).expanduser()
        return path if path.exists() else None

    @property
    def model(self) -> str:
        """Folder or Hugging Face id, as an engine takes it."""
        return str(self.path or self.arguments["model"])

    def tokens(self, tokenizer: Any, request: Request) -> list[int]:  # noqa: ANN401  transformers has no types for us
        """The prompt of a request in the model's chat form."""
        messages = [
            # Models now and then emit halves of surrogate pairs, which UTF-8 cannot carry.
            {"role": speaker, "content": text.encode("utf-8", "replace").decode()}
            for speaker, text in request.messages
        ]
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False, **self.template}
        return list(tokenizer.apply_chat_template(messages, **options))

    def fingerprint(self, resources: Collection[str]) -> str:
        """Fingerprint of the files where they are in a folder here, else of id and revision; of the other arguments too.

        Of files above 256 MiB every 64th part is read.

        Parameters
        ----------
        resources
            Arguments that say how fast a model answers, not what: left out.
        """
        telling = {key: value for key, value in self.arguments.items() if key not in resources}
        if self.path is not None:
            telling["model"] = _digest_of(self.path)
        told = json.dumps([telling, dict(self.template)], sort_keys=True, default=str)
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        return digest if self.path is not None else f"{self.arguments['model']} {digest}"


class Specs(dict[str, Spec]):
    """The models of a backend by name.

    Parameters
    ----------
    backend
        Its name, for errors.
    """

    def __init__(self, backend: str, models: Mapping[str, Spec]) -> None:
        super().__init__(models)
        self._backend = backend

    def named(self, model: str) -> Spec:
        """The model of that name.

        Raises
        ------
        BackendRefused
            If there is none.
        """
        if model not in self:
            raise BackendRefused(
                f"backend {self._backend!r} serves {sorted(self)}, not {model!r}; change served_as of the model, or add it to "
                "models of the backend"
            )
        return self[model]


def specs(backend: str, models: object, *, ours: Collection[str]) -> Specs:
    """The models of a backend by name.

    Parameters
    ----------
    backend
        Its name, for errors.
    models
        By name: a folder or Hugging Face id, or a mapping with that as ``model``, with arguments and ``chat_template_kwargs``.
    ours
        Arguments that are not the user's to set.

    Raises
    ------
    ConfigError
        If a model is not named, not there, or told what is not the user's to set.
    """
    if not isinstance(models, Mapping) or not models:
        raise ConfigError(f"backend {backend!r}: models={models!r} must name one or more, such as {{m: path/to/m}}")
    return Specs(backend, {str(model): _spec(backend, str(model), given, ours) for model, given in models.items()})


def _spec(backend: str, name: str, given: object, ours: Collection[str]) -> Spec:
    arguments = {"model": given} if isinstance(given, str) else dict(given) if isinstance(given, Mapping) else {}
    arguments = {str(key).replace("-", "_"): value for key, value in arguments.items()}
    template = arguments.pop("chat_template_kwargs", None) or {}
    what = f"backend {backend!r}: model {name!r}"
    if not isinstance(arguments.get("model"), str) or not arguments["model"]:
        raise ConfigError(
            f"{what}: {given!r} names no model; give a folder or Hugging Face id, such as {{model: path/to/m}}"
        )
    if not isinstance(template, Mapping):
        raise ConfigError(
            f"{what}: chat_template_kwargs={template!r} must be a mapping, such as {{enable_thinking: false}}"
        )
    taken = sorted(set(arguments) & set(ours))
    if taken:
        raise ConfigError(f"{what} must not set {', '.join(taken)}; replies depend on ours")
    spec = Spec(name, arguments, template)
    if spec.path is None and arguments["model"].startswith(("/", "./", "../", "~")):
        raise ConfigError(
            f"{what}: there is no {arguments['model']}; give a folder that is there, or a Hugging Face id"
        )
    return spec


def short(error: Exception) -> str:
    """An engine's error in one line, not too long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _digest_of(path: Path) -> str:
    """Digest of a model's files: those of a folder, or the one file it is."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    told = [file for file in files if file.suffix in _TOLD and file.is_file()]
    parts = [(file.name, _digest(file, file.stat().st_size, file.stat().st_mtime_ns)) for file in told]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@cache
def _digest(path: Path, size: int, _written: int) -> str:
    """Digest of a file, of its size and samples where it is large."""
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _WHOLE:
            digest.update(file.read())
        else:
            for start in range(0, size, _STRIDE):
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
