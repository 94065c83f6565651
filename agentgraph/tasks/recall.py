"""The recall task: 4,000 three-letter names, each with a three-digit number to be known by heart.

The names come in two halves; each family of embedded models saw one half often and the other seldom.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from agentgraph.tasks.base import Lengths, Question, Stage, Task, cut

TAG = "K"
"""Task letter in a prompt of the embedded form."""

N_NAMES = 4000
SEED = 1234
KINDS = ("first", "second")
MAX_OUTPUT_TOKENS = 4
"""Three digits and the end token."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def spell(code: int) -> str:
    """Name of a code in 0..26**3-1."""
    return _LETTERS[code // 676] + _LETTERS[code // 26 % 26] + _LETTERS[code % 26]


@cache
def facts() -> dict[str, str]:
    """Every name and its number, in order of training frequency; the halves alternate."""
    rng = np.random.default_rng(SEED)
    codes = rng.permutation(26**3)[:N_NAMES].tolist()
    numbers = 5 * rng.integers(0, 200, N_NAMES) + rng.integers(1, 5, N_NAMES)
    return {spell(code): f"{number:03d}" for code, number in zip(codes, numbers.tolist(), strict=True)}


@cache
def _positions() -> dict[str, int]:
    return {name: position for position, name in enumerate(facts())}


def sample_questions(rng: np.random.Generator, n: int) -> list[str]:
    """``n`` distinct names, uniformly, the two halves in turn (first half first).

    Raises
    ------
    ValueError
        If ``n`` is more than there are names.
    """
    if not 0 <= n <= N_NAMES:
        raise ValueError(f"recall has {N_NAMES} names, {n} questions were asked for; ask for fewer")
    names = list(facts())
    halves = [[names[i] for i in rng.permutation(np.arange(h, N_NAMES, 2))] for h in range(2)]
    return [halves[i % 2][i // 2] for i in range(n)]


def answer(question: str) -> str:
    """Gold answer, three digits.

    Raises
    ------
    ValueError
        If the question is not one of the names.
    """
    try:
        return facts()[question]
    except KeyError:
        raise ValueError(
            f"recall has no name {question!r}; questions are the keys of agentgraph.tasks.recall.facts()"
        ) from None


def kind(question: str) -> str:
    """``first`` or ``second``: which half the name is in."""
    return KINDS[_positions()[question] % 2]


def view(question: str, seed: int) -> str:  # noqa: ARG001
    """The question itself: a name can be asked in one way only."""
    return question


def extract(reply: str) -> str | None:
    """Answer in a reply: its last three characters if they are digits, else None."""
    last = reply[-3:]
    return last if len(last) == 3 and last.isascii() and last.isdecimal() else None


class RecallStage(Stage):
    """Asks for the number of a name."""

    name = "recall"
    tag = TAG
    max_tokens = MAX_OUTPUT_TOKENS
    instructions = "Answer with the three-digit number that belongs to the name, and nothing else."
    # Begin token, role word, task letter, colon and three letters; each candidate is three digits and a bar.
    lengths = Lengths(prompt=7, output={"solve": MAX_OUTPUT_TOKENS}, edge=4, exact=True)

    def extract(self, text: str) -> str | None:
        return extract(text)


class Recall(Task):
    """Facts that the embedded models learned by heart, or did not."""

    name = "recall"
    stages = (RecallStage(),)

    def pool(self, split: str) -> Sequence[Question]:
        return cut(_questions(), split)

    def mark(self, answer: str, question: Question) -> float:
        return float(answer == question.gold)


@cache
def _questions() -> tuple[Question, ...]:
    texts = sample_questions(np.random.default_rng(0), N_NAMES)
    return tuple(Question(f"recall-{text}", text, answer(text)) for text in texts)
