"""The OpenAI backend against a server on the loopback interface that misbehaves in every known way."""

import asyncio
import base64
import dataclasses
import gc
import logging
import socket
import ssl
import subprocess
import sys
import traceback

import pytest
import trustme
from servers.loopback import Answer, Loopback, as_json, chat, error, html
from standin import ask

from agentgraph.backends.openai_server import OpenAIServer
from agentgraph.errors import (
    BackendDown,
    BackendError,
    BackendMalformed,
    BackendOverloaded,
    BackendRefused,
    BackendTimeout,
    ConfigError,
)
from agentgraph.request import Reply

KEY = "sk-very-secret-0123456789"


def replies(backend, *requests):
    """Replies, or what was raised."""

    async def run():
        try:
            return await asyncio.gather(*map(backend.reply, requests), return_exceptions=True)
        finally:
            await backend.close()

    return asyncio.run(run())


def reply(server, request=None, **settings):
    """The reply to one request."""
    settings = {"retries": 0, "timeout": 5.0, **settings}
    (result,) = replies(OpenAIServer(server.url, **settings), request or ask())
    if isinstance(result, BaseException):
        raise result
    return result


def test_what_is_sent(loopback):
    request = ask("hello", temperature=0.5, top_p=0.75, max_tokens=9)
    reply(loopback, request, extra_body={"top_k": -1})
    assert loopback.chats == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hello"}],
            "temperature": 0.5,
            "top_p": 0.75,
            "max_tokens": 9,
            "seed": request.seed,
            "logprobs": True,
            "top_k": -1,
        }
    ]
    assert request.seed >= 2**32  # survives as an integer


def test_what_comes_back(loopback):
    result = reply(loopback)
    assert (result.text, result.prompt_tokens, result.output_tokens, result.finish) == ("ok", 7, 2, "stop")
    assert result.logprob == -0.75
    assert 0 < result.seconds < 5


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (chat(None), ("", "stop", -0.75)),
        (chat("", finish="length"), ("", "length", -0.75)),
        (chat("x", logprobs=None), ("x", "stop", None)),
        (chat("x", logprobs=[]), ("x", "stop", None)),
        (chat("x", logprobs=[-1.0, float("-inf")]), ("x", "stop", None)),
        (chat("x", logprobs=[float("nan")]), ("x", "stop", None)),
        (chat("x", logprobs=[1e-9]), ("x", "stop", 0.0)),
        (chat("7", reasoning_content="let me think"), ("7", "stop", -0.75)),
        (chat("\ud83d\ude00 \ud800"), ("\U0001f600 \ud800", "stop", -0.75)),
    ],
)
def test_odd_replies_are_outcomes(loopback, answer, expected):
    loopback.script = lambda *_: answer
    result = reply(loopback)
    assert (result.text, result.finish, result.logprob) == expected


