"""Marks that take long are found in threads, several at once, while everything else goes on."""

import threading

import pytest
from fakes import POOL, ROLES, Relay, backend

from agentgraph.errors import TaskError
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan
from agentgraph.request import Reply
from agentgraph.store import ReplyStore
from agentgraph.tasks.calc import Calc

PLAN = Plan((Graph((Node("assistant", "a-large"),)),))


class Slow(Calc):
    """Marks only when ``parties`` marks are being found at the same time."""

    def __init__(self, parties, *, slow):
        super().__init__()
        self.slow_marks = slow
        self.together = threading.Barrier(parties, timeout=5)
        self.threads = set()

    def mark(self, answer, question):
        self.threads.add(threading.get_ident())
        self.together.wait()
        return super().mark(answer, question)


def answers(task):
    with Executor(task, POOL, {role.name: role for role in ROLES}, {"scripted": backend()}, ReplyStore()) as running:
        return running.run([Job(PLAN, task.questions("train")[:4])])[0]


def test_slow_marks_are_found_together():
    task = Slow(2, slow=True)
    assert [answer.mark for answer in answers(task)] == [answer.mark for answer in answers(Calc())]
    assert len(task.threads) >= 2


def test_quick_marks_are_found_where_they_come_up():
    task = Slow(1, slow=False)
    answers(task)
    assert len(task.threads) == 1


@pytest.mark.parametrize("slow", [False, True])
def test_a_mark_that_cannot_be_found_stops_the_run(slow):
    class Broken(Slow):
        def mark(self, answer, question):
            raise TaskError(f"no mark for {answer} to {question.id}")

    with pytest.raises(TaskError, match="no mark for .* to calc-"):
        answers(Broken(1, slow=slow))


class SlowRelay(Relay):
    """Asks its second stage, and marks, only when two questions have come as far."""

    slow_marks = True

    def __init__(self):
        super().__init__()
        self.together = {name: threading.Barrier(2, timeout=5) for name in ("asked", "mark_stage", "mark_end")}

    def asked(self, stage, question, handed):
        if stage:
            self.together["asked"].wait()
        return super().asked(stage, question, handed)

    def mark_stage(self, stage, answer, question):
        self.together["mark_stage"].wait()
        return float(answer == question.text.upper()) if stage == 0 else None

    def mark_end(self, answers, question):
        assert len(answers) == 2
        self.together["mark_end"].wait()
        return super().mark_end(answers, question)


def test_what_is_slow_between_stages_waits_in_threads_as_well():
    def shout(request):
        return Reply(request.messages[-1][1].split(":")[1].upper(), 4, 2)

    task, plan = SlowRelay(), Plan((PLAN.stages[0],) * 2)
    with Executor(
        task, POOL, {role.name: role for role in ROLES}, {"scripted": backend(shout)}, ReplyStore()
    ) as running:
        found = running.run([Job(plan, task.questions("train")[:2])])[0]
    assert [(answer.mark, answer.stages) for answer in found] == [(1.0, {"first": 1.0})] * 2
