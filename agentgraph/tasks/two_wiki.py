"""2WikiMultihopQA in two stages: choose among a question's passages, answer from those (Ho et al. 2020, arXiv 2011.01060).

*retrieve* is marked by the recall of the gold passages, the end by exact match or token F1, as SQuAD's script computes them
(lower case, no punctuation, no articles), the best over the accepted answers. As in AgentTTS (arXiv 2508.00890) passages are single
sentences of about a hundred; the official files, and HotpotQA's, whose passages are paragraphs, are read too.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from agentgraph.answers import after_thinking, boxed, stated
from agentgraph.errors import TaskError
from agentgraph.questions import SAMPLE, Row
from agentgraph.tasks.base import Question
from agentgraph.tasks.benchmark import RowTask, as_question, f1, field, first_field, stage

METRICS: Final = ("exact", "f1")
_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
_LIST: Final = re.compile(r"\[([\s\d,;]*\d[\s\d,;]*)\]")
_NUMBERS: Final = re.compile(r"[\s\d,;]*\d[\s\d,;]*")
_RETRIEVE: Final = (
    "Choose the passages that are needed to answer the question, at most {most}, by their numbers. It may take several: one "
    "names what the next is about. Reason briefly, then end with a line 'The answer is [3, 17]'."
)
_ANSWER: Final = (
    "Answer the question from the passages, with a name, a date, yes or no; no sentence. Reason briefly, then end with a line "
    "'The answer is X'."
)


class Source(NamedTuple):
    """What a question may be answered from.

    Attributes
    ----------
    passages
        Numbered from 1.
    gold
        Numbers of those that the answer needs, ascending.
    answers
        All that are right.
    """

    passages: tuple[str, ...]
    gold: tuple[int, ...]
    answers: tuple[str, ...]


class TwoWiki(RowTask):
    """Questions whose answer needs two or more passages.

    Numbers that no passage has are not handed on. Answers to *retrieve* are ascending lists such as '3,17', so that votes
    count whole choices; the role *item_vote* counts each passage.

    Parameters
    ----------
    path, seed, sizes
        As in `RowTask`.
    metric
        'exact' (the answer is one of the accepted ones) or 'f1' (of its words).
    most
        How many passages may be handed on, at least 1; of a longer list the first are.
    max_tokens
        Limit of generated tokens of one call.

    Raises
    ------
    TaskError
        If the questions cannot be read, or a setting is none of these.
    """

    name = "2wikimultihopqa"

    def __init__(
        self,
        path: str = SAMPLE,
        *,
        metric: str = "exact",
        most: int = 10,
        seed: int = 0,
        max_tokens: int = 512,
        sizes: Mapping[str, int | None] | None = None,
    ) -> None:
        if metric not in METRICS:
            raise TaskError(f"task.metric={metric!r} is unknown; use one of {', '.join(METRICS)}")
        if type(most) is not int or most < 1:
            raise TaskError(f"task.most={most!r} must be a whole number of at least 1")
        self.metric, self.most = metric, most
        self.sources: dict[str, Source] = {}  # by the id of the question
        super().__init__(path, seed=seed, sizes=sizes)
        train = self.pool("train")
        chosen = [_listed(self.sources[question.id].gold) for question in train]
        posed = [[self.asked(s, question, ids) for question, ids in zip(train, chosen, strict=True)] for s in (0, 1)]
        golds = [question.gold for question in train]
        instructions = _RETRIEVE.format(most=most)
        # Reasoning is AgentTTS's table: 128 tokens of a retrieval, 64 of an answer.
        self.stages = (
            stage("retrieve", instructions, self.chosen, max_tokens, asked=posed[0], answers=chosen, reasoning=128.0),
            stage("answer", _ANSWER, said, max_tokens, asked=posed[1], answers=golds, reasoning=64.0),
        )

    def question(self, place: str, row: Row) -> Question:
        passages, gold = _official(place, row) if "context" in row else _candidates(place, row)
        answers = first_field(place, row, "answers", "answer")
        accepted = tuple(dict.fromkeys(str(one) for one in (answers if isinstance(answers, list) else [answers])))
        if not accepted or not all(map(normal, accepted)):
            raise TaskError(f"{place}: answers={answers!r} must be one or more texts with a word in each")
        if len(passages) < 2 or not gold:
            raise TaskError(f"{place} has {len(passages)} passages, {len(gold)} of them gold; give at least 2 and 1")
        question = as_question(field(place, row, "question"), accepted[0])
        self.sources[question.id] = Source(passages, gold, accepted)
        return question

    def asked(self, stage: int, question: Question, handed: str) -> str:
        passages = self.sources[question.id].passages
        ids = _ids(handed) if stage else range(1, len(passages) + 1)
        shown = "\n".join(f"[{i}] {passages[i - 1]}" for i in ids if 1 <= i <= len(passages))
        return f"Question: {question.text}\n\nPassages:\n{shown or 'none'}"

    def chosen(self, text: str) -> str | None:
        """The passages that a reply chooses, as an ascending list; ``None`` if it names none.

        They are those that are boxed, else stated, else in brackets on the last line that has any, else the reply if it is a list.
        """
        text = after_thinking(text)
        listed = [" ".join(_LIST.findall(line)) for line in text.splitlines()]
        plain = text if _NUMBERS.fullmatch(text.rstrip(".")) else ""
        found = boxed(text) or stated(text) or next(filter(None, reversed(listed)), plain)
        return _listed(sorted(list(dict.fromkeys(_ids(found)))[: self.most])) or None

    def mark_stage(self, stage: int, answer: str, question: Question) -> float | None:
        gold = self.sources[question.id].gold
        return None if stage else len(set(_ids(answer)) & set(gold)) / len(gold)

    def judge(self, answer: str, question: Question) -> float:
        words = normal(answer).split()
        accepted = [normal(one).split() for one in self.sources[question.id].answers]
        if self.metric == "exact":
            return float(words in accepted)
        return max(f1(words, one) for one in accepted)


def normal(text: str) -> str:
    """A text as SQuAD's script compares it.

    Examples
    --------
    >>> normal("The Mask of Fu-Manchu.")
    'mask of fumanchu'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def said(text: str) -> str | None:
    """The answer in a reply, as it is compared: boxed, else stated, else the reply if it is one line."""
    text = after_thinking(text)
    found = boxed(text) or stated(text) or ("" if "\n" in text else text)
    return normal(found) or None


