"""What is known of plans without a new call: marks that earlier calls imply, and how many calls are missing.

Only calls that the search itself has made so far count, not all that the reply store may hold: so a search that is
repeated or goes on with a full store sees at each point what it saw before, and chooses the same.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agentgraph.model import Model, Pool
from agentgraph.node_run import Deadlines, PlanNode
from agentgraph.plan import Plan
from agentgraph.plan_run import Job, PlanRun, Shared, StageRun
from agentgraph.request import Reply, Request
from agentgraph.roles.base import CallForm, Message, Role
from agentgraph.store import ReplyStore
from agentgraph.tasks.base import Question, Task

__all__ = ["Known", "Lookup"]


class _NewCallError(Exception):
    """A request that was not made before."""


class Known(NamedTuple):
    """What earlier calls say of a plan.

    Attributes
    ----------
    marks
        Shape (questions,), in [0, 1]; NaN where a call is missing.
    new_calls, calls
        Calls that the plan still needs for these questions, and all that it needs. A call whose prompt depends on a
        missing reply counts as new, so the first may be too high; it is 0 exactly if no mark is missing.
    """

    marks: NDArray[np.float64]
    new_calls: int
    calls: int


class Lookup:
    """Follows plans through the replies to earlier calls; asks no model, and stores nothing.

    Parameters
    ----------
    task, pool, roles, store, seed
        Those of the executor whose replies are looked up, so that requests are the same.

    Attributes
    ----------
    looked
        Marks found so far, those of every call to `known` counted.
    """

    def __init__(self, task: Task, pool: Pool, roles: Mapping[str, Role], store: ReplyStore, seed: int) -> None:
        self.task, self.pool, self.roles, self.store, self.seed = task, pool, dict(roles), store, seed
        self.solves: dict[tuple[object, ...], Request] = {}
        self.deadlines: Deadlines | None = None  # with them it learns nothing
        self.shared = Shared()  # numbers the nodes; runs none
        self.looked = 0
        self._made: set[str] = set()  # keys of the requests that count
        self._learning = False
        self._wanted = ""
        self._messages: dict[
            tuple[int, str], Message
        ] = {}  # by the number of a node with all that stands above it, and the text of the question
        self._missing: dict[tuple[int, str], str] = {}  # key of the request that a message waits for

    def learn(self, plan: Plan, questions: Sequence[Question]) -> None:
        """Take note that a plan answered questions: from now on its calls count as made."""
        self._learning = True
        try:
            self._follow(plan, questions)
        finally:
            self._learning = False

    def known(self, plan: Plan, questions: Sequence[Question]) -> Known:
        """Marks and missing calls of a plan on questions."""
        known = self._follow(plan, questions)
        self.looked += int((~np.isnan(known.marks)).sum())
        return known

    def _follow(self, plan: Plan, questions: Sequence[Question]) -> Known:
        run = PlanRun(self, Job(plan, questions))
        forms = [[node.role.forms(len(above)) for node, above in zip(stage.nodes, stage.graph.parents, strict=True)]
                 for stage in run.stages]  # fmt: skip
        calls = [sum(map(len, stage)) for stage in forms]
        refereed = int(run.referee is not None)
        marks = np.full(len(questions), np.nan)
        new = 0
        for q, question in enumerate(questions):
            handed: list[str] | None = []
            for s in range(len(run.stages)):
                if handed is None:  # what an earlier stage hands on is not known: all of this one is new
                    new += calls[s]
                    continue
                message, missing = self._stage(
                    run.stages[s], forms[s], self.task.asked(s, question, handed[-1] if handed else "")
                )
                new += missing
                if message and message.answer is None:  # nothing is handed on
                    marks[q] = 0.0
                    break
                handed = [*handed, message.answer] if message and message.answer is not None else None
                if handed and s == len(run.stages) - 1:
                    marks[q], missing = self._mark(run, handed, question)
                    new += missing
                    break
            else:
                new += refereed  # what it would be asked is not known
        return Known(marks, new, (sum(calls) + refereed) * len(questions))

    def _mark(self, run: PlanRun, answers: Sequence[str], question: Question) -> tuple[float, int]:
        """Mark of what the stages answered, NaN if the referee was not asked about it; and how many calls are missing."""
        if run.referee is None:
            return self.task.mark_end(answers, question), 0
        text = self.task.asked(len(run.stages), question, answers[-1])
        said, missing = self._node(run.referee, [], True, run.referee.role.forms(0), text)
        if said is None:
            return math.nan, missing
        return 0.0 if said.answer is None else self.task.mark(said.answer, question), 0

    def _stage(self, stage: StageRun, forms: Sequence[Sequence[CallForm]], text: str) -> tuple[Message | None, int]:
        """The sink's message, ``None`` if a call is missing, and how many are."""
        _, graph, nodes, numbers = stage
        whole = self._messages.get((numbers[-1], text))
        if whole is not None:
            return whole, 0
        messages: list[Message | None] = []
        missing = 0
        for i, number in enumerate(numbers):
            message = self._messages.get((number, text))
            if message is None:
                above = [messages[p] for p in graph.parents[i]]
                parents = [parent for parent in above if parent is not None]
                if len(parents) == len(above) and self._still_missing((number, text)):
                    message, new = None, len(forms[i])
                else:
                    message, new = self._node(nodes[i], parents, len(parents) == len(above), forms[i], text)
                    if new and len(parents) == len(above):
                        self._missing[number, text] = self._wanted
                missing += new
                if message is not None:
                    self._messages[number, text] = message
            messages.append(message)
        return messages[-1], missing

    def _still_missing(self, place: tuple[int, str]) -> bool:
        return not self._learning and place in self._missing and self._missing[place] not in self._made

    @staticmethod
    def _node(
        node: PlanNode, parents: Sequence[Message], complete: bool, forms: Sequence[CallForm], text: str
    ) -> tuple[Message | None, int]:
        """A node's message, if all its parents' are known and no call is missing; and how many calls are."""
        if not forms and not complete:
            return None, 0
        if not complete and any(form.candidates for form in forms):
            return None, len(forms)
        try:
            message = _run(node.role(parents, node.asker(text)))
        except _NewCallError:
            return None, len(forms)
        return (message if complete else None), 0

    # What `PlanRun` wants of an engine -------------------------------------------------------------------------------

    async def reply(self, request: Request, model: Model, within: float | None = None) -> Reply:
        """The stored reply."""
        del model, within
        stored = self.store.get(request.key)
        if stored is None or not (self._learning or request.key in self._made):
            self._wanted = request.key
            raise _NewCallError
        self._made.add(request.key)
        return stored

    def check_broken(self) -> None:
        """Nothing can break."""

    def question_done(self, calls: int) -> None:
        """Nobody watches."""


def _run(work: Coroutine[Any, Any, Message]) -> Message:
    """Result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        message: Message = stop.value
        return message
    work.close()
    raise RuntimeError("a role waited for something other than its model")
