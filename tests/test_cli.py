"""Every command through `main`, on a server that answers as scripted; every bad input is one line and status 1."""

import json
import re
import shlex
import signal
import sys
import threading
from pathlib import Path

import pytest
from generators import random_plan_file
from servers.loopback import chat, error

from agentgraph.cli import main
from agentgraph.plan_file import PlanFile
from agentgraph.tasks import calc

SMALL = ["rounds=2", "plans_per_round=2", "questions_per_round=4", "max_nodes=3", "budget.units=3", "finalists=2"]
SIZES = ["task.sizes.train=8", "task.sizes.validation=4", "task.sizes.test=4"]


def knows(body, _number):
    """Answers calc questions: `big` always right, `tiny` right on odd factors."""
    question = re.findall(r"[\d*]{10,}", body["messages"][-1]["content"])[0]
    right = body["model"] == "big" or calc.kind(question) == "odd"
    return chat(calc.answer(question) if right else "000")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


@pytest.fixture
def pool(place, loopback):
    """A pool file of two models that a scripted server serves."""
    loopback.script = knows
    loopback.models = ("tiny", "big")
    path = place / "pool.yaml"
    path.write_text(
        "members:\n"
        f"  tiny: {{parameters: 1e9, layers: 16, hidden_size: 2048, base_url: {loopback.url!r}}}\n"
        f"  big: {{parameters: 2e9, layers: 16, hidden_size: 2048, base_url: {loopback.url!r}}}\n"
    )
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command: exit status, what was printed, what was said on standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["agentgraph", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def fails(run, place):
    """Runs a command that must fail in one line and leave nothing half written."""

    def call(*arguments, shows):
        status, out, err = run(*arguments)
        assert status == 1, (out, err)
        lines = [line for line in err.splitlines() if line.startswith("agentgraph: ")]
        assert len(lines) == 1, err
        assert lines == err.splitlines()[-1:]
        assert "Traceback" not in out + err
        assert re.search(shows, lines[0]), lines[0]
        left = [path for path in place.rglob("*") if path.name.endswith(".tmp") or path.name == "best.json"]
        assert not [path for path in left if "kept" not in path.parts]
        return lines[0]

    return call


@pytest.fixture
def plan(place):
    """A plan file for the pool's models."""
    path = place / "plan.json"
    made = random_plan_file(3, stages=1)
    made.write(path)
    return path


# ---- every command


def test_search_show_replay_and_go_on(run, fails, pool, place, loopback):
    kept = place / "kept"
    status, out, err = run("search", f"models={pool}", *SMALL, *SIZES, f"hydra.run.dir={kept}")
    assert status == 0, err
    assert "Test questions: 4 (used for nothing else). Budget 3 units." in out
    assert "found plan" in out
    assert f"Replay: agentgraph replay plan={kept}/best.json task=calc" in out
    names = {path.name for path in kept.iterdir()}
    assert {
        "best.json",
        "config.yaml",
        "front.json",
        "replies.jsonl",
        "state.json",
        "summary.json",
        "trials.jsonl",
    } <= names
    assert loopback.url not in (kept / "best.json").read_text() + (kept / "trials.jsonl").read_text()
    best = json.loads((kept / "best.json").read_text())
    score = next(score for score in best["scores"] if score["split"] == "test")

    said = shlex.split(re.search(r"Replay: agentgraph (replay .*)", out)[1])
    calls = len(loopback.chats)
    status, out, err = run(*said)
    assert status == 0, err
    assert " 0 made" in out
    assert len(loopback.chats) == calls
    assert f"{score['accuracy']:.4f}" in out

    status, out, _ = run("show", f"plan={kept}/best.json")
    assert status == 0
    assert "tiny" in out or "big" in out
    for suffix in ("mmd", "txt", "svg"):
        assert run("show", f"plan={kept}/best.json", f"out={place}/p.{suffix}")[0] == 0
        assert (place / f"p.{suffix}").stat().st_size > 50

    before = (kept / "trials.jsonl").read_bytes()
    status, out, err = run("search", f"run={kept}", "rounds=3")
    assert status == 0, err
    assert (kept / "trials.jsonl").read_bytes().startswith(before)
    assert "rounds: 3" in (kept / "config.yaml").read_text()

    now = (kept / "trials.jsonl").read_bytes()
    fails(
        "search",
        f"run={kept}",
        "seed=7",
        shows=rf"run={kept} was started with seed=0, got seed=7; .*only rounds may grow",
    )
    fails("search", f"run={kept}", "rounds=1", shows="was started with rounds=3, got rounds=1")
    fails("search", f"run={kept}", "task=recall", shows="task=recall")
    (kept / "config.yaml").write_text("a: [")
    fails("search", f"run={kept}", shows=f"{kept}/config.yaml")
    assert (kept / "trials.jsonl").read_bytes() == now

    fails(
        "replay",
        f"plan={kept}/best.json",
        "task=calc",
        f"models={place}/other.yaml",
        shows="cannot read the model pool",
    )
    (place / "other.yaml").write_text(pool.read_text().replace("tiny:", "small:").replace("big:", "large:"))
    fails(
        "replay",
        f"plan={kept}/best.json",
        f"models={place}/other.yaml",
        shows=r"the pool has no model '(\w+)'; it has small, large; map it with replace\.\1=",
    )


def test_pick(run, fails, pool, place, loopback):
    kept = place / "kept"
    assert run("search", f"models={pool}", *SMALL, *SIZES, f"hydra.run.dir={kept}")[0] == 0
    calls = len(loopback.chats)
    names = {path.name for path in kept.iterdir()}
    status, out, err = run("pick", f"run={kept}", "budget.units=1.5")
    assert status == 0, err
    assert len(loopback.chats) == calls
    assert {path.name for path in kept.iterdir()} - names == {"picked.json"}
    picked = PlanFile.read(kept / "picked.json")
    assert picked.price.units <= 1.5 == picked.budget.units
    assert re.search(rf"^\* {picked.plan().id}", out, flags=re.MULTILINE)
    assert run("show", f"plan={kept}/picked.json")[0] == 0
    assert run(*shlex.split(re.search(r"Replay: agentgraph (replay .*)", out)[1]))[0] == 0
    calls = len(loopback.chats)
    assert run("pick", f"run={kept}", f"out={place}/p.json")[0] == 0  # without a budget: what validation chose
    unlimited, best = PlanFile.read(place / "p.json"), PlanFile.read(kept / "best.json")
    assert [s.accuracy for p in (unlimited, best) for s in p.scores if s.split == "validation"] == [
        best.scores[0].accuracy
    ] * 2
    fails("pick", f"run={kept}", "budget.units=0.5", shows=r"fits budget.units=0.5: the cheapest costs 1 units; allow")
    assert len(loopback.chats) == calls


def test_budget_in_dollars_and_calls(run, pool, place):
    pool.write_text(pool.read_text().replace("hidden_size: 2048,", "hidden_size: 2048, usd: {call: 0.001},"))
    kept = place / "kept"
    small = [override for override in SMALL if not override.startswith("budget")]
    limits = ["budget.usd=0.0025", "budget.calls=9"]
    status, out, err = run("search", f"models={pool}", *small, *SIZES, *limits, f"hydra.run.dir={kept}")
    assert status == 0, err
    assert "Budget 9 calls, 0.0025 USD." in out
    assert "of 0.0025 USD" in err
    assert re.search(r"charge \d of 9 calls, 0\.00\d of 0\.0025 USD", out)
    assert "inf " not in out + err
    best = json.loads((kept / "best.json").read_text())
    assert {name: limit for name, limit in best["budget"].items() if limit is not None}.keys() == {
        "unit_flops",
        "calls",
        "usd",
    }
    for line in (kept / "trials.jsonl").read_text().splitlines():
        price = json.loads(line)["price"]
        assert price["calls"] <= 2
        assert price["usd"] == pytest.approx(0.001 * price["calls"])

    bare = place / "bare.yaml"  # a pool that does not say what a call costs: the plan does
    bare.write_text(pool.read_text().replace(" usd: {call: 0.001},", ""))
    limited = {**best, "budget": {**best["budget"], "usd": 0.0005}}
    (kept / "cheap.json").write_text(json.dumps(limited))
    status, out, err = run("replay", f"plan={kept}/cheap.json", "task=calc", f"models={bare}", *SIZES)
    assert status == 0, err
    assert re.search(r"Note: here it costs \d of 9 calls, 0\.00\d of 0\.0005 USD, more than its budget", out)


def test_check(run, pool, loopback):
    status, out, _ = run("check", f"models={pool}", "task=calc")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == f"{loopback.url}: serves big, tiny"
    assert lines[3].split() == ["model", "units", "FLOPs", "USD", "seconds", "tokens/s", "answer"]
    assert re.fullmatch(r"tiny +1\.00 +\d\S+ +- +\S+ +[\d,]+  ok, mark [01]", lines[4])
    assert re.fullmatch(r"big +\d\.\d\d +\d\S+ +- +\S+ +[\d,]+  ok, mark 1", lines[5])
    assert max(map(len, lines)) <= 120
    assert [body["model"] for body in loopback.chats] == ["tiny"] * 9 + ["big"] * 9
    loopback.script = lambda _body, _number: chat("")
    status, out, _ = run("check", f"models={pool}", "task=recall")
    assert "no answer that can be read: empty" in out


def test_check_by_names_of_the_catalog(run, place, loopback):
    loopback.script = lambda _body, _number: chat("042")
    names = ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-7B-Instruct", *(f"org/{'x' * 30}{i}" for i in range(9)))
    loopback.models = names
    chosen = ["models=openai_server", "models.use=[llama-3.1-8b,qwen2.5-7b]", f"models.base_url={loopback.url}"]
    status, out, _ = run("check", *chosen)
    assert status == 0
    assert re.search(r"\nllama-3.1-8b +1\.\d\d +\S+ +\d\.?\d*e-06 +", out)
    assert max(map(len, out.splitlines())) == 120
    assert "…" in out.splitlines()[0]
    # A server that answers by whatever model it has must not pass for another.
    loopback.models = ("meta-llama/Llama-3.1-8B-Instruct", "qwen:latest")
    status, out, _ = run("check", *chosen)
    assert status == 1
    line = out.splitlines()[-1]
    assert f"FAILED: {loopback.url} does not list 'Qwen/Qwen2.5-7B-Instruct'; change served_as to a name" in line
    assert {body["model"] for body in loopback.chats[-9:]} == {"meta-llama/Llama-3.1-8B-Instruct"}
    (place / "pool.yaml").write_text(f"members: {{qwen: {{parameters: 1e9, base_url: {loopback.url!r}}}}}")
    assert run("check", "models=pool.yaml")[0] == 0  # as Ollama lists them


def test_check_of_a_server_that_lists_nothing(run, pool, loopback):
    loopback.models = None
    status, out, _ = run("check", f"models={pool}")
    assert status == 0
    assert out.startswith(f"{loopback.url}: FAILED: {loopback.url} answered 404")
    assert out.count("ok, mark") == 2


def test_several_seeds(run, pool, place):
    status, out, err = run(
        "search", "--multirun", f"models={pool}", *SMALL, *SIZES, "seed=0,1", f"hydra.sweep.dir={place}/sweep"
    )
    assert status == 0, err
    assert out.count("Test questions: 4") == 2
    for number in "01":
        assert (place / "sweep" / number / "best.json").exists()
        assert f"seed: {number}" in (place / "sweep" / number / "config.yaml").read_text()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"], ["--version"]])
def test_help(run, arguments):
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert "agentgraph" in out


@pytest.mark.parametrize("command", ["search", "pick", "replay", "show", "check"])
@pytest.mark.usefixtures("place")
def test_help_of_each_command(run, command):
    status, out, err = run(command, "--help")
    assert (status, err) == (0, "")
    assert f"agentgraph {command}" in out
    assert "== Settings ==" in out
    if command == "search":
        assert "rounds: 12" in out


def test_all_settings_are_shown(run, place):
    status, out, err = run("search", "--cfg", "job", "rounds=5", "task=recall")
    assert (status, err) == (0, "")
    assert "rounds: 5" in out
    assert "agentgraph.tasks.recall.Recall" in out
    assert list(place.iterdir()) == []


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "shows"),
    [
        (["serach"], "'serach' is no command; there are search, pick, replay, verify, fit, show, check"),
        (["search", "task=chess"], "task=chess is unknown; there are 2wikimultihopqa, aime, calc, .*recall"),
        (["search", "optimizer=adam"], "optimizer=adam is unknown; there are agent_hpo, agent_reinforce, "),
        (["search", "models=gpt"], "models=gpt is unknown; there are callable, embedded, "),
        (["search", "role=[judge]"], "role=judge is unknown; there are assistant, "),
        (["search", "agent=human"], "agent=human is unknown; there are language_model, rule_based"),
        (["search", "rouds=3"], "the key 'rouds' is unknown; see 'agentgraph search --help'"),
        (["search", "models=none.yaml"], "cannot read the model pool .*none.yaml: No such file"),
        (["search", "run=nowhere"], "run=nowhere is no run folder: it has no config.yaml"),
        (["pick"], "run=… must be given"),
        (["pick", "run=nowhere"], "run=nowhere is no run folder"),
        (["pick", "run=.", "budget.unit=3"], "the key 'budget.unit' is unknown; see 'agentgraph pick --help'"),
        (["pick", "run=.", "objective=speed"], "objective=speed is unknown; there are accuracy, constrained, weighted"),
        (["pick", "run=."], "run=. is not finished: it has no front.json; go on with: agentgraph search run=."),
        (["replay"], "plan"),
        (["show"], "plan"),
        (["show", "plan=none.json"], "none.json"),
        (["show", "plans=x"], "the key 'plans' is unknown"),
        (["check", "models=gpt"], "models=gpt is unknown"),
    ],
)
def test_bad_command_line(fails, arguments, shows):
    fails(*arguments, shows=shows)