def _ids(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", text)]


def _listed(ids: Sequence[int]) -> str:
    return ",".join(map(str, ids))


def _candidates(place: str, row: Row) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Passages and numbers of the gold ones, of a row that lists both."""
    passages = _texts(place, "ctxs_candidate", first_field(place, row, "ctxs_candidate", "passages"))
    wanted = _texts(place, "ctxs_gt", first_field(place, row, "ctxs_gt", "gold"))
    for one in wanted:
        if one not in passages:
            raise TaskError(f"{place}: ctxs_gt has {one[:60]!r}, which is not among its {len(passages)} ctxs_candidate")
    return passages, tuple(sorted({passages.index(one) + 1 for one in wanted}))


def _official(place: str, row: Row) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The same of a row of the official files: paragraphs under titles, and the titles of the facts that support the answer."""
    context = _pairs(place, "context", row["context"], "title", "sentences")
    facts = _pairs(place, "supporting_facts", first_field(place, row, "supporting_facts"), "title", "sent_id")
    titles = [str(title) for title, _ in context]
    for title, _ in facts:
        if str(title) not in titles:
            raise TaskError(
                f"{place}: supporting_facts names {title!r}, which no paragraph of its context has as its title"
            )
    paragraphs = [" ".join(map(str, lines)) if isinstance(lines, list) else str(lines) for _, lines in context]
    passages = tuple(f"{title}: {' '.join(text.split())}" for title, text in zip(titles, paragraphs, strict=True))
    return passages, tuple(sorted({titles.index(str(title)) + 1 for title, _ in facts}))


def _pairs(place: str, name: str, value: Any, *keys: str) -> list[tuple[Any, Any]]:  # noqa: ANN401  any JSON
    """Pairs, given as such or as two lists."""
    if isinstance(value, dict) and all(isinstance(value.get(key), list) for key in keys):
        value = list(zip(*(value[key] for key in keys), strict=False))
    if not isinstance(value, list) or not all(isinstance(one, list | tuple) and len(one) == 2 for one in value):
        raise TaskError(f"{place}: {name}={str(value)[:80]!r} must be a list of pairs ({', '.join(keys)})")
    return [(first, second) for first, second in value]


def _texts(place: str, name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise TaskError(f"{place}: {name}={str(value)[:80]!r} must be a list of texts that are not empty")
    return tuple(" ".join(one.split()) for one in value)
