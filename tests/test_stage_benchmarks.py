"""Benchmarks of tasks of several stages: their tables, worlds, rivals over settings, and small runs."""

import importlib
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from servers.loopback import chat

from agentgraph.budget import Cost
from agentgraph.config import load_models, load_role, load_task
from agentgraph.errors import BackendRefused
from agentgraph.execute import Executor, Job
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.agent_reinforce import _did_well
from agentgraph.plan import Plan
from agentgraph.samplings import Samplings
from agentgraph.store import ReplyStore
from agentgraph.trial import Answer, Trial

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
tables = importlib.import_module("stage_tables")
language = importlib.import_module("quality.language")
staged = importlib.import_module("quality.stage_worlds")
rivals = importlib.import_module("quality.setting_rivals")
stage_run = importlib.import_module("quality.stage_run")
stages = importlib.import_module("stages")
budget_shares = importlib.import_module("budget_shares")
needs_data = pytest.mark.skipif(
    not os.environ.get("AGENTGRAPH_DATA"), reason="AGENTGRAPH_DATA does not name the tables"
)


@pytest.fixture(scope="module")
def table():
    return staged.pipeline_table()


@pytest.fixture(scope="module")
def samples():
    return staged.pipeline("samples")


@pytest.fixture(scope="module")
def graphs():
    return staged.pipeline("graphs")


def drawn(table, count, seed, units=4.0):
    rng = np.random.default_rng(seed)
    within = [np.flatnonzero(stage.units <= units) for stage in table.stages]
    return [
        Plan(tuple(graphs[int(rng.choice(there))] for graphs, there in zip(table.graphs, within, strict=True)))
        for _ in range(count)
    ]


# ---- tables


@pytest.mark.parametrize("seed", range(5))
def test_the_best_pair_is_the_best_of_all_and_the_cheapest_of_equals(seed):
    rng = np.random.default_rng(seed)
    marks = [rng.random((40, 9)) < 0.5 for _ in range(2)]
    units = [rng.integers(1, 9, 40).astype(float) for _ in range(2)]
    found = tables.best_pair(marks, units, 7.0)
    pairs = [(i, j) for i, j in itertools.product(range(40), range(40)) if units[0][i] + units[1][j] <= 7]
    values = {pair: (marks[0][pair[0]] & marks[1][pair[1]]).mean() for pair in pairs}
    top = max(values.values())
    assert found.value == pytest.approx(top)
    cheapest = min(units[0][i] + units[1][j] for (i, j), value in values.items() if value > top - 1e-6)
    assert units[0][found.first] + units[1][found.second] == cheapest
    assert tables.pairs_within(units, 7.0) == len(pairs)
    with pytest.raises(ValueError, match="no pair of graphs costs at most 0.5 units"):
        tables.best_pair(marks, units, 0.5)


def test_the_table_has_the_marks_of_an_executor(table):
    plans = [
        *drawn(table, 3, 0),
        staged.pipeline_best(table, staged.kept(table, staged.pipeline_space("graphs"), "graphs"), 8.0),
    ]
    pool, backends = load_models("embedded")
    questions = load_task("pipeline").questions("train")[:24]
    roles = {name: load_role(name) for name in tables.ROLES}
    with Executor(load_task("pipeline"), pool, roles, backends, ReplyStore(), seed=0) as executor:
        rows = executor.run([Job(plan, questions) for plan in plans])
    run = np.array([[answer.mark for answer in row] for row in rows])
    known = np.array([table.marks(plan)[:24] for plan in plans])
    assert (run != known).mean() <= 0.01
    assert 0 < known.mean() < 1
    own = [[answer.stages.get("recall", 0.0) for answer in row] for row in rows]
    assert (np.array(own) >= known).mean() > 0.9


def test_the_table_is_read_back_as_it_was_written(table, tmp_path):
    few = tables.PipelineTable(
        table.questions[:8],
        table.models,
        tuple(tables.StageTable(t.ids[:20], t.units[:20], t.row[:20] * 0, t.rows[:1, :8]) for t in table.stages),
    )
    few.save(tmp_path)
    again = tables.PipelineTable.load(tmp_path)
    assert again.questions == few.questions
    for mine, theirs in zip(few.stages, again.stages, strict=True):
        for field in ("ids", "units", "row", "rows"):
            assert (getattr(mine, field) == getattr(theirs, field)).all()
    with pytest.raises(KeyError, match="the table has no graph"):
        again.value(drawn(table, 1, 9)[0])
    with pytest.raises(FileNotFoundError, match="make it with make="):
        tables.PipelineTable.load(tmp_path / "nowhere")