@pytest.mark.parametrize(
    ("arguments", "shows"),
    [
        (["budget.units=0.5"], r"\(0\.5 units\) buys no call: .*'tiny'"),
        (["budget.units=0"], "the budget must be positive, got 0"),
        (["budget.units=many"], "budget.units='many' must be a number"),
        (["budget.flops=1e15"], "budget.units=3 with budget.flops=1000000000000000.0: give one"),
        (
            ["task.sizes.train=1000000"],
            r"has 2000 train questions, 1000000 were asked for; set task.sizes.train to 1\.\.",
        ),
        (["task.sizes.test=x"], "task.sizes.test='x' is not a whole number"),
        (["rounds=0"], "rounds=0 must be"),
        (["rounds=few"], "rounds='few' must be a whole number"),
        (["seed=-1"], "seed=-1 must be"),
        (["seed=x"], "seed='x' must be"),
        (["max_nodes=0"], "max_nodes=0"),
        (["failure_share=2"], "failure_share=2 must be in"),
        (["task=jsonl", "~task.sizes"], "path"),
        (["role=[vote]"], r"roles \['vote'\] cannot solve a question"),
        (["role.assistant.settings.temperature=-1"], r"temperature must be in \[0, 5\], got -1"),
        (["agent=language_model", "agent.model=writer"], "the pool has no model 'writer'; it has tiny, big"),
    ],
)
def test_bad_settings_of_a_search(fails, pool, place, loopback, arguments, shows):
    given = [*SMALL, *(() if "task=jsonl" in arguments else SIZES)]
    keys = {argument.split("=")[0] for argument in arguments}
    fails("search", f"models={pool}", *(g for g in given if g.split("=")[0] not in keys), *arguments, shows=shows)
    assert loopback.chats == []
    assert not list(place.rglob("config.yaml"))  # no run folder is left


