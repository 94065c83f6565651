"""What is measured before the first round: lengths and seconds, where a task and a pool do not know them."""

import json

import pytest
from fakes import ROLES

from agentgraph.backends.scripted import Scripted
from agentgraph.budget import Rates
from agentgraph.config import load_task
from agentgraph.errors import BudgetError, ConfigError
from agentgraph.execute import Executor
from agentgraph.lengths import measured
from agentgraph.model import Model, Pool
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.random_search import RandomSearch
from agentgraph.request import Reply
from agentgraph.run import run
from agentgraph.setup import Setup, build_space
from agentgraph.stages import StageChoice
from agentgraph.store import ReplyStore
from agentgraph.tasks.base import Lengths, Question, Stage, Task

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


class TwoStages(Task):
    """A stage that names a colour, and one that is asked about it."""

    name = "two"

    class First(Stage):
        name = "first"
        max_tokens = 50
        lengths = Lengths(prompt=1000, output={"solve": 1000}, edge=1000)

        def extract(self, text):
            return text or None

    class Second(First):
        name = "second"

    stages = (First(), Second())

    def pool(self, split):
        return [Question(f"{split} {i}", f"{split} {i}?", "red") for i in range(20)]

    def asked(self, stage, question, handed):
        return f"What is {handed}?" if stage else question.text

    def mark(self, answer, question):
        return float(answer == question.gold)


def by_stage(request):
    """The second stage is asked and answered at length; slow answers one token in the first, which fast may not have."""
    second = "What is" in request.messages[-1][1]
    longer = sum(request.messages[-1][1].count(word) for word in ("Candidate", "candidate"))
    prompt = (300 if second else 100) + 40 * longer
    return Reply("red", prompt, (20 if second else 5) + (request.model == "slow"), seconds=2.0 if second else 1.0)


def test_every_stage_is_measured_with_the_models_that_it_may_have():
    chosen = {"first": StageChoice(models=["slow"]), "second": StageChoice()}
    with executor(setup(TwoStages(), pool(), by_stage)) as running:
        (first, second), models = measured(running, ROLES[:3], chosen)
    assert (first.prompt, second.prompt) == (100, 300)
    assert first.tokens("solve", 0, "slow").output == 6
    assert set(first.output) & {"solve/fast", "refine/fast"} == set()
    assert second.tokens("solve", 0, "slow").output == 21
    assert second.tokens("solve", 0, "fast").output == 20
    assert 0 < first.edge < 1000 > second.edge > 0  # what a candidate adds was measured, not guessed
    assert models.named("slow").seconds == Rates(output_token=3.0 / 27)
    assert models.named("fast").seconds == Rates(output_token=2.0 / 20)


def test_a_stage_that_nothing_is_handed_on_to_keeps_its_estimate():
    with executor(setup(TwoStages(), pool(), lambda _: Reply("", 100, 5))) as running:
        (first, second), _ = measured(running, ROLES[:3])
    assert first.prompt == 200  # what is empty is asked once more
    assert second == TwoStages.Second.lengths


def test_a_stage_with_a_model_that_is_not_there_is_refused_before_anything_is_asked():
    settings = setup(TwoStages(), pool(), by_stage, stages={"first": {"models": ["gone"]}})
    with executor(settings) as running:
        with pytest.raises(ConfigError, match=r"stages\.first\.models.*gone"):
            build_space(settings, running)
        assert running.counts.made == 0
