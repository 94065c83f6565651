"""Reads an agent's reply: finds the JSON in it, says of what kind a reply is that has none, and asks again.

A reply is repaired where that changes nothing of what it says (`agentgraph.loose_json`). What is wrong in it is dropped and
counted, what is right is used; only a reply of which nothing is left is asked again, at most `ATTEMPTS` times in all.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from agentgraph.errors import FeedbackError
from agentgraph.loose_json import Flaw, Found, objects

__all__ = ["ATTEMPTS", "KINDS", "Heard", "Reading", "entry", "listen", "sole_object", "tally"]

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

ATTEMPTS: Final = 3  # at a reply of which something can be used
KINDS: Final = (
    "empty",
    "prose",
    "language",
    "cut off",
    "schema",
    "unknown id",
    "probability",
    "cycle",
    "invalid plan",
    "over budget",
)
"""Why a reply or a part of one is rejected: nothing said; no JSON; no JSON and another script; JSON that ends early; wrong
fields or types; no such slot, role, model or stage; a probability outside [0, 1] or a step too large; a cycle; a plan that
breaks a rule; a plan that costs too much."""
_SHOWN: Final = 60  # characters of a reply in a complaint
_RANGES: Final = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
_OF_FIELD: Final = {"by": "probability", "to": "probability", "slot": "unknown id", "stage": "unknown id"}


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What could be used of a reply, and what could not: the first complaint, and how many by kind."""

    value: T
    complaint: str = ""
    rejects: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Heard(Generic[T]):
    """What came of asking an agent.

    Parameters
    ----------
    value
        What could be used; ``None`` if no attempt gave anything.
    raw
        The last reply as it came.
    complaint
        What was wrong with it, '' if nothing was.
    """

    value: T | None
    raw: str
    complaint: str


def listen(say: Callable[[str], str], read: Callable[[str], Reading[T]], rejects: Counter[str]) -> Heard[T]:
    """Ask until a reply can be used, at most `ATTEMPTS` times.

    Parameters
    ----------
    say
        Given a complaint about the last reply ('' at first), the next one.
    read
        What can be used of a reply; raises `FeedbackError` if nothing can.
    rejects
        What could not be used is counted here, by kind.
    """
    complaint = raw = ""
    for attempt in range(1, ATTEMPTS + 1):
        raw = say(complaint)
        try:
            reading = read(raw)
        except FeedbackError as error:
            complaint = f"{error} (attempt {attempt} of {ATTEMPTS})"
            rejects.update(error.rejects)
            continue
        rejects.update(reading.rejects)
        return Heard(reading.value, raw, reading.complaint)
    return Heard(None, raw, complaint)


def sole_object(text: str, wanted: Collection[str], *, cut: bool) -> Found:
    """The JSON object of a reply: the last whole one that has one of the ``wanted`` keys, else the last such.

    What stands before ``</think>`` is not part of the reply. ``cut`` says that the model reached its limit of tokens.

    Raises
    ------
    FeedbackError
        If there is none.
    """
    answer = text.rpartition("</think>")[2]
    found = [_unwrapped(one, wanted) for one in objects(answer)]
    fitting = [one for one in found if not set(wanted).isdisjoint(one.value)]
    if not fitting:
        _refuse(answer, found, wanted, cut=cut)
    return next((one for one in reversed(fitting) if not one.flaw), fitting[-1])


def _unwrapped(found: Found, wanted: Collection[str]) -> Found:
    """The object inside one whose only key is not wanted."""
    values = list(found.value.values())
    inside = len(values) == 1 and isinstance(values[0], dict) and set(wanted).isdisjoint(found.value)
    return Found(values[0], found.flaw) if inside else found


def _refuse(answer: str, found: Sequence[Found], wanted: Collection[str], *, cut: bool) -> NoReturn:
    got, needed = repr(answer.strip()[:_SHOWN]), " and ".join(map(repr, wanted))
    if cut or "<think>" in answer or any(one.flaw == "cut off" for one in found):
        ended = repr(answer.strip()[-_SHOWN:])
        raise FeedbackError(f"expected a JSON object, the reply ends early: {ended}; write less", kind="cut off")
    if not answer.strip():
        raise FeedbackError("expected a JSON object, got ''", kind="empty")
    if found:
        raise FeedbackError(f"expected a JSON object with {needed}, got one with {list(found[-1].value)[:8]}")
    if _foreign(answer):
        raise FeedbackError(f"expected a JSON object, got {got}; answer in English", kind="language")
    raise FeedbackError(f"expected a JSON object, got {got}", kind="prose")


def _foreign(text: str) -> bool:
    """Whether most letters are of another script than Latin."""
    letters = [char for char in text if char.isalpha()]
    latin = sum(char.isascii() or unicodedata.name(char, "").startswith("LATIN") for char in letters)
    return 2 * latin < len(letters)


def _flawed(flaw: Flaw) -> list[FeedbackError]:
    if flaw == "cut off":
        return [FeedbackError("expected a JSON object, the reply ends early; write less", kind="cut off")]
    return [FeedbackError("expected a JSON object, the reply cannot be read to its end")] if flaw else []


def tally(value: T, errors: Sequence[FeedbackError], flaw: Flaw, *, usable: bool) -> Reading[T]:
    """What was read, if it is ``usable`` or nothing was wrong.

    Raises
    ------
    FeedbackError
        Otherwise: the first of the errors, counting all; a reply that ended early counts as one.
    """
    wrong = [*_flawed(flaw), *errors]
    counted = Counter(error.kind for error in wrong)
    if wrong and not usable:
        raise FeedbackError(str(wrong[0]), kind=wrong[0].kind, rejects=counted)
    return Reading(value, str(wrong[0]) if wrong else "", counted)


def entry(raw: object, model: type[M], where: str) -> M:
    """One entry of a reply in its format; fields that are null count as not given.

    Raises
    ------
    FeedbackError
        At the first field that does not fit.
    """
    given: Any = {key: value for key, value in raw.items() if value is not None} if isinstance(raw, dict) else raw
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (*([where] if where else []), *first["loc"])))
        field = str(first["loc"][-1]) if first["loc"] else ""
        kind = _OF_FIELD.get(field, "schema") if first["type"] in _RANGES else "schema"
        raise FeedbackError(f"at {place!r}: {first['msg']}, got {str(first['input'])[:_SHOWN]!r}", kind=kind) from error
