"""What the public benchmarks share: rows to questions, fixed splits, an extractor, and marks that are found once.

A member says how a row becomes a question, what an answer looks like and what it is worth. The official test questions are cut into
train 50 %, validation 25 %, test 25 % in the order of a hash of seed and question, so scores are of our test quarter. A member with
one stage is a `Benchmark`; one with several is a `RowTask` that makes its stages with `stage`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import ClassVar, Final, NamedTuple

from agentgraph.answers import letter, program
from agentgraph.errors import TaskError
from agentgraph.questions import SAMPLE, Hub, Row, rows, with_options
from agentgraph.request import stable_hash
from agentgraph.sandbox import Limits, Sandbox, Verdict
from agentgraph.tasks.base import SPLITS, Lengths, Question, Stage, Task

__all__ = [
    "Benchmark",
    "BenchmarkStage",
    "ChoiceBenchmark",
    "CodeBenchmark",
    "RowTask",
    "Tests",
    "as_question",
    "f1",
    "field",
    "first_field",
    "stage",
]

_FEWEST: Final = 8  # questions in all
_CHARACTERS_PER_TOKEN: Final = 4.0  # a rule of thumb; measured lengths replace it before the first round
_WORDS: Final = {"refine": 60.0, "fuse": 60.0}  # tokens of what roles tell


class BenchmarkStage(Stage):
    """Asks the question as it stands, and reads replies as its task does."""

    def __init__(
        self, name: str, instructions: str, extract: Callable[[str], str | None], max_tokens: int, lengths: Lengths
    ) -> None:
        self.name, self.instructions, self.max_tokens, self.lengths = name, instructions, max_tokens, lengths
        self._extract = extract

    def extract(self, text: str) -> str | None:
        return self._extract(text)


class RowTask(Task):
    """A task whose questions are rows of a file.

    Parameters
    ----------
    path
        'sample' (what ships with the package), 'hub' (Hugging Face, needs the extra ``data``), or a file or folder in the
        benchmark's own format or as JSON lines with the same fields.
    revision
        Commit of the dataset, for 'hub'.
    seed
        Another seed, other splits.
    sizes
        How many questions of each split to use; ``None`` takes all.

    Raises
    ------
    TaskError
        If the questions cannot be had or read.

    Attributes
    ----------
    hub
        Where Hugging Face has it; ``None`` if it is not read from there.
    columns
        Of its .csv files, if they have no head.
    """

    hub: ClassVar[Hub | None] = None
    columns: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        path: str = SAMPLE,
        *,
        revision: str | None = None,
        seed: int = 0,
        sizes: Mapping[str, int | None] | None = None,
    ) -> None:
        super().__init__(sizes)
        found: dict[str, Question] = {}
        for place, row in rows(path, sample=self.name, hub=self.hub, revision=revision, columns=self.columns):
            question = self.question(place, row)
            if question is not None:
                found.setdefault(question.text, question)
        self._by_split = _split(list(found.values()), seed, path)
        self._marks: dict[tuple[str, str], float] = {}

    @abstractmethod
    def question(self, place: str, row: Row) -> Question | None:
        """The question of a row, ``None`` to leave it out; ``place`` names the row in errors."""

    @abstractmethod
    def judge(self, answer: str, question: Question) -> float:
        """Mark in [0, 1] of an answer."""

    def pool(self, split: str) -> Sequence[Question]:
        return self._by_split[split]

    def mark(self, answer: str, question: Question) -> float:
        """`judge`, asked once for the same answer."""
        key = (question.id, answer)
        known = self._marks.get(key)
        if known is None:
            known = self._marks[key] = self.judge(answer, question)
        return known


class Benchmark(RowTask):
    """A public benchmark of one stage.

    Parameters
    ----------
    path, revision, seed, sizes
        As in `RowTask`.
    max_tokens
        Limit of generated tokens of one call.
    output_tokens
        Expected generated tokens of one call, until measured.

    Raises
    ------
    TaskError
        If the questions cannot be had or read.

    Attributes
    ----------
    instructions
        What the models are told: the task, and the form of the answer that `extract` reads.
    edge
        Tokens that an answer adds to the prompt of a node that receives it.
    """

    instructions: ClassVar[str]
    edge: ClassVar[float] = 10.0

    def __init__(
        self,
        path: str = SAMPLE,
        *,
        revision: str | None = None,
        seed: int = 0,
        max_tokens: int = 1024,
        output_tokens: float = 250.0,
        sizes: Mapping[str, int | None] | None = None,
    ) -> None:
        super().__init__(path, revision=revision, seed=seed, sizes=sizes)
        check_max_tokens(max_tokens)
        if not output_tokens > 0:
            raise TaskError(f"task.output_tokens={output_tokens!r} must be positive")
        texts = [question.text for split in SPLITS for question in self._by_split[split]]
        characters = sum(map(len, texts)) / len(texts) + len(self.instructions)
        lengths = Lengths(
            prompt=characters / _CHARACTERS_PER_TOKEN,
            output={"solve": min(output_tokens, max_tokens)},
            edge=self.edge,
            word=_WORDS,
        )
        self.stages = (BenchmarkStage("answer", self.instructions, self.extract, max_tokens, lengths),)

    @abstractmethod
    def extract(self, text: str) -> str | None:
        """The answer in a reply, in a form that is the same for the same answer; ``None`` if there is none."""


class ChoiceBenchmark(Benchmark):
    """Options named A, B, …; the answer is a letter."""

    instructions = (
        "Choose the best option. Reason briefly, then end with a line 'The answer is (X)', X being the option's letter."
    )
    edge = 4.0
    last: ClassVar[str]
    """The last letter that a question of this benchmark may have."""

    def extract(self, text: str) -> str | None:
        return letter(text, self.last)

    def judge(self, answer: str, question: Question) -> float:
        return float(answer == question.gold)

    def chosen(self, place: str, asked: str, options: Sequence[object], gold: object) -> Question:
        """A question with its options; ``gold`` is the letter, place or text of the best one."""
        return as_question(*with_options(place, asked, options, gold, self.last))


class Tests(NamedTuple):
    """What tells whether a program is right.

    Attributes
    ----------
    source
        Python that raises if it is not.
    names
        The functions of the program that the tests call.
    before
        Python that goes before every program.
    shown
        Assertions that the question shows.
    """

    source: str
    names: tuple[str, ...]
    before: str = ""
    shown: tuple[str, ...] = ()


class CodeBenchmark(Benchmark):
    """The answer is a Python program; it is right if tests pass, in the sandbox.

    Parameters
    ----------
    seconds, memory_mb
        What one program may use: processor time, and MiB of memory.

    Raises
    ------
    SandboxError
        If generated code cannot be run safely on this system.
    """

    edge = 150.0
    slow_marks = True

    def __init__(
        self,
        path: str = SAMPLE,
        *,
        seconds: int = 5,
        memory_mb: int = 512,
        revision: str | None = None,
        seed: int = 0,
        max_tokens: int = 1024,
        output_tokens: float = 250.0,
        sizes: Mapping[str, int | None] | None = None,
    ) -> None:
        self._sandbox = Sandbox(Limits(seconds, memory_mb))
        self.tests: dict[str, Tests] = {}  # by the id of the question
        super().__init__(
            path, revision=revision, seed=seed, max_tokens=max_tokens, output_tokens=output_tokens, sizes=sizes
        )

    def extract(self, text: str) -> str | None:
        return program(text)

    def tested(self, text: str, solution: str, tests: Tests) -> Question:
        """A question with its tests."""
        question = as_question(text, solution)
        self.tests[question.id] = tests
        return question

    def tried(self, program: str, question: Question, source: str) -> Verdict:
        """What tests in ``source`` say of a program for a question."""
        _, names, before, _ = self.tests[question.id]
        for name in names:
            if name not in program:  # it cannot define it
                return Verdict(False, f"it does not define {name}")
        return self._sandbox.run(f"{before}\n{program}", source, names)

    def judge(self, answer: str, question: Question) -> float:
        return float(self.tried(answer, question, self.tests[question.id].source).passed)


def stage(
    name: str,
    instructions: str,
    extract: Callable[[str], str | None],
    max_tokens: int,
    *,
    asked: Iterable[str],
    answers: Iterable[str],
    reasoning: float,
) -> BenchmarkStage:
    """A stage of a task with several.

    Parameters
    ----------
    asked, answers
        What it is asked on some questions when all before it is right, and what is right then: lengths are estimated from them.
    reasoning
        Tokens that a reply is expected to have beside its answer.

    Raises
    ------
    TaskError
        If the limit is no whole number of at least 1.
    """
    check_max_tokens(max_tokens)
    prompt = fmean(map(len, asked)) + len(instructions)
    answer = fmean(map(len, answers)) / _CHARACTERS_PER_TOKEN
    output = {"solve": min(float(max_tokens), reasoning + answer)}
    lengths = Lengths(prompt / _CHARACTERS_PER_TOKEN, output, edge=answer + 4.0, word=_WORDS)
    return BenchmarkStage(name, instructions, extract, max_tokens, lengths)


def check_max_tokens(max_tokens: object) -> None:
    """Refuse a limit that is no whole number of at least 1, with a TaskError."""
    if type(max_tokens) is not int or max_tokens < 1:
        raise TaskError(f"task.max_tokens={max_tokens!r} must be a whole number of at least 1")


def f1(found: Iterable[Hashable], gold: Iterable[Hashable]) -> float:
    """Harmonic mean of precision and recall of what was found, as multisets; 1 if both are empty.

    Examples
    --------
    >>> f1("aab", "abc")
    0.6666666666666666
    """
    ours, theirs = Counter(found), Counter(gold)
    if not ours and not theirs:
        return 1.0
    return 2.0 * (ours & theirs).total() / (ours.total() + theirs.total())


def field(place: str, row: Row, *names: str) -> str:
    """The first of these fields that a row has, as text.

    Raises
    ------
    TaskError
        If it has none, or an empty one.
    """
    value = first_field(place, row, *names)
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise TaskError(f"{place}: {names[0]}={value!r} must be a text that is not empty")
    return str(value)


def first_field(place: str, row: Row, *names: str) -> object:
    """The first of these fields that a row has.

    Raises
    ------
    TaskError
        If it has none.
    """
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise TaskError(
        f"{place} has no {' or '.join(map(repr, names))} (fields: {', '.join(map(str, row)) or 'none'}); add it"
    )


def as_question(text: str, gold: str) -> Question:
    """A question that is named by a hash of its text."""
    return Question(f"{stable_hash(text):016x}", text, gold)


def _split(questions: Sequence[Question], seed: int, path: str) -> dict[str, list[Question]]:
    if len(questions) < _FEWEST:
        raise TaskError(f"task.path={path} has {len(questions)} distinct questions; give at least {_FEWEST}")
    ordered = sorted(questions, key=lambda question: stable_hash("split", seed, question.text))
    half, rest = len(ordered) // 2, len(ordered) * 3 // 4
    return dict(zip(SPLITS, (ordered[:half], ordered[half:rest], ordered[rest:]), strict=True))
