"""Parts of the benchmark of searches: exact values, all plans of a space, figures, results on disk, and small runs of it."""

import importlib
import itertools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agentgraph.backends.recorded import pool
from agentgraph.backends.synthetic import Synthetic
from agentgraph.budget import Budget
from agentgraph.config import load_role
from agentgraph.distribution import Distribution
from agentgraph.errors import ConfigError
from agentgraph.execute import Executor, Job
from agentgraph.plan import Plan
from agentgraph.recording import Recording
from agentgraph.space import Space, StageSpace
from agentgraph.store import ReplyStore
from agentgraph.tasks.recorded import Recorded

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
answers = importlib.import_module("quality.answers")
figures = importlib.import_module("quality.figures")
landscapes = importlib.import_module("landscapes")
methods = importlib.import_module("quality.methods")
one_run = importlib.import_module("quality.one_run")
plans = importlib.import_module("quality.plans")
remembering = importlib.import_module("quality.remembering")
registry = importlib.import_module("quality.registry")
results = importlib.import_module("quality.results")
script = importlib.import_module("search_quality")
tables = importlib.import_module("quality.tables")
worlds = importlib.import_module("quality.worlds")

QUESTIONS = 64


def recorded(folder, samples, *, seed=0):
    """A recorded folder of three models: answers of few kinds, some missing, confidences with ties."""
    rng = np.random.default_rng(seed)
    models = {name: {"parameters": 10.0 * (m + 1)} for m, name in enumerate("abc")}
    folder.mkdir()
    (folder / "models.json").write_text(json.dumps(models))
    questions = [{"id": f"q{q}", "question": f"text {q}", "gold": "1" if q else ""} for q in range(QUESTIONS)]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    replies = [
        {
            "question": question["id"],
            "model": model,
            "sample": sample,
            "answer": [None, "1", "2", "3"][rng.integers(4)],
            "confidence": [0.0, 0.3, 0.3, 0.7, 1.0][rng.integers(5)],
            "prompt_tokens": 3,
            "output_tokens": 2,
        }
        for question, model, sample in itertools.product(questions, models, range(samples))
    ]
    (folder / "replies.jsonl").write_text("\n".join(map(json.dumps, replies)))
    return folder


def space_over(folder, names, *, nodes, units, temperature):
    """A space of votes and keeps over a recorded folder."""
    roles = tuple(load_role(n, temperature=temperature) if n in ("assistant", "keep") else load_role(n) for n in names)
    stage = StageSpace("answer", roles, pool(str(folder))[0], nodes, Recorded(str(folder)).stages[0].lengths)
    return Space((stage,), Budget(units * stage.cheapest, stage.cheapest))


def executed(folder, space, found, runs=1):
    """Marks of plans by an executor, shape (runs, plans, questions), and the ids of the questions."""
    task, (models, backends) = Recorded(str(folder)), pool(str(folder))
    questions = [q for split in ("train", "validation", "test") for q in task.pool(split)]
    with Executor(task, models, space.stages[0].by_name, backends, ReplyStore()) as executor:
        rows = executor.run([Job(plan, questions, replicate) for replicate in range(runs) for plan in found])
    marks = np.array([[answer.mark for answer in row] for row in rows])
    return marks.reshape(runs, len(found), len(questions)), [q.id for q in questions]


# Exact values ------------------------------------------------------------------------------------------------------------


def test_value_of_greedy_plans_is_what_the_executor_marks(tmp_path):
    folder = recorded(tmp_path / "r", 1)
    roles = ("assistant", "keep", "vote", "confidence_vote")
    space = space_over(folder, roles, nodes=5, units=12, temperature=0.0)
    found = Distribution(space).sample(150, 1)
    assert {node.role for plan in found for node in plan.stages[0].nodes} == set(roles)
    marks, ids = executed(folder, space, found)
    exact = answers.Answers(Recording.read(folder), ids, space.stages[0].by_name)
    assert np.array_equal(marks[0], [exact.marks(plan) for plan in found])


