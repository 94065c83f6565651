"""What every role promises: valid forms, calls that are the ones it is priced by, absence handled, data that round-trips."""

import asyncio
import itertools
import pkgutil

import pytest

import agentgraph.roles
from agentgraph.errors import ConfigError, SpaceError
from agentgraph.prompt import WORDS
from agentgraph.recording import Mark
from agentgraph.request import Settings
from agentgraph.roles.base import CallForm, Message, Role, role_from_data, role_kinds

KINDS = role_kinds()


def made(kind, **settings):
    return role_from_data({"kind": kind, "name": f"my {kind}", **settings})


def answer_for(kind, answer):
    """An answer that the role can take: an oracle takes marks only."""
    return Mark(f"1.0 by {answer}") if kind == "oracle" else answer


def said(answer, confidence=0.5):
    return Message(answer, f"I think it is {answer}", confidence)


class Asked:
    """An `Ask` that answers from a list and remembers what it was asked."""

    def __init__(self, *replies):
        self.replies, self.calls = list(replies), []

    async def __call__(self, word, candidates=()):
        self.calls.append((word, tuple(candidates)))
        return self.replies.pop(0) if self.replies else said("own")


def run(role, parents, *replies):
    ask = Asked(*replies)
    return asyncio.run(role(tuple(parents), ask)), ask.calls


def test_every_file_is_a_kind():
    files = {module.name for module in pkgutil.iter_modules(agentgraph.roles.__path__)}
    assert set(KINDS) == files - {"base", "rules"}
    assert "rules" not in KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_kind_is_its_file(kind):
    role = made(kind)
    assert isinstance(role, Role)
    assert role.kind == kind
    assert type(role).__module__ == f"agentgraph.roles.{kind}"
    assert set(role.not_above) <= set(KINDS)
    assert role.may_be_sink or role.may_be_inner


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parents", range(6))
def test_calls_are_the_forms_it_is_priced_by(kind, parents):
    role = made(kind)
    if parents < role.min_parents:
        return
    message, calls = run(role, [said(answer_for(kind, str(i))) for i in range(parents)])
    assert [CallForm(word, len(candidates)) for word, candidates in calls] == list(role.forms(parents))
    assert bool(calls) == role.needs_model
    assert {word for word, _ in calls} <= set(WORDS)
    assert not message.absent
    assert message.confidence is None or 0 <= message.confidence <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_absent_parents(kind):
    role = made(kind)
    absent = Message(None, "gibberish")
    message, calls = run(role, [absent] * 3)
    assert message.absent == (not role.needs_model)
    assert len(calls) <= max(1, len(role.forms(3)))  # never dearer than its price
    assert all("gibberish" not in candidates for _, candidates in calls)
    seven = answer_for(kind, "7")
    message, calls = run(role, [absent, said(seven), absent], said(seven))
    assert str(message.answer) == str(seven)
    assert all(candidates in ((), ("7",)) for _, candidates in calls)


@pytest.mark.parametrize("kind", KINDS)
def test_own_absent_reply(kind):
    role = made(kind)
    message, _ = run(role, [Message(None)] * role.min_parents, Message(None, "?"))
    assert message.absent


@pytest.mark.parametrize("kind", KINDS)
def test_edge_text_lists_whole_replies(kind):
    _, calls = run(made(kind, edge="text"), [said(answer_for(kind, answer)) for answer in "34"])
    for _, candidates in calls:
        assert candidates in ((), ("I think it is 3", "I think it is 4"))
    with pytest.raises(ConfigError, match=f"role 'my {kind}': edge='all' is unknown; use 'answer' or 'text'"):
        made(kind, edge="all")


@pytest.mark.parametrize("kind", KINDS)
def test_data_round_trip(kind):
    role = made(kind, settings={"temperature": 0.25, "top_p": 0.5, "max_tokens": 9}, instructions={"fuse": "merge"})
    again = role_from_data(role.data())
    assert again == role
    assert again.settings == Settings(0.25, 0.5, 9)
    assert again.instructions == {"fuse": "merge"}


def test_unknown_kind():
    for kind in ("judge", "base", "rules", None, "os"):
        with pytest.raises(SpaceError, match=rf"role kind '{kind}' is unknown; this version has assistant, "):
            role_from_data({"kind": kind})


# ---- what each does


def test_assistant_solves_and_refines():
    role = made("assistant")
    assert run(role, [])[1] == [("solve", ())]
    assert run(role, [said("1"), said("2")])[1] == [("refine", ("1", "2"))]


def test_keep_takes_the_most_confident():
    role = made("keep")
    assert run(role, [said("a", 0.9)], said("b", 0.8))[0].answer == "a"
    assert run(role, [said("a", 0.9)], said("b", 0.95))[0].answer == "b"
    assert run(role, [said("a", 0.9)], said("b", 0.9))[0].answer == "a"  # ties keep what was received
    assert run(role, [said("a", None)], Message(None))[0].answer == "a"


@pytest.mark.parametrize("answers", list(itertools.product("ab", repeat=4)))
def test_vote_takes_the_majority_and_ties_go_to_the_first(answers):
    message, _ = run(made("vote"), [said(answer) for answer in answers])
    most = max(answers.count("a"), answers.count("b"))
    expected = answers[0] if answers.count("a") == 2 else max("ab", key=answers.count)
    assert message.answer == expected
    assert message.confidence == most / 4


@pytest.mark.parametrize(
    ("lists", "answer", "confidence"),
    [
        (["3,17", "3,17", "5"], "3,17", 2 / 3),
        (["3,17", "3,5", "3,5,17"], "3,17", (3 + 2) / 6),  # two lengths of 2; 17 was listed before 5
        (["10,9", "9"], "9,10", 3 / 4),  # the length that came first
        (["b,a", "b", "c"], "b", 2 / 3),
        (["b,a", "c,a"], "b,a", 3 / 4),
        (["7, 7", "8"], "7", 1 / 2),
        ([",", "4", "4"], "4", 2 / 3),
        (["plain"], "plain", 1.0),
    ],
)
def test_item_vote_keeps_the_most_listed_items_up_to_the_usual_length(lists, answer, confidence):
    message, _ = run(made("item_vote"), [said(one) for one in lists])
    assert (message.answer, message.confidence) == (answer, pytest.approx(confidence))


def test_confidence_vote_adds_confidences():
    role = made("confidence_vote")
    parents = [said("a", 0.4), said("b", 0.7), said("a", 0.4)]
    message, _ = run(role, parents)
    assert message.answer == "a"
    assert message.confidence == pytest.approx(0.8 / 1.5)
    assert run(role, [said("a", 0.3), said("a", 0.3), said("b", 0.7)])[0].answer == "b"
    assert run(role, [said("a", None), said("b", 0.1)])[0].answer == "b"
    assert run(role, [said("a", 0.0), said("b", 0.0)])[0] == Message("a", "I think it is a", 0.0)
