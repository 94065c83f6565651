"""Recorded worlds: replies as they were recorded, nothing that was not, and broken folders in one line."""

import asyncio
import gzip
import json
import math
from collections import Counter

import pytest

from agentgraph.agents.rule_based import RuleBased
from agentgraph.backends.recorded import Recorded, pool
from agentgraph.budget import RESOURCES, Tokens, total
from agentgraph.config import build, load
from agentgraph.errors import BackendError, BackendRefused, ConfigError, TaskError
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.agent_reinforce import AgentReinforce
from agentgraph.optimizers.evolution import Evolution
from agentgraph.optimizers.random_search import RandomSearch
from agentgraph.plan import Plan
from agentgraph.recording import Recording
from agentgraph.request import Request, Settings
from agentgraph.roles.assistant import Assistant
from agentgraph.roles.keep import Keep
from agentgraph.roles.vote import Vote
from agentgraph.run import run
from agentgraph.setup import Setup
from agentgraph.space import StageSpace
from agentgraph.store import ReplyStore
from agentgraph.tasks.base import SPLITS
from agentgraph.tasks.recorded import Recorded as RecordedTask

N, SAMPLES = 120, 8
MODELS = {"big": {"parameters": 3e9}, "little": {"parameters": 1e9}}
ROLES = {role.name: role for role in (Assistant(name="assistant"), Keep(name="keep"), Vote(name="vote"))}


def reply(q, model, sample, *, marks=False):
    right = (7 * q + 3 * sample + len(model)) % 5 < (4 if model == "big" else 3)
    entry = {"question": f"q{q}", "model": model, "sample": sample, "confidence": 0.9 if right else 0.25 + sample / 100}
    entry |= {"prompt_tokens": 20, "output_tokens": 10, "seconds": 0.5, "usd": 1e-5}
    return entry | ({"mark": float(right)} if marks else {"answer": str(q) if right else f"no {sample}"})


def write(folder, *, marks=False, models=MODELS, **files):
    """A recorded folder; ``files`` replaces lines of questions or replies."""
    folder.mkdir(exist_ok=True)
    questions = [{"id": f"q{q}", "question": f"What is {q}?", "gold": str(q)} for q in range(N)]
    replies = [reply(q, m, s, marks=marks) for q in range(N) for m in MODELS for s in range(SAMPLES)]
    (folder / "models.json").write_text(json.dumps(models))
    (folder / "questions.jsonl").write_text(files.get("questions", "\n".join(map(json.dumps, questions))))
    text = files.get("replies", "\n".join(map(json.dumps, replies)))
    (folder / "replies.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "world")


def ask(backend, text="q3", model="big", **settings):
    temperature = settings.pop("temperature", 1.0)
    request = Request(model, model, (("user", text),), Settings(temperature, max_tokens=9), **settings)
    return asyncio.run(backend.reply(request))


def run_plan(folder, *graphs, count=40):
    task, (models, backends) = RecordedTask(folder), pool(folder)
    with Executor(task, models, ROLES, backends, ReplyStore()) as executor:
        questions = task.questions("train")[:count]
        return questions, executor.run([Job(Plan((graph,)), questions) for graph in graphs])


def star(*sources, sink="vote"):
    n = len(sources)
    return Graph((*(Node("assistant", m) for m in sources), Node(sink)), tuple((i, n) for i in range(n)))


def test_replies_come_back_as_recorded(folder):
    backend = Recorded(folder)
    assert backend.has_logprobs
    got = [ask(backend, sample=s) for s in range(SAMPLES)]
    assert sorted(r.text for r in got) == sorted(reply(3, "big", s)["answer"] for s in range(SAMPLES))
    assert {(r.prompt_tokens, r.output_tokens, r.seconds) for r in got} == {(20, 10, 0.5)}
    assert {round(math.exp(r.logprob), 6) for r in got} == {reply(3, "big", s)["confidence"] for s in range(SAMPLES)}
    assert asyncio.run(backend.served()) == ("big", "little")


def test_samples_are_permuted_by_seed_and_replicate_and_nothing_else(folder):
    def order(**settings):
        return [ask(Recorded(folder), sample=s, **settings).logprob for s in range(SAMPLES)]

    assert order() == order()
    assert order() != order(run_seed=1)
    assert order() != order(replicate=1)
    assert ask(Recorded(folder), sample=0, temperature=0.0) == ask(
        Recorded(folder), sample=5, temperature=0.0, replicate=1
    )


def test_a_second_attempt_is_the_same_reply_for_nothing(folder):
    first, again = (ask(Recorded(folder), attempt=attempt) for attempt in (0, 1))
    assert (again.text, again.prompt_tokens, again.output_tokens) == (first.text, 0, 0)


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        (
            {"sample": SAMPLES},
            BackendError,
            "sample 8 of 'big' on question 'q3' was not recorded, 8 are .* at most 8 times",
        ),
        ({"model": "huge"}, BackendRefused, r"has replies of \['big', 'little'\], not 'huge'"),
        ({"text": "q3\n\nrefine\n\n[1] 4"}, BackendError, "parents were not recorded: 'big' .* question 'q3'.*role="),
        ({"text": "Why?"}, BackendError, "no question 'Why\\?' .*task=recorded"),
    ],
)
def test_what_was_not_recorded_is_an_error(folder, asked, kind, words):
    with pytest.raises(kind, match=words) as caught:
        ask(Recorded(folder), **asked)
    assert not caught.value.retry


