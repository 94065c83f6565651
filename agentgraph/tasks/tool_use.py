"""Tool use in TaskBench's form: decompose a request into steps, choose a tool for each, fill in parameters (arXiv 2311.18760).

*decompose* is marked by ROUGE-1 F, *choose* by node F1, the end by parameter F1, of names and values or of names alone: R1, n-F1,
v-F1 and t-F1 of TaskBench. It counts over a whole set of requests; here each request has its own mark, and the mean of marks is
what a search sees. ROUGE-1 is the F1 of words, so it is TaskBench's own mark and a cheap one; BERTScore would need a model. Two
departures: 'Step 1:' is no part of a step, and values are the same whatever their case and blanks.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentgraph.answers import after_thinking
from agentgraph.errors import TaskError
from agentgraph.loose_json import objects
from agentgraph.questions import SAMPLE, Row, read_text, sample_file
from agentgraph.tasks.base import Question
from agentgraph.tasks.benchmark import RowTask, as_question, f1, field, first_field, stage

METRICS: Final = ("value", "name")
_STEP: Final = re.compile(r"^\s*(?:step\s*)?\d+\s*[:.)]\s*", re.IGNORECASE)
_WORD: Final = re.compile(r"[a-z0-9]+")
_DECOMPOSE: Final = (
    "Break the request down into steps, in order, each of them one call of a tool. "
    'Answer with JSON and nothing else: {"steps": ["…", "…"]}'
)
_CHOOSE: Final = (
    'Choose the tool of each step, in order. Answer with JSON and nothing else: {"tools": ["…", "…"]}, by their names.'
)
_FILL: Final = (
    "Fill in the parameters of each call, with words of the request; where one needs the result of an earlier call, its value is "
    'that call\'s tool. Answer with JSON and nothing else: {"calls": [{"tool": "…", "parameters": {"name": "value"}}]}, in order.'
)


class Tool(NamedTuple):
    """A tool as a model sees it: what it does, and what each of its parameters is."""

    does: str
    parameters: dict[str, str]


Call = tuple[str, tuple[tuple[str, str], ...]]
"""A tool, and names and values of its parameters, in order of their names."""


class Plan(NamedTuple):
    """What a request takes: its steps, and the call of each."""

    steps: tuple[str, ...]
    calls: tuple[Call, ...]


class ToolUse(RowTask):
    """Requests that one or several calls of tools fulfil.

    *decompose* hands on steps, *choose* the names of tools; what parameters these have is told to *fill*. Requests whose calls name
    a tool or parameter that the tools do not have are left out, with a warning that says how many: TaskBench's file has some, and
    nobody could give their answers.

    Parameters
    ----------
    path
        'sample' (40 requests for 16 tools of daily life), a file in TaskBench's format, or a folder of its with ``data.json`` and
        ``tool_desc.json``. Of its three domains the daily-life APIs: the parameters of the other two have no names.
    tools
        File of the tools; ``None`` takes ``tool_desc.json`` beside the requests.
    metric
        'value' (names and values of parameters) or 'name'.
    seed, sizes
        As in `RowTask`.
    max_tokens
        Limit of generated tokens of one call.

    Raises
    ------
    TaskError
        If requests or tools cannot be read, or the metric is unknown.

    Attributes
    ----------
    skipped
        How many requests were left out.
    """

    name = "tool_use"

    def __init__(
        self,
        path: str = SAMPLE,
        *,
        tools: str | None = None,
        metric: str = "value",
        seed: int = 0,
        max_tokens: int = 1024,
        sizes: Mapping[str, int | None] | None = None,
    ) -> None:
        if metric not in METRICS:
            raise TaskError(f"task.metric={metric!r} is unknown; use one of {', '.join(METRICS)}")
        self.metric = metric
        file = Path(path).expanduser()
        folder = file if file.is_dir() else file.parent
        beside = sample_file("tool_use_tools.json") if path == SAMPLE else folder / "tool_desc.json"
        self.tools = _tools(beside if tools is None else Path(tools).expanduser())
        self._listed = "\n".join(
            f"- {name}({', '.join(tool.parameters)}): {tool.does}" for name, tool in self.tools.items()
        )
        self.plans: dict[str, Plan] = {}  # by the id of the question
        self.skipped = 0
        super().__init__(str(file / "data.json") if file.is_dir() else path, seed=seed, sizes=sizes)
        if self.skipped:
            logging.getLogger(__name__).warning(
                "%s: %d requests whose calls name a tool or parameter that there is not were left out",
                path,
                self.skipped,
            )
        train = self.pool("train")
        ideal = [
            ["\n".join(self.plans[q.id].steps) for q in train],
            [", ".join(tool for tool, _ in self.plans[q.id].calls) for q in train],
            [q.gold for q in train],
        ]
        handed = [[""] * len(train), *ideal]
        # AgentTTS's table has 64, 256 and 2,048 tokens; answers without reasoning are far shorter.
        self.stages = tuple(
            stage(
                name,
                instructions,
                extract,
                max_tokens,
                asked=[self.asked(s, question, text) for question, text in zip(train, handed[s], strict=True)],
                answers=ideal[s],
                reasoning=16.0,
            )
            for s, (name, instructions, extract) in enumerate(
                (("decompose", _DECOMPOSE, steps), ("choose", _CHOOSE, chosen), ("fill", _FILL, filled))
            )
        )

    def question(self, place: str, row: Row) -> Question | None:
        said = _json(place, "task_steps", first_field(place, row, "task_steps", "tool_steps"))
        nodes = _json(place, "task_nodes", first_field(place, row, "task_nodes", "tool_nodes"))
        if not all(isinstance(one, str) for one in said):
            raise TaskError(f"{place}: task_steps={str(said)[:80]!r} must be texts")
        calls = tuple(_gold(place, node) for node in nodes)
        if not calls or not said:
            raise TaskError(
                f"{place} has {len(said)} task_steps and {len(calls)} task_nodes; give at least one of each"
            )
        question = as_question(field(place, row, "user_request", "instruction"), _written(calls))
        if not all(
            tool in self.tools and self.tools[tool].parameters.keys() >= dict(given).keys() for tool, given in calls
        ):
            self.skipped += 1
            return None
        self.plans[question.id] = Plan(tuple(_STEP.sub("", one).strip() for one in said), calls)
        return question

    def asked(self, stage: int, question: Question, handed: str) -> str:
        if stage == 2:
            return f"Request: {question.text}\n\nCalls:\n{self._described(_names(handed))}"
        given = "\n".join(f"{i}. {step}" for i, step in enumerate(handed.splitlines(), start=1))
        return f"Tools:\n{self._listed}\n\nRequest: {question.text}" + (f"\n\nSteps:\n{given}" if stage else "")

    def mark_stage(self, stage: int, answer: str, question: Question) -> float | None:
        plan = self.plans[question.id]
        if stage == 0:
            return f1(_words(answer), _words("\n".join(plan.steps)))
        return f1(set(_names(answer)), {tool for tool, _ in plan.calls}) if stage == 1 else None

    def judge(self, answer: str, question: Question) -> float:
        found, gold = _read(answer), self.plans[question.id].calls
        return f1(self._parts(found), self._parts(gold)) if found else 0.0

    def _parts(self, calls: Sequence[Call]) -> set[tuple[str, ...]]:
        """What is compared: each parameter of each tool once."""
        values = self.metric == "value"
        return {
            (tool, name, *([_same(value)] if values else []))
            for tool, parameters in calls
            for name, value in parameters
        }

    def _described(self, names: Sequence[str]) -> str:
        lines = []
        for name in names:
            tool = self.tools.get(name)
            about = "; ".join(f"{key}: {text}" for key, text in tool.parameters.items()) if tool else "no such tool"
            lines.append(f"- {name} ({about or 'no parameters'})")
        return "\n".join(lines)


def steps(text: str) -> str | None:
    """The steps in a reply, one a line."""
    found = (
        " ".join(_STEP.sub("", one).split()) for one in _entries(text, "steps", "task_steps") if isinstance(one, str)
    )
    return "\n".join(one for one in found if one) or None


def chosen(text: str) -> str | None:
    """The names of tools in a reply."""
    found = (_tool(one) if isinstance(one, dict) else one for one in _entries(text, "tools", "task_nodes"))
    return ", ".join(one.strip() for one in found if isinstance(one, str) and one.strip()) or None


def filled(text: str) -> str | None:
    """The calls in a reply, as JSON that is the same for the same calls."""
    found = (_call(one) for one in _entries(text, "calls", "task_nodes"))
    calls = tuple(one for one in found if one is not None)
    return _written(calls) if calls else None


def _names(answer: str) -> list[str]:
    return [name.strip() for name in answer.split(",")]


def _entries(text: str, *names: str) -> list[Any]:
    """What the last object of a reply that has one of these fields lists there."""
    found = [one.value[name] for one in objects(after_thinking(text)) for name in names if name in one.value]
    lists = [value for value in found if isinstance(value, list)]
    return lists[-1] if lists else []


def _tool(entry: Mapping[str, Any]) -> str:
    return str(next((entry[name] for name in ("tool", "task", "name") if name in entry), "")).strip()


def _call(entry: object) -> Call | None:
    """A call as models and TaskBench write it; ``None`` if it is none."""
    if not isinstance(entry, dict) or not _tool(entry):
        return None
    given = entry.get("parameters", entry.get("arguments", {}))
    if isinstance(given, list):
        if not all(isinstance(one, dict) and "name" in one and "value" in one for one in given):
            return None
        given = {str(one["name"]): one["value"] for one in given}
    if not isinstance(given, dict):
        return None
    return _tool(entry), tuple(sorted((str(name), _text(value)) for name, value in given.items() if value is not None))


def _gold(place: str, node: object) -> Call:
    call = _call(node)
    if call is None:
        raise TaskError(
            f"{place}: task_nodes has {str(node)[:80]!r}; write {{'task': tool, 'arguments': [{{'name': …, 'value': …}}, …]}}"
        )
    return call


def _written(calls: Sequence[Call]) -> str:
    return json.dumps([{"tool": tool, "parameters": dict(given)} for tool, given in calls], ensure_ascii=False)


def _read(answer: str) -> tuple[Call, ...]:
    """What `_written` wrote; nothing if it did not."""
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return ()
    calls = [_call(one) for one in found] if isinstance(found, list) else []
    return tuple(call for call in calls if call is not None)


def _text(value: object) -> str:
    return " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())


def _same(value: str) -> str:
    return " ".join(value.casefold().strip(" '\"").split())


def _words(text: str) -> list[str]:
    """Words as the script of ROUGE takes them."""
    return _WORD.findall(text.lower())


def _json(place: str, name: str, value: object) -> list[Any]:
    """A list, or the JSON of one: TaskBench has both."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except ValueError as error:
            raise TaskError(f"{place}: {name}={value[:80]!r} is not JSON ({error}); give a list") from error
    if not isinstance(found, list):
        raise TaskError(f"{place}: {name}={str(found)[:80]!r} must be a list")
    return found


def _tools(file: Path) -> dict[str, Tool]:
    """The tools of a ``tool_desc.json``: ``nodes`` with id, desc and parameters."""
    try:
        nodes = json.loads(read_text(file, "task.tools"))["nodes"]
    except (ValueError, KeyError, TypeError) as error:
        raise TaskError(
            f"task.tools={file} is not {{'nodes': [{{'id': …, 'desc': …, 'parameters': […]}}]}} ({error!r})"
        ) from error
    return dict(_described_tools(file, nodes))


def _described_tools(file: Path, nodes: object) -> Iterator[tuple[str, Tool]]:
    for number, node in enumerate(nodes if isinstance(nodes, list) else [nodes], start=1):
        place = f"{file}, tool {number}"
        if not isinstance(node, dict):
            raise TaskError(f"{place} is not an object: {str(node)[:80]!r}")
        parameters = {}
        for one in node.get("parameters") or ():
            if not isinstance(one, dict) or "name" not in one:
                raise TaskError(f"{place}: parameter {str(one)[:80]!r} must be {{'name': …, 'desc': …}}")
            parameters[str(one["name"])] = str(one.get("desc", ""))
        yield field(place, node, "id"), Tool(field(place, node, "desc"), parameters)
