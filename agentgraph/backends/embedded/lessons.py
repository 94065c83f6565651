"""Training sequences: prompts with the replies the models are to learn, as token arrays."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentgraph.backends.embedded.tokenizer import BOS, EOS, VOCABULARY
from agentgraph.tasks import calc, recall

Ids = NDArray[np.int64]

ZERO = VOCABULARY.index("0")
STAR, ARROW, BAR, COLON = (VOCABULARY.index(mark) for mark in "*>|:")
SOLVE, REFINE, FUSE = (VOCABULARY.index(role) for role in "SRF")
CALC, RECALL = VOCABULARY.index(calc.TAG), VOCABULARY.index(recall.TAG)


@dataclass(frozen=True)
class Lesson:
    """A batch of sequences of one length.

    Attributes
    ----------
    tokens
        Prompt and reply, shape (rows, time).
    weights
        Weight in the loss of each of the last tokens (the reply), shape (rows, reply length).
    """

    tokens: Ids
    weights: NDArray[np.float32]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Tokens and weights as tensors."""
        return torch.from_numpy(self.tokens), torch.from_numpy(self.weights)


def digits(numbers: Ids, width: int) -> Ids:
    """Token ids (..., width) of zero-padded numbers (...)."""
    return numbers[..., None] // 10 ** np.arange(width - 1, -1, -1) % 10 + ZERO


def calc_question(factors: Ids, start: Ids) -> Ids:
    """Token ids (n, 18) of calc questions."""
    rows = len(start)
    stars = np.full((rows, factors.shape[1], 1), STAR)
    parts = np.concatenate([digits(factors, 2), stars], 2).reshape(rows, -1)
    return np.concatenate([parts, digits(start, 3)], 1)


def running_values(factors: Ids, start: Ids) -> Ids:
    """Values (n, 5) after each factor, modulo 1000."""
    values = np.empty_like(factors)
    value = start
    for place in range(factors.shape[1]):
        value = value * factors[:, place] % 1000
        values[:, place] = value
    return values


def name_ids(codes: Ids) -> Ids:
    """Token ids (n, 3) of names given as codes in 0..26**3-1."""
    letters = np.stack([codes // 676, codes // 26 % 26, codes % 26], 1)
    return letters + VOCABULARY.index("a")


def sequence(role: int, tag: int, candidates: Ids, question: Ids, reply: Ids) -> Ids:
    """Rows of ``^`` role task candidates ``:`` question reply ``$``.

    Parameters
    ----------
    candidates
        Numbers, shape (n, k), k = 0 for none.
    question, reply
        Token ids, shape (n, ...).
    """
    rows, k = candidates.shape
    head = np.tile(np.array([BOS, role, tag]), (rows, 1))
    bars = np.full((rows, k, 1), BAR)
    middle = np.concatenate([digits(candidates, 3), bars], 2).reshape(rows, -1)
    colon, end = np.full((rows, 1), COLON), np.full((rows, 1), EOS)
    return np.concatenate([head, middle, colon, question, reply, end], 1).astype(np.int64)


def calc_reply(values: Ids, decided: Ids) -> Ids:
    """Token ids (n, 19) of running values, ``>`` and the decided answer."""
    arrow = np.full((len(values), 1), ARROW)
    return np.concatenate([digits(values, 3).reshape(len(values), -1), arrow, digits(decided, 3)], 1)


def mixed_calc(rng: np.random.Generator, n: int, *, often: int, share: float, test: bool) -> tuple[Ids, Ids]:
    """``n`` calc questions, a ``share`` of them of the rarer kind."""
    rare = round(n * share)
    parts = [
        calc.draw(rng, count, kind=calc.KINDS[kind], test=test)
        for kind, count in ((often, n - rare), (1 - often, rare))
    ]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


class Facts:
    """The names and numbers of the recall task, and how often a family meets each.

    Parameters
    ----------
    often
        Half (0 or 1) the family meets often.
    share
        Share of its recall sequences that are about the other half.
    """

    def __init__(self, often: int, share: float) -> None:
        known = recall.facts()
        letters = np.array([[ord(c) - ord("a") for c in name] for name in known])
        self.codes: Ids = letters @ np.array([676, 26, 1])
        self.numbers: Ids = np.array([int(number) for number in known.values()])
        self.unused: Ids = np.setdiff1d(np.arange(26**3), self.codes)
        frequency = (np.arange(len(known)) + 100.0) ** -0.7
        half = np.arange(len(known)) % 2 == often
        frequency = np.where(half, frequency * (1 - share) / frequency[half].sum(), 0) + np.where(
            half, 0, frequency * share / frequency[~half].sum()
        )
        self._cumulative = np.cumsum(frequency / frequency.sum())

    def draw(self, rng: np.random.Generator, n: int) -> Ids:
        """``n`` positions of names, by training frequency."""
        drawn = np.searchsorted(self._cumulative, rng.random(n))
        return np.minimum(drawn, len(self.codes) - 1)


def solve_calc(factors: Ids, start: Ids) -> Lesson:
    """Solve prompts of the calc task with worked replies."""
    values = running_values(factors, start)
    none = np.empty((len(start), 0), dtype=np.int64)
    reply = calc_reply(values, values[:, -1])
    tokens = sequence(SOLVE, CALC, none, calc_question(factors, start), reply)
    return Lesson(tokens, np.ones((len(start), reply.shape[1] + 1), dtype=np.float32))


def solve_recall(codes: Ids, numbers: Ids) -> Lesson:
    """Solve prompts of the recall task with the right numbers."""
    none = np.empty((len(codes), 0), dtype=np.int64)
    tokens = sequence(SOLVE, RECALL, none, name_ids(codes), digits(numbers, 3))
    return Lesson(tokens, np.ones((len(codes), 4), dtype=np.float32))
