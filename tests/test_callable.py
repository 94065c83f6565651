"""A user's function as a task: what it is given, that it is called once, that every optimizer runs on it, and what is refused."""

import importlib
import itertools
import json
import math
import shlex
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from agentgraph.backends.callable import pool
from agentgraph.cli import main
from agentgraph.config import build_search, load, prepared
from agentgraph.errors import TaskError
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.model import Pool
from agentgraph.plan import Plan
from agentgraph.roles.spend import Spend
from agentgraph.roles.tally import Tally
from agentgraph.run import run
from agentgraph.run_folder import RunFolder
from agentgraph.setup import build_space
from agentgraph.store import ReplyStore
from agentgraph.tasks.callable import Callable
from agentgraph.user_function import Choices, Spent, declared, heard, told

STAGES = {
    "train": {"options": {"adam": 1}, "most": 20},
    "tune": {"options": {"adam2": 2, "sgd": 0.5}, "most": 30, "step": 3},
}
SHOWN = "task.stages={train:{options:{adam:1},most:8},tune:{options:{adam:1,sgd:0.5},most:8}}"
SMALL = ["budget.flops=8", "rounds=3", "plans_per_round=4", "finalists=2", "agent=rule_based"]
SIZES = ["task.sizes={train:3,validation:2,test:3}"]
ROLES = {"spend": Spend(name="spend"), "tally": Tally(name="tally")}
FUNCTION = """
calls = 0

def score(stages, seed):
    share = stages["tune"].budget / sum(one.budget for one in stages.values())
    used = sum(one.budget for one in stages.values()) / 8
    return used * ((1 if stages["tune"].option == "adam" else 0.5) - (share - 0.375) ** 2) - seed * 1e-6

def breaks(stages, seed):
    if stages["train"].count > 2:
        raise ValueError(f"no more\\nthan two")
    return 0.5

def wide(stages, seed):
    return 7

def text(stages, seed):
    return "0.5"
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(FUNCTION)
    return f"{tmp_path}/mine.py"


class Recorder:
    """A function that remembers what it was given."""

    def __init__(self, score=lambda stages, seed: 0.5):  # noqa: ARG005
        self.score, self.given = score, []

    def __call__(self, stages, seed):
        self.given.append((tuple(stages.items()), seed))
        return self.score(stages, seed)


def stage(*options, sink=True):
    """Steps side by side under a tally, or one alone."""
    nodes = tuple(Node("spend", option) for option in options)
    n = len(nodes)
    return Graph((*nodes, Node("tally")), tuple((i, n) for i in range(n))) if sink else Graph(nodes)


def answers(function, *plans, stages=STAGES, seeds=2, store=None, **settings):
    """What plans come to on the first seeds."""
    task = Callable(stages, **settings)
    models, backends = pool(stages, function=function, **settings)
    questions = task.questions("train")[:seeds]
    with Executor(task, models, ROLES, backends, ReplyStore() if store is None else store) as executor:
        return executor.run([Job(plan, questions) for plan in plans]), executor


# ---- what the function is given


def test_function_is_given_option_count_and_budget_of_each_stage_and_the_seed():
    function = Recorder(lambda stages, seed: stages["train"].count / 20 + seed / 100)
    plan = Plan((stage(*["adam"] * 5), stage(*["sgd"] * 4)))
    (rows,), _ = answers(function, plan)
    given = (("train", Spent("adam", 5, 5.0)), ("tune", Spent("sgd", 12, 6.0)))
    assert function.given == [(given, 0), (given, 1)]
    assert [row.mark for row in rows] == [0.25, 0.26]
    assert [row.charge.flops for row in rows] == [11.0, 11.0]


def test_price_is_the_sum_of_the_budgets():
    setup = build_search(
        load("search", prepared(["task=callable", SHOWN, "task.function=json:loads", "budget.flops=8"], "search"))
    )
    models, backends = setup.pool, setup.backends
    with Executor(setup.task, models, ROLES, backends, ReplyStore()) as executor:
        space, _ = build_space(setup, executor)
    for a in range(1, 5):
        for b in range(1, 5):
            plan = Plan((stage(*["adam"] * a), stage(*["sgd"] * b)))
            assert space.price(plan).flops == a + b / 2
            assert space.feasible(plan)
    assert not space.feasible(Plan((stage(*["adam"] * 7), stage(*["adam"] * 2))))
    assert [one.pool.names for one in space.stages] == [("adam",), ("adam", "sgd")]
    assert [one.max_nodes for one in space.stages] == [9, 9]


def test_one_step_alone_is_the_same_as_under_a_tally():
    function = Recorder()
    answers(function, *(Plan((stage("adam", sink=a), stage("sgd", sink=b))) for a in (0, 1) for b in (0, 1)))
    assert Counter(function.given) == {
        ((("train", Spent("adam", 1, 1.0)), ("tune", Spent("sgd", 3, 1.5))), s): 1 for s in (0, 1)
    }


def test_steps_of_several_options_go_to_the_one_that_most_is_spent_on():
    tune = Choices("tune", {"adam2": 2, "sgd": 0.5}, 30, 3)
    assert tune.spent({"sgd": 3, "adam2": 1}) == Spent("adam2", 3, 6.0)  # 6 and 4.5: 10.5 buys one step of 6
    assert tune.spent({"sgd": 5, "adam2": 1}) == Spent("sgd", 27, 13.5)  # 7.5 and 6: nine steps of 1.5
    assert tune.spent({"sgd": 10, "adam2": 2}) == Spent("sgd", 30, 15.0)  # no more than most
    for a in range(6):
        for b in range(6):
            spent = tune.spent({"sgd": a, "adam2": b})
            assert spent.budget <= 1.5 * a + 6 * b
            assert spent.count % 3 == 0


def test_lines_are_read_as_they_were_written():
    stages = declared(STAGES)
    spent = {"train": Spent("adam", 7, 7.0), "tune": Spent("sgd", 6, 3.0)}
    line = told("seed 4", spent, stages)
    assert line == "seed 4 | train adam×7 | tune sgd×2"
    assert heard(line, stages) == ("seed 4", spent)
    listed = "seed 4 | train adam×7 | tune sgd×2 + seed 4 | train adam×7 | tune adam2"
    assert heard(listed, stages) == ("seed 4", {"train": spent["train"], "tune": Spent("adam2", 3, 6.0)})


def test_three_stages_hand_on_all_that_came_before():
    three = {name: {"options": {name: 1}, "most": 9} for name in "abc"}
    function = Recorder()
    answers(function, Plan((stage("a", "a"), stage("b"), stage("c", "c", "c"))), stages=three, seeds=1)
    assert function.given == [((("a", Spent("a", 2, 2.0)), ("b", Spent("b", 1, 1.0)), ("c", Spent("c", 3, 3.0))), 0)]


def test_one_stage():
    function = Recorder()
    answers(function, Plan((stage("a", "a"),)), stages={"only": {"options": {"a": 2}, "most": 4}}, seeds=1)
    assert function.given == [((("only", Spent("a", 2, 4.0)),), 0)]


# ---- marks, the store, what is known without a call


@pytest.mark.parametrize(("score", "mark"), [(-2, 0.0), (0, 0.5), (1.5, 0.875), (2, 1.0)])
def test_scores_are_mapped_to_marks(score, mark):
    (rows,), _ = answers(lambda *_: score, Plan((stage("adam"), stage("sgd"))), low=-2, high=2)
    assert {row.mark for row in rows} == {mark}


def test_a_setting_and_seed_are_never_called_twice(tmp_path):
    function, path = Recorder(), tmp_path / "replies.jsonl"
    plans = [Plan((stage(*["adam"] * a), stage(*["sgd"] * b))) for a in (1, 2) for b in (1, 2)]
    store = ReplyStore(path)
    first, _ = answers(function, *plans, *plans, store=store, identity="mine")
    store.close()
    assert len(function.given) == len(set(function.given)) == 8
    store = ReplyStore(path)
    again, executor = answers(None, *plans, store=store, identity="mine")  # the function is not there any more
    assert executor.counts.made == 0
    assert again == first[:4]
    with pytest.raises(
        TaskError, match=r"no score is known of train adam×1 \(budget 1\), tune sgd×3 .*, seed [01], and the function"
    ):
        answers(None, *plans, store=store, identity="another")
    store.close()


def test_what_is_known_needs_the_function_to_have_been_called():
    task, function = Callable(STAGES), Recorder(lambda stages, _: stages["train"].count / 20)
    models, backends = pool(STAGES, function=function)
    questions = task.questions("train")[:2]
    plans = [Plan((stage(*["adam"] * a), stage(*["sgd"] * b))) for a, b in ((2, 2), (2, 3))]
    same = Plan((stage("adam", "adam"), stage("sgd", "sgd")))
    with Executor(task, models, ROLES, backends, ReplyStore()) as executor:
        before = executor.known(same, questions)
        executor.run([Job(plan, questions) for plan in plans[:1]])
        known, missing = executor.known(same, questions), executor.known(plans[1], questions)
    assert before.new_calls > 0
    assert known.marks.tolist() == [0.1, 0.1]
    assert known.new_calls == 0
    assert missing.new_calls == 2  # the function, once for each seed: all steps have been asked
    assert known.calls == 2 * 5


# ---- searches


@pytest.mark.parametrize(
    "optimizer", ["random_search", "tpe", "evolution", "reinforce", "nsga2", "agent_tts", "agent_reinforce"]
)
def test_every_optimizer_finds_its_way(mine, optimizer):
    chosen = ["task=callable", SHOWN, f"task.function={mine}:score", f"optimizer={optimizer}", *SMALL, *SIZES]
    setup = build_search(load("search", prepared(chosen, "search")))
    result = run(setup)
    prices = [trial.price.flops for trial in result.archive.trials]
    assert max(prices) <= 8
    assert all(trial.charge.flops == pytest.approx(trial.price.flops) for trial in result.archive.trials)
    assert all(0 <= mark <= 1 for trial in result.archive.trials for mark in trial.marks.values())


def test_agent_tts_finds_the_share(mine):
    chosen = ["task=callable", SHOWN, f"task.function={mine}:score", "optimizer=agent_tts", *SMALL, *SIZES, "rounds=6"]
    plan = run(build_search(load("search", prepared(chosen, "search")))).best.plan()
    counts = [sum(bool(node.model) for node in graph.nodes) for graph in plan.stages]
    assert counts == [5, 3]  # 0.375 of 8
    assert {node.model for node in plan.stages[1].nodes if node.model} == {"adam"}


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a command: exit status, what was printed, the last line on standard error."""

    def run_(*arguments):
        monkeypatch.setattr(sys, "argv", ["agentgraph", *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return status, said.out, (said.err.splitlines() or [""])[-1]

    return run_


def test_search_goes_on_and_is_replayed_only_with_the_function_named_again(call, mine, tmp_path):
    kept, again = tmp_path / "kept", f"task.function={mine}:score"
    search = ["search", "task=callable", SHOWN, *SMALL, *SIZES, f"hydra.run.dir={kept}"]
    status, out, said = call(*search, again, "optimizer=agent_tts", "race=false", "rounds=2")
    assert status == 0, said
    assert again in shlex.split(out.splitlines()[-1])  # how to replay it is said, not kept
    for path in (path for path in kept.rglob("*") if path.is_file()):
        assert "mine.py" not in path.read_text(), path
    assert "  identity: score" in (kept / "config.yaml").read_text()

    before = (kept / "trials.jsonl").read_bytes()
    status, _, said = call("search", f"run={kept}", "rounds=4")
    assert status == 1
    assert (
        "the function that gives it is not named: a run's folder and a plan never keep it; add task.function=" in said
    )
    assert (kept / "trials.jsonl").read_bytes() == before
    status, _, said = call("search", f"run={kept}", "rounds=4", again)
    assert status == 0, said
    assert (kept / "trials.jsonl").read_bytes().startswith(before)
    assert "mine.py" not in (kept / "config.yaml").read_text()

    assert call("verify", f"run={kept}")[0] == 0  # replies alone say it all
    assert call("show", f"plan={kept}/best.json")[0] == 0
    replay = ["replay", f"plan={kept}/best.json", "task=callable", SHOWN, *SIZES]
    status, _, said = call(*replay)
    assert (status, said) == (1, "agentgraph: task.function=… must be given; see 'agentgraph replay --help'")
    status, out, _ = call(*replay, again)
    assert status == 0
    assert " 0 made" in out


def test_a_function_that_raises_ends_the_search_in_one_line_and_what_was_found_is_kept(call, mine, tmp_path):
    kept = tmp_path / "kept"
    search = ["task=callable", SHOWN, *SMALL, *SIZES, "optimizer=agent_tts", "race=false", f"hydra.run.dir={kept}"]
    status, _, said = call("search", *search, f"task.function={mine}:breaks")
    assert status == 1
    assert said.startswith(f"agentgraph: task.function={mine}:breaks for train adam×")
    assert "), seed " in said
    assert (
        "raised ValueError: no more than two; mend it (scores and trials so far are kept, go on with agentgraph" in said
    )
    paid = (kept / "replies.jsonl").read_text().splitlines()
    assert any('"text":"0.5"' in line for line in paid)
    Path(mine).write_text(FUNCTION.replace("> 2", "> 200"))
    status, _, said = call("search", f"run={kept}", f"task.function={mine}:breaks")
    assert status == 0, said
    assert (kept / "replies.jsonl").read_text().splitlines()[: len(paid)] == paid


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "wide",
            "gave 7, outside of task.low=0 to task.high=1; start a new search with a wider range, task.high=7 or beyond",
        ),
        ("text", r"gave '0.5'; it must give a finite number"),
        ("breaks", "raised ValueError: no more than two; mend it"),
    ],
)
def test_bad_scores(mine, name, expected):
    plan = Plan((stage(*["adam"] * 3), stage("sgd")))
    with pytest.raises(
        TaskError, match=rf"task.function={mine}:{name} for train adam×3 \(budget 3\), .*, seed [01] {expected}"
    ):
        answers(f"{mine}:{name}", plan)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None, True])
