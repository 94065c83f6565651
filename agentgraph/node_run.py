"""One node of a plan on one question: asks its model as its role says, within deadlines, and says what each call cost."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from agentgraph.budget import Cost, Tokens, flops, is_number, tts_units
from agentgraph.errors import BackendError, ConfigError
from agentgraph.graph import Graph
from agentgraph.model import Model, Pool
from agentgraph.prompt import Prompt, render
from agentgraph.request import Reply, Request, Settings, stable_hash
from agentgraph.roles.base import Message, Role
from agentgraph.tasks.base import Stage

__all__ = ["Caller", "Deadlines", "NodeRun", "PlanNode", "sample_numbers"]


@dataclass(frozen=True)
class Deadlines:
    """How long answers may take, in seconds of calls that were sent: time in line for a backend does not count.

    What is not there in time is an outcome of the plan, 'late': a node's message is absent, and the graph goes on without it; a
    question whose sink is late is marked 0.

    Parameters
    ----------
    node
        Of one node, all its calls together; ``None`` waits.
    question
        Of one question, along the longest path; ``None`` waits.
    """

    node: float | None = None
    question: float | None = None

    def __post_init__(self) -> None:
        for name in ("node", "question"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and value > 0):
                raise ConfigError(f"deadline.{name}={value!r} must be a positive number of seconds, or null to wait")

    def left(self, node: float, path: float) -> float | None:
        """Seconds left when a node has taken ``node`` of them and the path up to now ``path``."""
        ends = [end - taken for end, taken in ((self.node, node), (self.question, path)) if end is not None]
        return min(ends, default=None)


class Caller(Protocol):
    """What a node needs of the executor that runs it."""

    pool: Pool
    seed: int
    solves: dict[tuple[object, ...], Request]
    deadlines: Deadlines | None

    async def reply(self, request: Request, model: Model, within: float | None = None) -> Reply | None:
        """The reply to a request, made once however often it is asked for; ``None`` if it takes more than ``within`` seconds."""


def sample_numbers(graph: Graph, roles: Mapping[str, Role]) -> list[dict[str, int]]:
    """Sample number of each node by word: its rank among nodes with the same model, word and settings."""
    seen: Counter[tuple[str, str, Settings]] = Counter()
    numbers: list[dict[str, int]] = []
    for i, node in enumerate(graph.nodes):
        role, of_node = roles[node.role], {}
        # A role that finds all its parents absent solves instead: that solve gets a number of its own.
        words = {form.word for form in role.forms(len(graph.parents[i]))} if role.needs_model else set()
        for word in sorted(words | {"solve"}) if words else ():
            key = (node.model, word, role.settings)
            if word in words:
                of_node[word] = seen[key]
                seen[key] += 1
            else:
                of_node[word] = len(graph.nodes) + i
        numbers.append(of_node)
    return numbers


class NodeRun(NamedTuple):
    """What a node came to on one question.

    Attributes
    ----------
    calls
        Model and cost of each, and whether it was a solve.
    end
        Longest path up to and with this node, seconds.
    error
        Why there is no message, if the service failed here or above.
    """

    message: Message
    calls: Sequence[tuple[Model, Cost, bool]]
    outcomes: Sequence[str]
    end: float
    error: BackendError | None


class PlanNode:
    """A node of a plan, ready to run on any question."""

    def __init__(
        self, engine: Caller, stage: Stage, role: Role, model: str, numbers: Mapping[str, int], replicate: int
    ) -> None:
        self.engine, self.stage, self.role, self.replicate = engine, stage, role, replicate
        self.numbers = numbers
        self.model = engine.pool.named(model) if role.needs_model else None
        limit = role.settings.max_tokens or stage.max_tokens
        self.settings = replace(role.settings, max_tokens=limit)
        self.view_key = (stage.name, model, self.settings.data())
        self.solve_key = (stage.name, model, self.settings, numbers.get("solve", 0), replicate)
        self.has_views = type(stage).view is not Stage.view

    async def run(self, parents: Sequence[asyncio.Task[NodeRun]], text: str, start: float) -> NodeRun:
        """What the node comes to on a question, once its parents have; ``start`` is when the stage began, seconds."""
        # Shielded: who is dropped while it waits must not take along a parent that others wait for as well.
        above = [parent.result() if parent.done() else await asyncio.shield(parent) for parent in parents]
        asker = self.asker(text, max((run.end for run in above), default=start))
        message, error = Message(None), next((run.error for run in above if run.error is not None), None)
        if error is None:
            try:
                message = await self.role([run.message for run in above], asker)
            except BackendError as failure:
                error = failure
        return NodeRun(message, asker.calls, asker.outcomes, asker.path + asker.seconds, error)

    def asker(self, text: str, path: float = 0.0) -> _Asker:
        return _Asker(self, text, path)


class _Asker:
    """Asks one node's model about one question; the `Ask` that roles are given."""

    __slots__ = ("calls", "node", "outcomes", "path", "seconds", "text")

    def __init__(self, node: PlanNode, text: str, path: float) -> None:
        self.node, self.text = node, text
        self.path = path  # longest path up to this node, seconds
        self.seconds = 0.0  # of its calls, one after the other
        self.calls: list[tuple[Model, Cost, bool]] = []
        self.outcomes: list[str] = []

    async def __call__(self, word: str, candidates: Sequence[str] = ()) -> Message:
        node, model = self.node, self.node.model
        if model is None:
            raise ConfigError(f"role {node.role.name!r} calls no model but asked one; set needs_model in its class")
        text, problem, deadlines = "", "", node.engine.deadlines
        for attempt in (0, 1):  # a bad outcome is asked once more, with fresh randomness
            request = (
                self._solve(model, attempt) if word == "solve" else self._request(model, word, candidates, attempt)
            )
            within = None if deadlines is None else deadlines.left(self.seconds, self.path + self.seconds)
            reply = await node.engine.reply(request, model, within)
            if reply is None:
                return self._late(model, word, len(candidates), within or 0.0)
            cost = _cost(model, reply)
            self.calls.append((model, cost, word == "solve"))
            self.seconds += cost.seconds
            text = reply.answer_text
            answer = node.stage.extract(text)
            if answer is not None:
                return Message(answer, text, None if reply.logprob is None else _exp(reply.logprob))
            problem = _problem(reply, text)
        self.outcomes.append(problem)
        return Message(None, text)

    def _late(self, model: Model, word: str, candidates: int, waited: float) -> Message:
        """No message; the call is charged as forecast, for what it will have cost is not known."""
        forecast = model.cost(self.node.stage.lengths.tokens(word, candidates, model.name))
        self.calls.append((model, replace(forecast, seconds=waited), word == "solve"))
        self.outcomes.append("late")
        self.seconds += max(0.0, waited)
        return Message(None)

    def _solve(self, model: Model, attempt: int) -> Request:
        """The request of a solve, made once for all plans that share it."""
        node = self.node
        key = (self.text, *node.solve_key, attempt)
        known = node.engine.solves.get(key)
        if known is None:
            known = node.engine.solves[key] = self._request(model, "solve", (), attempt)
        return known

    def _request(self, model: Model, word: str, candidates: Sequence[str], attempt: int) -> Request:
        node = self.node
        sample = node.numbers[word]
        question = self.text
        if node.has_views:
            seed = stable_hash(self.text, node.view_key, word, sample, node.replicate, attempt)
            question = node.stage.view(self.text, seed)
        prompt = Prompt(
            word=word,
            tag=node.stage.tag,
            instructions=node.stage.instructions,
            role_instructions=node.role.instructions.get(word, ""),
            question=question,
            candidates=tuple(candidates),
        )
        return Request(
            model=model.served_name,
            fingerprint=model.identity,
            messages=render(model.prompt_form, prompt),
            settings=node.settings,
            sample=sample,
            replicate=node.replicate,
            attempt=attempt,
            run_seed=node.engine.seed,
        )


def _cost(model: Model, reply: Reply) -> Cost:
    """Measured cost of a call; dollars and seconds by the model's rates where the reply has none."""
    tokens = Tokens(reply.prompt_tokens, reply.output_tokens)
    return Cost(
        flops(model.size, tokens),
        1.0,
        tokens.prompt,
        tokens.output,
        model.usd.of(tokens) if reply.usd is None else reply.usd,
        model.seconds.of(tokens) if reply.seconds is None else reply.seconds,
        tts_units(model.parameters, tokens),
    )


def _exp(logprob: float) -> float:
    return min(1.0, math.exp(logprob))


def _problem(reply: Reply, text: str) -> str:
    """Why a reply has no answer; ``text`` is what came after its reasoning."""
    if reply.finish == "length" and reply.text.strip():
        return "cut"
    return "unparseable" if text.strip() else "empty"
