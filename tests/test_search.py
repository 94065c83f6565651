"""Whole runs on models of known skill: the same bytes whatever happens, and better plans than chance finds."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FEW, POOL, ROLES, Logged, Relay, backend, optimizer, setup, skilled

from agentgraph.archive import Archive
from agentgraph.backends.scripted import Scripted
from agentgraph.budget import Budget, Rates
from agentgraph.errors import BackendError, BudgetError, ConfigError
from agentgraph.evaluate import Candidate, evaluate
from agentgraph.execute import Executor
from agentgraph.front import Front
from agentgraph.model import Model, Pool
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.objectives.constrained import Constrained
from agentgraph.objectives.weighted import Weighted
from agentgraph.optimizers.random_search import RandomSearch
from agentgraph.plan_file import PlanFile
from agentgraph.replay import replay
from agentgraph.report import table_text
from agentgraph.run import run
from agentgraph.run_folder import RunFolder
from agentgraph.search import search
from agentgraph.setup import Setup
from agentgraph.space import Space, StageSpace
from agentgraph.store import ReplyStore
from agentgraph.tasks.calc import Calc
from agentgraph.watch import Watcher

HERE = Path(__file__).parent
CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from fakes import Logged, backend, optimizer, setup
from agentgraph.run import run
from agentgraph.run_folder import RunFolder
from agentgraph.watch import Watcher


def search(folder, moment):
    log = Logged(folder / "asked.log")
    search, rounds = optimizer(), []
    tell = search.tell

    def die_at(now):
        if now == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def script(request):
        reply = log(request)
        die_at(f"call {{log.keys.total()}}")
        return reply

    class Dying(Watcher):
        def round_done(self, summary):
            die_at(f"round {{summary.round}} saved")

        def phase(self, name, total_calls=None):
            die_at(name.split(":")[0])

    def telling(trials):
        rounds.append(trials)
        die_at(f"round {{len(rounds)}} told")  # the archive has the round, the saved state has not
        tell(trials)

    search.tell = telling
    run(setup(backends={{"scripted": backend(script)}}, optimizer=search), folder=RunFolder(folder), watcher=Dying())


for i, moment in enumerate(sys.argv[2:]):
    folder = Path(sys.argv[1]) / moment
    folder.mkdir()
    child = os.fork()
    if child == 0:
        search(folder, moment)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(moment, "killed" if os.WIFSIGNALED(status) else f"exit {{os.WEXITSTATUS(status)}}", flush=True)
"""