def test_scores_that_are_no_numbers(score):
    with pytest.raises(TaskError, match=rf"seed [01] gave {score!r}; it must give a finite number"):
        answers(lambda *_: score, Plan((stage("adam"), stage("sgd"))))


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ({}, r"task.stages={} must give each stage its options"),
        ([1], r"task.stages=\[1\] must give each stage"),
        ({"a": 3}, "task.stages.a=3 must have options and most"),
        ({"a": {"options": {"x": 1}}}, "must have options and most, and may have step"),
        ({"a": {"options": {"x": 1}, "most": 3, "least": 1}}, "must have options and most, and may have step"),
        ({"a": {"options": {}, "most": 3}}, r"task.stages.a.options={} must give one or more options their cost"),
        ({"a": {"options": {"x": 0}, "most": 3}}, "task.stages.a.options.x=0 must be a positive number"),
        ({"a": {"options": {"x": "1"}, "most": 3}}, "task.stages.a.options.x='1' must be a positive number"),
        ({"a": {"options": {"x y": 1}, "most": 3}}, "task.stages.a: the option 'x y' may have letters"),
        (
            {"a": {"options": {"score": 1}, "most": 3}},
            "the option 'score' may have letters.* and not be 'score'; rename it",
        ),
        ({"a b": {"options": {"x": 1}, "most": 3}}, "the stage name 'a b' may have letters"),
        ({"a": {"options": {"x": 1}, "most": 0}}, "task.stages.a.most=0 must be a whole number of at least 1"),
        ({"a": {"options": {"x": 1}, "most": 3, "step": 1.5}}, "task.stages.a.step=1.5 must be a whole number"),
        ({"a": {"options": {"x": 1}, "most": 3, "step": 4}}, "task.stages.a.step=4 is more than most=3"),
        (
            {"a": {"options": {"x": 1}, "most": 3}, "b": {"options": {"x": 2}, "most": 3}},
            "a step of the option 'x' costs 1 in stage 'a' and 2 in 'b'; give it two names",
        ),
    ],
)
def test_bad_stages(stages, expected):
    with pytest.raises(TaskError, match=expected):
        Callable(stages)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (float("nan"), 1), ("0", 1), (0, None)])