def test_value_where_only_marks_were_recorded(tmp_path):
    folder = recorded(tmp_path / "r", 1)
    replies = [json.loads(line) for line in (folder / "replies.jsonl").read_text().splitlines()]
    for reply in replies:
        reply["mark"] = float(reply.pop("answer") == "1")
    (folder / "replies.jsonl").write_text("\n".join(map(json.dumps, replies)))
    space = space_over(folder, ("assistant", "keep"), nodes=4, units=9, temperature=0.0)
    found = Distribution(space).sample(100, 1)
    marks, ids = executed(folder, space, found)
    exact = answers.Answers(Recording.read(folder), ids, space.stages[0].by_name)
    assert np.array_equal(marks[0], [exact.marks(plan) for plan in found])
    assert 0 < marks.mean() < 1


def test_value_of_sampled_plans_is_the_mean_over_runs(tmp_path):
    folder = recorded(tmp_path / "r", 4)
    space = space_over(folder, ("assistant", "vote"), nodes=5, units=9, temperature=1.0)
    found, runs = Distribution(space).sample(8, 2), 24
    marks, ids = executed(folder, space, found, runs)
    exact = answers.Answers(Recording.read(folder), ids, space.stages[0].by_name, orders=480)
    expected = np.array([exact.marks(plan).mean() for plan in found])
    of_runs = marks.mean(2)
    error = of_runs.std(0, ddof=1) / math.sqrt(runs)
    assert (np.abs(of_runs.mean(0) - expected) < 4 * error + 0.002).all()
    assert 0 < error.max() < 0.02


def test_value_of_single_calls_is_the_share_of_right_replies(tmp_path):
    recording = Recording.read(recorded(tmp_path / "r", 4))
    ids = [f"q{q}" for q in range(QUESTIONS)]
    exact = answers.Answers(recording, ids, {"assistant": load_role("assistant")}, orders=8)
    for model in "abc":
        share = [np.mean([r.answer == "1" for r in recording.replies[model][name]]) for name in ids]
        share[0] = 0.0  # nobody knows its answer
        assert np.allclose(exact.marks(Plan.from_compact([[[["assistant", model]], []]])), share)


def test_orders_are_balanced():
    orders = answers.balanced_orders(5, 20, np.random.default_rng(0))
    assert orders.shape == (20, 5)
    assert (np.sort(orders, axis=1) == np.arange(5)).all()
    assert all((np.bincount(column, minlength=5) == 4).all() for column in orders.T)


# All plans ---------------------------------------------------------------------------------------------------------------


def test_every_plan_is_found_once():
    whole = landscapes.space()
    space = replace(whole, stages=(replace(whole.stages[0], max_nodes=3),))
    found = [plan.id for plan in plans.every_plan(space)]
    assert len(set(found)) == len(found)
    assert set(found) == {Plan((graph,)).id for graph in landscapes.plans(space)}


def test_number_of_votes(tmp_path):
    space = space_over(recorded(tmp_path / "r", 4), ("assistant", "vote"), nodes=4, units=1000, temperature=1.0)
    # One call, or a vote over a multiset of one to three of three models.
    assert len(list(plans.every_plan(space))) == 3 + sum(math.comb(k + 2, k) for k in (1, 2, 3))


# Figures -----------------------------------------------------------------------------------------------------------------


def run_of(points, *, world="w", method="m", seed=0, evaluations=100, agent=False, best=0.9):
    """A run with these points (evaluations, calls, value)."""
    whole = [one_run.Point(e, c, 0, value, value, 0.5) for e, c, value in points]
    settings = {"optimizer": {"agent": {}} if agent else {}, "loop": {}}
    facts = {"note": "n", "best": {"search": best, "unseen": 0.8, "chosen": 0.75, "plans": 3, "plan": []}}
    outcome = {"points": [list(point) for point in whole], "seconds": 1.0, "agent_tokens": 0, "agent_calls": 0}
    return results.Run(world, method, settings, seed, evaluations, facts, outcome)


