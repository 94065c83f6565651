"""What the models answer now: the material on which refining and fusing are learned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from agentgraph.backends.embedded.lessons import Facts, Ids, running_values
from agentgraph.backends.embedded.llama import Llama
from agentgraph.prompt import embedded_text
from agentgraph.tasks import calc, recall

QUESTIONS = 4000
SAMPLES = 8
TRACE = 3 * calc.N_FACTORS


def pool_questions(round_number: int) -> tuple[Ids, Ids]:
    """Factors (4000, 5) and starts (4000,) of a round's calc questions, first half odd, second half even."""
    rng = np.random.default_rng([77, round_number])
    parts = [calc.draw(rng, QUESTIONS // 2, kind=kind, test=False) for kind in calc.KINDS]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


@dataclass(frozen=True)
class Pool:
    """Samples of one model at temperature 1.

    Attributes
    ----------
    factors
        Factor order each sample saw, shape (questions, samples, 5).
    values
        Running values it wrote, shape (questions, samples, 5).
    calc_answers
        Its answers, shape (questions, samples); -1 where garbled.
    recall_answers
        Shape (names, samples); -1 where garbled.
    """

    factors: Ids
    values: Ids
    calc_answers: Ids
    recall_answers: Ids

    def save(self, path: Path) -> None:
        """Write as npz."""
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path) as stored:
            return cls(**{name: stored[name] for name in stored.files})


def sample_pool(model: Llama, round_number: int, seed: int) -> Pool:
    """Let a model answer a round's questions and all names, 8 times each."""
    factors, start = pool_questions(round_number)
    rng = np.random.default_rng([seed, round_number])
    views = rng.permuted(np.repeat(factors[:, None], SAMPLES, 1), axis=2)
    questions = [
        embedded_text("solve", calc.TAG, calc.render(row, first))
        for rows, first in zip(views.tolist(), start.tolist(), strict=True)
        for row in rows
    ]
    replies = _ask(model, questions, calc.MAX_OUTPUT_TOKENS, rng)
    whole = [len(text) == TRACE + 4 and text[:TRACE].isdecimal() and text[-3:].isdecimal() for text in replies]
    # a garbled trace stands for the right one: it is never shown as the model's own
    gold = running_values(views.reshape(-1, calc.N_FACTORS), np.repeat(start, SAMPLES))
    values = [
        [int(text[i : i + 3]) for i in range(0, TRACE, 3)] if good else row
        for text, good, row in zip(replies, whole, gold.tolist(), strict=True)
    ]
    names = [embedded_text("solve", recall.TAG, name) for name in recall.facts() for _ in range(SAMPLES)]
    return Pool(
        views,
        np.array(values).reshape(*views.shape),
        _answers(replies).reshape(-1, SAMPLES),
        _answers(_ask(model, names, recall.MAX_OUTPUT_TOKENS, rng)).reshape(-1, SAMPLES),
    )


def _ask(model: Llama, prompts: list[str], limit: int, rng: np.random.Generator) -> list[str]:
    replies = model.generate(
        prompts,
        temperatures=[1.0] * len(prompts),
        seeds=rng.integers(0, 2**62, len(prompts)).tolist(),
        max_tokens=[limit] * len(prompts),
    )
    return [reply.text for reply in replies]


def _answers(replies: list[str]) -> Ids:
    found = [calc.extract(text) for text in replies]
    return np.array([-1 if text is None else int(text) for text in found])


def draw_candidates(rng: np.random.Generator, answers: Ids, *, itself: int, k: int) -> tuple[Ids, NDArray[np.int64]]:
    """Candidates for a batch of questions, and the sample of the model's own left out of them.

    Parameters
    ----------
    answers
        Answers of all models to the batch's questions, shape (rows, models, samples).
    itself
        Index of the model in training.

    Returns
    -------
    candidates : shape (rows, k)
        35 % of the rows ask the model itself, 25 % one model, the rest any mixture of models.
    own : shape (rows,)
        Sample number of an answer of the model itself that is not among the candidates.
    """
    rows, models, samples = answers.shape
    order = rng.permuted(np.tile(np.arange(samples), (rows, models, 1)), axis=2)
    way = rng.random((rows, 1))
    asked = rng.integers(0, models, (rows, k))
    asked = np.where(way < 0.6, asked[:, :1], asked)
    asked = np.where(way < 0.35, itself, asked)
    row = np.arange(rows)[:, None]
    candidates: Ids = answers[row, asked, order[row, asked, np.arange(1, k + 1)]]
    noise = rng.integers(0, 1000, candidates.shape)
    return np.where(candidates < 0, noise, candidates), order[:, itself, 0]


def disguise(rng: np.random.Generator, facts: Facts, rows: int) -> tuple[Ids, Ids]:
    """Names nobody was taught, and a shift for the numbers of the names they stand for.

    Notes
    -----
    The model learns on them to trust others when it does not know, and cannot learn the other half by heart while it
    does. Shifts are multiples of 5, so the shifted numbers look like any others.
    """
    return rng.choice(facts.unused, rows), 5 * rng.integers(0, 200, rows)