def test_executor_marks_and_charges_what_was_recorded(folder):
    questions, (single, voted) = run_plan(folder, Graph((Node("assistant", "big"),)), star("big", "big", "big"))
    mean = sum(answer.mark for answer in single) / len(questions)
    assert abs(mean - 0.8) < 0.2
    assert sum(answer.mark for answer in voted) >= sum(answer.mark for answer in single)
    assert single[0].charge.flops == 2 * 3e9 * 30
    assert voted[0].charge.calls == 3


def test_too_many_samples_stop_the_run(folder):
    with pytest.raises(BackendError, match="sample 8 of 'little' .* was not recorded"):
        run_plan(folder, star(*["little"] * 9))


def test_price_is_the_mean_of_what_was_recorded_and_other_calls_cannot_be_bought(folder):
    lengths = RecordedTask(folder).stages[0].lengths
    assert lengths.tokens("solve", 0, "big") == Tokens(20, 10)
    assert lengths.tokens("refine", 1, "big").prompt > 1e20


def test_price_is_the_mean_charge_over_all_questions(tmp_path):
    uneven = [
        {**reply(q, m, 0), "usd": (1 + q % 7) * 1e-4, "seconds": 0.1 * (1 + q % 3), "prompt_tokens": 10 + q % 5}
        for q in range(N)
        for m in MODELS
    ]
    folder = write(tmp_path / "uneven", replies="\n".join(map(json.dumps, uneven)))
    task, (models, backends) = RecordedTask(folder), pool(folder)
    stage = StageSpace("answer", tuple(ROLES.values()), models, 3, task.stages[0].lengths)
    graphs = [Graph((Node("assistant", "big"),)), star("big", "little")]
    with Executor(task, models, ROLES, backends, ReplyStore()) as executor:
        questions = [question for split in SPLITS for question in task.questions(split)]
        for graph, row in zip(graphs, executor.run([Job(Plan((graph,)), questions) for graph in graphs]), strict=True):
            charge, price = total(answer.charge for answer in row).over(len(row)), stage.price(graph)
            assert len(row) == N
            for name in RESOURCES:
                assert getattr(charge, name) == pytest.approx(getattr(price, name), rel=1e-9)


