"""The exported plan: self-contained, versioned, validated data. It never names code to run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field, ValidationError

from agentgraph.budget import Budget, Cost
from agentgraph.errors import AgentGraphError, GraphError, PlanFileError, SpaceError
from agentgraph.model import Model
from agentgraph.plan import Plan
from agentgraph.plan_format import (
    BudgetEntry,
    Entry,
    Found,
    ModelEntry,
    Name,
    PriceEntry,
    RoleEntry,
    Score,
    Sorted,
    StageEntry,
)
from agentgraph.roles.base import Role, role_from_data
from agentgraph.roles.rules import check_roles
from agentgraph.store import write_atomically

__all__ = ["FORMAT", "Found", "PlanFile", "Score", "json_schema"]

FORMAT: Final = 1
"""Version of the format that is written, and the only one that is read."""

T = TypeVar("T")
_LONGEST: Final = 60  # characters of a wrong value that an error shows


class PlanFile(Entry):
    """A plan of agentgraph: one graph per stage, with all that is needed to draw it and to run it on new questions."""

    kind: Literal["plan"]
    format: Literal[1]
    task: Name
    stages: Annotated[tuple[StageEntry, ...], Field(min_length=1)]
    roles: Sorted[RoleEntry]
    models: Sorted[ModelEntry]
    budget: BudgetEntry
    price: PriceEntry
    scores: tuple[Score, ...]
    found: Found

    @classmethod
    def make(
        cls,
        plan: Plan,
        *,
        task: str,
        stage_names: Sequence[str],
        roles: Mapping[str, Role],
        models: Mapping[str, Model],
        budget: Budget,
        price: Cost,
        scores: Sequence[Score],
        found: Found,
        stage_budgets: Sequence[float | None] = (),
        stage_prices: Sequence[float | None] = (),
        stage_shares: Sequence[float | None] = (),
    ) -> PlanFile:
        """The file of a plan; it describes the roles and models that the plan uses and no others.

        Parameters
        ----------
        stage_names
            One for each stage.
        roles, models
            By the names that the plan's nodes use.
        price
            Forecast of one question.
        stage_budgets, stage_prices
            FLOPs of each stage, or ``None``; empty where the task has one stage.
        stage_shares
            Part of the budget that each stage has, in [0, 1]; likewise.

        Raises
        ------
        GraphError
            If there are not as many names as stages, or a node breaks a rule of its role.
        SpaceError
            If a node's role or model is not given.
        """
        if len(stage_names) != len(plan.stages):
            raise GraphError(
                f"the plan has {len(plan.stages)} stages, got the names {list(stage_names)}; name each stage"
            )
        nodes = {node for graph in plan.stages for node in graph.nodes}
        entries = zip_longest(stage_names, plan.stages, stage_budgets, stage_prices, stage_shares)
        result = cls(
            kind="plan",
            format=FORMAT,
            task=task,
            stages=tuple(StageEntry.of(*entry) for entry in entries),
            roles={name: _role_entry(_given("role", name, roles)) for name in {node.role for node in nodes}},
            models={name: _model_entry(_given("model", name, models)) for name in {n.model for n in nodes if n.model}},
            budget=BudgetEntry.of(budget),
            price=PriceEntry.of(price, budget),
            scores=tuple(scores),
            found=found,
        )
        result.check()
        return result

    def plan(self) -> Plan:
        """The plan, in canonical form.

        Raises
        ------
        GraphError
            If the graph of a stage, which is named, has a cycle or breaks another rule of graphs.
        """
        return Plan(tuple(stage.built()[0] for stage in self.stages))

    def role_objects(self) -> dict[str, Role]:
        """The roles by name.

        Raises
        ------
        SpaceError
            If this version does not have the kind of one.
        """
        roles = {}
        for name, entry in self.roles.items():
            try:
                roles[name] = role_from_data({"name": name, **entry.model_dump()})
            except SpaceError as error:
                raise SpaceError(f"role {name!r}: {error}; correct it or upgrade agentgraph") from error
        return roles

    def check(self) -> None:
        """Check what the schema cannot say: names that are used are described, and graphs and roles keep their rules.

        Raises
        ------
        GraphError, SpaceError
            At the first fault, with its stage and node.
        """
        names = [stage.name for stage in self.stages]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise GraphError(f"two stages are called {twice!r}; give each its own name")
        roles = self.role_objects()
        for stage in self.stages:
            for node in stage.graph.nodes:
                where = f"stage {stage.name!r}, node {node.id}"
                if node.role not in self.roles:
                    raise SpaceError(f"{where}: role {node.role!r} is not described; 'roles' has {_list(self.roles)}")
                if node.model is not None and node.model not in self.models:
                    raise SpaceError(
                        f"{where}: model {node.model!r} is not described; 'models' has {_list(self.models)}"
                    )
            graph, ids = stage.built()
            try:
                check_roles(graph, roles, ids=ids)
            except GraphError as error:
                raise GraphError(f"stage {stage.name!r}: {error}") from error

    def text(self) -> str:
        """The file's text; equal plan files have equal texts."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> PlanFile:
        """Read and check a plan file.

        Raises
        ------
        PlanFileError
            In one line: what is wrong, where, and what is expected.
        """
        path = Path(path)
        text = _text(path)
        _check_kind(path, _parsed(path, text))
        try:
            result = cls.model_validate_json(text, strict=True)
            result.check()
        except ValidationError as error:
            raise PlanFileError(f"{path}: {_first_violation(error)}") from error
        except AgentGraphError as error:
            raise PlanFileError(f"{path}: {error}") from error
        return result

    def write(self, path: str | Path) -> None:
        """Write the file as a whole or not at all.

        Raises
        ------
        RunError
            If it cannot be written; what was there before stays.
        """
        write_atomically(Path(path), self.text().encode())


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of plan files, published as ``conf/plan.schema.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **PlanFile.model_json_schema()}