def test_regret_at_equal_effort():
    group = figures.Group.of([run_of([(10, 4, None), (20, 8, 0.6), (40, 9, 0.85)]), run_of([(30, 2, 0.7)], seed=1)])
    assert group.regrets("evaluations", 9) == ([], [])
    assert group.regrets("evaluations", 10) == ([], [])
    assert group.regrets("evaluations", 39)[0] == pytest.approx([30, 20])
    assert group.regrets("calls", 8)[0] == pytest.approx([30, 20])
    assert group.regrets("evaluations", 1000)[1] == pytest.approx([-5, 10])


def test_effort_needed_is_censored_where_none_came_near():
    near = [(10, 4, 0.5), (20, 8, 0.8905), (40, 9, 0.6)]
    group = figures.Group.of([run_of(near), run_of([(50, 3, 0.5)], seed=1), run_of(near, seed=2)])
    assert group.needed("evaluations") == [20, math.inf, 20]
    assert group.needed("calls") == [8, math.inf, 8]
    lines = list(tables.report([*group.runs[:2]]))
    assert any("1/2" in line and "> 40" in line and "> 3" in line for line in lines)


def test_intervals():
    values = [0.0, 2.0] * 10
    mean = figures.mean_of(values)
    assert mean.value == 1
    assert mean.half == pytest.approx(1.729133 * np.std(values, ddof=1) / math.sqrt(20), rel=1e-6)
    same = figures.difference(values, [v + 1 for v in values])
    assert (same.value, same.count) == (-1, 20)
    assert same.half == pytest.approx(1.685954 * np.std(values, ddof=1) * math.sqrt(2 / 20), rel=1e-6)
    assert figures.difference([1.0, 1.0], [0.0, 0.0]).half == 0


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ((200, 20), (400, 100), ("200 : 400 tpe = 0.50", "20 : 100 tpe = 0.20")),
        ((None, None), (400, 100), ("> 512 : 400 tpe = > 1.28", "> 99 : 100 tpe = > 0.99")),
        ((200, 20), (None, None), ("200 : > 512 tpe = < 0.39", "20 : > 99 tpe = < 0.20")),
        ((None, None), (None, None), ("> 512 : > 512 tpe = ?", "> 99 : > 99 tpe = ?")),
    ],
)
def test_summary_tells_ratios_and_bounds(ours, theirs, words):
    runs = []
    for method, (evaluations, calls) in ((methods.OURS, ours), ("tpe", theirs)):
        came = [(evaluations, calls, 0.9)] if evaluations else []
        points = [*came, (512, max(99, calls or 0), 0.9 if came else 0.1)]
        runs += [run_of(points, method=method, seed=s, evaluations=512, agent=method != "tpe") for s in range(2)]
    line = next(line for line in tables.report(runs) if line.startswith("w  "))
    assert all(word in line for word in words), line


def test_summary_says_where_ours_is_worse():
    runs = [
        run_of([(256, 9, 0.9 - 0.1 * (method != "tpe") - 0.001 * s)], method=method, seed=s, evaluations=256,
               agent=method != "tpe")
        for method in (methods.OURS, "tpe") for s in range(4)
    ]  # fmt: skip
    assert any("yes, at 256: 10.00 ±" in line and "more than tpe" in line for line in tables.report(runs))
    assert any(line.endswith("   no") for line in tables.report(runs, ours="tpe"))


# Results on disk ---------------------------------------------------------------------------------------------------------


