"""Backend that throws dice: each reply is drawn from the probabilities that the question states.

The questions are those of `agentgraph.tasks.synthetic`; nothing but the request's seed decides what is answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentgraph.backends.base import Backend
from agentgraph.errors import BackendError, BackendRefused
from agentgraph.request import Reply, Request

__all__ = ["SURE", "TRAP", "UNSURE", "Synthetic", "chance"]

SURE: Final = 0.9
UNSURE: Final = 0.4
TRAP: Final = "trap"
"""The wrong answer that all fall for."""

_LOG: Final = {True: -0.10536051565782628, False: -0.916290731874155}
_WORDS: Final = {"S": "solve", "R": "refine", "F": "fuse"}
_TOKENS: Final = 10


def chance(told: Mapping[str, Any], model: str, word: str, candidates: Sequence[str], gold: str) -> float:
    """Probability that a call is answered right (`agentgraph.tasks.synthetic` has the formulas)."""
    skill = float(told["skill"][model])
    right = sum(candidate == gold for candidate in candidates)
    if word == "solve":
        return skill
    if word == "fuse":
        return float(told["pick"]) if right else 0.0
    share = right / len(candidates)
    return share * float(told["hold"]) + (1 - share) * float(told["find"]) * skill


class Synthetic(Backend):
    """Answers questions that tell what a reply is drawn from.

    Parameters
    ----------
    name
        What models call it.
    """

    def __init__(self, *, name: str = "synthetic") -> None:
        super().__init__(name, limit=4096, has_logprobs=True)

    async def reply(self, request: Request) -> Reply:
        word, candidates, told = _parsed(request)
        if request.model not in told["skill"]:
            raise BackendRefused(
                f"backend {self.name!r} knows the skills of {list(told['skill'])}, not {request.model!r}; use models=synthetic"
            )
        # Three dice from one seed: right or not, trap or not, sure or not.
        first, second, third = ((request.seed >> shift & 0x1FFFFF) / 0x200000 for shift in (0, 21, 42))
        right = first < chance(told, request.model, word, candidates, told["gold"])
        sure = third < told["sure_right" if right else "sure_wrong"]
        text = told["gold"] if right else TRAP
        if not right and second >= told["trap"]:
            sample = request.sample if request.settings.temperature else 0  # these are one request
            text = f"{request.model} {word} {sample} {request.settings.temperature:g} {request.attempt}"
        return Reply(text, _TOKENS + 2 * len(candidates), _TOKENS, logprob=_LOG[sure])

    async def served(self) -> tuple[str, ...]:
        return ()


def _parsed(request: Request) -> tuple[str, list[str], dict[str, Any]]:
    """Word, candidates and what the question tells, from the embedded prompt form."""
    head, _, text = request.messages[-1][1].partition(":{")
    try:
        word, told = _WORDS[head[:1]], json.loads("{" + text)
        return word, head[2:].split("|")[:-1], told
    except (KeyError, ValueError) as error:
        raise BackendError(
            f"the synthetic backend cannot read {request.messages[-1][1][:80]!r}; search it with task=synthetic, and give its "
            "models prompt_form: embedded",
            retry=False,
        ) from error
