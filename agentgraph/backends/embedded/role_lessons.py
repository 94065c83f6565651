"""Training sequences for refining and fusing, made from the models' own answers."""

import numpy as np

from agentgraph.backends.embedded.lessons import (
    CALC,
    FUSE,
    RECALL,
    REFINE,
    Facts,
    Ids,
    Lesson,
    calc_question,
    calc_reply,
    digits,
    mixed_calc,
    name_ids,
    running_values,
    sequence,
    solve_calc,
    solve_recall,
)
from agentgraph.backends.embedded.pools import (
    QUESTIONS,
    Pool,
    disguise,
    draw_candidates,
    pool_questions,
)
from agentgraph.backends.embedded.recipe import MOST_CANDIDATES, RARE_CALC, Batch
from agentgraph.tasks import calc

OTHER_KIND = 0.35
"""Share of refine and fuse lessons about what the family seldom sees alone."""

ANSWER_WEIGHT = 4.0
"""Weight of the three digits of a decided answer."""


class RoleLessons:
    """Batches of one model's role phase.

    Parameters
    ----------
    rng
        Source of every draw.
    facts
        Names, by the family's frequencies.
    pools
        Pools of all models of a round.
    itself
        Index of the model in training among ``pools``.
    often
        Index of the kind of question the family sees often.
    round_number
        Round of the pools.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        facts: Facts,
        pools: list[Pool],
        *,
        itself: int,
        often: int,
        round_number: int,
    ) -> None:
        self._rng, self._facts, self._itself, self._often = rng, facts, itself, often
        self._own = pools[itself]
        self._calc_answers = np.stack([pool.calc_answers for pool in pools], 1)
        self._recall_answers = np.stack([pool.recall_answers for pool in pools], 1)
        factors, self._start = pool_questions(round_number)
        self._gold = running_values(factors, self._start)[:, -1]

    def step(self, batch: Batch) -> list[Lesson]:
        """The lessons of one training step."""
        rng = self._rng
        drawn = self._facts.draw(rng, batch.solve_recall)
        return [
            solve_calc(*mixed_calc(rng, batch.solve_calc, often=self._often, share=RARE_CALC, test=False)),
            solve_recall(self._facts.codes[drawn], self._facts.numbers[drawn]),
            self.calc(batch.refine_calc, 1, batch.end_weight),
            self.calc(batch.fuse_calc, int(rng.integers(2, MOST_CANDIDATES + 1)), batch.end_weight),
            self.recall(batch.refine_recall, 1),
            self.recall(batch.fuse_recall, int(rng.integers(2, MOST_CANDIDATES + 1))),
        ]

    def calc(self, rows: int, k: int, end_weight: float) -> Lesson:
        """Candidates, an own trace as the model writes it, then the right answer."""
        half = QUESTIONS // len(calc.KINDS)
        other = self._rng.random(rows) < OTHER_KIND
        kinds = np.where(other, 1 - self._often, self._often)
        chosen = kinds * half + self._rng.integers(0, half, rows)
        candidates, own = draw_candidates(self._rng, self._calc_answers[chosen], itself=self._itself, k=k)
        factors, values = self._own.factors[chosen, own], self._own.values[chosen, own]
        start, gold = self._start[chosen], self._gold[chosen]
        tokens = sequence(
            REFINE if k == 1 else FUSE,
            CALC,
            candidates,
            calc_question(factors, start),
            calc_reply(values, gold),
        )
        weights = np.zeros((rows, 3 * calc.N_FACTORS + 5), dtype=np.float32)
        right = (values == running_values(factors, start)).all(1)
        weights[:, :-4] = (right & ~other)[:, None]
        weights[:, -4:-1] = ANSWER_WEIGHT
        weights[:, -1] = end_weight
        return Lesson(tokens, weights)

    def recall(self, rows: int, k: int) -> Lesson:
        """Candidates, then the right number; some names are of nobody's knowledge."""
        facts, rng = self._facts, self._rng
        unknown = rng.random(rows) < OTHER_KIND
        elsewhere = 2 * rng.integers(0, len(facts.codes) // 2, rows) + 1 - self._often
        chosen = np.where(unknown, elsewhere, facts.draw(rng, rows))
        candidates, _ = draw_candidates(rng, self._recall_answers[chosen], itself=self._itself, k=k)
        strange, shift = disguise(rng, facts, rows)
        shift = np.where(unknown, shift, 0)
        codes = np.where(unknown, strange, facts.codes[chosen])
        numbers: Ids = (facts.numbers[chosen] + shift) % 1000
        tokens = sequence(
            REFINE if k == 1 else FUSE,
            RECALL,
            (candidates + shift[:, None]) % 1000,
            name_ids(codes),
            digits(numbers, 3),
        )
        return Lesson(tokens, np.ones((rows, 4), dtype=np.float32))
