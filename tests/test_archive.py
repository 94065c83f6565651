"""The archive: the file and the memory say the same, a round that did not end leaves nothing, the best are first."""

import json
from dataclasses import replace

import numpy as np
import pytest
from generators import random_plan

from agentgraph.archive import Archive
from agentgraph.budget import Budget, Cost
from agentgraph.errors import RunError
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.trial import Answer, Trial

BUDGET = Budget(100.0, 1.0)


def answers(rng, questions):
    """Answers with charges that do not add without rounding, one in eight not marked."""
    return [
        Answer(
            f"q{i}",
            None if rng.random() < 0.125 else float(rng.random() < 0.6),
            Cost(float(rng.uniform(1, 99)), 2, 31.7, 12.9),
            {"cut": 1} if rng.random() < 0.2 else {},
        )
        for i in questions
    ]


def fill(archive, rounds, *, start=0):
    for round_ in range(start, rounds):
        rng = np.random.default_rng(round_)
        plans = [random_plan(seed % 7, stages=1) for seed in (round_, round_ + 1, 3 * round_ + 2)]
        plans = list({plan.id: plan for plan in plans}.values())
        price = Cost(50.0 + round_, 3, 60, 30)
        archive.add_round(round_, [(plan, price, answers(rng, range(4 * round_, 4 * round_ + 8))) for plan in plans])
    return archive


def contents(archive):
    return [(t.number, t.plan, t.round, t.price, t.marks, t.charged, t.outcomes, t.failures) for t in archive.trials]


# ---- on disk and in memory


def test_folding_the_file_gives_the_same_trials(tmp_path):
    archive = fill(Archive(tmp_path / "trials.jsonl"), 6)
    again = Archive(tmp_path / "trials.jsonl", keep=archive.size)
    assert contents(again) == contents(archive)
    assert again.size == archive.size == (tmp_path / "trials.jsonl").stat().st_size
    assert contents(fill(Archive(), 6)) == contents(archive)


def test_a_plan_drawn_again_adds_marks_to_its_trial():
    archive = Archive()
    plan = random_plan(0, stages=1)
    first = [Answer("a", 1.0, Cost(2.0)), Answer("b", None)]
    second = [Answer("a", 0.0, Cost(7.0)), Answer("b", 0.0, Cost(4.0), {"empty": 2}), Answer("c", 1.0, Cost(6.0))]
    archive.add_round(0, [(plan, Cost(5.0), first)])
    (trial,) = archive.add_round(1, [(plan, Cost(5.0), second)])
    assert len(archive) == 1
    assert trial is archive.of(plan)
    assert (trial.number, trial.round, trial.failures) == (0, 0, 1)
    assert trial.marks == {"a": 1.0, "b": 0.0, "c": 1.0}  # a question that has a mark keeps it
    assert trial.charge == Cost(12.0).over(3)
    assert trial.outcomes == {"empty": 2}
    assert trial.accuracy == pytest.approx(2 / 3)


def test_same_rounds_same_bytes(tmp_path):
    fill(Archive(tmp_path / "a.jsonl"), 5)
    fill(Archive(tmp_path / "b.jsonl"), 5)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes() != b""


@pytest.mark.parametrize("cut", [0, 1, 37, 10**6])
def test_a_round_that_did_not_end_leaves_nothing(tmp_path, cut):
    path = tmp_path / "trials.jsonl"
    archive = fill(Archive(path), 4)
    keep = archive.size
    fill(archive, 5, start=4)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(keep, len(whole) - cut)])  # killed in the middle of a line, or before, or after
    again = Archive(path, keep=keep)
    assert contents(again) == contents(fill(Archive(), 4))
    fill(again, 5, start=4)
    assert path.read_bytes() == whole


def test_without_a_saved_state_the_file_starts_over(tmp_path):
    path = tmp_path / "trials.jsonl"
    fill(Archive(path), 2)
    assert len(Archive(path)) == 0
    assert path.read_bytes() == b""