def setup_of(folder, **changes):
    (models, backends) = pool(folder)
    settings = {
        "task": RecordedTask(folder),
        "pool": models,
        "backends": backends,
        "roles": list(ROLES.values()),
        "optimizer": AgentReinforce(RuleBased()),
        "objective": Accuracy(),
        "max_nodes": 6,
        "rounds": 3,
        "plans_per_round": 6,
        "questions_per_round": 16,
    }
    return Setup(**{**settings, **changes})


@pytest.mark.parametrize(
    "limits",
    [
        {"budget_usd": 3.5e-5},
        {"budget_seconds": 1.2},
        {"budget_calls": 3},
        {"budget_usd": 5e-5, "budget_seconds": 1.0, "budget_units": 9.0},
        {"budget_tokens": 100},
    ],
)
@pytest.mark.parametrize("optimizer", [lambda: AgentReinforce(RuleBased()), Evolution, RandomSearch])
def test_a_search_under_other_limits_stays_within_them(folder, limits, optimizer):
    found = run(setup_of(folder, optimizer=optimizer(), **limits))
    budget = setup_of(folder, **limits).budget(2 * 1e9 * 30)
    assert found.summary["calls_failed"] == 0
    assert found.archive.trials
    for trial in found.archive.trials:
        assert budget.allows(trial.price)
        assert budget.allows(trial.charge)  # each call was recorded to take the same
    assert found.best.budget.budget().limits.keys() == budget.limits.keys()
    assert found.best.price.usd == pytest.approx(1e-5 * found.best.price.calls)


def test_a_search_asks_no_model_more_often_than_it_was_recorded(tmp_path):
    lines = [json.dumps(reply(q, m, s)) for q in range(N) for m in MODELS for s in range(2 if m == "big" else 1)]
    folder = write(tmp_path / "few", replies="\n".join(lines))
    for optimizer in (AgentReinforce(RuleBased()), Evolution(), RandomSearch()):
        found = run(setup_of(folder, optimizer=optimizer, budget_units=20.0))
        assert found.summary["calls_failed"] == 0
        used = [Counter(node.model for node in trial.plan.stages[0].nodes) for trial in found.archive.trials]
        assert {name: max(count[name] for count in used) for name in MODELS} == {"big": 2, "little": 1}
    with pytest.raises(BackendError, match="sample 1 of 'little' .* was not recorded, 1 are"):
        run_plan(folder, star("little", "little"))


def test_a_model_without_an_answer_to_every_question_is_left_out(tmp_path):
    lines = [json.dumps(reply(q, m, 0)) for q in range(N) for m in MODELS if m == "big" or q]
    found = run(setup_of(write(tmp_path / "gap", replies="\n".join(lines)), budget_units=20.0))
    assert {node.model for trial in found.archive.trials for node in trial.plan.stages[0].nodes} - {""} == {"big"}
    assert found.summary["calls_failed"] == 0


def test_a_search_draws_only_what_was_recorded(folder):
    setup = setup_of(folder, budget_units=6.0)
    result = run(setup)
    assert result.summary["calls_failed"] == 0
    for trial in result.archive.trials:
        for graph in trial.plan.stages:
            assert all(not graph.parents[i] for i, node in enumerate(graph.nodes) if node.role == "assistant")
    again = run(Setup(**{**vars(setup), "optimizer": AgentReinforce(RuleBased())}))
    assert [t.plan for t in again.archive.trials] == [t.plan for t in result.archive.trials]
    assert [t.marks for t in again.archive.trials] == [t.marks for t in result.archive.trials]


def test_marks_only_can_be_kept_but_not_voted_on(tmp_path):
    folder = write(tmp_path / "marks", marks=True)
    assert not Recording.read(folder).has_answers
    chain = Graph((Node("assistant", "little"), Node("keep", "big")), ((0, 1),))
    _, (kept, single) = run_plan(folder, chain, Graph((Node("assistant", "big"),)))
    assert sum(a.mark for a in kept) > sum(a.mark for a in single)  # right replies are the confident ones
    with pytest.raises(TaskError, match="a vote compares answers, but this recorded folder has marks only"):
        run_plan(folder, star("big", "little"))


