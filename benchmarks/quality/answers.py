"""Exact value of a plan on recorded replies: roles applied to whole columns of answers, a mean over orders of the samples.

A model's replies to a question come in a random order in each search; the value of a plan is the mean over these
orders. Orders are drawn in balanced sets: each random order and all its rotations, so that every reply stands at every
place equally often, and what a single call is worth is exact. Columns have the shape (orders, questions); an answer is
a number: 0 the gold answer, -1 none, -2 a wrong one of which no more is known (so no vote counts it), others as they come.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agentgraph.node_run import sample_numbers
from agentgraph.plan import Plan
from agentgraph.recording import RecordedQuestion, RecordedReply, Recording
from agentgraph.roles.base import Role

GOLD, ABSENT, WRONG = 0, -1, -2
MOST_SAMPLES = 8
"""Samples of a model that one plan may ask for."""


class Column(NamedTuple):
    """A node's messages: answers and, for those that are there, confidences; shape (orders, questions)."""

    answers: NDArray[np.int16]
    confidences: NDArray[np.float64 | np.int8]


class Answers:
    """The replies of a recording as columns.

    Parameters
    ----------
    recording
        What was recorded.
    questions
        Ids of the questions that count.
    roles
        By name; of the kinds assistant, keep, vote and confidence_vote.
    orders
        Over how many orders of the samples values are means; 1 where a model has one reply to each question.
    seed
        Of the orders.
    """

    def __init__(
        self,
        recording: Recording,
        questions: Sequence[str],
        roles: Mapping[str, Role],
        *,
        orders: int = 1,
        seed: int = 0,
    ) -> None:
        self.roles, self._sure = dict(roles), recording.has_confidences
        known = {question.id: question for question in recording.questions}
        self.questions = [known[name] for name in questions]
        codes = [_Codes(question) for question in self.questions]
        rng = np.random.default_rng(seed)
        self._columns: dict[tuple[str, int], Column] = {}
        for model, by_question in recording.replies.items():
            rows = [by_question[question.id] for question in self.questions]
            self._add(model, rows, codes, orders, rng)

    def _add(
        self,
        model: str,
        rows: Sequence[Sequence[RecordedReply]],
        codes: Sequence[_Codes],
        orders: int,
        rng: np.random.Generator,
    ) -> None:
        depth = min(MOST_SAMPLES, *map(len, rows))
        answers = np.empty((depth, orders, len(rows)), dtype=np.int16)
        confidences = np.zeros((depth, orders, len(rows)), dtype=np.float64 if self._sure else np.int8)
        for q, row in enumerate(rows):
            order = balanced_orders(len(row), orders, rng)[:, :depth].T
            answers[..., q] = np.array([codes[q].of(reply) for reply in row])[order]
            if self._sure:
                confidences[..., q] = np.array([_confidence(reply) for reply in row])[order]
        for sample in range(depth):
            self._columns[model, sample] = Column(answers[sample], confidences[sample])

    def marks(self, plan: Plan) -> NDArray[np.float64]:
        """Expected mark of a plan on each question, shape (questions,).

        Raises
        ------
        KeyError
            If it asks a model more often than was recorded.
        """
        graph = plan.stages[0]
        numbers = sample_numbers(graph, self.roles)
        columns: list[Column] = []
        for i, node in enumerate(graph.nodes):
            role, parents = self.roles[node.role], [columns[parent] for parent in graph.parents[i]]
            if role.needs_model:
                sample = numbers[i]["solve"] if role.settings.temperature > 0 else 0
                parents = [*parents, self._columns[node.model, sample]]
            columns.append(_message(role.kind, parents))
        return (columns[-1].answers == GOLD).mean(axis=0)


class _Codes:
    """Numbers for the answers to one question."""

    def __init__(self, question: RecordedQuestion) -> None:
        self._known = {question.gold: GOLD} if question.gold else {}

    def of(self, reply: RecordedReply) -> int:
        if reply.answer is None:  # perhaps only its mark was recorded
            return GOLD if reply.mark == 1 else WRONG if reply.mark is not None else ABSENT
        return self._known.setdefault(reply.answer, len(self._known) + 1)


def balanced_orders(count: int, orders: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Orders of ``count`` things, shape (orders, count): random ones, each with all its rotations, in random places."""
    sets = -(-orders // count)
    rotations = (np.arange(count)[:, None] + np.arange(count)) % count
    found = np.concatenate([rng.permutation(count)[rotations] for _ in range(sets)])
    return found[rng.permutation(len(found))[:orders]]


def _confidence(reply: RecordedReply) -> float:
    """As the executor has it: a confidence goes through its logarithm."""
    if reply.confidence is None:
        return 0.0
    return min(1.0, math.exp(math.log(reply.confidence))) if reply.confidence > 0 else 0.0


def _message(kind: str, received: Sequence[Column]) -> Column:
    """What a node of that kind sends, given what it received, its own reply last."""
    if kind == "assistant":
        return received[-1]
    if kind == "keep":
        weights = [column.confidences for column in received]
    else:
        weights = [_support(kind, received, column) for column in received]
    first, *rest = (
        Column(column.answers, np.where(column.answers == ABSENT, -1, weight))
        for column, weight in zip(received, weights, strict=True)
    )
    return reduce(_larger, rest, first)


def _support(kind: str, received: Sequence[Column], candidate: Column) -> NDArray[np.float64 | np.int8]:
    """Votes for a candidate's answers, each counting one or its confidence; summed in the order received, as the role does."""
    same = [column.answers == candidate.answers for column in received]
    if kind == "vote":
        return reduce(np.add, [row.view(np.int8) for row in same])
    return reduce(np.add, [row * column.confidences for row, column in zip(same, received, strict=True)])


def _larger(best: Column, other: Column) -> Column:
    """Place by place the one with the larger weight; ties stay with the earlier."""
    better = other.confidences > best.confidences
    return Column(*(np.where(better, theirs, mine) for mine, theirs in zip(best, other, strict=True)))
