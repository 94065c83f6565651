"""Backend that answers with what models once answered: a folder in the format of `agentgraph.recording`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from agentgraph.backends.base import Backend
from agentgraph.budget import Rates
from agentgraph.errors import BackendError, BackendRefused, ConfigError
from agentgraph.model import Model, Pool
from agentgraph.recording import RecordedReply, Recording, parted
from agentgraph.request import Reply, Request, stable_hash

__all__ = ["Recorded", "pool"]

_NEVER: Final = -745.0  # log-probability of a confidence of 0: the smallest that a float tells from 0
_ROLES: Final = "role=[assistant,keep,vote,confidence_vote]"


class Recorded(Backend):
    """Answers questions by their ids (`agentgraph.tasks.recorded` asks them so) with recorded replies.

    Parameters
    ----------
    path
        The recorded folder.
    name
        What models call it.

    Attributes
    ----------
    recording
        What was recorded.

    Notes
    -----
    Only calls without parents were recorded: whatever else is asked is a `BackendError` that names model, question and
    sample. Sample numbers go through a model's replies to a question in an order given by the run's seed and the replicate;
    the settings of a request change nothing, so roles of one run should share theirs. What a reply came to after it was
    asked again is what was recorded: a second attempt is the same reply for nothing.
    """

    def __init__(self, path: str, *, name: str = "recorded") -> None:
        self.recording = Recording.read(path)
        super().__init__(name, limit=4096, has_logprobs=self.recording.has_confidences)
        self._questions = {question.id for question in self.recording.questions}
        self._orders: dict[tuple[int, int, str, str], Sequence[int]] = {}

    async def reply(self, request: Request) -> Reply:
        if request.model not in self.recording.models:
            raise BackendRefused(
                f"{self.recording.folder} has replies of {list(self.recording.models)}, not {request.model!r}; "
                "choose one of these or record it"
            )
        question, before = parted(request.messages[-1][1])
        if question not in self._questions:
            raise BackendError(self._unknown(request.model, question), retry=False)
        replies = self.recording.replies[request.model].get(question, ())
        sampled = request.settings.temperature > 0  # else sample and replicate make no other request
        sample = request.sample if sampled else 0
        if sample >= len(replies):
            raise BackendError(
                f"sample {sample} of {request.model!r} on question {question!r} was not recorded, {len(replies)} "
                f"are (numbers from 0); use this model at most {self.recording.samples[request.model]} times in a plan",
                retry=False,
            )
        key = (request.run_seed, request.replicate if sampled else 0, request.model, question)
        return _reply(replies[self._order(key, len(replies))[sample]], request, sample, before)

    async def served(self) -> tuple[str, ...]:
        return tuple(sorted(self.recording.models))

    def fingerprint(self, model: str) -> str:
        return f"recorded {self.recording.fingerprint}/{model}"

    def samples(self, model: str) -> int | None:
        return self.recording.samples.get(model)

    def _order(self, key: tuple[int, int, str, str], count: int) -> Sequence[int]:
        """Order of the replies to one question in this run and replicate."""
        if key not in self._orders:
            self._orders[key] = np.random.default_rng(stable_hash(*key)).permutation(count).tolist()
        return self._orders[key]

    def _unknown(self, model: str, text: str) -> str:
        question, parted, _ = text.partition("\n\n")
        if parted and question in self._questions:
            return (
                f"calls with parents were not recorded: {model!r} was asked to refine or fuse on question {question!r}; "
                f"leave out roles that need it: {_ROLES}"
            )
        return (
            f"{self.recording.folder} has no question {text[:80]!r} (asked of {model!r}); search it with task=recorded "
            "and the same path"
        )


def pool(path: str, name: str = "recorded") -> tuple[Pool, dict[str, Backend]]:
    """The models of a recorded folder, in the order of its ``models.json``, and their backend.

    Raises
    ------
    TaskError
        If the folder cannot be read.
    ConfigError
        If a model's settings do not fit.
    """
    backend = Recorded(path, name=name)
    models = []
    for model, settings in backend.recording.models.items():
        strange = sorted(set(settings) - set(Model.__dataclass_fields__) | {"name", "backend"} & set(settings))
        if strange or "parameters" not in settings:
            raise ConfigError(
                f"{backend.recording.folder}/models.json: {model!r} has {', '.join(settings) or 'no settings'}; give "
                f"parameters, and no other than {', '.join(sorted(set(Model.__dataclass_fields__) - {'name', 'backend'}))}"
            )
        mean = backend.recording.means[model]
        known = {
            "fingerprint": backend.fingerprint(model),
            "temperatures": {"default": 1.0},
            "usd": Rates(call=mean.usd),
            "seconds": Rates(call=mean.seconds),
            **settings,
        }
        models.append(Model(name=model, backend=name, **known))
    return Pool(models), {name: backend}


def _reply(recorded: RecordedReply, request: Request, sample: int, before: float) -> Reply:
    text = recorded.answer or ""
    if recorded.mark is not None:  # an answer that equals no other, so that nobody can count votes by it
        text = f"{before * recorded.mark!r} by sample {sample} of {request.model}"
    logprob = None
    if recorded.confidence is not None:
        logprob = math.log(recorded.confidence) if recorded.confidence > 0 else _NEVER
    if request.attempt:
        return Reply(text, 0, 0, logprob=logprob, seconds=0.0, usd=0.0)
    return Reply(
        text,
        recorded.prompt_tokens,
        recorded.output_tokens,
        logprob=logprob,
        seconds=recorded.seconds,
        usd=recorded.usd,
    )