def test_replies_without_an_answer_abstain(tmp_path):
    lines = [json.dumps({**reply(q, m, s), "answer": None}) for q in range(N) for m in MODELS for s in range(2)]
    _, (answers,) = run_plan(write(tmp_path / "w", replies="\n".join(lines)), Graph((Node("assistant", "big"),)))
    assert all(answer.mark == 0 and dict(answer.outcomes) == {"empty": 1} for answer in answers)
    assert answers[0].charge.prompt_tokens == 20


def test_splits_follow_the_seed(folder):
    one, same, other = (RecordedTask(folder, seed=seed) for seed in (0, 0, 1))
    assert [list(one.questions(s)) for s in SPLITS] == [list(same.questions(s)) for s in SPLITS]
    assert {q.id for q in one.questions("test")} != {q.id for q in other.questions("test")}
    assert sum(len(one.questions(s)) for s in SPLITS) == N


def test_conf(folder):
    overrides = ["task=recorded", f"task.path={folder}", "models=recorded"]
    config = load("search", overrides)
    task, (models, backends) = build(config.task), build(config.models)
    assert models.names == ("big", "little")
    assert task.name == models[0].backend == next(iter(backends)) == "recorded"


BAD = [
    ({"replies": "{oops"}, "replies.jsonl.gz, line 1 is not JSON .*oops.*; mend or drop the line"),
    ({"replies": "[1]"}, "line 1 is not a JSON object"),
    ({"replies": json.dumps(reply(0, "big", 0)) + "\n" + json.dumps(reply(0, "huge", 0))},
     "line 2: the model 'huge' is not in models.json, which has big, little; add it"),
    ({"replies": json.dumps(reply(999, "big", 0))}, "line 1: no question has the id 'q999'"),
    ({"replies": "\n".join([json.dumps(reply(0, "big", 0))] * 2)}, "line 2: sample 0 of 'big' on 'q0' stands twice"),
    ({"replies": json.dumps({**reply(0, "big", 0), "mark": 1})}, "needs either answer or mark"),
    ({"replies": json.dumps({**reply(0, "big", 0), "answer": 3})}, "has answer=3; write text"),
    ({"replies": json.dumps({**reply(0, "big", 0), "confidence": 1.5})}, "has confidence=1.5; write a number from 0 to 1"),
    ({"replies": json.dumps({**reply(0, "big", 0), "output_tokens": -1})}, "has output_tokens=-1"),
    ({"replies": json.dumps({**reply(0, "big", 0), "seconds": "long"})}, "has seconds='long'"),
    ({"replies": json.dumps(reply(0, "big", 0))}, "has no reply of little; add some, or drop the model"),
    ({"questions": ""}, "has no questions"),
    ({"questions": '{"id": "a", "question": "b"}'}, "line 1 needs id, question and gold"),
    ({"models": {}}, "models.json must map names of models"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), BAD)
def test_broken_folders(tmp_path, changes, words):
    with pytest.raises(TaskError, match=words) as caught:
        Recording.read(write(tmp_path / "broken", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["models.json", "questions.jsonl", "replies.jsonl.gz"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(TaskError, match=f"world has no {name.removesuffix('.gz')}"):
        Recording.read(folder)


def test_other_bad_input(tmp_path):
    with pytest.raises(TaskError, match="nowhere does not exist; path=<folder> names one"):
        Recording.read(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="'big' has parameters, size; give parameters, and no other than"):
        pool(write(tmp_path / "strange", models={**MODELS, "big": {"parameters": 1, "size": 2}}))
    few = "\n".join(json.dumps({"id": f"q{q}", "question": f"{q}?", "gold": ""}) for q in range(9))
    kept = "\n".join(json.dumps(reply(q, m, 0)) for q in range(9) for m in MODELS)
    with pytest.raises(TaskError, match="has 9 questions, .* each split needs 8, so record at least 48"):
        RecordedTask(write(tmp_path / "few", questions=few, replies=kept))
