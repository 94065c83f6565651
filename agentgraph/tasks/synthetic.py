"""Landscapes with a planted optimum: models of known skill, so that the best plan and its exact score are known.

A question tells the backend (`agentgraph.backends.synthetic`) all that a reply is drawn from, as JSON: the gold answer, the
probability that each model solves it, and how refining and fusing work. With q the share of candidates that are right,

- solve: right with the model's skill p;
- refine: right with q·hold + (1 - q)·find·p;
- fuse: right with ``pick`` if any candidate is right, else wrong.

A wrong reply is the question's trap with probability ``trap``, else an answer that no other call gives. A reply is sure (confidence
0.9, else 0.4) with probability ``sure_right`` or ``sure_wrong``. Temperature changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from agentgraph.errors import TaskError
from agentgraph.plan import Plan
from agentgraph.request import stable_hash
from agentgraph.tasks.base import Lengths, Question, Stage, Task, cut

__all__ = ["BUDGET_UNITS", "LANDSCAPES", "MAX_NODES", "Landscape", "Synthetic"]

KINDS: Final = ("x", "y")
N_QUESTIONS: Final = 8_000
BUDGET_UNITS: Final = 4.5
MAX_NODES: Final = 5


@dataclass(frozen=True)
class Landscape:
    """Skills, and what is best.

    Parameters
    ----------
    skill
        Probability of solving a question of each kind (the two are as frequent) by model.
    trap, hold, find, pick, sure_right, sure_wrong
        See the module.
    optimum
        Best plan of the roles assistant, fuser, keep, vote and confidence_vote with the models of
        ``conf/models/synthetic.yaml``, within `BUDGET_UNITS` and `MAX_NODES`; ``benchmarks/landscapes.py`` finds it by trying
        all.
    value
        Its exact expected mark, in [0, 1].
    """

    skill: Mapping[str, tuple[float, float]]
    trap: float
    hold: float
    find: float
    pick: float
    sure_right: float
    sure_wrong: float
    optimum: Plan
    value: float

    def asked(self, kind: int) -> dict[str, object]:
        """What the backend must know of a question of that kind."""
        told = asdict(self)
        del told["optimum"], told["value"]
        told["skill"] = {model: skills[kind] for model, skills in self.skill.items()}
        return told


def _star(sink: str, *sources: tuple[str, str]) -> Plan:
    n = len(sources)
    return Plan.from_compact([[[*map(list, sources), [sink, ""]], [[i, n] for i in range(n)]]])


def _chain(*nodes: tuple[str, str]) -> Plan:
    return Plan.from_compact([[[*map(list, nodes)], [[i, i + 1] for i in range(len(nodes) - 1)]]])


def _watched_chain(sink: str, *nodes: tuple[str, str]) -> Plan:
    """A chain whose every node a vote hears."""
    n = len(nodes)
    edges = [[i, i + 1] for i in range(n)] + [[i, n] for i in range(n - 1)]
    return Plan.from_compact([[[*map(list, nodes), [sink, ""]], edges]])


LANDSCAPES: Final = {
    "width": Landscape(
        skill={"east": (0.5, 0.5), "west": (0.45, 0.45), "tall": (0.6, 0.6)},
        trap=0.0,
        hold=0.3,
        find=0.5,
        pick=0.3,
        sure_right=0.0,
        sure_wrong=0.0,
        optimum=_star("vote", *[("assistant", "east")] * 4),
        value=0.75,
    ),
    "depth": Landscape(
        skill={"east": (0.35, 0.35), "west": (0.3, 0.3), "tall": (0.45, 0.45)},
        trap=0.75,
        hold=0.97,
        find=1.0,
        pick=0.5,
        sure_right=0.0,
        sure_wrong=0.0,
        optimum=_chain(*[("assistant", "east")] * 4),
        value=0.7849548,
    ),
    "mix": Landscape(
        skill={"east": (0.8, 0.15), "west": (0.15, 0.8), "tall": (0.5, 0.5)},
        trap=0.0,
        hold=0.7,
        find=1.0,
        pick=0.8,
        sure_right=0.9,
        sure_wrong=0.3,
        optimum=_watched_chain("confidence_vote", *[("assistant", "west"), ("assistant", "east")] * 2),
        value=0.90356671375,
    ),
}


class SyntheticStage(Stage):
    """Asks for the reply that a landscape draws."""

    name = "answer"
    tag = "L"
    max_tokens = 10
    lengths = Lengths(prompt=10, output={"solve": 10}, edge=2, exact=True)

    def extract(self, text: str) -> str | None:
        return text or None


class Synthetic(Task):
    """One landscape.

    Parameters
    ----------
    landscape
        'width' (independent solvers under a vote are best), 'depth' (refining is), or 'mix' (two models that know different
        kinds of question are).
    sizes
        How many questions of each split to use; ``None`` takes all.

    Attributes
    ----------
    planted
        Skills, best plan and its exact score.
    """

    name = "synthetic"
    stages = (SyntheticStage(),)

    def __init__(self, landscape: str = "width", sizes: Mapping[str, int | None] | None = None) -> None:
        super().__init__(sizes)
        if landscape not in LANDSCAPES:
            raise TaskError(f"task.landscape={landscape!r} is unknown; use one of {', '.join(LANDSCAPES)}")
        self.planted = LANDSCAPES[landscape]
        self._questions = [_question(landscape, i) for i in range(N_QUESTIONS)]
        self._told = [json.dumps(self.planted.asked(kind), separators=(",", ":"))[1:] for kind in range(len(KINDS))]

    def pool(self, split: str) -> Sequence[Question]:
        return cut(self._questions, split)

    def asked(self, stage: int, question: Question, handed: str) -> str:
        del stage, handed
        kind = KINDS.index(question.text[-1])
        return f'{{"id":"{question.id}","gold":"{question.gold}",{self._told[kind]}'

    def mark(self, answer: str, question: Question) -> float:
        return float(answer == question.gold)


def _question(landscape: str, i: int) -> Question:
    gold = f"{stable_hash(landscape, i) % 1000:03d}"
    return Question(f"{landscape}-{i}", f"{landscape}, question {i} of kind {KINDS[i % len(KINDS)]}", gold)
