"""The textual gradient: its JSON formats, and parsing that fails loudly."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentgraph.distribution import Distribution
from agentgraph.errors import FeedbackError

__all__ = ["Choice", "Feedback", "Nudge", "parse", "parse_choice", "schema", "step"]

LARGEST: Final = 3.0  # change of a logit by one nudge
MOST_NUDGES: Final = 96
_CLIP: Final = 5.0  # logits stay within ±5 (p from 0.007 to 0.993), so that nothing becomes impossible


class Nudge(BaseModel):
    """One change to one probability.

    ``option`` is a role, a model, or for edges the number of the slot that receives the message. ``by`` is added to
    the logit; ``expect`` is the change of accuracy foreseen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: Literal["edge", "role", "model"]
    slot: Annotated[int, Field(ge=0)]
    option: str
    by: Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
    stage: Annotated[int, Field(ge=0)] = 0
    expect: Annotated[float, Field(ge=-1, le=1)] = 0.0
    because: str = ""

    def text(self) -> str:
        """One line: what, which way, how far, why, and the effect foreseen."""
        what = f"{self.slot}>{self.option}" if self.table == "edge" else f"slot {self.slot} {self.option}"
        stage = f"stage {self.stage} " if self.stage else ""
        return f"  {stage}{self.table:<5} {what:<28} {self.by:+.2f}  {self.because} (expected {self.expect:+.3f})"


class Feedback(BaseModel):
    """Critique in words, and nudges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    critique: str
    nudges: Annotated[tuple[Nudge, ...], Field(max_length=MOST_NUDGES)]

    def text(self) -> str:
        """Critique, then a line for each nudge."""
        return "\n".join(
            [f"CRITIQUE\n{self.critique}", "", "NUDGES (change of the logit)", *map(Nudge.text, self.nudges)]
        )


class Choice(BaseModel):
    """Mixes to start from, by their number in the list shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    critique: str
    mixes: tuple[Annotated[int, Field(ge=0)], ...]

    def text(self) -> str:
        """Critique, then the numbers chosen."""
        return f"CRITIQUE\n{self.critique}\n\nMIXES CHOSEN\n{', '.join(map(str, self.mixes))}"


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of `Feedback` or `Choice`, for servers that can enforce one."""
    return model.model_json_schema()


def _read(text: str, model: type[BaseModel]) -> Any:  # noqa: ANN401  the model's own type
    """The first JSON object in a text: models like to wrap it in prose or a code fence."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise FeedbackError(f"expected a JSON object, got {text[:60]!r}")
    body = re.sub(r",\s*([}\]])", r"\1", text[start : end + 1])  # trailing commas
    try:
        return model.model_validate(json.loads(body))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FeedbackError(f"at {where!r}: {first['msg']}, got {str(first['input'])[:60]!r}") from error
    except (ValueError, RecursionError) as error:
        raise FeedbackError(f"expected a JSON object, got {body[:60]!r}… ({error})") from error


def parse(text: str, distribution: Distribution) -> Feedback:
    """Feedback in a text, each nudge checked against the tables.

    Raises
    ------
    FeedbackError
        If there is no JSON, it breaks the format, or a nudge names a slot, role, model or edge that is not there.
    """
    feedback: Feedback = _read(text, Feedback)
    for nudge in feedback.nudges:
        _place(nudge, distribution)
    return feedback


def parse_choice(text: str, mixes: Sequence[Sequence[int]], count: int) -> Choice:
    """Choice of mixes in a text.

    Raises
    ------
    FeedbackError
        If there is no JSON, it breaks the format, or a number is not in the list.
    """
    choice: Choice = _read(text, Choice)
    numbers = tuple(dict.fromkeys(choice.mixes))
    if not numbers or len(numbers) > count or max(numbers) >= len(mixes):
        raise FeedbackError(f"expected 1 to {count} numbers from 0 to {len(mixes) - 1} in 'mixes', got {choice.mixes}")
    return choice.model_copy(update={"mixes": numbers})


def _place(nudge: Nudge, distribution: Distribution) -> tuple[int, int]:
    """Row and column of a nudge in its table."""
    if nudge.stage >= len(distribution.stages):
        raise FeedbackError(f"nudge names stage {nudge.stage}; stages are 0 to {len(distribution.stages) - 1}")
    space = distribution.stages[nudge.stage].space
    if nudge.slot >= space.max_nodes:
        raise FeedbackError(f"nudge names slot {nudge.slot}; slots are 0 to {space.max_nodes - 1}")
    if nudge.table == "edge":
        if not nudge.option.isdecimal() or int(nudge.option) >= nudge.slot:
            raise FeedbackError(f"edge nudge from slot {nudge.slot} to {nudge.option!r}; it must go to a slot below it")
        return nudge.slot, int(nudge.option)
    names = [role.name for role in space.roles] if nudge.table == "role" else list(space.pool.names)
    if nudge.option not in names:
        raise FeedbackError(f"{nudge.table} nudge names {nudge.option!r}; there are {', '.join(names)}")
    return nudge.slot, names.index(nudge.option)


def step(distribution: Distribution, feedback: Feedback, rate: float) -> None:
    """Add ``rate`` times each nudge to its logit; logits stay within ±5."""
    for nudge in feedback.nudges:
        row, column = _place(nudge, distribution)
        stage = distribution.stages[nudge.stage]
        table = {"edge": stage.edge_logits, "role": stage.role_logits, "model": stage.model_logits}[nudge.table]
        table[row, column] = float((table[row, column] + rate * nudge.by).clamp(-_CLIP, _CLIP))