@pytest.mark.parametrize(
    ("lines", "shows"),
    [
        (['{"question": "Why?"}'], r"mine.jsonl, line 1 has no 'gold' \(fields: question\)"),
        (['{"question": "Why?", "gold": "x"}', "nonsense"], "mine.jsonl, line 2 is not JSON"),
        ([json.dumps({"question": f"{i}?", "gold": "1"}) for i in range(9)], "has 9 distinct questions, .*at least 48"),
    ],
)
def test_bad_questions(fails, pool, place, lines, shows):
    (place / "mine.jsonl").write_text("\n".join(lines))
    fails("search", f"models={pool}", "task=jsonl", "task.path=mine.jsonl", shows=shows)
    fails("check", f"models={pool}", "task=jsonl", "task.path=mine.jsonl", shows=shows)


def test_own_questions(run, pool, place, loopback):
    loopback.script = lambda body, _number: chat(f"Answer: {body['messages'][-1]['content'][:1]}")
    rows = [json.dumps({"question": f"{i % 9} then {i}?", "gold": str(i % 9)}) for i in range(80)]
    (place / "mine.jsonl").write_text("\n".join(rows))
    kept = place / "a folder"
    status, out, err = run(
        "search", f"models={pool}", "task=jsonl", "task.path=mine.jsonl", *SMALL, f"hydra.run.dir='{kept}'"
    )
    assert status == 0, err
    calls = len(loopback.chats)
    status, out, err = run(*shlex.split(re.search(r"Replay: agentgraph (replay .*)", out)[1]))
    assert status == 0, err
    assert " 0 made" in out
    assert len(loopback.chats) == calls


