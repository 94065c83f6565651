"""Looking a plan up: the marks an executor would give, for nothing, and no other."""

import numpy as np
import pytest
from fakes import POOL, ROLES, Relay, backend, skilled
from spaces import random_tables

from agentgraph.budget import Budget
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.lookup import Lookup
from agentgraph.plan import Plan
from agentgraph.request import Reply
from agentgraph.space import Space, StageSpace
from agentgraph.store import ReplyStore
from agentgraph.tasks.calc import Calc, CalcStage

TASK = Calc(sizes={"train": 40})
QUESTIONS = TASK.questions("train")[:12]
BY_NAME = {role.name: role for role in ROLES}


def executor(store, task=TASK):
    return Executor(task, POOL, BY_NAME, {"scripted": backend(skilled)}, store, seed=3)


def lookup(store, task=TASK):
    return Lookup(task, POOL, BY_NAME, store, 3)


def plans(count, seed=0, nodes=6):
    stage = StageSpace("calc", ROLES, POOL, nodes, CalcStage.lengths)
    space = Space((stage,), Budget(20 * stage.cheapest, stage.cheapest))
    return list(dict.fromkeys(random_tables(space, seed).sample(4 * count, seed)))[:count]


@pytest.mark.parametrize("seed", range(4))
def test_known_marks_are_the_executors_and_new_calls_are_those_it_makes(seed):
    store = ReplyStore()
    look = lookup(store)
    free = 0
    with executor(store) as running:
        for plan in plans(40, seed):
            before = running.counts.made
            known = look.known(plan, QUESTIONS)
            (row,) = running.run([Job(plan, QUESTIONS)])
            made = running.counts.made - before
            marks = np.array([answer.mark for answer in row])
            there = ~np.isnan(known.marks)
            assert (known.marks[there] == marks[there]).all()
            assert (known.new_calls == 0) == there.all() == (made == 0)
            assert known.calls == sum(len(BY_NAME[n.role].forms(len(plan.stages[0].parents[i])))
                                      for i, n in enumerate(plan.stages[0].nodes)) * len(QUESTIONS)  # fmt: skip
            assert made <= known.new_calls <= known.calls
            look.learn(plan, QUESTIONS)
            again = look.known(plan, QUESTIONS)
            assert (again.marks == marks).all()
            assert again.new_calls == 0
            free += there.all()
    assert free  # some plan shared all its calls with those before


def test_a_vote_over_samples_already_drawn_is_free():
    store, solver = ReplyStore(), Node("assistant", "a-small")
    star = Plan((Graph((solver, solver, solver, Node("vote")), ((0, 3), (1, 3), (2, 3))),))
    other = Plan((Graph((solver, solver, Node("confidence_vote")), ((0, 2), (1, 2))),))
    kept = Plan((Graph((solver, Node("keep", "a-small")), ((0, 1),)),))
    fused = Plan((Graph((solver, solver, Node("fuser", "a-small")), ((0, 2), (1, 2))),))
    look = lookup(store)
    assert look.known(other, QUESTIONS).new_calls == 2 * len(QUESTIONS)
    with executor(store) as running:
        running.run([Job(star, QUESTIONS)])
    assert look.known(other, QUESTIONS).new_calls == 2 * len(QUESTIONS)  # stored, but not by this search
    look.learn(star, QUESTIONS)
    assert look.known(other, QUESTIONS).new_calls == 0
    assert look.known(kept, QUESTIONS).new_calls == 0
    assert look.known(fused, QUESTIONS).new_calls == len(QUESTIONS)  # the fuser's own call alone
    assert look.looked == 2 * len(QUESTIONS)


def test_stages_hand_on_only_what_is_known():
    task, store, node = Relay(), ReplyStore(), Node("assistant", "a-small")
    plan = Plan((Graph((node,)), Graph((node,))))
    questions = task.questions("train")[:5]
    look = lookup(store, task)
    assert look.known(plan, questions).new_calls == 10
    with Executor(task, POOL, BY_NAME, {"scripted": backend(_capitals)}, store, seed=3) as running:
        running.run([Job(plan, questions[:3])])
    look.learn(plan, questions[:3])
    known = look.known(plan, questions)
    assert known.marks[:3].tolist() == [1.0] * 3
    assert np.isnan(known.marks[3:]).all()
    assert known.new_calls == 4


def _capitals(request):
    text = request.messages[-1][1].split(":", 1)[1]
    return Reply(text.upper(), 4, 2, logprob=-0.1)
