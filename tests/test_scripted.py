"""The scripted backend."""

import asyncio

import pytest
from standin import ask

from agentgraph.backends.scripted import Scripted
from agentgraph.errors import BackendError, BackendOverloaded, BackendTimeout, ConfigError
from agentgraph.request import Reply


def replies(backend, *requests):
    async def run():
        return await asyncio.gather(*(backend.reply(request) for request in requests))

    return asyncio.run(run())


def test_list_in_order_then_says_how_many_it_had():
    backend = Scripted(["one", Reply("two", 3, 4)])
    first, second = replies(backend, ask(), ask())
    assert (first.text, second.text) == ("one", "two")
    with pytest.raises(BackendError, match=r"given 2 replies and asked for number 3") as caught:
        replies(backend, ask())
    assert not caught.value.retry
    assert backend.calls == 3


def test_order_is_that_of_the_calls_with_latency():
    backend = Scripted(["one", "two", "three"], latency=0.001)
    assert [reply.text for reply in replies(backend, ask(), ask(), ask())] == ["one", "two", "three"]


def test_tokens_are_characters():
    (reply,) = replies(Scripted(lambda request: request.messages[-1][1] + "!", logprob=-0.5), ask("abc"))
    assert reply == Reply("abc!", 3, 5, logprob=-0.5, seconds=0.0)


def test_async_function():
    async def script(request):
        await asyncio.sleep(0)
        return request.model

    assert replies(Scripted(script), ask(model="x"))[0].text == "x"


@pytest.mark.parametrize("failure", [BackendTimeout("late"), BackendOverloaded("busy")])
def test_fails_on_request(failure):
    for script in ([failure], lambda _: failure):
        with pytest.raises(type(failure), match=str(failure)):
            replies(Scripted(script), ask())


@pytest.mark.parametrize(
    ("given", "settings", "shown"),
    [
        ("text", {}, "script='text' is one text"),
        ([], {"limit": 0}, "limit=0"),
        ([], {"latency": -1}, "latency=-1"),
        ([], {"logprob": 0.5}, r"logprob=0\.5"),
    ],
)
def test_bad_settings(given, settings, shown):
    with pytest.raises(ConfigError, match=shown):
        Scripted(given, **settings)


def test_script_that_gives_something_else():
    with pytest.raises(ConfigError, match=r"gave 3; give a str"):
        replies(Scripted(lambda _: 3), ask())