def edited(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def cycle(data):
    edges = data["stages"][0]["graph"]["edges"]
    edges.append({"source": edges[0]["target"], "target": edges[0]["source"]})


@pytest.mark.parametrize("command", ["show", "replay"])
@pytest.mark.parametrize(
    ("change", "shows"),
    [
        (lambda data: data.update(format=9), r"format.*9|9.*format"),
        (lambda data: data["roles"]["assistant"].update(kind="judge"), "judge"),
        (lambda data: data.pop("models"), "models"),
        (cycle, "cycle"),
    ],
)
def test_bad_plan(fails, pool, plan, command, change, shows):
    edited(plan, change)
    more = [f"models={pool}"] if command == "replay" else []
    line = fails(command, f"plan={plan}", *more, shows=shows)
    assert str(plan) in line or plan.name in line


def test_plan_that_is_no_plan(fails, pool, place):
    (place / "plan.json").write_text("{not json")
    fails("show", "plan=plan.json", shows="plan.json")
    fails("replay", "plan=plan.json", f"models={pool}", shows="plan.json")
    fails("replay", "plan=none.json", f"models={pool}", shows="none.json")
    fails("replay", f"plan={place}", f"models={pool}", shows=str(place))


@pytest.mark.parametrize(
    ("argument", "shows"),
    [
        ("split=dev", "split 'dev' is unknown"),
        ("replicate=-1", "replicate=-1 must be"),
        ("store=nowhere/replies.jsonl", "nowhere/replies.jsonl"),
        ("seed=x", "seed='?x"),
        ("task.sizes.test=1000000", "has 4000 test questions"),
        ("failure_share=7", "failure_share=7"),
    ],
)
def test_bad_settings_of_a_replay(fails, pool, plan, argument, shows):
    mapped = [f"replace.{name}=big" for name in json.loads(plan.read_text())["models"]]
    fails("replay", f"plan={plan}", f"models={pool}", *mapped, argument, shows=shows)


def test_plan_of_models_that_the_pool_lacks(fails, pool, plan):
    fails(
        "replay",
        f"plan={plan}",
        f"models={pool}",
        shows=r"the pool has no model '.*'; it has tiny, big; map it with replace\.",
    )


def test_models_are_mapped(run, pool, plan, loopback):
    names = list(json.loads(plan.read_text())["models"])
    assert any("." in name for name in names)
    status, out, err = run(
        "replay", f"plan={plan}", f"models={pool}", *(f"replace.{name}=big" for name in names), "task.sizes.test=3"
    )
    assert status == 0, err
    assert {body["model"] for body in loopback.chats} == {"big"}
    assert "12 calls needed, 12 made, 0 failed" in out
    assert " 1.000 [" in out


@pytest.mark.usefixtures("place")
def test_picture_that_cannot_be_drawn(fails, plan):
    fails("show", f"plan={plan}", "out=p.xyz", shows="p.xyz|xyz")
    fails("show", f"plan={plan}", "out=nowhere/p.txt", shows="nowhere/p.txt")


def test_server_that_does_not_answer(fails, run, place):
    (place / "gone.yaml").write_text("members: {m: {parameters: 3e9, base_url: 'http://127.0.0.1:9/v1'}}")
    line = fails(
        "search", "models=gone.yaml", *SMALL, *SIZES, f"hydra.run.dir={place}/gone", shows="http://127.0.0.1:9/v1"
    )
    assert "start that server or change base_url" in line
    status, out, err = run("check", "models=gone.yaml")
    assert status == 1
    assert "FAILED: " in out
    assert "http://127.0.0.1:9/v1" in out
    assert "Traceback" not in out + err


def test_key_in_a_url_is_never_written(run, place, loopback):
    loopback.script = knows
    url = loopback.url.replace("://", "://user:sesame@")
    (place / "pool.yaml").write_text(f"members: {{m: {{parameters: 3e9, base_url: {url!r}}}}}")
    status, out, err = run("search", "models=pool.yaml", *SMALL, *SIZES, f"hydra.run.dir={place}/kept")
    assert status == 0, err
    assert "sesame" not in out + err
    for path in Path(place).rglob("*"):
        if path.is_file() and path.name != "pool.yaml":
            assert b"sesame" not in path.read_bytes(), path


# ---- a finished search comes to the same again


def test_verify(run, fails, pool, place, loopback):
    search = ["search", f"models={pool}", "task=calc", *SMALL, *SIZES, "hydra.run.dir=kept"]
    status, out, _ = run(*search)
    assert status == 0, out
    asked = len(loopback.received)
    status, out, _ = run("verify", "run=kept")
    assert status == 0, out
    assert re.search(r"trials.jsonl +yes, byte for byte", out)
    assert re.search(r"best.json +yes, byte for byte", out)
    assert len(loopback.received) == asked
    archive = place / "kept" / "trials.jsonl"
    archive.write_bytes(archive.read_bytes().replace(b'"calls"', b'"Calls"', 1))
    status, out, _ = run("verify", "run=kept")
    assert status == 1
    assert re.search(r"trials.jsonl +NO", out)
    replies = place / "kept" / "replies.jsonl"
    replies.write_text("".join(replies.read_text().splitlines(keepends=True)[:-5]))
    fails("verify", "run=kept", shows=r"replies.jsonl does not hold")
    (place / "kept" / "best.json").unlink()
    fails("verify", "run=kept", shows=r"the search is not finished; go on with run=kept")
    fails("verify", "run=nowhere", shows=r"run=nowhere is no run folder")


def test_a_server_without_logprobs_is_known_again_from_its_replies(run, pool, place, loopback):
    def blind(body, _):
        return error(400, "logprobs are not supported") if "logprobs" in body else chat("4", None)

    loopback.script = blind
    questions = place / "q.jsonl"
    questions.write_text("".join(json.dumps({"question": f"{i} + 2?", "gold": "4"}) + "\n" for i in range(60)))
    search = ["search", f"models={pool}", "task=jsonl", f"task.path={questions}", *SMALL, "hydra.run.dir=kept"]
    status, _, err = run(*search)
    assert status == 0, err
    assert "no log-probabilities from big, tiny" in err
    assert run("verify", "run=kept")[0] == 0


def test_stopped_by_a_signal_it_says_how_to_go_on(run, pool, place, loopback):
    def slow(body, number):
        if number == 20:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        return knows(body, number)

    loopback.script = slow
    search = ["search", f"models={pool}", "task=calc", *SMALL, *SIZES, "hydra.run.dir=kept"]
    status, _, err = run(*search)
    assert status == 130
    assert re.search(r"go on with: agentgraph search run=\S*kept\n", err)
    stored = (place / "kept" / "replies.jsonl").read_bytes().count(b"\n")
    assert stored >= 20
    asked = len(loopback.chats)
    assert asked - stored < 2  # what was in flight was waited for
    loopback.script = knows
    assert run("search", "run=kept")[0] == 0
    assert run("verify", "run=kept")[0] == 0


def test_fit(run, fails, pool, place):
    assert run("search", f"models={pool}", "task=calc", *SMALL, *SIZES, "hydra.run.dir=kept")[0] == 0
    status, out, _ = run("fit", "run=kept", "plot=false")
    assert status == 0
    assert re.search(r"^width +y = a x\^b +a .* b ", out, re.M)
    assert "not to be relied on: only" in out
    assert not (place / "kept" / "fits").exists()
    (place / "kept" / "summary.json").unlink()
    fails("fit", "run=kept", shows="has no summary.json: the search is not finished")
    fails("fit", "run=nowhere", shows="run=nowhere is no run folder")
