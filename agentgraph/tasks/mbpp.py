"""MBPP: short Python functions from one sentence and an example (Austin et al. 2021, arXiv 2108.07732)."""

from __future__ import annotations

import ast
import builtins

from agentgraph.answers import parse_python
from agentgraph.errors import TaskError
from agentgraph.questions import Hub, Row
from agentgraph.tasks.base import Question
from agentgraph.tasks.benchmark import CodeBenchmark, Tests, field, first_field


class Mbpp(CodeBenchmark):
    """Right if all assertions pass; the prompt shows the first of them, which names the function."""

    name = "mbpp"
    hub = Hub("google-research-datasets/mbpp", "test", "full")
    instructions = "Write this Python function. Give it, with its imports, in one ```python block and nothing else."

    def question(self, place: str, row: Row) -> Question:
        asserts = first_field(place, row, "test_list", "test")
        if not isinstance(asserts, list) or not asserts:
            raise TaskError(f"{place}: test_list={asserts!r} must be a list of assertions")
        setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
        tests, solution = "\n".join([setup, *map(str, asserts)]), str(row.get("code") or "").replace("\r\n", "\n")
        text = f"{field(place, row, 'text', 'prompt')}\nYour code should pass this test:\n{asserts[0]}"
        shown = (str(asserts[0]),)
        return self.tested(text, solution, Tests(tests, tuple(_called(place, tests, solution)), shown=shown))


def _called(place: str, tests: str, solution: str) -> list[str]:
    """The functions of the program that its tests call: what they name and neither define nor find among the builtins."""
    try:
        names, own = _names(tests, ast.Load), _names(tests, ast.Store)
        defined = {
            part.name for part in parse_python(solution).body if isinstance(part, ast.FunctionDef | ast.ClassDef)
        }
    except SyntaxError as error:
        raise TaskError(f"{place}: its code or tests are not Python ({error})") from error
    found = sorted(names - own & names - (set(dir(builtins)) - defined))
    if not found:
        raise TaskError(f"{place}: its tests call no function of the program: {tests[:80]!r}")
    return found


def _names(source: str, kind: type[ast.expr_context]) -> set[str]:
    """Names that a source reads (`ast.Load`) or sets (`ast.Store`, imports among them)."""
    nodes = list(ast.walk(parse_python(source)))
    found = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, kind)}
    if kind is ast.Store:
        found |= {alias.asname or alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        found |= {
            alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
        }
    return found
