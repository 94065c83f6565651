"""Code in three stages: write a program, repair it after its examples were run, predict the output of a test that nobody has seen.

Problems are those of HumanEval or MBPP. *write* and *repair* are marked by all tests of the problem, *predict* by what the
reference program returns for the input of the last test that the problem does not show; all of it is run in the sandbox. A
question is right if the repaired program passes and the prediction is right. So no stage can be left out: the prediction alone,
which LiveCodeBench (arXiv 2403.07974) marks, is as well made without a program, and what is wanted in the end is a program with a
test that holds. The stages are of the kind of ChatDev's coding, static and dynamic test in AgentTTS (arXiv 2508.00890).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from agentgraph.answers import after_thinking, boxed, parse_python, program, stated
from agentgraph.errors import TaskError
from agentgraph.questions import SAMPLE
from agentgraph.tasks.base import SPLITS, Question, Task
from agentgraph.tasks.benchmark import CodeBenchmark, Tests, stage
from agentgraph.tasks.humaneval import HumanEval
from agentgraph.tasks.mbpp import Mbpp

PROBLEMS: Final[dict[str, type[CodeBenchmark]]] = {"mbpp": Mbpp, "humaneval": HumanEval}
_LONGEST: Final = 4000  # characters of a predicted value
_ENDED: Final = ("no verdict", "RuntimeError: the program ended")
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]+")
_REPAIR: Final = (
    "This program was written for the task and run on its examples. Find out whether it is right for every input, and give the "
    "whole program, repaired where it is wrong, in one ```python block and nothing else."
)
_PREDICT: Final = (
    "This program was written for the task; it may be wrong. Say what a right program returns for the call at the end. Reason "
    "briefly, then end with a line 'The answer is X', X being a Python literal."
)


class Code(Task):
    """A program and the output of a test.

    Parameters
    ----------
    problems
        'mbpp' or 'humaneval'. Problems are left out whose hidden tests compare no call, with literals for arguments, to a literal.
    path, revision, seed, max_tokens, seconds, memory_mb, sizes
        As these have them; splits are theirs.

    Raises
    ------
    TaskError
        If the problems cannot be had or read, or too few are left.
    SandboxError
        If generated code cannot be run safely on this system.

    Attributes
    ----------
    calls
        What is predicted, by the id of the question: a call of the function.
    """

    name = "code"
    slow_marks = True

    def __init__(
        self,
        problems: str = "mbpp",
        path: str = SAMPLE,
        *,
        seconds: int = 5,
        memory_mb: int = 512,
        revision: str | None = None,
        seed: int = 0,
        max_tokens: int = 1024,
        sizes: Mapping[str, int | None] | None = None,
    ) -> None:
        super().__init__(sizes)
        if problems not in PROBLEMS:
            raise TaskError(f"task.problems={problems!r} is unknown; use one of {', '.join(PROBLEMS)}")
        self._problems = PROBLEMS[problems](
            path, seconds=seconds, memory_mb=memory_mb, revision=revision, seed=seed, max_tokens=max_tokens
        )
        self.programs: dict[str, Question] = {}  # by the id of the question: the problem, its gold a right program
        self.calls: dict[str, str] = {}
        self._by_split = {split: list(self._predictable(split)) for split in SPLITS}
        for split, questions in self._by_split.items():
            if not questions:
                raise TaskError(
                    f"task.path={path}: no {split} problem has a hidden test 'assert f(…) == value'; give more problems"
                )
        self._outcomes: dict[tuple[str, str], str] = {}
        self._values: dict[tuple[str, str], bool] = {}
        train = self._by_split["train"]
        written = [self.programs[question.id].gold for question in train]
        repaired, predicted = (
            [self._told(s, question, text, "all hold.") for question, text in zip(train, written, strict=True)]
            for s in (1, 2)
        )
        golds, told = [question.gold for question in train], self._problems.instructions
        # Reasoning as in AgentTTS's table for ChatDev, less the program, of which these problems need a short one.
        self.stages = (
            stage("write", told, program, max_tokens, asked=[q.text for q in train], answers=written, reasoning=64.0),
            stage("repair", _REPAIR, program, max_tokens, asked=repaired, answers=written, reasoning=128.0),
            stage("predict", _PREDICT, value, max_tokens, asked=predicted, answers=golds, reasoning=256.0),
        )

    def pool(self, split: str) -> Sequence[Question]:
        return self._by_split[split]

    def asked(self, stage: int, question: Question, handed: str) -> str:
        if stage == 0:
            return question.text
        return self._told(stage, question, handed, self._outcome(question, handed) if stage == 1 else "")

    def mark_stage(self, stage: int, answer: str, question: Question) -> float | None:
        return self.mark(answer, question) if stage == 2 else self._problems.mark(answer, self.programs[question.id])

    def mark(self, answer: str, question: Question) -> float:
        """Whether a prediction is what the reference program returns."""
        found, gold = literal(answer), question.gold
        if found is None:  # nothing else may get into the tests
            return 0.0
        if self._returned(question, gold):  # run once: whatever else is predicted is compared with this
            return float(ast.literal_eval(found) == ast.literal_eval(gold))
        return float(self._returned(question, found))

    def mark_end(self, answers: Sequence[str], question: Question) -> float:
        _, repaired, predicted = answers
        passes = self._problems.mark(repaired, self.programs[question.id])
        return passes * self.mark(predicted, question)

    def _returned(self, question: Question, found: str) -> bool:
        """Whether the reference program returns a literal."""
        key = (question.id, found)
        known = self._values.get(key)
        if known is None:
            problem = self.programs[question.id]
            tests = f"assert {self.calls[question.id]} == ({found})"
            known = self._values[key] = self._problems.tried(problem.gold, problem, tests).passed
        return known

    def _predictable(self, split: str) -> Iterator[Question]:
        for problem in self._problems.pool(split):
            test = hidden(self._problems.tests[problem.id], problem.text) if problem.gold else None
            if test is not None:
                self.programs[problem.id], self.calls[problem.id] = problem, test[0]
                yield Question(problem.id, problem.text, test[1])

    def _told(self, stage: int, question: Question, handed: str, outcome: str) -> str:
        end = f"What does `{self.calls[question.id]}` return?" if stage == 2 else f"Its examples: {outcome}"
        return f"{question.text.rstrip()}\n\nThe program:\n```python\n{handed}\n```\n\n{end}"

    def _outcome(self, question: Question, handed: str) -> str:
        """What came of a program's examples; the same words whenever it is asked."""
        key = (question.id, handed)
        known = self._outcomes.get(key)
        if known is None:
            known = self._outcomes[key] = self._run_examples(question, handed)
        return known

    def _run_examples(self, question: Question, handed: str) -> str:
        shown = self._problems.tests[question.id].shown
        verdict = self._problems.tried(handed, self.programs[question.id], "\n".join(map(_telling, shown)))
        if verdict.passed:
            return "all hold." if shown else "there are none; it can be run."
        if verdict.why.startswith(_ENDED):  # which limit it was, and whose, may differ from run to run
            return "it ended early, or takes too much time or memory."
        return f"{_ADDRESS.sub('0x…', verdict.why).removeprefix('AssertionError: ')}."


