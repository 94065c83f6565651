"""The calc task: multiply a start number by five factors, modulo 1000.

A question is ``06*02*04*02*08*853``: the factors, two digits each, then the start. Factors commute, so
every call may see them in an order of its own (its *view*); the answer does not change, the path to it does.
Questions come in two kinds, by their factors; each family of embedded models is strong on one.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from agentgraph.tasks.base import Lengths, Question, Stage, Task, cut

TAG = "C"
"""Task letter in a prompt of the embedded form."""

N_FACTORS = 5
FACTORS = {"odd": (3, 7, 9), "even": (2, 4, 6, 8)}
KINDS = tuple(FACTORS)
MAX_OUTPUT_TOKENS = 4 * N_FACTORS
"""Five running values, ``>``, the answer, and the end token: 3 * 5 + 1 + 3 + 1."""

_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """The splitmix64 finaliser: 64 well-mixed bits of an integer."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def held_out(factors: NDArray[np.int64], start: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which questions the embedded models were never trained on: about one in four, whatever the order.

    Parameters
    ----------
    factors
        Shape (n, 5).
    start
        Shape (n,).
    """
    key = start.astype(np.uint64)
    for column in np.sort(factors, axis=1).astype(np.uint64).T:
        key = key * np.uint64(10) + column
    key = (key ^ (key >> np.uint64(15))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    kept: NDArray[np.bool_] = (key >> np.uint64(62)) == 0
    return kept


def draw(rng: np.random.Generator, n: int, *, kind: str, test: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw ``n`` questions of one kind as numbers.

    Returns
    -------
    factors : shape (n, 5)
        Uniform over the kind's factors.
    start : shape (n,)
        Uniform over 1..999 without the multiples of 5.

    Notes
    -----
    ``test`` picks questions held out of training; otherwise only questions that are not.
    """
    factors = np.empty((0, N_FACTORS), dtype=np.int64)
    start = np.empty(0, dtype=np.int64)
    while len(start) < n:
        size = 64 + (6 * n if test else 2 * n)
        some = rng.choice(np.array(FACTORS[kind]), size=(size, N_FACTORS))
        first = 5 * rng.integers(0, 200, size) + rng.integers(1, 5, size)
        keep = held_out(some, first) == test
        factors, start = np.concatenate([factors, some[keep]]), np.concatenate([start, first[keep]])
    return factors[:n], start[:n]


def render(factors: Iterable[int], start: int) -> str:
    """Question text of factors and start."""
    return "".join(f"{factor:02d}*" for factor in factors) + f"{start:03d}"


def parse(question: str) -> tuple[list[int], int]:
    """Factors and start of a question text.

    Raises
    ------
    ValueError
        If the text is not a calc question.
    """
    *factors, start = question.split("*")
    if not factors or not all(part.isdecimal() for part in [*factors, start]):
        raise ValueError(f"not a calc question: {question!r}; expected '06*03*04*02*02*853'")
    return [int(factor) for factor in factors], int(start)


def sample_questions(rng: np.random.Generator, n: int) -> list[str]:
    """``n`` distinct questions never trained on, the two kinds in turn (odd first)."""
    seen: set[tuple[int, ...]] = set()
    by_kind: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for position, kind in enumerate(KINDS):
        wanted = (n + len(KINDS) - 1 - position) // len(KINDS)
        while len(by_kind[kind]) < wanted:
            factors, starts = draw(rng, 256, kind=kind, test=True)
            for row, start in zip(factors.tolist(), starts.tolist(), strict=True):
                key = (*sorted(row), start)
                if key not in seen and len(by_kind[kind]) < wanted:
                    seen.add(key)
                    by_kind[kind].append(render(row, start))
    return [by_kind[KINDS[i % len(KINDS)]][i // len(KINDS)] for i in range(n)]


def answer(question: str) -> str:
    """Gold answer, three digits."""
    factors, value = parse(question)
    for factor in factors:
        value = value * factor % 1000
    return f"{value:03d}"


def trace(question: str) -> str:
    """The worked reply the models were trained to give: running values, ``>``, the answer."""
    factors, value = parse(question)
    steps = []
    for factor in factors:
        value = value * factor % 1000
        steps.append(f"{value:03d}")
    return "".join(steps) + ">" + steps[-1]


def kind(question: str) -> str:
    """``odd`` or ``even``, by the first factor."""
    return KINDS[1 - parse(question)[0][0] % 2]


def view(question: str, seed: int) -> str:
    """The same question with its factors in the order that ``seed`` gives."""
    factors, start = parse(question)
    order = sorted(range(len(factors)), key=lambda place: _mix(_mix(seed & _MASK) ^ place))
    return render((factors[place] for place in order), start)


def extract(reply: str) -> str | None:
    """Answer in a reply: its last three characters if they are digits, else None."""
    last = reply[-3:]
    return last if len(last) == 3 and last.isascii() and last.isdecimal() else None


class CalcStage(Stage):
    """Asks for the product; each call sees the factors in an order of its own."""

    name = "calc"
    tag = TAG
    max_tokens = MAX_OUTPUT_TOKENS
    instructions = (
        "Multiply the last number by each factor before it, modulo 1000, from left to right. Write each running value "
        "with three digits, then '>' and the final value, for example 02*03*...*853 -> 706118...>118."
    )
    # Begin token, role word, task letter, colon and 18 characters; each candidate is three digits and a bar.
    lengths = Lengths(prompt=22, output={"solve": MAX_OUTPUT_TOKENS}, edge=4, exact=True)

    def view(self, question: str, seed: int) -> str:
        return view(question, seed)

    def extract(self, text: str) -> str | None:
        return extract(text)


class Calc(Task):
    """Products modulo 1000 that the embedded models were never trained on."""

    name = "calc"
    stages = (CalcStage(),)

    def pool(self, split: str) -> Sequence[Question]:
        return cut(_questions(), split)

    def mark(self, answer: str, question: Question) -> float:
        return float(answer == question.gold)


@cache
def _questions() -> tuple[Question, ...]:
    texts = sample_questions(np.random.default_rng(0), 8000)
    return tuple(Question(f"calc-{i}", text, answer(text)) for i, text in enumerate(texts))
