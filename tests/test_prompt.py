"""Prompts: what they have in common comes first, so that a server's prefix cache has it."""

import itertools

import pytest

from agentgraph.errors import ConfigError
from agentgraph.prompt import WORDS, Prompt, render

CANDIDATES = ("first answer", "second answer", "third answer")


def prompt(word, *, question="What is 6 times 7?", candidates=CANDIDATES):
    return Prompt(word, "T", "Answer with a number.", f"This is how to {word}.", question, candidates)


def one_text(messages):
    """The messages as a chat template writes them one after another."""
    return "".join(f"<{speaker}>{text}" for speaker, text in messages)


@pytest.mark.parametrize("word", WORDS)
def test_every_prompt_begins_with_instructions_and_question(word):
    solve = one_text(render("chat", prompt("solve")))
    assert solve == "<system>Answer with a number.<user>What is 6 times 7?"
    assert one_text(render("chat", prompt(word))).startswith(solve)


def test_questions_of_a_task_share_its_instructions():
    for question in ("What is 6 times 7?", "How many?"):
        text = one_text(render("chat", prompt("fuse", question=question)))
        assert text.startswith(f"<system>Answer with a number.<user>{question}")


@pytest.mark.parametrize(("few", "many"), list(itertools.combinations(range(1, 4), 2)))
def test_candidates_come_last_and_in_order(few, many):
    short, long = (one_text(render("chat", prompt("fuse", candidates=CANDIDATES[:n]))) for n in (few, many))
    assert long.startswith(short)


def test_solve_sees_no_candidates():
    assert "answer" not in one_text(render("chat", prompt("solve"))).split("<user>")[1]


def test_unknown_form():
    with pytest.raises(ConfigError, match="prompt_form='poem' is unknown; use one of chat, embedded"):
        render("poem", prompt("solve"))