@pytest.mark.parametrize("given", [["made=x"], ["check=0"], ["check=many"], ["make="]])
def test_bad_arguments_of_the_tables(given, capsys):
    assert tables.main(given) == 2
    assert f"cannot read {given[0]!r}" in capsys.readouterr().out


# ---- worlds


def test_no_plan_of_a_world_is_better_than_its_best(samples, graphs, table):
    for plan in drawn(table, 200, 3):
        assert graphs.value(plan).search <= graphs.best.search
    samplings = Samplings(samples.space)
    rng = np.random.default_rng(0)
    values = [samples.value(samplings.plan(samplings.random(rng))).search for _ in range(200)]
    assert max(values) <= samples.best.search
    assert samples.value(Plan.from_compact(samples.best.plan)).search == samples.best.search
    assert samples.best.search < graphs.best.search


def test_calls_are_counted_once_and_looked_up_for_nothing(graphs, table):
    executor = graphs.executor(0)
    questions = executor.task.questions("train")
    plan, other = drawn(table, 2, 5)
    assert np.isnan(executor.known(plan, questions).marks).all()
    (answers,) = executor.run([Job(plan, questions[:64])])
    assert [answer.mark for answer in answers] == table.marks(plan)[:64].astype(float).tolist()
    made = executor.counts.made
    assert 0 < made <= answers[0].charge.calls * 64
    executor.run([Job(plan, questions[:64])])
    assert executor.counts.made == made
    known = executor.known(plan, questions)
    assert (known.marks[:64] == table.marks(plan)[:64]).all()
    assert np.isnan(known.marks[64:]).all()
    mixed = Plan((plan.stages[0], other.stages[1]))
    before = executor.counts.made
    executor.run([Job(mixed, questions[:64])])
    assert executor.counts.made - before <= 64 * mixed.nodes


def test_pass_at_k_is_exact():
    rng = np.random.default_rng(0)
    right = [{"a": (rng.random((6, 5)) < 0.4).astype(float), "b": (rng.random((6, 5)) < 0.6).astype(float)}]
    found = staged._Expected(right).of(0, ("a", "a", "b"))
    for q in range(6):
        draws = [
            max(right[0]["a"][q, list(pair)].max(), right[0]["b"][q, one])
            for pair in itertools.combinations(range(5), 2)
            for one in range(5)
        ]
        assert found[q] == pytest.approx(np.mean(draws))


@needs_data
def test_the_composed_world_is_marked_by_the_draw_and_valued_by_its_expectation(tmp_path):
    world = staged.composed("samples", Path(os.environ["AGENTGRAPH_DATA"]), tmp_path)
    plan = Plan.from_compact(world.best.plan)
    means = []
    for seed in range(40):
        executor = world.executor(seed)
        (answers,) = executor.run([Job(plan, executor.task.questions("train"))])
        means.append(np.mean([answer.mark for answer in answers]))
    assert np.mean(means) == pytest.approx(world.value(plan).search, abs=0.02)
    assert "composed" in world.note


# ---- searches


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_rivals_over_settings_stay_within_the_budget_and_try_none_twice(samples, sampler):
    search = rivals.SettingSearch(sampler)
    search.setup(samples.space, Accuracy(), rounds=3, call=lambda *_: None)
    seen = []
    for round_ in range(3):
        plans = search.ask(6, np.random.default_rng(round_))
        trials = []
        for plan in plans:
            samples.space.check(plan)
            assert search.samplings.of(plan) is not None
            trial = Trial(len(seen), plan, round_, Cost(1.0))
            trial.add(Answer("q", samples.value(plan).search, Cost(1.0)))
            trials.append(trial)
            seen.append(plan.id)
        search.tell(trials)
    assert len(seen) == len(set(seen)) == 18


def test_a_search_has_a_point_after_each_trial(samples):
    outcome = stage_run.stage_run(samples, stages.method_of("agent_tts"), 0, 24)
    points = [stage_run.Point(*point) for point in outcome["points"]]
    assert [point.trials for point in points] == list(range(1, 25))
    assert [point.evaluations for point in points] == [128 * n for n in range(1, 25)]
    assert all(a.calls <= b.calls for a, b in itertools.pairwise(points))
    assert outcome["initial"] == len(dict.fromkeys(Samplings(samples.space).initial()))
    assert max(point.search for point in points) == pytest.approx(max(outcome["tried"]), abs=1e-6)
    assert max(point.search for point in points) <= samples.best.search