def _given(what: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise SpaceError(f"the plan uses the {what} {name!r}, given are {_list(known)}; pass it too")
    return known[name]


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"


def _role_entry(role: Role) -> RoleEntry:
    content = role.data()
    return RoleEntry(**{key: content[key] for key in RoleEntry.model_fields})


def _model_entry(model: Model) -> ModelEntry:
    content = model.data()
    return ModelEntry(**{key: content[key] for key in ModelEntry.model_fields})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PlanFileError(f"there is no file {path}; name the plan file that a search wrote") from None
    except IsADirectoryError:
        raise PlanFileError(f"{path} is a folder; name the plan file in it") from None
    except UnicodeDecodeError as error:
        raise PlanFileError(f"{path} is not a text file (byte {error.start} is not UTF-8); name a plan file") from error
    except OSError as error:
        raise PlanFileError(f"cannot read {path}: {error.strerror or error}") from error


def _parsed(path: Path, text: str) -> object:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise PlanFileError(f"{path} is not JSON: {error.msg} ({place}); export the plan again") from error
    except (ValueError, RecursionError) as error:  # NaN, a number of thousands of digits, thousands of brackets
        raise PlanFileError(f"{path} is not a plan: {error}; export the plan again") from error


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is not a number in JSON")


def _check_kind(path: Path, content: object) -> None:
    if not isinstance(content, dict) or content.get("kind") != "plan":
        found = (
            f"kind {_short(content.get('kind'))}" if isinstance(content, dict) else f"a JSON {type(content).__name__}"
        )
        raise PlanFileError(f'{path} is not a plan: it holds {found}, expected an object with kind "plan"')
    version = content.get("format")
    if not isinstance(version, int) or isinstance(version, bool):
        raise PlanFileError(f"{path}: format is {_short(version)}, expected {FORMAT}; export the plan again")
    if version > FORMAT:
        raise PlanFileError(f"{path} was written in format {version}, this version reads {FORMAT}; upgrade agentgraph")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _first_violation(error: ValidationError) -> str:
    """The first violation of the schema: where, what was found, what is expected, and how many more there are."""
    every = error.errors(include_url=False, include_context=False)
    # A list with a faulty item is also reported as too short: its faulty items do not count.
    inside = {fault["loc"][:n] for fault in every for n in range(len(fault["loc"]))}
    faults = [fault for fault in every if not (fault["type"] == "too_short" and fault["loc"] in inside)]
    first = faults[0]
    where = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" if part.isidentifier() else f"[{part!r}]"
        for part in first["loc"]
    ).removeprefix(".")
    if first["type"] == "missing":
        text = f"{where} is missing; add it or export the plan again"
    elif first["type"] == "extra_forbidden":
        text = f"{where} is an unknown key; allowed there are {', '.join(_keys_at(first['loc'][:-1])) or 'none'}"
    else:
        expected = first["msg"].replace("Input should be ", "expected ").replace("String should", "expected text to")
        expected = expected.replace("Tuple should", "expected a list to").replace(" after validation", "")
        text = f"{where or 'the file'} is {_short(first['input'])}, {expected}"
    return text + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    """Keys that the schema allows at a place."""
    schema = json_schema()
    at: dict[str, Any] = schema
    for part in loc:
        at = at["items"] if isinstance(part, int) else at.get("properties", {}).get(part) or at["additionalProperties"]
        at = schema["$defs"][at["$ref"].rpartition("/")[2]] if "$ref" in at else at
    return list(at.get("properties", {}))
