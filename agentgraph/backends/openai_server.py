"""Any server that speaks the OpenAI protocol: vLLM, llama.cpp, SGLang, Ollama, OpenAI itself."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from agentgraph.backends.base import Backend
from agentgraph.errors import (
    BackendDown,
    BackendError,
    BackendMalformed,
    BackendOverloaded,
    BackendRefused,
    BackendTimeout,
    ConfigError,
)
from agentgraph.request import Reply, Request

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI, OpenAIError

__all__ = ["OpenAIServer"]

_NO_KEY: Final = "none"  # local servers want no key, the client insists on one
_MOST: Final = 1000  # connections that the client keeps at most
_SHOWN: Final = 300  # characters of a server's words in an error
_LISTED: Final = 20  # served models in an error
_SECRET: Final = 4  # characters; what is shorter ("x") is a placeholder, and hiding it would garble messages
_OURS: Final = (
    "response_format",
    *"model messages temperature top_p max_tokens max_completion_tokens seed logprobs n stream".split(),  # noqa: SIM905
)
_TOO_LONG: Final = ("context length", "context_length", "maximum context", "context size", "too long", "max_model_len")


@dataclass(frozen=True)
class _Dialect:
    """What a model's server takes: found out by asking, for servers differ."""

    logprobs: bool = True
    seed: bool = True
    # The other way round, a server that ignores what it does not know would generate without a limit.
    limit: str = "max_tokens"
    schema: bool = True

    def without(self, complaint: str, *, schema: bool) -> _Dialect | None:
        """The dialect that avoids what a server complains about, or ``None`` if it is not this.

        A request with a ``schema`` is tried without it whatever the complaint: servers word this one in many ways.
        """
        complaint = complaint.lower()
        if self.logprobs and "logprobs" in complaint:
            return replace(self, logprobs=False)
        if self.limit == "max_tokens" and "max_completion_tokens" in complaint:
            return replace(self, limit="max_completion_tokens")
        if self.seed and "seed" in complaint:
            return replace(self, seed=False)
        return replace(self, schema=False) if schema and self.schema else None


