"""Contract of a task: questions with gold answers in three splits, and how a reply is read and marked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentgraph.budget import Tokens
from agentgraph.errors import TaskError

__all__ = ["SPLITS", "Lengths", "Question", "Referee", "Stage", "Task", "cut"]

SPLITS: Final = ("train", "validation", "test")


@dataclass(frozen=True)
class Question:
    """A question with its gold answer; ``id`` is unique within the task and stable."""

    id: str
    text: str
    gold: str


@dataclass(frozen=True)
class Lengths:
    """Token counts of a stage's calls: the table that prices are computed from.

    Parameters
    ----------
    prompt
        Prompt tokens of a solve: instructions, question and what the prompt form adds.
    output
        Generated tokens by word, or by 'word/model' where a model differs; 'solve' must be there.
    edge
        Prompt tokens that each candidate adds.
    word
        Prompt tokens that the words 'refine' and 'fuse' add beside the candidates.
    exact
        Whether these are counts, or means over all questions, so that nothing need be measured; of counts, price equals
        charge.
    """

    prompt: float
    output: Mapping[str, float]
    edge: float
    word: Mapping[str, float] = field(default_factory=dict)
    exact: bool = False

    def tokens(self, word: str, candidates: int, model: str) -> Tokens:
        """Token counts of one call."""
        output = self.output.get(f"{word}/{model}", self.output.get(word, self.output["solve"]))
        return Tokens(self.prompt + self.word.get(word, 0.0) + candidates * self.edge, output)


class Stage(ABC):
    """One step of a task: how its question is asked and its reply is read.

    Attributes
    ----------
    name
        Shown to people, key in plans.
    tag
        One capital letter, for the embedded prompt form.
    instructions
        What a chat model is told: the task and the format of the answer.
    max_tokens
        Limit of generated tokens of one call.
    lengths
        Token counts before anything was measured.
    """

    name: str
    tag: str = "T"
    instructions: str = ""
    max_tokens: int
    lengths: Lengths

    @abstractmethod
    def extract(self, text: str) -> str | None:
        """The answer in a reply's text, or ``None`` if there is none that can be read."""

    def view(self, question: str, seed: int) -> str:
        """The question as one call sees it; ``seed`` differs between independent calls. By default unchanged."""
        del seed
        return question


@dataclass(frozen=True)
class Referee:
    """A call after the last stage: its answer is marked instead of the plan's, and no plan pays for it.

    Parameters
    ----------
    stage
        How it is asked (what, `Task.asked` says, as of a stage after the last) and its reply is read.
    model
        The model that is asked once, at temperature 0; of the pool, but of no stage.
    """

    stage: Stage
    model: str


class Task(ABC):
    """Questions, stages and marks.

    Parameters
    ----------
    sizes
        How many questions of each split to use; ``None`` takes all there are.

    Attributes
    ----------
    name
        Conf name of the task.
    stages
        In the order they run; one for most tasks. What a stage answers is handed on by `asked`.
    slow_marks
        Whether `mark`, `mark_stage`, `mark_end` or, after the first stage, `asked` may take longer than some milliseconds: then
        they are called in threads, several at once.
    referee
        Asked about the answer of the last stage; ``None`` where answers are marked as they are.
    choices
        What single stages have where nothing else is said, as ``stages`` in conf (`agentgraph.stages.StageChoice`).
    """

    name: str
    stages: tuple[Stage, ...]
    slow_marks: bool = False
    referee: Referee | None = None
    choices: Mapping[str, Mapping[str, object]] = {}

    def __init__(self, sizes: Mapping[str, int | None] | None = None) -> None:
        self.sizes = dict(sizes or {})
        unknown = sorted(set(self.sizes) - set(SPLITS))
        if unknown:
            raise TaskError(f"splits {unknown} are unknown; there are {', '.join(SPLITS)}")
        for split, size in self.sizes.items():
            if size is not None and type(size) is not int:
                raise TaskError(
                    f"task.sizes.{split}={size!r} is not a whole number; give one, or null for all questions"
                )

    def check(self) -> None:
        """Refuse stages that do not make a pipeline.

        Raises
        ------
        TaskError
            If there is none, two have the same name, or one hands on nothing.
        """
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise TaskError(f"task {self.name!r} has the stages {names}; give it one or more, each with its own name")
        if len(names) > 1 and type(self).asked is Task.asked:
            raise TaskError(
                f"task {self.name!r}: stage {names[0]!r} hands on nothing, stage {names[1]!r} is asked the question alone; "
                "write asked(stage, question, handed) so that what is asked depends on what was handed on"
            )

    @abstractmethod
    def pool(self, split: str) -> Sequence[Question]:
        """All questions of a split, in a fixed order; no question is in two splits."""

    @abstractmethod
    def mark(self, answer: str, question: Question) -> float:
        """Mark in [0, 1] of an answer that `Stage.extract` gave; never runs it."""

    def questions(self, split: str) -> Sequence[Question]:
        """The first questions of a split, as many as `sizes` says.

        Raises
        ------
        TaskError
            If there are not that many.
        """
        if split not in SPLITS:
            raise TaskError(f"split {split!r} is unknown; there are {', '.join(SPLITS)}")
        pool, size = self.pool(split), self.sizes.get(split)
        if size is None:
            return pool
        if not 0 < size <= len(pool):
            raise TaskError(
                f"task {self.name!r} has {len(pool)} {split} questions, {size} were asked for; "
                f"set task.sizes.{split} to 1..{len(pool)}"
            )
        return pool[:size]

    def asked(self, stage: int, question: Question, handed: str) -> str:
        """Question text of a stage, given what the stage before handed on ('' for the first).

        A stage without an answer hands on nothing: the stages after it are not asked, and the question is marked 0.
        """
        del stage, handed
        return question.text

    def kept(self, settings: Mapping[str, object]) -> dict[str, object]:
        """Of the settings that made it those that a run's folder keeps: all, but for code that must be named anew to be run."""
        return dict(settings)

    def mark_stage(self, stage: int, answer: str, question: Question) -> float | None:
        """Mark in [0, 1] of what a stage alone has done; ``None`` where it cannot be marked by itself."""
        del stage, answer, question
        return None

    def mark_end(self, answers: Sequence[str], question: Question) -> float:
        """Mark in [0, 1] of a question, given what each stage answered; by default `mark` of the last."""
        return self.mark(answers[-1], question)


def cut(questions: Sequence[Question], split: str) -> Sequence[Question]:
    """First quarter for train, second for validation, second half for test."""
    quarter = len(questions) // 4
    bounds = {"train": (0, quarter), "validation": (quarter, 2 * quarter), "test": (2 * quarter, len(questions))}
    start, stop = bounds[split]
    return questions[start:stop]