def test_reasoning_tokens_are_output(loopback):
    usage = {"prompt_tokens": 5, "completion_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 80}}
    loopback.script = lambda *_: chat(usage=usage)
    assert reply(loopback).output_tokens == 90


def test_ten_megabytes(loopback):
    loopback.script = lambda *_: chat("a" * 10_000_000)
    assert len(reply(loopback).text) == 10_000_000


def test_half_a_surrogate_pair_can_be_sent(loopback):
    reply(loopback, ask("an \ud800 emoji ü"))
    assert loopback.chats[0]["messages"][0]["content"] == "an ? emoji ü"


BROKEN = {
    "html": (html(), BackendMalformed, r"sent no JSON but '<html><body>Bad gateway"),
    "html 502": (html(502), BackendDown, r"answered 502 for 'm': <html><body>Bad gateway"),
    "cut json": (Answer(body=b'{"choices": [{"mess'), BackendMalformed, r"sent no JSON but '\{\"choices"),
    "empty": (Answer(body=b""), BackendMalformed, r"sent no JSON but ''"),
    "not utf-8": (Answer(body=b'{"choices": "\xff\xfe\xfa"}'), BackendMalformed, r"sent no JSON"),
    "deep": (Answer(body=b"[" * 100_000), BackendMalformed, r"sent no JSON"),
    "list": (as_json([1]), BackendMalformed, r"sent \[1\], expected a JSON object"),
    "no choices": (as_json({"choices": []}), BackendMalformed, r"sent no choices for 'm' but \{'choices': \[\]\}"),
    "error in 200": (as_json({"error": {"message": "no GPU"}}), BackendMalformed, r"no choices .* 'no GPU'"),
    "no message": (as_json({"choices": [{"text": "x"}]}), BackendMalformed, r"no message for 'm' but \{'text': 'x'\}"),
    "number": (chat(5), BackendMalformed, r"sent no message"),
    "no usage": (chat(usage={}), BackendMalformed, r"sent no token counts for 'm' \(usage=\{\}\)"),
    "bad usage": (chat(usage={"prompt_tokens": "7", "completion_tokens": True}), BackendMalformed, r"no token counts"),
    "dropped": (Answer(drop=True), BackendDown, r"the connection to http\S+ broke off"),
    "401": (error(401, "no"), BackendRefused, r"answered 401 .* set the environment variable OPENAI_API_KEY"),
    "403": (error(403, "no"), BackendRefused, r"answered 403"),
    "404": (error(404, "no page"), BackendRefused, r"answered 404: no page.* usually ends in /v1"),
    "400": (error(400, "temperature 1 only"), BackendRefused, r"answered 400 for 'm': temperature 1 only"),
    "too long": (
        error(400, "This model's maximum context length is 10 tokens, your seed prompt has 11."),
        BackendRefused,
        r"maximum context length is 10 .* fewer parents",
    ),
    "413": (error(413, "no"), BackendRefused, r"answered 413 .* fewer parents"),
    "quota": (error(429, "pay", code="insufficient_quota"), BackendRefused, r"answered 429 .* top up"),
    "429": (error(429, "slow"), BackendOverloaded, r"answered 429 for 'm': slow.*; lower limit=64"),
    "503": (error(503, "busy"), BackendOverloaded, r"answered 503 for 'm': busy"),
    "500": (error(500, "engine died"), BackendDown, r"answered 500 for 'm': engine died.*; look at the server's log"),
}
NO_USE = {"401", "403", "404", "400", "too long", "413", "quota", "no usage", "bad usage"}


@pytest.mark.parametrize("name", BROKEN)
def test_each_failure_has_its_class_and_message(loopback, name):
    answer, kind, message = BROKEN[name]
    loopback.script = lambda *_: answer
    with pytest.raises(BackendError, match=message) as caught:
        reply(loopback)
    assert type(caught.value) is kind
    assert caught.value.retry == (name not in NO_USE)
    assert loopback.url in str(caught.value)
    assert len(str(caught.value)) < 700


def test_hang(loopback):
    loopback.script = lambda *_: Answer(hang=True)
    with pytest.raises(BackendTimeout, match=r"did not answer within 0\.3 s; raise timeout of backend 'default'"):
        reply(loopback, timeout=0.3, retries=5)


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    (failure,) = replies(OpenAIServer(url, retries=0, name="gpu"), ask())
    assert type(failure) is BackendRefused
    assert not failure.retry
    assert f"nobody answers at {url}" in str(failure)
    assert "base_url of backend 'gpu'" in str(failure)


def test_server_that_went_away_may_come_back():
    async def run():
        with Loopback() as server:
            backend = OpenAIServer(server.url, retries=0)
            await backend.reply(ask())
        with pytest.raises(BackendError) as caught:
            await backend.reply(ask())
        with pytest.raises(BackendError) as again:
            await backend.reply(ask())
        await backend.close()
        return caught.value, again.value

    assert all(failure.retry for failure in asyncio.run(run()))


def test_wrong_name_lists_what_is_served(loopback):
    loopback.models = ["llama-3b"]
    loopback.script = lambda *_: error(404, "The model `llama-8b` does not exist.")
    with pytest.raises(BackendRefused) as caught:
        reply(loopback, ask(model="llama-8b"))
    assert str(caught.value) == (
        f"{loopback.url} serves ['llama-3b'], not 'llama-8b'; start that server or change served_as of model 'llama-8b'"
    )


def test_served(loopback):
    loopback.models = ["b", "a"]

    async def served():
        backend = OpenAIServer(loopback.url)
        try:
            return await backend.served()
        finally:
            await backend.close()

    assert asyncio.run(served()) == ("a", "b")
    loopback.models = None
    with pytest.raises(BackendRefused, match="answered 404"):
        asyncio.run(served())


@pytest.mark.parametrize("status", [429, 503])
def test_overload_that_passes_is_retried_by_the_client(loopback, status):
    loopback.script = lambda _, number: error(status, **{"retry-after-ms": "10"}) if number < 2 else chat("fine")
    assert reply(loopback, retries=2).text == "fine"
    assert len(loopback.chats) == 3


def test_idle_connection_that_was_dropped_is_retried(loopback):
    loopback.script = lambda _, number: Answer(drop=True) if number == 0 else chat("fine")
    assert reply(loopback, retries=1).text == "fine"


REFUSALS = {
    "logprobs": "You are not allowed to request logprobs from this model.",
    "seed": "Extra inputs are not permitted: seed",
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported, use 'max_completion_tokens' instead.",
}


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("refused", [["logprobs"], ["seed"], ["max_tokens"], ["seed", "max_tokens", "logprobs"]])
def test_adapts_once_per_model_and_remembers(loopback, refused, status, caplog):
    def script(body, _):
        wrong = [field for field in refused if field in body and body["model"] == "strict"]
        return error(status, REFUSALS[wrong[0]]) if wrong else chat()

    loopback.script = script
    backend = OpenAIServer(loopback.url, retries=0)

    async def run():
        for model in ("strict", "strict", "other"):
            await backend.reply(ask(model=model))
        await backend.close()

    with caplog.at_level(logging.WARNING, "agentgraph"):
        asyncio.run(run())
    bodies = loopback.chats
    assert len(bodies) == len(refused) + 3
    limit = "max_completion_tokens" if "max_tokens" in refused else "max_tokens"
    for body in bodies[len(refused) : -1]:
        assert not set(refused) & set(body)
        assert body[limit] == 8
    assert {"logprobs", "seed", "max_tokens"} <= set(bodies[-1])
    assert backend.has_logprobs == ("logprobs" not in refused)
    assert len(caplog.records) == 1
    assert "'strict'" in caplog.text


@pytest.mark.parametrize("said", ["response_format is not supported", "unknown field", "guided decoding failed"])
def test_a_schema_is_asked_for_and_left_out_where_it_is_refused(loopback, said, caplog):
    loopback.script = lambda body, _: (
        error(400, said) if body["model"] == "plain" and "response_format" in body else chat("{}")
    )
    schema = {"title": "Answer", "type": "object"}
    backend = OpenAIServer(loopback.url, retries=0)

    async def run():
        for model in ("m", "plain", "plain"):
            await backend.reply(dataclasses.replace(ask(model=model), schema=schema))
        await backend.reply(ask())
        await backend.close()

    with caplog.at_level(logging.WARNING, "agentgraph"):
        asyncio.run(run())
    sent = {"type": "json_schema", "json_schema": {"name": "Answer", "schema": schema}}
    assert [body.get("response_format") for body in loopback.chats] == [sent, sent, None, None, None]
    assert all("logprobs" in body and "seed" in body for body in loopback.chats)
    assert len(caplog.records) == 1
    assert "no JSON Schema: asking without" in caplog.text
    assert backend.has_logprobs


def test_a_schema_that_is_not_the_matter(loopback):
    loopback.script = lambda *_: error(400, "temperature 1 only")
    backend = OpenAIServer(loopback.url, retries=0)
    request = dataclasses.replace(ask(), schema={"type": "object"})
    (result,) = replies(backend, request)
    assert isinstance(result, BackendRefused)
    assert "temperature 1 only" in str(result)
    assert len(loopback.chats) == 2
    replies(backend, request)
    assert "response_format" in loopback.chats[2]  # nothing was learned


def test_refusal_for_another_reason_teaches_nothing(loopback):
    loopback.script = lambda _, number: chat() if number > 1 else error(400, "bad seed, bad everything")
    backend = OpenAIServer(loopback.url, retries=0)
    first, second = replies(backend, ask())[0], replies(backend, ask())[0]
    assert isinstance(first, BackendRefused)
    assert isinstance(second, Reply)
    assert ["seed" in body for body in loopback.chats] == [True, False, True]


def test_logprobs_are_not_asked_for_if_not_wanted(loopback):
    reply(loopback, logprobs=False)
    assert "logprobs" not in loopback.chats[0]


def test_one_client_and_its_connections_are_reused(loopback):
    backend = OpenAIServer(loopback.url)

    async def run():
        await backend.reply(ask())
        client = backend._client
        for n in range(30):
            await backend.reply(ask(str(n)))
        assert backend._client is client
        await backend.close()
        assert backend._client is None

    asyncio.run(run())
    assert loopback.connections == 1
    assert len(loopback.chats) == 31


@pytest.mark.parametrize("close", [True, False], ids=["closed", "dropped"])
def test_burst_after_another_client_was_closed_or_dropped(loopback, close):
    """A client dropped unclosed must not make the next one's requests hang until their time limit."""

    async def run():
        failed = 0
        for _ in range(4):
            backend = OpenAIServer(loopback.url, retries=0, timeout=3.0)
            burst = await asyncio.gather(*(backend.reply(ask()) for _ in range(40)), return_exceptions=True)
            failed += sum(isinstance(one, BaseException) for one in burst)
            if close:
                await backend.close()
            del backend, burst
            gc.collect()
        return failed

    with pytest.MonkeyPatch.context() as patch:
        # Sockets that nobody closed are what this is about, not a surprise.
        patch.setattr(sys, "unraisablehook", lambda *_: None)
        assert asyncio.run(run()) == 0
        gc.collect()


ECHOES = {
    "401": error(401, f"Incorrect API key provided: {KEY}. Find yours elsewhere."),
    "cut in the key": error(401, "x" * 290 + KEY),
    "500": error(500, f"header {KEY}"),
    "html": Answer(body=f"<p>{KEY}</p>".encode()),
    "choices": as_json({"choices": [], "key": KEY}),
}


@pytest.mark.parametrize("name", ECHOES)
def test_key_is_sent_and_never_shown(loopback, name, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    loopback.script = lambda *_: ECHOES[name]
    backend = OpenAIServer(loopback.url, retries=0, api_key_env="MY_KEY")
    (failure,) = replies(backend, ask())
    assert loopback.received[0].headers["authorization"] == f"Bearer {KEY}"
    shown = "".join(traceback.format_exception(failure)) + repr(backend) + repr(failure)
    assert isinstance(failure, BackendError)
    assert KEY[:12] not in shown
    if name == "401":
        assert "MY_KEY" in shown
        assert "provided: ***." in shown


def test_password_in_the_url_is_sent_and_never_shown(loopback, caplog):
    url = loopback.url.replace("http://", "http://user:p%40ssword@")
    loopback.script = lambda *_: error(401, "who are p@ssword and p%40ssword?")
    backend = OpenAIServer(url, retries=0, name=url)
    with caplog.at_level(logging.DEBUG, "httpx"), caplog.at_level(logging.DEBUG, "httpx2"):
        (failure,) = replies(backend, ask())
    sent = loopback.received[0].headers["authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"user:p@ssword"
    for shown in (str(failure), repr(backend), caplog.text):
        assert "ssword" not in shown
    assert str(failure).startswith(f"{loopback.url} answered 401")


def test_without_a_key_a_placeholder_is_sent(loopback):
    for settings in ({}, {"api_key_env": None}):
        reply(loopback, **settings)
        assert loopback.received[-1].headers["authorization"] == "Bearer none"
    reply(loopback, api_key=KEY)
    assert loopback.received[-1].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"base_url": "127.0.0.1:8000"}, r"base_url='127\.0\.0\.1:8000' must look like"),
        ({"base_url": "ftp://u:secret@h/v1"}, r"base_url='ftp://h/v1' must look like"),
        ({"base_url": "http://h/v1?key=secret"}, r"base_url='http://h/v1' must not go on with"),
        ({"base_url": "http://u:secret@h:x/v1"}, r"base_url='http://h:x/v1' has no valid port"),
        ({"limit": 0}, r"limit=0 must be in 1\.\.1000"),
        ({"limit": 1001}, r"limit=1001"),
        ({"timeout": 0}, r"timeout=0"),
        ({"timeout": float("inf")}, r"timeout=inf"),
        ({"retries": -1}, r"retries=-1"),
        ({"extra_body": {"seed": 1, "top_k": 1}}, r"must not hold \['seed'\]"),
        ({"api_key": "secret\n"}, r"the key \(api_key\) holds blanks"),
        ({"api_key": "sécret"}, r"the key \(api_key\) holds blanks"),
    ],
)
def test_bad_settings(settings, shown):
    with pytest.raises(ConfigError, match=shown) as caught:
        OpenAIServer(**{"base_url": "http://127.0.0.1:1/v1", **settings})
    assert "secret" not in str(caught.value)
    assert "sécret" not in str(caught.value)


@pytest.mark.parametrize("module", ["openai_server", "scripted", "embedded.backend"])
def test_import_is_light(module):
    code = (
        f"import sys, agentgraph.backends.{module}; print(*sorted({{'openai', 'torch', 'httpx2'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---- certificates


@pytest.fixture
def certified():
    """A server whose certificate an authority issued that nobody knows."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with Loopback(tls=context) as server:
        yield server


def test_unknown_certificate(certified):
    with pytest.raises(BackendRefused, match=r"https\S+ has a certificate that no known .*verify_tls=false") as caught:
        reply(certified)
    assert not caught.value.retry
    assert not certified.chats


def test_unknown_certificate_can_be_trusted(certified):
    assert reply(certified, verify_tls=False).text == "ok"