class OpenAIServer(Backend):
    """A server reached by URL.

    Parameters
    ----------
    name
        What models call it.
    base_url
        Address up to and including ``/v1``; a user name and password in it are sent, and never shown.
    api_key
        The key itself; better leave it ``None`` and name the variable that holds it.
    api_key_env
        Environment variable with the key; where it is unset (or this is ``None``) a placeholder is sent, which local
        servers accept.
    limit
        Requests in flight, 1..1000.
    timeout
        Seconds that one request may take in all, > 0.
    retries
        How often the client itself tries again (dropped connections, 429, 5xx), >= 0. 0 leaves that to the executor, which
        learns from it how much the server takes.
    logprobs
        Whether to ask for log-probabilities. Servers give them at temperature 1 or at the request's, as they are
        built and started; vLLM does the former.
    verify_tls
        Whether certificates are checked.
    extra_body
        Further fields of every request, for example ``{"top_k": -1}``. They are not part of a request's key: name them in
        the model's fingerprint if they change what it answers.

    Notes
    -----
    A server that refuses logprobs, seed, max_tokens or a JSON Schema is asked again without (with max_completion_tokens),
    and that is remembered for the model and logged once. Reasoning tokens count as output; the reasoning is not part of the text.
    Text that a server without a reasoning parser leaves in (``<think>…``) is kept, and skipped where the answer is read.
    One client lives from the first call to `close`: one that is dropped unclosed makes others hang.
    """

    redundant = True

    def __init__(
        self,
        base_url: str,
        *,
        name: str = "default",
        api_key: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        limit: int = 64,
        timeout: float = 120.0,
        retries: int = 0,
        logprobs: bool = True,
        verify_tls: bool = True,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, limit=limit, has_logprobs=logprobs)
        self.url, self._secrets, self._userinfo = _split_credentials(base_url)
        mine = self._mine = f"backend {self._clean(name)!r}"  # a name may be made of the URL
        if not 1 <= limit <= _MOST:
            raise ConfigError(f"{mine}: limit={limit} must be in 1..{_MOST}")
        if not 0 < timeout < math.inf:
            raise ConfigError(f"{mine}: timeout={timeout} must be a positive number of seconds")
        if retries < 0:
            raise ConfigError(f"{mine}: retries={retries} must be 0 or more")
        taken = sorted(set(extra_body or {}) & set(_OURS))
        if taken:
            raise ConfigError(f"{mine}: extra_body must not hold {taken}; they come with each request")
        self.api_key_env = api_key_env
        self._key = api_key or (os.environ.get(api_key_env, "") if api_key_env else "")
        if not self._key.isascii() or not self._key.isprintable() or " " in self._key:
            raise ConfigError(
                f"{mine}: the key ({'api_key' if api_key else api_key_env}) holds blanks or characters that no header can "
                "carry; copy it again"
            )
        self._secrets = (self._key, *self._secrets)
        self.timeout: float = timeout
        self.retries, self.logprobs, self.verify_tls = retries, logprobs, verify_tls
        self.extra_body = dict(extra_body or {})
        self._dialects: dict[str, _Dialect] = {}
        self._client: AsyncOpenAI | None = None
        self._answered = False

    def __repr__(self) -> str:
        return f"OpenAIServer({self.url!r}, name={self._clean(self.name)!r})"

    async def reply(self, request: Request) -> Reply:
        start = time.perf_counter()
        body = await self._timed(self._answer(request), request.model)
        return self._parse(body, request.model, time.perf_counter() - start)

    async def served(self) -> tuple[str, ...]:
        body = self._json(await self._timed(self._models(), None))
        entries = body.get("data")
        if not isinstance(entries, list):
            raise BackendMalformed(
                f"{self.url} did not list its models but sent {self._shown(body)}; is this its /v1 address?"
            )
        return tuple(sorted(str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry))

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _connected(self) -> AsyncOpenAI:
        if self._client is None:
            from openai import AsyncOpenAI, DefaultAioHttpClient, Timeout

            timeout = Timeout(self.timeout, connect=min(self.timeout, 10.0))
            basic = {"Authorization": "Basic " + base64.b64encode(self._userinfo.encode()).decode()}
            self._client = AsyncOpenAI(
                base_url=self.url,
                api_key=self._key or _NO_KEY,
                timeout=timeout,
                max_retries=self.retries,
                default_headers=basic if self._userinfo else None,
                # Over aiohttp a request takes two thirds of the processor time; and a transport of our own has no __del__ that
                # closes sockets late, under other clients' feet.
                http_client=DefaultAioHttpClient(verify=self.verify_tls, timeout=timeout),
            )
        return self._client

    async def _timed(self, call: Coroutine[Any, Any, bytes], model: str | None) -> bytes:
        """Result of a call within the time limit; its failures in our own terms."""
        from openai import APIStatusError, OpenAIError

        failure: OpenAIError
        try:
            async with asyncio.timeout(self.timeout):
                return await call
        except TimeoutError:
            raise BackendTimeout(
                f"{self.url} did not answer within {self.timeout:g} s; raise timeout of {self._mine}, lower its "
                "limit, or look at the server"
            ) from None
        except OpenAIError as error:
            failure = error
        # No chaining below: what a server said may hold the key.
        if isinstance(failure, APIStatusError):
            raise await self._of_status(failure, model) from None
        raise self._of_connection(failure) from None

    async def _models(self) -> bytes:
        response = await self._connected().models.with_raw_response.list()
        return bytes(response.content)

    async def _answer(self, request: Request) -> bytes:
        """Body of the answer, in the dialect the server takes."""
        from openai import BadRequestError, UnprocessableEntityError

        dialect = known = self._dialects.get(request.model, _Dialect(logprobs=self.logprobs))
        while True:
            try:
                content = await self._ask(request, dialect)
            except (BadRequestError, UnprocessableEntityError) as error:
                complaint = _words(error)
                milder = None if _too_long(complaint) else dialect.without(complaint, schema=request.schema is not None)
                if milder is None:
                    raise
                dialect = milder
            else:
                if dialect != known and dialect != self._dialects.get(request.model):
                    self._learn(request.model, dialect)
                return content

    def _learn(self, model: str, dialect: _Dialect) -> None:
        self._dialects[model] = dialect
        missing = ["logprobs"] if self.logprobs and not dialect.logprobs else []
        missing += [] if dialect.seed else ["seed"]
        missing += [] if dialect.schema else ["JSON Schema"]
        self.has_logprobs = self.has_logprobs and dialect.logprobs
        logging.getLogger(__name__).warning(
            "%s takes %s for %r%s",
            self.url,
            dialect.limit,
            model,
            f", but no {' and no '.join(missing)}: asking without" if missing else "",
        )

    async def _ask(self, request: Request, dialect: _Dialect) -> bytes:
        settings = request.settings
        options: dict[str, Any] = {"temperature": settings.temperature, "top_p": settings.top_p}
        if settings.max_tokens is not None:
            options[dialect.limit] = settings.max_tokens
        if dialect.seed:
            options["seed"] = request.seed
        if dialect.logprobs:
            options["logprobs"] = True
        if dialect.schema and request.schema is not None:
            options["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": str(request.schema.get("title", "reply")), "schema": request.schema},
            }
        messages: Any = [{"role": role, "content": _sendable(text)} for role, text in request.messages]
        # The raw response: half the client's time, and a malformed body stays in our hands.
        response = await self._connected().chat.completions.with_raw_response.create(
            model=request.model, messages=messages, extra_body=self.extra_body or None, **options
        )
        return bytes(response.content)

    def _json(self, content: bytes) -> dict[str, Any]:
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):  # invalid UTF-8 is a ValueError too
            shown = self._shown(content.decode("utf-8", "replace"))
            raise BackendMalformed(
                f"{self.url} sent no JSON but {shown!r}; check that base_url ends in /v1 and that no proxy answers"
            ) from None
        if not isinstance(body, dict):
            raise BackendMalformed(
                f"{self.url} sent {self._shown(body)}, expected a JSON object; is it an OpenAI-compatible server?"
            )
        return body

    def _parse(self, content: bytes, model: str, seconds: float) -> Reply:
        body = self._json(content)
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise BackendMalformed(f"{self.url} sent no choices for {model!r} but {self._shown(body)}")
        choice = choices[0]
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(message, dict) or not isinstance(text, str | None):
            raise BackendMalformed(f"{self.url} sent no message for {model!r} but {self._shown(choice)}")
        usage = body.get("usage")
        prompt_tokens, output_tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        if prompt_tokens is None or output_tokens is None:
            raise BackendMalformed(
                f"{self.url} sent no token counts for {model!r} (usage={self._shown(usage)}), so its calls cannot be charged; "
                "use a server that counts tokens",
                retry=False,
            )
        self._answered = True
        finish = choice.get("finish_reason")
        return Reply(
            text or "",
            prompt_tokens,
            output_tokens,
            finish if isinstance(finish, str) else "unknown",
            _logprob(choice.get("logprobs")),
            seconds,
            reasoning_tokens=_reasoning(usage),
        )

    def _of_connection(self, error: OpenAIError) -> BackendError:
        from openai import APITimeoutError

        # By name: the client's transport library differs between its major versions; and over aiohttp it calls some
        # connections that broke off timeouts.
        causes = _causes(error)
        named = {kind.__name__: cause for cause in reversed(causes) for kind in type(cause).__mro__}
        refused = named.get("ClientConnectorError") or named.get("ConnectError")
        if refused is not None and "certificate verify failed" in str(refused).lower():
            return BackendRefused(
                f"{self.url} has a certificate that no known authority has signed ({self._shown(str(refused))}); name the "
                f"authority's file in SSL_CERT_FILE, or set verify_tls=false of {self._mine}"
            )
        if refused is not None:
            # A server that answered before may be on its way back.
            return BackendRefused(
                f"nobody answers at {self.url} ({self._shown(str(refused))}); start that server or change base_url "
                f"of {self._mine}",
                retry=self._answered,
            )
        broken = named.get("ServerDisconnectedError") or named.get("ClientOSError") or named.get("ClientPayloadError")
        if isinstance(error, APITimeoutError) and broken is None:
            return BackendTimeout(
                f"{self.url} did not answer within {self.timeout:g} s (tried {self.retries + 1} times); "
                f"raise timeout of {self._mine} or look at the server"
            )
        cause = broken or (causes[0] if causes else error)
        what = f"{type(cause).__name__}: {cause}"
        return BackendDown(f"the connection to {self.url} broke off ({self._shown(what)}); look at the server's log")

    async def _of_status(self, error: APIStatusError, model: str | None) -> BackendError:
        said = self._shown(_words(error))
        if error.status_code == 404:
            return await self._not_found(model, said)
        asked = f" for {model!r}" if model is not None else ""
        kind, advice = self._diagnosis(error)
        told = f"{self.url} answered {error.status_code}{asked}: {said}; {advice}"
        return BackendOverloaded(told, retry_after=_retry_after(error)) if kind is BackendOverloaded else kind(told)

    def _diagnosis(self, error: APIStatusError) -> tuple[type[BackendError], str]:
        """Class of a failure by its HTTP status, and what to do about it."""
        status, mine = error.status_code, f"of {self._mine}"
        if status in (401, 403):
            variable = (
                f"the environment variable {self.api_key_env} to a key it accepts, or " if self.api_key_env else ""
            )
            return BackendRefused, f"set {variable}api_key_env {mine} to the variable that holds one"
        if status == 429 and error.code == "insufficient_quota":
            return BackendRefused, "top up the quota of this key or use another server"
        if status in (429, 503, 529):
            return BackendOverloaded, f"lower limit={self.limit} {mine}"
        if status == 413 or _too_long(_words(error)):
            return BackendRefused, (
                "the prompt is too long: give nodes fewer parents, lower max_tokens, or serve a longer context"
            )
        if 400 <= status < 500 and status not in (408, 409):
            return BackendRefused, f"change the settings it names, or extra_body {mine}"
        return BackendDown, "look at the server's log"

    async def _not_found(self, model: str | None, said: str) -> BackendError:
        names: tuple[str, ...] = ()
        if model is not None:
            with contextlib.suppress(BackendError):
                names = await self.served()
        if names and model not in names:
            shown = [*names[:_LISTED], "…"] if len(names) > _LISTED else list(names)
            return BackendRefused(
                f"{self.url} serves {shown}, not {model!r}; start that server or change served_as of model {model!r}"
            )
        return BackendRefused(f"{self.url} answered 404: {said}; base_url of {self._mine} usually ends in /v1")

    def _clean(self, text: str) -> str:
        """Text without the key and the password, whoever put them there."""
        for secret in self._secrets:
            if len(secret) >= _SECRET:
                text = text.replace(secret, "***")
        return text

    def _shown(self, value: object) -> str:
        """A value as it may stand in a message; cleaned first, so that no half of a key is left."""
        return _short(self._clean(value if isinstance(value, str) else repr(value)))


