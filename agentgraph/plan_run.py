"""One plan on its questions: nodes run when their parents have, each asks its model, everything is charged."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from agentgraph.budget import TTS_REFERENCE, Cost, Tokens, tts_units
from agentgraph.errors import BackendError, ConfigError
from agentgraph.graph import Graph
from agentgraph.model import Model, Pool
from agentgraph.plan import Plan
from agentgraph.prompt import Prompt, render
from agentgraph.request import Reply, Request, Settings, stable_hash
from agentgraph.roles.base import Message, Role
from agentgraph.tasks.base import Question, Stage, Task
from agentgraph.trial import Answer

__all__ = ["Engine", "Job", "PlanNode", "PlanRun", "sample_numbers"]


@dataclass(frozen=True)
class Job:
    """A plan and the questions it shall answer.

    Parameters
    ----------
    replicate
        0 in the search and on test questions; others ask everything afresh.
    roles
        Roles of the plan that are not the executor's, by name.
    """

    plan: Plan
    questions: Sequence[Question]
    replicate: int = 0
    roles: Mapping[str, Role] = field(default_factory=dict)


class Engine(Protocol):
    """What a plan needs of the executor that runs it."""

    task: Task
    pool: Pool
    roles: dict[str, Role]
    seed: int
    solves: dict[tuple[object, ...], Request]

    async def reply(self, request: Request, model: Model) -> Reply:
        """The reply to a request, made once however often it is asked for."""

    def check_broken(self) -> None:
        """Raise what makes going on useless, if anything does."""

    def question_done(self) -> None:
        """Count a question."""


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


class PlanRun:
    """One plan over its questions.

    Parameters
    ----------
    engine
        What makes the calls: an executor.
    job
        The plan and its questions.
    """

    def __init__(self, engine: Engine, job: Job) -> None:
        self.engine, self.job = engine, job
        roles = {**engine.roles, **job.roles}
        self.stages = []
        for stage, graph in zip(engine.task.stages, job.plan.stages, strict=True):
            numbers = sample_numbers(graph, roles)
            nodes = [
                PlanNode(engine, stage, roles[node.role], node.model, numbers[i], job.replicate)
                for i, node in enumerate(graph.nodes)
            ]
            self.stages.append((stage, graph, nodes))

    async def question(self, question: Question) -> Answer:
        """Run every stage on one question."""
        engine, bill = self.engine, _Bill()
        engine.check_broken()
        message, handed = Message(None), ""
        try:
            for s, (_, graph, nodes) in enumerate(self.stages):
                message = await self._graph(graph, nodes, engine.task.asked(s, question, handed), bill)
                handed = message.answer or ""
            mark = await self._mark(message.answer, question)
        except BackendError:
            engine.check_broken()
            return Answer(question.id, None)
        finally:
            engine.question_done()
        return Answer(question.id, mark, bill.cost(), dict(bill.outcomes), handed)

    async def _mark(self, answer: str | None, question: Question) -> float:
        task = self.engine.task
        if answer is None:
            return 0.0
        return await asyncio.to_thread(task.mark, answer, question) if task.slow_marks else task.mark(answer, question)

    @staticmethod
    async def _graph(graph: Graph, nodes: Sequence[PlanNode], text: str, bill: _Bill) -> Message:
        askers = [node.asker(text, bill) for node in nodes]
        if len(nodes) == 1:
            message = await nodes[0].role((), askers[0])
            bill.stage_done(askers[0].seconds)
            return message
        running: list[asyncio.Task[Message]] = []

        async def run(i: int) -> Message:
            parents = [await running[p] for p in graph.parents[i]]
            return await nodes[i].role(parents, askers[i])

        for i in range(len(nodes)):
            running.append(asyncio.ensure_future(run(i)))
        try:
            message = await running[-1]  # every node reaches the sink: when it is done, all are
        except BaseException:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            raise
        bill.stage_done(graph.longest_path([asker.seconds for asker in askers]))
        return message


class _Bill:
    """What one question has cost so far."""

    def __init__(self) -> None:
        self.flops: list[float] = []
        self.usd: list[float] = []
        self.prompt_tokens = self.output_tokens = 0.0
        self.calls = 0
        self.seconds = 0.0  # longest path of the stages that are done
        self.tts_units: list[float] = []
        self.solves: dict[
            str, list[float]
        ] = {}  # of the stage that runs: AgentTTS units of its solves' prompts, by model
        self.outcomes: Counter[str] = Counter()

    def add(self, model: Model, cost: Cost, *, solve: bool) -> None:
        self.flops.append(cost.flops)
        self.usd.append(cost.usd)
        self.tts_units.append(cost.tts_units)
        if solve:
            self.solves.setdefault(model.name, []).append(tts_units(model.parameters, Tokens(cost.prompt_tokens, 0.0)))
        self.prompt_tokens += cost.prompt_tokens
        self.output_tokens += cost.output_tokens
        self.calls += 1

    def stage_done(self, seconds: float) -> None:
        """Take in the stage's longest path; the solves of a model share one prompt, the longest, in AgentTTS units."""
        self.seconds += seconds
        for prompts in self.solves.values():
            self.tts_units += [max(prompts), *(-prompt for prompt in prompts)]
        self.tts_units.append(-TTS_REFERENCE)
        self.solves.clear()

    def cost(self) -> Cost:
        # fsum rounds once: the same to the last bit in whatever order the replies came.
        return Cost(
            math.fsum(self.flops),
            self.calls,
            self.prompt_tokens,
            self.output_tokens,
            math.fsum(self.usd),
            self.seconds,
            math.fsum(self.tts_units),
        )