def test_no_clock_and_json_on_each_line(tmp_path):
    path = tmp_path / "trials.jsonl"
    fill(Archive(path), 3)
    for line in path.read_bytes().splitlines():
        entry = json.loads(line)
        assert list(entry) == ["trial", "round", "plan", "price", "marks", "charged", "outcomes", "failures"]


def test_damaged_files(tmp_path):
    path = tmp_path / "trials.jsonl"
    keep = fill(Archive(path), 2).size
    with pytest.raises(RunError, match=f"{path} has {keep} bytes, the saved state says {keep + 9}; it was changed"):
        Archive(path, keep=keep + 9)
    path.write_bytes(b"?" * keep)
    with pytest.raises(RunError, match=rf"{path}, line 1 is not a trial \(.*\); start a new run"):
        Archive(path, keep=keep)
    path.write_bytes(b"{}\n")
    with pytest.raises(RunError, match="line 1 is not a trial"):
        Archive(path, keep=3)
    with pytest.raises(RunError, match=f"cannot open {tmp_path}: Is a directory; choose another run folder"):
        Archive(tmp_path)


# ---- the best


def trial_of(seed, marks, *, price, charge=None):
    plan = random_plan(seed, stages=1)
    charge = price if charge is None else charge
    return plan, Cost(float(price)), [Answer(f"q{i}", mark, Cost(float(charge))) for i, mark in enumerate(marks)]


def test_ranked():
    archive = Archive()
    archive.add_round(
        0,
        [
            trial_of(0, [1.0] * 4, price=10),  # few marks are trusted less
            trial_of(1, [1.0] * 19 + [0.0], price=20),
            trial_of(2, [1.0] * 20, price=30),
            trial_of(3, [1.0] * 20, price=25),  # as good for less
            trial_of(4, [1.0] * 40, price=101),  # over budget in price
            trial_of(5, [1.0] * 40, price=90, charge=101),  # over budget in charge
            trial_of(6, [None, None], price=1),  # no marks
        ],
    )
    assert [trial.number for trial in archive.ranked(Accuracy(), BUDGET)] == [3, 2, 1, 0]


def test_standard_error_is_never_zero():
    trial = Trial(0, random_plan(0), 0, Cost())
    trial.marks = {"a": 1.0}
    assert trial.stderr > 0.1
    trial.marks = {str(i): 1.0 for i in range(1000)}
    assert 0 < trial.stderr < 0.01
    assert Trial(0, random_plan(0), 0, Cost()).accuracy == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_front_has_no_dominated_point(seed):
    rng = np.random.default_rng(seed)
    archive = Archive()
    entries = {}
    for i in range(30):
        right, charge, usd, seconds = rng.integers((0, 1, 1, 1), (11, 130, 4, 4)).tolist()
        plan, price, marked = trial_of(1000 + i, [1.0] * right + [0.0] * (10 - right), price=charge)
        paid = [replace(answer, charge=Cost(float(charge), usd=usd, seconds=seconds)) for answer in marked]
        entries[plan.id] = (plan, price, paid)
    archive.add_round(0, list(entries.values()))
    front = archive.front(BUDGET)
    fitting = [trial for trial in archive.trials if trial.charge.flops <= 100]

    def numbers(trial):
        return np.array([-trial.accuracy, trial.charge.flops, trial.charge.usd, trial.charge.seconds])

    def beats(a, b):
        return (numbers(a) <= numbers(b)).all() and (numbers(a) < numbers(b)).any()

    assert not any(beats(a, b) for a in front for b in front)
    for trial in fitting:
        on_front = any(trial is other for other in front)
        equal = any((numbers(t) == numbers(trial)).all() for t in front)
        assert on_front or equal or any(beats(other, trial) for other in front)
    assert [t.charge.flops for t in front] == sorted(t.charge.flops for t in front)
