"""One plan on its questions: every node runs when its parents have, once for all plans that share it, and everything is charged."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from agentgraph.budget import TTS_REFERENCE, Cost, Tokens, tts_units
from agentgraph.errors import BackendError
from agentgraph.graph import Graph
from agentgraph.node_run import Caller, NodeRun, PlanNode, sample_numbers
from agentgraph.plan import Plan
from agentgraph.request import Settings
from agentgraph.roles.assistant import Assistant
from agentgraph.roles.base import Message, Role
from agentgraph.tasks.base import Question, Referee, Stage, Task
from agentgraph.trial import Answer

__all__ = ["Engine", "Job", "PlanRun", "Shared", "StageRun", "cancelled"]

P = ParamSpec("P")
T = TypeVar("T")


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


class Engine(Caller, Protocol):
    """What a plan needs of the executor that runs it."""

    task: Task
    roles: dict[str, Role]
    shared: Shared

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


class StageRun(NamedTuple):
    """A stage of a plan, ready to run: its nodes, and the number of each with all that stands above it."""

    stage: Stage
    graph: Graph
    nodes: Sequence[PlanNode]
    numbers: Sequence[int]


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
        return Answer(question.id, mark, bill.cost(), dict(bill.outcomes), handed[-1], marks, tuple(bill.stages))

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
        self.stages: list[Cost] = []  # calls, tokens and seconds of each stage that is done
        self.before = (0, 0.0, 0.0)  # calls and tokens up to the last of them

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
        calls, prompt, output = self.before
        self.before = (self.calls, self.prompt_tokens, self.output_tokens)
        spent = Cost(0.0, self.calls - calls, self.prompt_tokens - prompt, self.output_tokens - output, seconds=seconds)
        self.stages.append(spent)
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