class PlanNode:
    """A node of a plan, ready to run on any question."""

    def __init__(
        self, engine: Engine, stage: Stage, role: Role, model: str, numbers: Mapping[str, int], replicate: int
    ) -> None:
        self.engine, self.stage, self.role, self.replicate = engine, stage, role, replicate
        self.numbers = numbers
        self.model = engine.pool.named(model) if role.needs_model else None
        limit = role.settings.max_tokens or stage.max_tokens
        self.settings = replace(role.settings, max_tokens=limit)
        self.view_key = (stage.name, model, self.settings.data())
        self.solve_key = (stage.name, model, self.settings, numbers.get("solve", 0), replicate)

    def asker(self, text: str, bill: _Bill | None = None) -> _Asker:
        return _Asker(self, text, _Bill() if bill is None else bill)


class _Asker:
    """Asks one node's model about one question; the `Ask` that roles are given."""

    __slots__ = ("bill", "node", "seconds", "text")

    def __init__(self, node: PlanNode, text: str, bill: _Bill) -> None:
        self.node, self.text, self.bill = node, text, bill
        self.seconds = 0.0  # of its calls, one after the other

    async def __call__(self, word: str, candidates: Sequence[str] = ()) -> Message:
        node, model = self.node, self.node.model
        if model is None:
            raise ConfigError(f"role {node.role.name!r} calls no model but asked one; set needs_model in its class")
        reply, problem = Reply("", 0, 0), ""
        for attempt in (0, 1):  # a bad outcome is asked once more, with fresh randomness
            request = (
                self._solve(model, attempt) if word == "solve" else self._request(model, word, candidates, attempt)
            )
            reply = await node.engine.reply(request, model)
            cost = _cost(model, reply)
            self.bill.add(model, cost, solve=word == "solve")
            self.seconds += cost.seconds
            answer = node.stage.extract(reply.text)
            if answer is not None:
                confidence = None if reply.logprob is None else _exp(reply.logprob)
                return Message(answer, reply.text, confidence)
            problem = _problem(reply)
        self.bill.outcomes[problem] += 1
        return Message(None, reply.text)

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
        view_seed = stable_hash(self.text, node.view_key, word, sample, node.replicate, attempt)
        prompt = Prompt(
            word=word,
            tag=node.stage.tag,
            instructions=node.stage.instructions,
            role_instructions=node.role.instructions.get(word, ""),
            question=node.stage.view(self.text, view_seed),
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
    cost = model.cost(Tokens(reply.prompt_tokens, reply.output_tokens))
    return replace(
        cost,
        usd=cost.usd if reply.usd is None else reply.usd,
        seconds=cost.seconds if reply.seconds is None else reply.seconds,
    )


def _exp(logprob: float) -> float:
    return min(1.0, math.exp(logprob))


def _problem(reply: Reply) -> str:
    if not reply.text.strip():
        return "empty"
    return "cut" if reply.finish == "length" else "unparseable"
