"""Races: what is marked on which questions, who stops early, and who gets what that saves."""

import numpy as np
import pytest
from spaces import space

from agentgraph.archive import Archive
from agentgraph.budget import Cost
from agentgraph.distribution import Distribution
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.race import Race
from agentgraph.tasks.base import Question
from agentgraph.trial import Answer

SPACE = space(4, 6)
TRAIN = [Question(f"q{i}", f"{i}?", str(i)) for i in range(96)]


def plans(count, seed=0):
    return list(dict.fromkeys(Distribution(SPACE).sample(4 * count, seed)))[:count]


class Skilled:
    """Executes jobs: plan i answers a question right if a fixed number in [0, 1) is below its skill."""

    def __init__(self, skill):
        self.skill, self.batches, self.ahead = skill, [], []

    def __call__(self, jobs, ahead):
        self.ahead.append([(job.plan.id, [q.id for q in job.questions]) for job in ahead])
        self.batches.append([(job.plan.id, [q.id for q in job.questions]) for job in jobs])
        return [[Answer(q.id, self.mark(job.plan, q), Cost(1.0)) for q in job.questions] for job in jobs]

    def mark(self, plan, question):
        return float(np.random.default_rng(int(question.id[1:])).random() < self.skill[plan.id])

    @property
    def evaluations(self):
        return sum(len(questions) for batch in self.batches for _, questions in batch)


def raced(skill, asked, archive=None, *, per_plan=32, places=None, **settings):
    execute = Skilled(skill)
    archive = archive or Archive()
    places = len(asked) if places is None else places
    scored = Race(**settings).run(
        execute, asked, TRAIN, per_plan, places=places, space=SPACE, archive=archive, objective=Accuracy()
    )
    archive.add_round(0, [(plan, SPACE.price(plan), answers) for plan, answers in scored])
    return execute, archive


def test_a_clearly_worse_plan_stops_and_its_evaluations_go_to_the_close_ones():
    some = plans(5)
    skill = dict(zip([plan.id for plan in some], [0.9, 0.88, 0.86, 0.1, 0.1], strict=True))
    execute, archive = raced(skill, some, block=8)
    marks = [len(archive.of(plan).marks) for plan in some]
    assert max(marks[3:]) <= 16
    assert max(marks[:3]) > 32
    assert execute.evaluations == sum(marks) == 5 * 32


def test_every_plan_is_marked_on_the_questions_in_order_and_none_twice():
    some = plans(6)
    skill = {plan.id: 0.3 + 0.1 * i for i, plan in enumerate(some)}
    execute, archive = raced(skill, some, block=8)
    for plan in some:
        asked = [q for batch in execute.batches for name, row in batch if name == plan.id for q in row]
        assert asked == [question.id for question in TRAIN[: len(asked)]]
        assert list(archive.of(plan).marks) == asked


@pytest.mark.parametrize("seed", range(4))
def test_a_round_makes_no_more_evaluations_than_it_may(seed):
    rng = np.random.default_rng(seed)
    archive = Archive()
    for round_ in range(4):
        some = plans(6, seed=10 * seed + round_)
        skill = {
            plan.id: np.random.default_rng(int(plan.id, 16)).random()
            for plan in [*some, *(t.plan for t in archive.trials)]
        }
        execute, archive = raced(skill, some, archive, block=int(rng.integers(1, 20)), per_plan=24)
        assert execute.evaluations <= len(some) * 24
    assert all(len(trial.marks) <= len(TRAIN) for trial in archive.trials)


def test_a_plan_asked_for_again_goes_on_where_it_stopped():
    (plan,) = plans(1)
    _, archive = raced({plan.id: 0.5}, [plan])
    execute, archive = raced({plan.id: 0.5}, [plan], archive)
    assert execute.batches[0][0][1][0] == "q32"
    assert len(archive.of(plan).marks) == 64


def test_more_plans_than_places_share_the_evaluations_the_most_hopeful_first():
    some = plans(24)
    skill = {plan.id: 0.95 if i < 4 else 0.4 for i, plan in enumerate(some)}
    execute, archive = raced(skill, some, block=8, places=8)
    marks = [len(archive.of(plan).marks) for plan in some]
    assert min(marks) >= 8
    assert execute.evaluations == sum(marks) == 8 * 32
    assert np.mean(marks[:4]) > np.mean(marks[4:])
    many = plans(60, seed=3)
    execute, _ = raced({plan.id: 0.5 for plan in many}, many, block=8, places=2)
    assert execute.evaluations == 8 * len(many)  # a block each, whatever the places


def test_places_that_no_plan_takes_go_to_close_contenders():
    some = plans(3)
    skill = dict(zip([plan.id for plan in some], [0.9, 0.88, 0.1], strict=True))
    execute, archive = raced(skill, some, block=8, places=5)
    marks = [len(archive.of(plan).marks) for plan in some]
    assert execute.evaluations == sum(marks) == 5 * 32
    assert min(marks[:2]) > 32 > marks[2]


def test_what_is_begun_ahead_is_the_next_block_and_changes_nothing():
    some = plans(5)
    skill = dict(zip([plan.id for plan in some], [0.9, 0.88, 0.86, 0.1, 0.1], strict=True))
    alone, archive = raced(skill, some, block=8)
    ahead, again = raced(skill, some, block=8, ahead=True)
    assert ahead.batches == alone.batches
    assert [trial.marks for trial in again.trials] == [trial.marks for trial in archive.trials]
    assert not any(alone.ahead)
    for begun, batch in zip(ahead.ahead, ahead.batches[1:], strict=False):
        assert all(entry in begun for entry in batch) or not begun  # … but for what shares the savings at the end
    assert sum(map(len, ahead.ahead)) > 0


def test_equal_plans_all_run_to_the_end():
    some = plans(4)
    _, archive = raced({plan.id: 0.7 for plan in some}, some, block=8)
    assert [len(archive.of(plan).marks) for plan in some] == [32] * 4


def test_what_the_service_failed_on_is_not_asked_again_in_the_round_and_ends():
    some = plans(2)

    class Failing(Skilled):
        def mark(self, plan, question):
            return None if plan == some[0] else super().mark(plan, question)

    execute = Failing({plan.id: 1.0 for plan in some})
    scored = Race(block=8).run(
        execute, some, TRAIN[:16], 32, places=2, space=SPACE, archive=Archive(), objective=Accuracy()
    )
    counts = {plan.id: len(answers) for plan, answers in scored}
    assert counts == {some[0].id: 16, some[1].id: 16}


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"block": 0}, "race.block=0"),
        ({"doubt": 0.7}, "race.doubt=0.7"),
        ({"ahead": 1}, "race.ahead=1 must be true or false"),
    ],
)
def test_bad_settings(settings, shown):
    with pytest.raises(ValueError, match=shown):
        Race(**settings)