def test_a_small_run_prints_its_tables_and_goes_on(tmp_path, capsys):
    given = ["worlds=pipeline-samples", "seeds=2", "trials=12", f"out={tmp_path / 'runs.jsonl'}", f"cache={tmp_path}"]
    assert stages.main([*given, "optimizers=agent_tts,agent_tts+insights=[2,3],setting_random"]) == 0
    shown = capsys.readouterr().out
    assert "6 searches to do" in shown
    assert "agent_tts+insights=[2,3]" in shown
    assert "best rival setting_random" in shown
    assert stages.main([*given, "optimizers=agent_tts,setting_random"]) == 0
    assert "0 searches to do" in capsys.readouterr().out
    assert stages.main(["worlds=livecodebench-samples", "seeds=1", f"out={tmp_path / 'none.jsonl'}"]) == 0
    assert "skipped livecodebench-samples: its table is not there" in capsys.readouterr().out


def test_zero_shot_needs_kept_replies_or_a_server(graphs, tmp_path):
    with pytest.raises(BackendRefused, match=r"claude.jsonl has no reply to prompt \w+; give agent=<URL"):
        stage_run.stage_run(graphs, stages.method_of("zero_shot"), 0, 8, language.Language(tmp_path))


def test_a_seed_that_could_not_run_is_said_and_tried_again(tmp_path, capsys):
    out = tmp_path / "runs.jsonl"
    given = [
        "worlds=pipeline-samples",
        "trials=10",
        f"out={out}",
        "optimizers=agent_tts,setting_random,zero_shot_settings",
    ]
    assert stages.main([*given, "seeds=1"]) == 0
    shown = capsys.readouterr().out
    assert "best rival zero_shot_settings" in shown
    assert "best rival without a language model setting_random" in shown
    ended = json.loads(out.read_text().splitlines()[-1])
    assert ended["method"] == "zero_shot_settings"
    with out.open("a") as file:
        file.write(json.dumps({**ended, "seed": 1, "outcome": {"error": "BackendRefused: away"}}) + "\n")
    assert stages.main([f"report={out}"]) == 0
    assert "zero_shot_settings: could not run (1 of 2 seeds): BackendRefused: away" in capsys.readouterr().out
    assert stages.main([*given, "seeds=2"]) == 0
    shown = capsys.readouterr().out
    assert "3 searches to do" in shown
    assert "could not run" not in shown


def test_what_a_server_answers_is_kept(graphs, tmp_path, loopback):
    solve = [{"role": "assistant", "model": "a-small"}]
    loopback.script = lambda _body, _number: chat(json.dumps({"plans": [[solve, solve]]}))
    asking = language.Language(tmp_path, loopback.url)
    first = stage_run.stage_run(graphs, stages.method_of("zero_shot"), 0, 8, asking)
    asked = len(loopback.received)
    assert asked
    again = stage_run.stage_run(graphs, stages.method_of("zero_shot"), 0, 8, language.Language(tmp_path))
    assert again["tried"] == first["tried"]
    assert len((tmp_path / "claude.jsonl").read_text().splitlines()) == asked


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["world=x"], "unknown: world; there are"),
        (["seeds=0"], "seeds=0 must be a whole number"),
        (["worlds=x"], "unknown worlds: x; there are pipeline-graphs"),
        (["optimizers=tpe,x"], "unknown optimizers: x; there are"),
        (["report=nowhere"], "report=nowhere is not a file"),
    ],
)
def test_bad_arguments(given, words, capsys):
    assert stages.main(given) == 2
    assert words in capsys.readouterr().out


def test_graphs_that_did_well_are_ranked_by_their_own_stage(graphs, table):
    (good, poor), (right, wrong) = drawn(table, 1, 1)[0].stages, drawn(table, 1, 2)[0].stages
    trials = []
    for first, own in ((good, 0.9), (right, 0.3)):
        for second, kept in ((poor, 0.8), (wrong, 0.5)):
            trial = Trial(len(trials), Plan((first, second)), 0, Cost(1.0))
            for q in range(100):
                came = float(q < 100 * own)
                trial.add(Answer(f"q{q}", float(q < 100 * own * kept), Cost(1.0), stages={"recall": came}))
            trials.append(trial)
    assert _did_well(trials, graphs.space, 0) == [good, right]
    assert _did_well(trials, graphs.space, 1) == [poor, wrong]


# ---- shares


def test_shares_of_the_best_plans(capsys):
    assert budget_shares.main(["budgets=4,8,12", "seeds=0"]) == 0
    shown = capsys.readouterr().out
    assert "units of recall = a budget^b" in shown
    assert shown.count("best n") >= 6
    rows = [line for line in shown.splitlines() if " confidence_vote |" in line]
    assert rows


@pytest.mark.parametrize("given", [["budgets=few"], ["budgets=0"], ["seeds=-1"], ["share=1"]])
def test_bad_arguments_of_shares(given, capsys):
    assert budget_shares.main(given) == 2
    assert f"cannot read {given[0]!r}" in capsys.readouterr().out