def _split_credentials(base_url: str) -> tuple[str, tuple[str, ...], str]:
    """Address without credentials; what must not be shown; 'user:password' to be sent, '' if there is none."""
    parts = urlsplit(base_url)
    raw, _, host = parts.netloc.rpartition("@")
    shown = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"base_url={shown!r} must look like http://127.0.0.1:8000/v1")
    if parts.query or parts.fragment:
        raise ConfigError(f"base_url={shown!r} must not go on with '?' or '#'; leave that part out")
    try:
        parts.port  # noqa: B018  a bad port is an error here, at the door
    except ValueError as error:
        raise ConfigError(f"base_url={shown!r} has no valid port ({error})") from None
    password = parts.password or ""
    userinfo = f"{unquote(parts.username or '')}:{unquote(password)}" if raw else ""
    return shown, (raw, userinfo, password, unquote(password)), userinfo


def _sendable(text: str) -> str:
    """Text that UTF-8 can carry: models now and then emit halves of surrogate pairs."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _words(error: APIStatusError) -> str:
    """What the server said, in one line."""
    body = error.body
    said: object = body
    if isinstance(body, dict):
        said = body.get("message") or body.get("detail") or body
    text = said if isinstance(said, str) else json.dumps(said, default=str)
    named = [word for word in (error.param, error.code) if word and word not in text and not str(word).isdigit()]
    return " ".join(" ".join([text, *map(str, named)]).split())


def _causes(error: BaseException) -> list[BaseException]:
    """What led to an error, the nearest first."""
    causes: list[BaseException] = []
    cause = error.__cause__
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


def _count(usage: object, name: str) -> int | None:
    """A number of tokens, where the server gives one."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and count >= 0 else None


def _reasoning(usage: object) -> int:
    details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
    return _count(details, "reasoning_tokens") or 0


def _retry_after(error: APIStatusError) -> float:
    """Seconds that the server asks to wait; 0 if it does not say, or names a date."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            seconds = scale * float(error.response.headers.get(name, ""))
            if 0 <= seconds < math.inf:
                return seconds
    return 0.0


def _too_long(words: str) -> bool:
    lower = words.lower()
    return any(hint in lower for hint in _TOO_LONG)


def _logprob(field: object) -> float | None:
    """Sum over the generated tokens, nats; ``None`` if the server gave none."""
    tokens = field.get("content") if isinstance(field, dict) else None
    if not isinstance(tokens, list) or not tokens:
        return None
    values = [token.get("logprob") if isinstance(token, dict) else None for token in tokens]
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return min(math.fsum(numbers), 0.0) if len(numbers) == len(values) else None