def test_bad_range(low, high):
    with pytest.raises(TaskError, match=f"task.low={low!r}, task.high={high!r} must be two numbers, the first below"):
        Callable(STAGES, low=low, high=high)


@pytest.mark.parametrize("workers", [0, 1.5, None])
def test_bad_workers(workers):
    with pytest.raises(TaskError, match=f"task.workers={workers!r} must be a whole number of at least 1"):
        pool(STAGES, workers=workers)


def test_check_asks_options_in_their_stages_and_the_function_about_them(call, mine):
    status, out, err = call("check", "task=callable", SHOWN, f"task.function={mine}:score")
    assert status == 0, err
    rows = {line.split()[0]: line for line in out.splitlines() if "ok, mark" in line}
    assert set(rows) == {"adam", "sgd", "score"}


def test_function_that_is_not_there(call, mine):
    status, _, said = call("search", "task=callable", SHOWN, f"task.function={mine}:nothing")
    assert status == 1
    assert "has no function 'nothing'" in said
    status, _, said = call("search", "task=callable", SHOWN)
    assert (status, said) == (1, "agentgraph: task.function=… must be given; see 'agentgraph search --help'")
    status, _, said = call("search", "task=callable", f"task.function={mine}:score")
    assert (status, said) == (1, "agentgraph: task.stages=… must be given; see 'agentgraph search --help'")