def test_results_keep_the_longest_run_and_drop_a_cut_line(tmp_path):
    path = tmp_path / "deep" / "runs.jsonl"
    short, long = run_of([(10, 1, 0.5)]), run_of([(10, 1, 0.5), (20, 2, 0.6)], evaluations=200)
    for run in (long, short, run_of([(5, 1, 0.1)], seed=1)):
        results.append(path, run)
    with path.open("a") as file:
        file.write('{"world": "w')
    assert [(run.seed, run.evaluations) for run in results.read(path)] == [(0, 200), (1, 100)]
    assert results.read(path)[0].points == long.points
    assert results.read(tmp_path / "none") == []


def test_changed_settings_put_older_runs_aside():
    old, new = run_of([(10, 1, 0.5)]), run_of([(10, 1, 0.5)], agent=True)
    assert results.latest([old, new]) == [new]
    assert results.latest([new, old, run_of([(1, 1, 0.5)], method="other")])[0] == old


# Methods and runs --------------------------------------------------------------------------------------------------------


def test_variants_of_methods():
    method = methods.Method.named("agent_reinforce+rate=0.25+agent.focus=0.1+questions_per_round=16")
    assert (method.optimizer["rate"], method.optimizer["agent"]["focus"], method.has_agent) == (0.25, 0.1, True)
    assert method.loop == {"questions_per_round": 16}
    assert method.build().rate == 0.25
    assert not methods.Method.named("tpe").has_agent
    assert methods.Method.named("gp+settings.n_startup_trials=4").optimizer["settings"] == {"n_startup_trials": 4}
    with pytest.raises(ConfigError, match="key 'optimizer.nonsense' is unknown"):
        methods.Method.named("tpe+nonsense=1")


def test_a_run_is_told_by_its_seed():
    world, method = registry.open_world("synthetic-mix", None, Path()), methods.Method.named("evolution")
    first, again, other = (one_run.one_run(world, method, seed, 512) for seed in (1, 1, 2))
    told = [[point[:5] for point in run["points"]] for run in (first, again, other)]
    assert told[0] == told[1] != told[2]
    assert [point[0] for point in told[0]] == [256, 512]
    assert all(0 < point.calls < 5 * point.evaluations for point in first["points"])


def test_kept_replies_stand_for_the_language_model():
    world, method = registry.open_world("synthetic-mix", None, Path()), methods.Method.named("zero_shot")
    assert method.has_agent
    assert method.model == methods.MODEL
    found = one_run.one_run(world, method, seed=0, evaluations=512)
    assert found["agent_calls"] == 2  # two rounds of valid plans
    assert found["points"][-1].evaluations == 512
    assert methods.Method.named("language-model+race=true").loop == {"race": True}


def test_a_search_that_has_seen_all_ends(tmp_path):
    folder = recorded(tmp_path / "r", 1)
    space = space_over(folder, ("assistant", "vote"), nodes=2, units=3, temperature=0.0)
    task = Recorded(str(folder))
    questions = task.questions("train")
    exact = answers.Answers(Recording.read(folder), [q.id for q in questions], space.stages[0].by_name)
    every = list(plans.every_plan(space))

    def value(plan):
        return worlds.Values(float(exact.marks(plan).mean()), 0.5)

    best = worlds.best_of(every, value)
    assert (best.plans, best.search) == (6, max(value(plan).search for plan in every))
    world = worlds.World("tiny", "", space, task, questions, lambda: pool(str(folder)), value, best)
    points = one_run.one_run(world, methods.Method.named("random_search"), 0, 100_000)["points"]
    replies = Recording.read(folder).replies
    calls = sum(1 + (replies[model][q.id][0].answer is None) for model in "abc" for q in questions)
    assert points[-1].evaluations == 6 * len(questions)
    assert (
        points[-1].calls == calls
    )  # a vote of one asks what its voter asks; where there was no answer it is asked again
    assert [point.evaluations for point in points[-1 - one_run.IDLE :]] == [points[-1].evaluations] * 4