def hidden(tests: Tests, text: str) -> tuple[str, str] | None:
    """The last test that compares a call, which the text does not show, to a literal: call and value; ``None`` if there is none."""
    shown = _squeezed(text)
    for node in reversed(list(ast.walk(parse_python(tests.source)))):
        pair = _comparison(node, tests.names)
        if pair is not None and _squeezed(pair[0]) not in shown:
            return pair
    return None


def value(text: str) -> str | None:
    """The Python literal in a reply: boxed, else stated, else its last line."""
    text = after_thinking(text)
    lines = [line for line in text.splitlines() if line.strip(" `")]
    for said in (boxed(text), stated(text), lines[-1] if lines else None):
        for form in () if said is None else (said, said.rstrip(". "), said.rpartition("==")[2]):
            found = literal(form.strip(" `$*"))
            if found is not None:
                return found
    return None


def literal(text: str) -> str | None:
    """A Python literal, written as Python would; ``None`` if it is none.

    Examples
    --------
    >>> literal('["a",  1 ]')
    "['a', 1]"
    """
    if len(text) > _LONGEST:
        return None
    try:
        node = parse_python(text.strip()).body
        if len(node) != 1 or not isinstance(node[0], ast.Expr):
            return None
        ast.literal_eval(node[0].value)
        return ast.unparse(node[0].value)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _comparison(node: ast.AST, names: Sequence[str]) -> tuple[str, str] | None:
    """Call and value of ``assert f(…) == value``, if it is such an assertion and all is literal."""
    if not isinstance(node, ast.Assert) or not isinstance(node.test, ast.Compare):
        return None
    call, right = node.test.left, node.test.comparators
    if len(right) != 1 or not isinstance(node.test.ops[0], ast.Eq) or not isinstance(call, ast.Call):
        return None
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    if not isinstance(call.func, ast.Name) or not all(literal(ast.unparse(one)) for one in given):
        return None
    if call.func.id == "candidate" and len(names) == 1:  # what HumanEval's tests call it
        call.func.id = names[0]
    found = literal(ast.unparse(right[0]))
    return (ast.unparse(call), found) if found is not None and call.func.id in names else None


def _squeezed(text: str) -> str:
    """A text without blanks, and with quotes of one kind."""
    return "".join(text.split()).replace('"', "'")


def _telling(assertion: str) -> str:
    """An assertion that tells what the call returned."""
    try:
        test = parse_python(assertion).body[0]
    except (SyntaxError, IndexError):
        return assertion
    if not isinstance(test, ast.Assert):
        return assertion
    shown = ast.unparse(test.test)
    if not isinstance(test.test, ast.Compare):
        return f"assert {shown}, {f'{shown} is false'!r}"
    call = ast.unparse(test.test.left)
    test.test.left = ast.Name("_found", ast.Load())
    return f"_found = {call}\nassert {ast.unparse(test.test)}, {f'{shown} is false: it gave '!r} + repr(_found)[:200]"