def searches(folder, *moments, hash_seed="0"):
    """Searches in processes of their own, each of which dies at its moment; what became of each."""
    ran = subprocess.run(
        [sys.executable, "-c", CHILD.format(here=str(HERE)), str(folder), *moments],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert ran.stderr == ""
    return ran.stdout.splitlines()


def stored(folder):
    """Keys of the replies that the store acknowledged: whole lines."""
    data = (folder / "replies.jsonl").read_bytes()
    return [json.loads(line)["key"] for line in data[: data.rfind(b"\n") + 1].splitlines()]


def asked(folder):
    return (folder / "asked.log").read_text().split()


def executor(store, script):
    return Executor(setup().task, FEW, {role.name: role for role in ROLES}, {"scripted": backend(script)}, store)


def outcome(folder):
    """What must be the same in the end; seconds and counts of this process's calls are left out."""
    return [(folder / name).read_bytes() for name in ("trials.jsonl", "best.json", "front.json")]


MOMENTS = ["call 1", "call 100", "call 300", "round 1 told", "round 1 saved", "round 3 told", "validation", "test"]


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Folders of searches that ended at each moment, and of one that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs")
    said = searches(folder, "never", *MOMENTS)
    assert said == ["never exit 0", *(f"{moment} killed" for moment in MOMENTS)]
    return folder


@pytest.fixture(scope="module")
def whole(processes):
    """The folder of a search that nothing disturbed."""
    return processes / "never"


@pytest.fixture
def copy(whole, tmp_path):
    """One that may be written to."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


# ---- the same bytes


def test_same_seed_same_bytes_in_another_process(whole, tmp_path):
    assert searches(tmp_path, "never", hash_seed="12345") == ["never exit 0"]
    other = tmp_path / "never"
    assert outcome(other) == outcome(whole)
    assert sorted(stored(other)) == sorted(stored(whole))
    feedback = [path.name for path in sorted((whole / "feedback").iterdir())]
    assert feedback == [f"round_{i:03d}.txt" for i in range(4)]
    for name in feedback:
        assert (other / "feedback" / name).read_bytes() == (whole / "feedback" / name).read_bytes()


def test_nothing_is_asked_twice(whole):
    keys = asked(whole)
    assert len(keys) == len(set(keys)) > 1000
    assert sorted(keys) == sorted(stored(whole))


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_gone_on(whole, processes, moment):
    folder = processes / moment
    assert not (folder / "best.json").exists()
    kept = set(stored(folder))
    assert kept or moment == "call 1"
    with closing(Logged(folder / "later.log")) as log:
        run(setup(backends={"scripted": backend(log)}), folder=RunFolder(folder))
        assert not kept & set(log.keys)
        assert set(log.keys.values()) == {1}
    assert outcome(folder) == outcome(whole)
    assert sorted(stored(folder)) == sorted(stored(whole))


def test_more_rounds_later(whole, tmp_path):
    run(setup(rounds=2), folder=RunFolder(tmp_path))
    assert outcome(tmp_path) != outcome(whole)
    run(setup(rounds=4), folder=RunFolder(tmp_path))
    (trials, best, front), expected = outcome(tmp_path), outcome(whole)
    assert [trials, front] == [expected[0], expected[2]]
    assert json.loads(best) == json.loads(expected[1])


def nobody(request):
    raise AssertionError(request)


def test_a_finished_run_asks_nothing_more(copy):
    before = outcome(copy)
    found = run(setup(backends={"scripted": backend(nobody)}), folder=RunFolder(copy))
    assert found.summary["calls_made"] == 0
    assert outcome(copy) == before


def test_run_from_its_store_is_the_same_run(whole, tmp_path):
    """The folder is lost but for the replies: the archive comes out the same, for nothing."""
    (tmp_path / "replies.jsonl").write_bytes((whole / "replies.jsonl").read_bytes())
    found = run(setup(backends={"scripted": backend(nobody)}), folder=RunFolder(tmp_path))
    assert found.summary["calls_made"] == 0
    assert outcome(tmp_path) == outcome(whole)


def test_with_and_without_a_folder(whole):
    found = run(setup())
    assert [row.accuracy for row in found.rows] == [
        row["accuracy"] for row in json.loads((whole / "summary.json").read_text())["test"]
    ]
    assert found.best == PlanFile.read(whole / "best.json")


def test_seeds_differ():
    assert (
        run(setup(seed=1, rounds=3)).archive.trials[-1].marks != run(setup(seed=2, rounds=3)).archive.trials[-1].marks
    )


# ---- replay


def test_replay_from_the_store_alone(copy):
    plan = PlanFile.read(copy / "best.json")
    with closing(ReplyStore(copy / "replies.jsonl")) as store:
        for split, replicate, score in (("test", 0, plan.scores[1]), ("validation", 1, plan.scores[0])):
            with executor(store, nobody) as running:
                found = replay(plan, running, split=split, replicate=replicate)
                assert running.counts.made == 0
                assert running.counts.asked > 0
            assert score.split == split
            assert found.scored.accuracy == score.accuracy
            assert found.scored.charge.flops == score.charge_flops
            assert found.row().price_units == pytest.approx(plan.price.flops / found.budget.unit)
    summary = json.loads((copy / "summary.json").read_text())
    assert summary["test"][0]["accuracy"] == plan.scores[1].accuracy


def test_replay_of_a_fresh_replicate_asks_everything(copy):
    plan = PlanFile.read(copy / "best.json")
    with closing(ReplyStore(copy / "replies.jsonl")) as store, executor(store, skilled) as running:
        found = replay(plan, running, replicate=5)
        assert running.counts.made > 0
        assert 0 < found.scored.accuracy <= 1


# ---- what is found


def test_no_trial_is_over_budget():
    for units in (1.0, 3.7, 8.0):
        found = run(setup(budget_units=units, rounds=3))
        budget = found.best.budget
        for trial in found.archive.trials:
            assert trial.price.flops <= budget.flops * (1 + 1e-9)
            assert trial.charge.flops == pytest.approx(trial.price.flops)  # the lengths are exact
        assert all(row.price_units <= units * (1 + 1e-9) for row in found.rows)
        assert found.best.price.flops <= budget.flops * (1 + 1e-9)


def test_winner_is_chosen_on_validation_questions(copy):
    plan = PlanFile.read(copy / "best.json")
    validation, test = plan.scores
    assert (validation.split, validation.replicate) == ("validation", 1)
    assert (test.split, test.replicate) == ("test", 0)
    # score every trial again: no finalist beats the winner on validation questions
    settings = setup()
    state = json.loads((copy / "state.json").read_text())
    trials = Archive(copy / "trials.jsonl", keep=state["archive_size"]).trials
    with closing(ReplyStore(copy / "replies.jsonl")) as store, executor(store, skilled) as running:
        candidates = [Candidate(t.plan.id, t.plan, t.price) for t in trials]
        rows = evaluate(running, candidates, settings.task.questions("validation"), replicate=1)
        scored = {row.candidate.name: row for row in rows}
    assert plan.plan().id in scored or "hand-wired" in plan.found.optimizer
    ranked = sorted(trials, key=lambda t: (-(t.accuracy - t.stderr), t.price.flops, t.number))
    assert validation.accuracy >= max(scored[t.plan.id].accuracy for t in ranked[: settings.finalists])


def test_front_holds_what_was_validated_with_both_scores(copy):
    front, best = Front.read(copy / "front.json"), PlanFile.read(copy / "best.json")
    state = json.loads((copy / "state.json").read_text())
    archive = Archive(copy / "trials.jsonl", keep=state["archive_size"])
    for point in front.points:
        trial = archive.of(point.plan.plan())
        assert (trial is None) == (point.searched is None)
        if trial:
            assert (point.searched.accuracy, point.searched.stderr) == (trial.accuracy, trial.stderr)
            assert point.searched.questions == len(trial.marks)
            assert point.searched.charge == trial.charge
            assert point.price == trial.price
    validated = [point for point in front.points if point.validated]
    assert max(point.validated.accuracy for point in validated) == best.scores[0].accuracy
    with closing(ReplyStore(copy / "replies.jsonl")) as store, executor(store, nobody) as running:
        for point in validated:
            found = replay(point.plan, running, split="validation", replicate=1)
            assert found.scored.accuracy == point.validated.accuracy
            assert found.scored.charge == point.validated.charge
    assert len(front.points) > 1


def with_seconds(pool):
    """Models that take longer the larger they are."""
    return Pool([replace(model, seconds=Rates(call=model.parameters / 1e5)) for model in pool])


def test_the_objective_chooses_the_winner_and_the_table_shows_it():
    objective = Weighted(seconds=1.0)
    slow_b = Pool([replace(model, seconds=Rates(call=0.1 if model.name[0] == "a" else 1.0)) for model in FEW])
    found = run(setup(pool=slow_b, objective=objective))
    validated = [point for point in found.front.points if point.validated]
    utilities = [objective.value(point.validated.accuracy, point.validated.charge) for point in validated]
    best = validated[utilities.index(max(utilities))]
    assert found.best.plan() == best.plan.plan()
    assert max(point.validated.accuracy for point in validated) > best.validated.accuracy
    assert found.summary["objective"] == "accuracy - 1·seconds"
    first = found.rows[0]
    assert list(first.amounts) == ["seconds"]
    assert first.utility == pytest.approx(first.accuracy - first.amounts["seconds"])
    assert "utility" in table_text(found.rows)
    plain = run(setup(pool=slow_b))
    assert (plain.rows[0].amounts, plain.rows[0].utility) == ({}, None)
    assert "seconds" not in table_text(plain.rows)


def test_an_exceeded_limit_is_never_best():
    pool = with_seconds(FEW)
    fastest = min(model.seconds.call for model in pool)
    found = run(setup(pool=pool, objective=Constrained(seconds=fastest * 1.5)))
    assert found.rows[0].amounts["seconds"] == pytest.approx(fastest)
    free = run(setup(pool=pool))
    assert max(point.believed.charge.seconds for point in free.front.points) > 2 * fastest
    ranked = found.archive.ranked(Constrained(seconds=fastest * 1.5), Budget(found.best.budget.flops, 1.0))
    met = [trial.charge.seconds <= fastest * 1.5 for trial in ranked]
    assert met == sorted(met, reverse=True)
    assert not all(met)


def test_plans_that_the_service_did_not_answer_are_neither_winner_nor_point_nor_row():
    """As on recorded replies, where a call was never made: no mark is not a mark of 0, and no charge is not for free."""

    def script(request):
        if "b-" in request.model or request.sample:
            raise BackendError("not recorded", retry=False)
        return skilled(request)

    found = run(setup(backends={"scripted": backend(script)}, failure_share=1.0, rounds=2))
    assert any(not trial.marks for trial in found.archive.trials)
    assert all(point.believed.charge.flops > 0 for point in found.front.points)
    assert {node.model for p in found.front.points for g in p.plan.plan().stages for node in g.nodes} <= {"a-small", ""}
    assert {row.name for row in found.rows} & {"self-consistency", "star + fuser"} == set()


def test_a_limit_that_nothing_meets_is_said():
    class Notes(Watcher):
        said = ()

        def note(self, text):
            self.said += (text,)

    watcher = Notes()
    run(setup(pool=with_seconds(FEW), objective=Constrained(seconds=1e-6), rounds=1), watcher=watcher)
    assert (
        "no validated plan keeps to the objective (accuracy, at most 1e-06 seconds); the nearest is taken"
        in watcher.said
    )


def test_spending_is_reported(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["calls_made"] == len(asked(whole))
    assert summary["calls_made"] < summary["calls_asked"]
    assert summary["search_only"]["made"] < summary["calls_made"]
    assert summary["agent_calls"] == 0
    assert summary["calls_failed"] == 0


def score_of_the_best(searcher, seed):
    """A search alone, over all six models; accuracy of its best trial on questions that were used for nothing else."""
    task = Calc(sizes={"train": 128, "test": 400})
    stage = StageSpace("calc", ROLES, POOL, 8, task.stages[0].lengths)
    space = Space((stage,), Budget(8 * stage.cheapest, stage.cheapest))
    archive = Archive()
    roles = {role.name: role for role in ROLES}
    with Executor(task, POOL, roles, {"scripted": backend()}, ReplyStore(), seed=seed) as running:
        searcher.setup(space, Accuracy(), rounds=8, call=running.ask)
        search(
            space,
            running,
            searcher,
            archive,
            rounds=range(8),
            plans_per_round=6,
            questions_per_round=32,
            seed=seed,
            began=lambda *_: None,
            ended=lambda *_: None,
        )
        best = archive.ranked(Accuracy(), space.budget)[0]
        (score,) = evaluate(running, [Candidate("best", best.plan, best.price)], task.questions("test"), replicate=0)
    return score.accuracy


@pytest.mark.slow
def test_beats_random_search():
    """On the planted models, over eight seeds: on average at least 0.03 better, and in most of them better."""
    gains = [score_of_the_best(optimizer(), seed) - score_of_the_best(RandomSearch(), seed) for seed in range(8)]
    assert np.mean(gains) >= 0.03, gains
    assert sum(gain > 0 for gain in gains) >= 6, gains


@pytest.mark.slow
def test_learned_tables_draw_better_plans_than_untrained_ones():
    search = optimizer()
    found = run(setup(rounds=8, plans_per_round=6, questions_per_round=32, optimizer=search))
    drawn = [t.accuracy for t in found.archive.trials if t.round >= 6]
    untrained = run(setup(rounds=2, plans_per_round=12, questions_per_round=32, optimizer=RandomSearch()))
    assert np.mean(drawn) > np.mean([t.accuracy for t in untrained.archive.trials]) + 0.05


# ---- odd settings


def test_stages(tmp_path):
    pool = Pool([Model("m", 1e6, backend="scripted"), Model("n", 3e6, backend="scripted")])
    served = {"scripted": Scripted(lambda r: r.messages[-1][1].upper().split("\n")[0], logprob=-1.0)}
    found = run(setup(task=Relay(), pool=pool, backends=served, rounds=4), folder=RunFolder(tmp_path))
    assert found.rows[0].accuracy == 1.0
    assert len(found.best.plan().stages) == 2
    assert PlanFile.read(tmp_path / "best.json") == found.best


def test_models_without_confidence_lose_the_roles_that_need_it():
    found = run(setup(backends={"scripted": backend(has_logprobs=False)}, rounds=3))
    used = {node.role for t in found.archive.trials for node in t.plan.stages[0].nodes}
    assert "keep" not in used
    assert "confidence_vote" not in used
    assert "vote" in used


def test_one_model_one_node():
    found = run(setup(pool=Pool(POOL[:1]), max_nodes=1, rounds=3))
    assert len(found.best.plan().stages[0].nodes) >= 1


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"budget_units": 0.5}, BudgetError, r"\(0\.5 units\) buys no call"),
        ({"budget_units": -1.0}, BudgetError, "the budget must be positive"),
        ({"budget_flops": 1e9}, ConfigError, r"budget.units=6.0 with budget.flops=1000000000.0: give one"),
        ({"rounds": 0}, ConfigError, "rounds=0 must be"),
        ({"rounds": 2.5}, ConfigError, "rounds=2.5 must be a whole number"),
        ({"finalists": -3}, ConfigError, "finalists=-3 must be"),
        ({"plans_per_round": "many"}, ConfigError, "plans_per_round='many' must be a whole number"),
        ({"max_nodes": 0}, ConfigError, "max_nodes=0 must be"),
        ({"seed": -1}, ConfigError, "seed=-1 must be"),
        ({"failure_share": 1.5}, ConfigError, r"failure_share=1.5 must be in \[0, 1\]"),
        ({"budget_units": "lots"}, ConfigError, "budget.units='lots' must be a number"),
        ({"budget_usd": "lots"}, ConfigError, "budget.usd='lots' must be a number"),
        ({"budget_usd": -1.0}, BudgetError, "the budget must be positive, got -1.0; give budget.usd"),
        (
            {"budget_usd": 0.02},
            BudgetError,
            r"budget\.usd=0\.02 limits nothing: no model says what a call takes; give 'usd:",
        ),
        ({"budget_units": None, "budget_calls": 0.5}, BudgetError, r"budget\.calls=0\.5 buys no call"),
        ({"budget_units": float("inf")}, ConfigError, "budget.units=inf must be a number"),
    ],
)
def test_bad_setting(changes, error, expected):
    with pytest.raises(error, match=expected):
        run(setup(**changes))


def test_failing_service_leaves_the_archive_readable(tmp_path):
    def script(request):
        if log.keys.total() > 500:
            raise BackendError("gone", retry=False)
        return log(request)

    expected = "calls failed after retries, .*the last: gone; .*go on with run="
    with closing(Logged(tmp_path / "asked.log")) as log, pytest.raises(BackendError, match=expected):
        run(setup(backends={"scripted": backend(script, limit=16)}), folder=RunFolder(tmp_path))
    kept = set(stored(tmp_path))
    assert len(kept) == 501
    with closing(Logged(tmp_path / "later.log")) as later:
        run(setup(backends={"scripted": backend(later)}), folder=RunFolder(tmp_path))
        assert not kept & set(later.keys)


def test_setup_has_defaults():
    made = Setup(Calc(), POOL, {}, ROLES, optimizer(), None)
    assert made.rounds >= 1
    assert made.budget(1e9) == Budget(8e9, 1e9)


@pytest.mark.parametrize(
    ("limits", "budget"),
    [
        ({"budget_units": 3}, Budget(3e9, 1e9)),
        ({"budget_flops": 5e9}, Budget(5e9, 1e9)),
        ({"budget_usd": 0.02}, Budget(unit=1e9, usd=0.02)),  # the eight units of the default do not bind as well
        ({"budget_usd": 1, "budget_units": 2, "budget_seconds": 3}, Budget(2e9, 1e9, usd=1, seconds=3)),
        (
            {"budget_calls": 4, "budget_tokens": 900, "budget_tts_units": 50},
            Budget(unit=1e9, calls=4, tokens=900, tts_units=50),
        ),
    ],
)
def test_limits_that_are_given_are_all_that_bind(limits, budget):
    assert Setup(Calc(), POOL, {}, ROLES, optimizer(), None, **limits).budget(1e9) == budget