def test_the_best_is_found_once(tmp_path):
    best = worlds.Best(0.9, 0.8, 0.7, 3, [])
    assert worlds.kept(tmp_path / "deep" / "b.json", lambda: best) == best
    assert worlds.kept(tmp_path / "deep" / "b.json", lambda: pytest.fail("asked again")) == best


def test_executors_of_a_world_share_no_calls_and_keep_the_train_size():
    world = registry.open_world("synthetic-width", None, Path())
    with world.executor(3, 50) as a, world.executor(3) as b:
        few, all_ = a.task.questions("train"), b.task.questions("train")
    assert (len(few), len(all_), list(few)) == (50, len(world.questions), list(all_[:50]))
    assert a.store is not b.store
    assert a.seed == 3


def test_replies_are_asked_of_a_backend_once():
    class Counting(Synthetic):
        asked = 0

        async def reply(self, request):
            self.asked += 1
            return await super().reply(request)

    world, replies, found = registry.open_world("synthetic-width", None, Path()), {}, []
    for run_seed in (0, 0, 1):
        inner = Counting()
        backends = {"synthetic": remembering.Remembering(inner, replies)}
        models = world.space.stages[0].pool
        task = worlds.InOrder(world.task, world.questions[:16])
        with Executor(task, models, world.space.stages[0].by_name, backends, ReplyStore(), seed=run_seed) as executor:
            answered = executor.run([Job(Plan(world.task.planted.optimum.stages), task.questions("train"))])
            found.append((inner.asked, executor.counts.made, [answer.mark for answer in answered[0]]))
    assert [asked for asked, _, _ in found] == [64, 0, 64]  # another run seed, other replies
    assert [made for _, made, _ in found] == [64, 64, 64]
    assert found[0][2] == found[1][2] != found[2][2]


def test_values_of_tables_are_what_an_executor_marks():
    tabled = pytest.importorskip("quality.tabled", reason="the tables of all plans are not there")
    try:
        world = tabled.world("recall")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    found = Distribution(world.space).sample(4, 5)
    with world.executor(7) as executor:
        rows = executor.run([Job(plan, executor.task.questions("train")) for plan in found])
    assert [np.mean([answer.mark for answer in row]) for row in rows] == [world.value(plan).search for plan in found]
    assert world.value(Plan.from_compact(world.best.plan)) == (world.best.search, world.best.chosen)


def test_the_benchmark_runs_resumes_and_reports(tmp_path, capsys):
    out = tmp_path / "runs.jsonl"
    arguments = [
        f"out={out}", f"cache={tmp_path}", "worlds=synthetic-width,mmlu_pro", "evaluations=256", "seeds=2",
        "optimizers=random_search,nonsense,agent_reinforce",
    ]  # fmt: skip
    assert script.main(arguments) == 0
    said = capsys.readouterr().out
    assert "skipped mmlu_pro: its table is not there; give data=<folder of the tables>" in said
    assert "6 searches to do" in said
    assert "could not run (2 seeds): ConfigError: optimizer=nonsense is unknown" in said
    assert "agent.focus=" in said
    assert script.main(arguments) == 0
    assert "2 searches to do" in capsys.readouterr().out  # what could not run is tried again
    assert script.main([*arguments, "training=64", "jobs=2"]) == 0
    assert "== synthetic-width@64" in capsys.readouterr().out
    assert script.main([f"report={out}"]) == 0
    assert "searches to do" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("wrlds=x", "unknown: wrlds; there are data, worlds"),
        ("seeds=0", "seeds=0 must be a whole number of at least 1"),
        ("evaluations=many", "evaluations=many must be a whole number"),
        ("worlds=atlantis", "unknown worlds: atlantis; there are synthetic-width"),
        ("training=10,x", "training=10,x must be whole numbers"),
        ("report=nowhere.jsonl", "report=nowhere.jsonl is not a file"),
    ],
)
def test_bad_arguments(argument, words, capsys):
    assert script.main([argument]) == 2
    assert words in capsys.readouterr().out
