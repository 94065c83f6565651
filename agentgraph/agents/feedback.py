"""The textual gradient: its JSON formats, what of a reply can be used, and the step that follows from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor

from agentgraph.agents.proposals import FORM, ProposedPlan, read_plans, written
from agentgraph.agents.reading import Reading, entry, sole_object, tally
from agentgraph.distribution import Distribution
from agentgraph.errors import FeedbackError
from agentgraph.plan import Plan

__all__ = [
    "Choice",
    "Feedback",
    "FeedbackWithPlans",
    "Note",
    "Nudge",
    "Prediction",
    "Said",
    "parse",
    "parse_choice",
    "probability",
    "schema",
    "step",
]

LARGEST: Final = 3.0  # change of a logit by one nudge
MOST_NUDGES: Final = 96
_CLIP: Final = 5.0  # logits stay within ±5 (p from 0.007 to 0.993), so that nothing becomes impossible
_ROUNDING: Final = 0.01  # by how much the probabilities given for a row may exceed 1 in all
_LEAST: Final = 0.001  # probability that is aimed at where 0 is given
_SUREST: Final = 0.99  # what the options that a row gives probabilities for have at most, the others having the rest


def _number(value: object) -> object:
    """Numbers only: pydantic takes true for 1."""
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not true or false")  # noqa: TRY004  pydantic catches this one
    return value


def _share(value: object) -> object:
    """A number, or a text such as '40%'."""
    text = value.strip() if isinstance(value, str) else ""
    if not text.endswith("%"):
        return _number(value)
    try:
        return float(text[:-1]) / 100
    except ValueError:
        return value


def _name(value: object) -> object:
    """Slots are numbers, and models write them so."""
    return str(value) if type(value) is int else value


class Nudge(BaseModel):
    """One change to one probability: ``by`` so much on the logit, or ``to`` a probability; one of the two is given.

    ``option`` is a role, a model, for edges the number of the slot that receives the message, and for ``share`` (the
    stages' shares of the budget; slot and stage do not matter) the name of a stage. ``expect`` is the change of utility
    foreseen (0.02 is two points of accuracy), ``because`` the evidence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: Literal["edge", "role", "model", "share"]
    slot: Annotated[int, Field(ge=0), BeforeValidator(_number)]
    option: Annotated[str, BeforeValidator(_name)]
    by: Annotated[float, Field(ge=-LARGEST, le=LARGEST), BeforeValidator(_number)] | None = None
    to: Annotated[float, Field(ge=0, le=1), BeforeValidator(_share)] | None = None
    stage: Annotated[int, Field(ge=0), BeforeValidator(_number)] = 0
    expect: Annotated[float, Field(ge=-1, le=1), BeforeValidator(_share)] = 0.0
    because: str = ""

    @model_validator(mode="before")
    @classmethod
    def _shares_have_one_row(cls, given: Any) -> Any:  # noqa: ANN401  whatever was written
        is_share = isinstance(given, dict) and given.get("table") == "share"
        return {**given, "slot": 0, "stage": 0} if is_share else given

    @model_validator(mode="after")
    def _one_of_two(self) -> Nudge:
        if (self.by is None) == (self.to is None):
            raise ValueError("give either 'by' or 'to'")
        return self

    @property
    def what(self) -> str:
        """Which probability, in one line."""
        if self.table == "share":
            return f"share of stage {self.option}"
        what = f"{self.slot}>{self.option}" if self.table == "edge" else f"slot {self.slot} {self.option}"
        return f"{f'stage {self.stage} ' if self.stage else ''}{self.table:<5} {what}"

    def text(self) -> str:
        """One line: what, which way, how far, why, and the effect foreseen."""
        far = f"{self.by:+.2f}" if self.by is not None else f"to {self.to:.3f}"
        return f"  {self.what:<34} {far}  {self.because} (expected {self.expect:+.3f})"


class Feedback(BaseModel):
    """Critique in words, and nudges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    critique: str
    nudges: Annotated[tuple[Nudge, ...], Field(max_length=MOST_NUDGES)]

    def text(self) -> str:
        """Critique, then a line for each nudge."""
        return "\n".join([f"CRITIQUE\n{self.critique}", "", "NUDGES", *map(Nudge.text, self.nudges)])


class FeedbackWithPlans(Feedback):
    """Critique, nudges, and whole plans to try next."""

    plans: list[ProposedPlan] = Field(default_factory=list, description=FORM)


class Choice(BaseModel):
    """Mixes to start from, by their number in the list shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    critique: str
    mixes: tuple[Annotated[int, Field(ge=0), BeforeValidator(_number)], ...]

    def text(self) -> str:
        """Critique, then the numbers chosen."""
        return f"CRITIQUE\n{self.critique}\n\nMIXES CHOSEN\n{', '.join(map(str, self.mixes))}"


class Prediction(BaseModel):
    """A nudge against what happened.

    Parameters
    ----------
    before, after
        The probability, in [0, 1].
    effect
        Mean utility of the next round's new plans that have the option in that slot, less that of those that have not (of
        a share: that spend more than ``before`` on the stage); ``None`` while there are not both.
    having, lacking
        How many plans that were.
    """

    model_config = ConfigDict(frozen=True)

    nudge: Nudge
    before: float
    after: float
    effect: float | None = None
    having: int = 0
    lacking: int = 0


class Note(BaseModel):
    """What an agent said in an earlier round.

    Parameters
    ----------
    mean
        Mean utility of the new plans of that round.
    """

    model_config = ConfigDict(frozen=True)

    round: int
    critique: str
    mean: float


@dataclass(frozen=True)
class Said:
    """What of a reply can be used: feedback, and plans that are in the space and the budget."""

    feedback: Feedback
    plans: tuple[Plan, ...] = ()

    def text(self) -> str:
        """Critique, nudges and plans, line by line."""
        return "\n".join(
            [self.feedback.text(), *(["", "PLANS PROPOSED", *map(written, self.plans)] if self.plans else [])]
        )


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of a format, for servers that can enforce one."""
    return model.model_json_schema()


def parse(text: str, distribution: Distribution, *, plans: bool = False, cut: bool = False) -> Reading[Said]:
    """What of a reply can be used: each nudge is checked against the tables, each plan against the space.

    Parameters
    ----------
    plans
        Whether plans may be proposed.
    cut
        Whether the model reached its limit of tokens.

    Returns
    -------
    Reading
        With what was dropped, counted by kind.

    Raises
    ------
    FeedbackError
        If something is wrong and nothing can be used.
    """
    wanted = ("critique", "nudges", *(("plans",) if plans else ()))
    found = sole_object(text, wanted, cut=cut)
    given = found.value
    critique, errors = _critique(given, whole=not found.flaw)
    errors += [FeedbackError(f"at {key!r}: there is no such field") for key in given if key not in wanted]
    if "nudges" not in given and not found.flaw and not given.get("plans"):
        errors.append(FeedbackError("at 'nudges': Field required"))
    nudges, wrong = _nudges(given.get("nudges", []), distribution)
    proposed, invalid = read_plans(given.get("plans", []) if plans else [], distribution.space)
    said = Said(Feedback(critique=critique, nudges=tuple(nudges)), tuple(dict.fromkeys(proposed)))
    return tally(said, [*errors, *wrong, *invalid], found.flaw, usable=bool(nudges or proposed))


def parse_choice(text: str, mixes: Sequence[Sequence[int]], count: int, *, cut: bool = False) -> Reading[Choice]:
    """Choice of mixes in a reply.

    Raises
    ------
    FeedbackError
        If there is no JSON, it breaks the format, or a number is not in the list.
    """
    found = sole_object(text, ("mixes",), cut=cut)
    critique, errors = _critique(found.value, whole=not found.flaw)
    given = found.value["mixes"]
    choice = entry({"critique": critique, "mixes": given}, Choice, "")
    numbers = tuple(dict.fromkeys(choice.mixes))
    if not numbers or len(numbers) > count or max(numbers) >= len(mixes):
        raise FeedbackError(
            f"expected 1 to {count} numbers from 0 to {len(mixes) - 1} in 'mixes', got {choice.mixes}",
            kind="unknown id" if any(number >= len(mixes) for number in numbers) else "schema",
        )
    return tally(choice.model_copy(update={"mixes": numbers}), errors, found.flaw, usable=True)


def _critique(given: dict[str, Any], *, whole: bool) -> tuple[str, list[FeedbackError]]:
    said = given.get("critique")
    if isinstance(said, str):
        return said, []
    if said is None:
        return "", [FeedbackError("at 'critique': Field required")] if whole else []
    return "", [FeedbackError(f"at 'critique': Input should be a valid string, got {str(said)[:60]!r}")]


def _nudges(given: object, distribution: Distribution) -> tuple[list[Nudge], list[FeedbackError]]:
    """Nudges that can be used, and what is wrong with the others."""
    if not isinstance(given, list):
        return [], [FeedbackError(f"at 'nudges': Input should be a list, got {str(given)[:60]!r}")]
    errors = [FeedbackError(f"at most {MOST_NUDGES} nudges are read, got more") for _ in given[MOST_NUDGES:]]
    nudges = []
    for i, raw in enumerate(given[:MOST_NUDGES]):
        try:
            nudge = entry(raw, Nudge, f"nudges.{i}")
            _place(nudge, distribution)
        except FeedbackError as error:
            errors.append(error)
        else:
            nudges.append(nudge)
    sums = {row: sum(n.to or 0.0 for n in of_row) for row, of_row in _targets(nudges).items() if row[1] != "edge"}
    over = {row: total for row, total in sums.items() if total > 1 + _ROUNDING}
    kept = [nudge for nudge in nudges if nudge.to is None or _row(nudge) not in over]
    errors += [
        FeedbackError(
            f"the probabilities given for the {_of_row(nudge)} sum to {over[_row(nudge)]:.3f}; they must not exceed 1",
            kind="probability",
        )
        for nudge in nudges
        if nudge.to is not None and _row(nudge) in over
    ]
    return kept, errors


_Row = tuple[int, str, int]  # stage, table, slot


def _row(nudge: Nudge) -> _Row:
    return nudge.stage, nudge.table, nudge.slot


def _of_row(nudge: Nudge) -> str:
    return "shares" if nudge.table == "share" else f"{nudge.table}s of slot {nudge.slot}"


def _targets(nudges: Sequence[Nudge]) -> dict[_Row, list[Nudge]]:
    """Nudges to a probability, by row; the last word on an option counts."""
    targets: defaultdict[_Row, dict[str, Nudge]] = defaultdict(dict)
    for nudge in nudges:
        if nudge.to is not None:
            targets[_row(nudge)][nudge.option] = nudge
    return {row: list(of_row.values()) for row, of_row in targets.items()}


def _place(nudge: Nudge, distribution: Distribution) -> tuple[int, int]:
    """Row and column of a nudge in its table."""
    if nudge.table == "share":
        stages = [stage.space.name for stage in distribution.stages]
        if len(stages) == 1:
            raise FeedbackError("share nudge: the task has one stage, which has the whole budget", kind="unknown id")
        if nudge.option not in stages:
            raise FeedbackError(
                f"share nudge names {nudge.option!r}; stages are {', '.join(stages)}", kind="unknown id"
            )
        return 0, stages.index(nudge.option)
    if nudge.stage >= len(distribution.stages):
        raise FeedbackError(
            f"nudge names stage {nudge.stage}; stages are 0 to {len(distribution.stages) - 1}", kind="unknown id"
        )
    space = distribution.stages[nudge.stage].space
    if nudge.slot >= space.max_nodes:
        raise FeedbackError(f"nudge names slot {nudge.slot}; slots are 0 to {space.max_nodes - 1}", kind="unknown id")
    if nudge.table == "edge":
        there = nudge.option.isdecimal() and int(nudge.option) < space.max_nodes
        if not there or int(nudge.option) >= nudge.slot:
            raise FeedbackError(
                f"edge nudge from slot {nudge.slot} to {nudge.option!r}; it must go to a slot below it",
                kind="cycle" if there else "unknown id",
            )
        return nudge.slot, int(nudge.option)
    names = [role.name for role in space.roles] if nudge.table == "role" else list(space.pool.names)
    if nudge.option not in names:
        raise FeedbackError(
            f"{nudge.table} nudge names {nudge.option!r}; there are {', '.join(names)}", kind="unknown id"
        )
    return nudge.slot, names.index(nudge.option)


def _table(distribution: Distribution, stage: int, table: str) -> Tensor:
    tables = distribution.stages[stage]
    if table == "share":
        return distribution.share_logits.unsqueeze(0)  # a view: what is written to it is written to the logits
    return {"edge": tables.edge_logits, "role": tables.role_logits, "model": tables.model_logits}[table]


def probability(distribution: Distribution, nudge: Nudge) -> float:
    """What the tables give the option that a nudge is about, in [0, 1]."""
    row, column = _place(nudge, distribution)
    logits = _table(distribution, nudge.stage, nudge.table)[row]
    probs = torch.sigmoid(logits) if nudge.table == "edge" else torch.softmax(logits, 0)
    return float(probs[column])


def step(distribution: Distribution, feedback: Feedback, rate: float) -> list[Prediction]:
    """Apply ``rate`` times each nudge; logits stay within ±5. The order of the nudges does not matter.

    ``to`` is the distance to the logit that gives that probability: for a role or model with the others' logits as they
    are, or, where several options of a row are given one, with what they leave shared among the others as before.

    Returns
    -------
    list of Prediction
        Each nudge with its probability before and after.
    """
    before = [probability(distribution, nudge) for nudge in feedback.nudges]
    moves: defaultdict[tuple[int, str, int, int], float] = defaultdict(float)
    for nudge in feedback.nudges:
        if nudge.by is not None:
            moves[nudge.stage, nudge.table, *_place(nudge, distribution)] += nudge.by
    for (stage, table, slot), nudges in _targets(feedback.nudges).items():
        logits = _table(distribution, stage, table)[slot]
        places = [_place(nudge, distribution)[1] for nudge in nudges]
        wanted = _wanted(logits, places, [nudge.to or 0.0 for nudge in nudges], edges=table == "edge")
        for column, logit in zip(places, wanted.tolist(), strict=True):
            moves[stage, table, slot, column] += logit - float(logits[column])
    for (stage, table, slot, column), move in moves.items():
        logits = _table(distribution, stage, table)
        logits[slot, column] = float((logits[slot, column] + rate * move).clamp(-_CLIP, _CLIP))
    return [
        Prediction(nudge=nudge, before=p, after=probability(distribution, nudge))
        for nudge, p in zip(feedback.nudges, before, strict=True)
    ]


def _wanted(logits: Tensor, places: Sequence[int], probs: Sequence[float], *, edges: bool) -> Tensor:
    """Logits of some options of a row that give them these probabilities, the other logits as they are."""
    wanted = torch.tensor(probs, dtype=torch.float64).clamp(min=_LEAST)
    if edges:
        return torch.logit(wanted.clamp(max=_SUREST))
    others = [column for column in range(len(logits)) if column not in places]
    if not others:
        return torch.log(wanted / wanted.sum()) + torch.logsumexp(logits, 0)
    wanted = wanted * min(1.0, _SUREST / float(wanted.sum()))
    return torch.log(wanted) - torch.log1p(-wanted.sum()) + torch.logsumexp(logits[others], 0)
