"""One plan on its questions: nodes run when their parents have, each asks its model, everything is charged."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from agentgraph.budget import TTS_REFERENCE, Cost, Tokens, flops, is_number, tts_units
from agentgraph.errors import BackendError, ConfigError
from agentgraph.graph import Graph
from agentgraph.model import Model, Pool
from agentgraph.plan import Plan
from agentgraph.prompt import Prompt, render
from agentgraph.request import Reply, Request, Settings, stable_hash
from agentgraph.roles.assistant import Assistant
from agentgraph.roles.base import Message, Role
from agentgraph.tasks.base import Question, Referee, Stage, Task
from agentgraph.trial import Answer

__all__ = [
    "Deadlines",
    "Engine",
    "Job",
    "NodeRun",
    "PlanNode",
    "PlanRun",
    "Shared",
    "StageRun",
    "cancelled",
    "sample_numbers",
]

P = ParamSpec("P")
T = TypeVar("T")


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
    shared: Shared
    deadlines: Deadlines | None

    async def reply(self, request: Request, model: Model, within: float | None = None) -> Reply | None:
        """The reply to a request, made once however often it is asked for; ``None`` if it takes more than ``within`` seconds."""

    def check_broken(self) -> None:
        """Raise what makes going on useless, if anything does."""

    def question_done(self, calls: int) -> None:
        """Count a question, and the calls it needed."""


class Shared:
    """What plans have in common: a node with all that stands above it, on one question, is run once for all of them.

    Attributes
    ----------
    numbers
        Of nodes with all that stands above them, by what makes them the same.
    running
        Nodes on questions, running or done, by such a number, the question's text and when its stage began, seconds.
    """

    def __init__(self) -> None:
        self.numbers: dict[tuple[object, ...], int] = {}
        self.running: dict[tuple[int, str, float], asyncio.Task[NodeRun]] = {}

    def number(self, *what: object) -> int:
        """The number of a node."""
        return self.numbers.setdefault(what, len(self.numbers))

    def unfinished(self) -> list[asyncio.Task[NodeRun]]:
        """Nodes that are running."""
        return [run for run in self.running.values() if not run.done()]

    async def keep(self, runs: Sequence[PlanRun]) -> None:
        """Cancel the nodes that none of these plans has."""
        wanted = {number for run in runs for stage in run.stages for number in stage.numbers}
        dropped = [key for key, run in self.running.items() if not run.done() and key[0] not in wanted]
        await cancelled([self.running.pop(key) for key in dropped])

    async def clear(self) -> None:
        """Cancel what is running and forget everything."""
        await cancelled(self.unfinished())
        for run in self.running.values():
            if not run.cancelled():
                run.exception()  # what a question raised already; asyncio would print those that nobody looked at
        self.numbers.clear()
        self.running.clear()


async def cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they are."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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


class StageRun(NamedTuple):
    """A stage of a plan, ready to run: its nodes, and the number of each with all that stands above it."""

    stage: Stage
    graph: Graph
    nodes: Sequence[PlanNode]
    numbers: Sequence[int]


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
        self.stages: list[StageRun] = []
        for s, (stage, graph) in enumerate(zip(engine.task.stages, job.plan.stages, strict=True)):
            samples = sample_numbers(graph, roles)
            nodes, numbers = list[PlanNode](), list[int]()
            for i, node in enumerate(graph.nodes):
                role = roles[node.role]
                nodes.append(PlanNode(engine, stage, role, node.model, samples[i], job.replicate))
                own = (s, id(role), node.model, job.replicate, *samples[i].items())
                numbers.append(engine.shared.number(own, *(numbers[p] for p in graph.parents[i])))
            self.stages.append(StageRun(stage, graph, nodes, numbers))
        self.referee = None if engine.task.referee is None else self._node_of(engine.task.referee)

    def _node_of(self, referee: Referee) -> PlanNode:
        role = Assistant(name="referee", settings=Settings(temperature=0.0))
        return PlanNode(self.engine, referee.stage, role, referee.model, {"solve": 0}, self.job.replicate)

    async def question(self, question: Question) -> Answer:
        """Run every stage on one question."""
        engine, bill = self.engine, _Bill()
        engine.check_broken()
        task, handed, marks, mark = engine.task, [""], {}, 0.0
        try:
            for s, stage in enumerate(self.stages):
                text = await self._found(task.asked, s, question, handed[-1]) if s else task.asked(s, question, "")
                message = await self._stage(stage, text, bill)
                if message.answer is None:  # nothing to go on with
                    if s < len(self.stages) - 1:
                        bill.outcomes["nothing handed on"] += 1
                        marks[stage.stage.name] = 0.0
                    handed.append("")
                    break
                handed.append(message.answer)
                known = await self._found(task.mark_stage, s, message.answer, question)
                marks.update({} if known is None else {stage.stage.name: known})
            else:
                mark = await self._mark(handed[1:], question, bill)
        except BackendError:
            engine.check_broken()
            return Answer(question.id, None)
        finally:
            engine.question_done(bill.calls + bill.unpaid)
        return Answer(question.id, mark, bill.cost(), dict(bill.outcomes), handed[-1], marks)

    def begin(self, question: Question) -> None:
        """Start the nodes of the first stage; `question`, called later, finds them running."""
        self._nodes(self.stages[0], self.engine.task.asked(0, question, ""), 0.0)

    def _nodes(self, stage: StageRun, text: str, start: float) -> list[asyncio.Task[NodeRun]]:
        """The nodes of a stage on a question, those started that were not."""
        running = self.engine.shared.running
        mine: list[asyncio.Task[NodeRun]] = []
        for number, node, parents in zip(stage.numbers, stage.nodes, stage.graph.parents, strict=True):
            key = (number, text, start)
            run = running.get(key)
            if run is None:
                run = running[key] = asyncio.ensure_future(node.run([mine[p] for p in parents], text, start))
            mine.append(run)
        return mine

    async def _stage(self, stage: StageRun, text: str, bill: _Bill) -> Message:
        start = 0.0 if self.engine.deadlines is None else bill.seconds  # without deadlines it makes no difference
        mine = self._nodes(stage, text, start)
        sink = await mine[-1]  # every node reaches the sink: when it is done, all are
        if sink.error is not None:
            raise sink.error
        for run in mine:
            bill.add(run.result())
        bill.stage_done(sink.end - start)
        return sink.message

    async def _mark(self, answers: Sequence[str], question: Question, bill: _Bill) -> float:
        """The mark of what the stages answered, or of what the task's referee says of the last."""
        task = self.engine.task
        if self.referee is None:
            return await self._found(task.mark_end, answers, question)
        bill.unpaid += 1
        run = await self.referee.run([], task.asked(len(self.stages), question, answers[-1]), bill.seconds)
        bill.outcomes.update(run.outcomes)
        if run.error is not None:
            raise run.error
        said = run.message.answer
        return 0.0 if said is None else await self._found(task.mark, said, question)

    async def _found(self, find: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """What a method of the task finds; in a thread if that may take long."""
        if self.engine.task.slow_marks:
            return await asyncio.to_thread(find, *given, **named)
        return find(*given, **named)


class _Bill:
    """What one question has cost so far."""

    def __init__(self) -> None:
        self.flops: list[float] = []
        self.usd: list[float] = []
        self.prompt_tokens = self.output_tokens = 0.0
        self.calls = 0
        self.unpaid = 0  # the referee's
        self.seconds = 0.0  # longest path of the stages that are done
        self.tts_units: list[float] = []
        self.solves: dict[
            str, list[float]
        ] = {}  # of the stage that runs: AgentTTS units of its solves' prompts, by model
        self.outcomes: Counter[str] = Counter()

    def add(self, run: NodeRun) -> None:
        """Take in a node."""
        for model, cost, solve in run.calls:
            self.flops.append(cost.flops)
            self.usd.append(cost.usd)
            self.tts_units.append(cost.tts_units)
            if solve:
                prompt = tts_units(model.parameters, Tokens(cost.prompt_tokens, 0.0))
                self.solves.setdefault(model.name, []).append(prompt)
            self.prompt_tokens += cost.prompt_tokens
            self.output_tokens += cost.output_tokens
            self.calls += 1
        self.outcomes.update(run.outcomes)

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
