"""HumanEval: a function to complete from its signature and docstring (Chen et al. 2021, arXiv 2107.03374)."""

from __future__ import annotations

import ast
import doctest

from agentgraph.answers import parse_python
from agentgraph.errors import TaskError
from agentgraph.questions import Hub, Row
from agentgraph.tasks.base import Question
from agentgraph.tasks.benchmark import CodeBenchmark, Tests, field


class HumanEval(CodeBenchmark):
    """Right if the official tests pass. What the prompt has beside the function (imports, helpers) need not be repeated."""

    name = "humaneval"
    hub = Hub("openai/openai_humaneval", "test")
    instructions = (
        "Complete this Python function. Give all of it, with its imports, in one ```python block and nothing else."
    )

    def question(self, place: str, row: Row) -> Question:
        prompt, entry = field(place, row, "prompt"), field(place, row, "entry_point")
        solution = row.get("canonical_solution")
        helpers = _without(place, prompt, entry)
        tests = f"{helpers}\n{field(place, row, 'test')}\ncheck({entry})"
        found = Tests(tests, (entry,), helpers, _examples(prompt))
        return self.tested(prompt, f"{prompt}{solution}" if solution else "", found)


def _examples(prompt: str) -> tuple[str, ...]:
    """The examples of a docstring that are calls with a literal result, as assertions."""
    try:
        found = doctest.DocTestParser().get_examples(prompt)
    except ValueError:  # not all that looks like a session is one
        return ()
    calls = [(example.source.strip(), example.want.strip()) for example in found]
    return tuple(f"assert {call} == {want}" for call, want in calls if _is_value(want) and "\n" not in call)


def _is_value(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


def _without(place: str, prompt: str, entry: str) -> str:
    """What a prompt defines beside the function that is asked for."""
    try:
        module = parse_python(f"{prompt}\n    pass")
    except SyntaxError as error:
        raise TaskError(f"{place}: prompt is not the head of a Python function ({error})") from error
    module.body = [part for part in module.body if getattr(part, "name", None) != entry]
    return ast.unparse(module)
