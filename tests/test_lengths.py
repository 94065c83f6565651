"""What is measured before the first round: lengths and seconds, where a task and a pool do not know them."""

import json

import pytest
from fakes import ROLES

from agentgraph.backends.scripted import Scripted
from agentgraph.budget import Rates
from agentgraph.config import load_task
from agentgraph.errors import BudgetError
from agentgraph.execute import Executor
from agentgraph.lengths import measured
from agentgraph.model import Model, Pool
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.random_search import RandomSearch
from agentgraph.request import Reply
from agentgraph.run import run
from agentgraph.setup import Setup, build_space
from agentgraph.store import ReplyStore

OUTPUT = {"slow": 30, "fast": 10}
SECONDS = {"slow": 6.0, "fast": 0.5}


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"{i}?", "gold": str(i)}) for i in range(100)))
    return load_task("jsonl", path=str(path))


def pool(**seconds):
    return Pool([Model(name, 1e9, backend="scripted", seconds=seconds.get(name, Rates())) for name in OUTPUT])


def timed(request):
    return Reply("Answer: 1", 100, OUTPUT[request.model], seconds=SECONDS[request.model])


def untimed(request):
    return Reply("Answer: 1", 100, OUTPUT[request.model])


def setup(task, models, script, **changes):
    settings = {
        "backends": {"scripted": Scripted(script, limit=64)},
        "roles": ROLES[:3],
        "optimizer": RandomSearch(),
        "objective": Accuracy(),
        "max_nodes": 4,
        "rounds": 2,
        "plans_per_round": 4,
        "questions_per_round": 8,
    }
    return Setup(task, models, **{**settings, **changes})


def executor(settings):
    roles = {role.name: role for role in settings.roles}
    return Executor(settings.task, settings.pool, roles, settings.backends, ReplyStore())


def test_seconds_are_measured_where_the_pool_does_not_say(task):
    given = Rates(call=2.0)
    with executor(setup(task, pool(fast=given), timed)) as running:
        (lengths,), models = measured(running, ROLES[:3])
        assert running.counts.made > 0
    assert models.named("slow").seconds == Rates(output_token=6.0 / 30)
    assert models.named("fast").seconds == given
    assert models.names == running.pool.names
    assert lengths.tokens("solve", 0, "slow").output == 30


def test_where_replies_say_nothing_nothing_is_known(task):
    with executor(setup(task, pool(), untimed)) as running:
        assert measured(running, ROLES[:3])[1].named("slow").seconds == Rates()


def test_a_budget_in_seconds_works_with_what_was_measured(task):
    found = run(setup(task, pool(), timed, budget_seconds=1.2))
    assert found.best.budget.budget().limits == {"seconds": 1.2}
    for trial in found.archive.trials:
        assert {node.model for node in trial.plan.stages[0].nodes} == {"fast"}
        assert trial.price.seconds <= 1.2
    assert all(entry.seconds.output_token == pytest.approx(0.05) for entry in found.best.models.values())


def test_a_budget_in_seconds_that_nothing_tells_is_refused(task):
    settings = setup(task, pool(), untimed, budget_seconds=1.2)
    with (
        executor(settings) as running,
        pytest.raises(BudgetError, match=r"budget\.seconds=1\.2 limits nothing: no model says"),
    ):
        build_space(settings, running)