def test_option_of_another_stage():
    with pytest.raises(TaskError, match="stage 'train' has no option 'sgd'; it has adam"):
        answers(Recorder(), Plan((stage("sgd"), stage("sgd"))))


def test_models_of_the_options():
    models, _ = pool(STAGES)
    assert isinstance(models, Pool)
    assert models.names == ("adam", "adam2", "sgd", "score")


def test_a_folder_of_the_run_is_written(tmp_path, mine):
    chosen = ["task=callable", SHOWN, f"task.function={mine}:score", "optimizer=random_search", *SMALL, *SIZES]
    run(build_search(load("search", prepared(chosen, "search"))), folder=RunFolder(tmp_path / "run"))
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    assert [one["name"] for one in best["stages"]] == ["train", "tune"]
    assert "score" not in best["models"]


# ---- the two worked examples


@pytest.fixture
def example(monkeypatch):
    """Imports a script of `benchmarks`."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    return importlib.import_module


@pytest.mark.parametrize("name", ["qat_split", "teacher_split"])
def test_the_examples_search_their_splits(example, name, capsys, tmp_path):
    script = example(name)
    script.main(["--smoke", f"out={tmp_path}/rows.json"])
    rows = json.loads((tmp_path / "rows.json").read_text())
    for row in rows:
        assert 0 < row["first"] + row["second"] <= row["total"]
        assert 0 < row["score"] < 1
        for fixed, difference in row["less"].items():
            assert difference[0] == pytest.approx(row["score"] - row["naive"][fixed])
    assert capsys.readouterr().out.count("\n| ") >= len(rows)


@pytest.mark.parametrize(
    ("name", "first", "second"), [("qat_split", "fp", "qat"), ("teacher_split", "teacher", "student")]
)
def test_the_examples_scores_are_their_seeds(example, name, first, second):
    script = example(name)
    given = {first: Spent("step", 4, 4.0), second: Spent("step", 8, 8.0)}
    scores = [script.score(given, seed) for seed in range(4)]
    assert len(set(scores)) == 4
    script.trained.cache_clear()
    assert [script.score(given, seed) for seed in range(4)] == scores


def test_the_example_quantises_to_two_bits_and_trains_through_it(example):
    script = example("qat_split")
    w = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    levels = script.quantised_weights(w)
    assert all(len(levels[g, :, j].detach().round(decimals=4).unique()) <= 4 for g in range(3) for j in range(8))
    levels.sum().backward()
    assert (w.grad == 1).all()
    active = script.quantised_activations(torch.relu(w.detach()))
    assert all(len(active[g].round(decimals=4).unique()) <= 4 for g in range(3))
    assert script.BYTES == (16 * 32 + 3 * 32 * 32 + 32 * 8) / 4
    x, y = torch.randn(3, 5, 16), torch.zeros(3, 5, dtype=torch.int64)
    weights = [torch.zeros(3, a, b) for a, b in itertools.pairwise(script.WIDTHS)]
    assert script.losses(weights, x, y, quantised=False).tolist() == pytest.approx([math.log(8)] * 3)


def test_the_clips_of_the_example_move(example):
    script = example("teacher_split")
    clips = script.clips([torch.Generator().manual_seed(seed) for seed in (0, 1)], 50)
    frames = clips.reshape(2, 50, script.FRAMES, script.SIDE, script.SIDE)
    assert set(frames.unique().tolist()) == {0.0, 1.0}
    assert set(frames.sum((-1, -2)).unique().tolist()) == {5.0, 9.0}  # a cross and a square
    shifts = [
        torch.roll(frames, (d, a), (-2, -1))
        for d, a in ((1, 0), (-1, 0), (0, 1), (0, -1), (2, 0), (-2, 0), (0, 2), (0, -2))
    ]
    moved = torch.stack([(shift[:, :, :-1] == frames[:, :, 1:]).all(-1).all(-1).all(-1) for shift in shifts])
    assert (moved.sum(0) == 1).all()  # each clip one way, at one speed
    assert moved.any(-1).any(-1).all()


def test_the_probe_of_the_example(example):
    script = example("teacher_split")
    stream = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 400, 5, generator=stream) for _ in range(2))
    assert script.probe(x, 3 * x[..., :2] - 1, y, 3 * y[..., :2] - 1) == pytest.approx([1, 1], abs=1e-3)
    assert script.probe(x, torch.randn(2, 400, 2, generator=stream), y, y[..., :2]) == pytest.approx([0, 0], abs=0.05)


def test_shares_are_fitted_over_runs_at_several_budgets(call, mine, tmp_path):
    search = ["search", "task=callable", SHOWN, f"task.function={mine}:score", "optimizer=agent_tts", *SIZES]
    for units in (4, 8):
        chosen = [f"budget.flops={units}", "rounds=2", "race=false", f"hydra.run.dir={tmp_path}/at{units}"]
        assert call(*search, *chosen)[0] == 0
    status, out, said = call("fit", f"run=[{tmp_path}/at4,{tmp_path}/at8]", "plot=false")
    assert status == 0, said
    assert "share of train" in out
    assert "share of tune" in out
    assert out.count("not to be relied on: a law needs three plans at two budgets, and no share of 0") == 2
