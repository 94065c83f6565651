"""Composed recordings: stages that were recorded apart, their marks multiplied, and the oracle that stands for a perfect check."""

import asyncio
import gzip
import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from agentgraph.backends.recorded import pool
from agentgraph.config import build, load
from agentgraph.errors import TaskError
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan
from agentgraph.recording import Mark, after, parted
from agentgraph.roles.assistant import Assistant
from agentgraph.roles.base import Message
from agentgraph.roles.oracle import Oracle
from agentgraph.store import ReplyStore
from agentgraph.tasks.recorded import Recorded

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
N, SAMPLES, STAGES, MODELS = 120, 4, ("write", "read"), ("big", "little")
ROLES = {role.name: role for role in (Assistant(name="assistant"), Oracle(name="oracle"))}
needs_data = pytest.mark.skipif(
    not os.environ.get("AGENTGRAPH_DATA"), reason="AGENTGRAPH_DATA does not name the tables"
)


def right(stage, model, q, sample):
    return (len(stage) * q + len(model) * sample + q // 7) % 3 < (2 if model == "big" else 1)


def write(folder, *, stages=STAGES, field="mark"):
    """A composed folder; the last stage lacks the last question."""
    folder.mkdir()
    keys = [(s, q) for s in stages for q in range(N) if (s, q) != (stages[-1], N - 1)]
    questions = [{"id": f"{s}/q{q}", "question": f"What is {q}?", "gold": ""} for s, q in keys]
    replies = [
        {"question": f"{s}/q{q}", "model": m, "sample": k, field: float(right(s, m, q, k)) if field == "mark" else "x"}
        | {"prompt_tokens": 20, "output_tokens": 10}
        for s, q in keys for m in MODELS for k in range(SAMPLES)
    ]  # fmt: skip
    (folder / "models.json").write_text(json.dumps({"big": {"parameters": 3e9}, "little": {"parameters": 1e9}}))
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (folder / "replies.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, replies)).encode()))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "world")


def star(model, samples):
    if samples == 1:
        return Graph((Node("assistant", model),))
    return Graph((*[Node("assistant", model)] * samples, Node("oracle")), tuple((i, samples) for i in range(samples)))


def run(folder, plan, questions, seed=0):
    models, backends = pool(str(folder))
    with Executor(Recorded(folder, stages=STAGES), models, ROLES, backends, ReplyStore(), seed=seed) as executor:
        return executor.run([Job(plan, questions)])[0]


def share(stage, model, question):
    """Share of right replies."""
    return np.mean([right(stage, model, int(question.id[1:]), k) for k in range(SAMPLES)])


def test_a_question_is_asked_of_every_stage_that_has_it(folder):
    task = Recorded(folder, stages=STAGES)
    ids = {question.id for split in ("train", "validation", "test") for question in task.pool(split)}
    assert ids == {f"q{q}" for q in range(N - 1)}
    assert [stage.name for stage in task.stages] == list(STAGES)
    assert task.name == "composed"
    task.check()


def test_marks_are_products_and_every_stage_is_charged(folder):
    questions = Recorded(folder, stages=STAGES).questions("train")
    alone = run(folder, Plan((star("big", 1), star("little", 1))), questions)
    assert all(answer.charge.calls == 2 for answer in alone)
    assert all(answer.mark <= answer.stages["write"] for answer in alone)
    assert {(answer.stages["write"], answer.mark) for answer in alone} == {(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)}
    seeds = [run(folder, Plan((star("big", 1), star("little", 1))), questions, seed) for seed in range(60)]
    found = np.mean([[answer.mark for answer in row] for row in seeds])
    expected = np.mean([share("write", "big", q) * share("read", "little", q) for q in questions])
    assert found == pytest.approx(expected, abs=0.03)


def test_the_oracle_finds_what_any_sample_has_right(folder):
    questions = Recorded(folder, stages=STAGES).questions("train")
    found = run(folder, Plan((star("big", SAMPLES), star("little", SAMPLES))), questions)
    expected = [float(share("write", "big", q) > 0 and share("read", "little", q) > 0) for q in questions]
    assert [answer.mark for answer in found] == expected
    assert 0 < sum(expected) < len(expected)


def test_the_oracle_keeps_the_earliest_of_the_best_and_calls_no_model():
    messages = [Message(Mark("0.0 by a")), Message(None), Message(Mark("0.5 by b")), Message(Mark("0.5 by c"))]
    oracle = Oracle(name="oracle")
    assert asyncio.run(oracle(messages, None)) is messages[2]
    assert asyncio.run(oracle(messages[1:2], None)).absent
    assert oracle.forms(3) == ()


def test_what_came_before_is_part_of_what_is_asked():
    assert parted(after("read/q1", 0.25)) == ("read/q1", 0.25)
    assert parted("read/q1") == ("read/q1", 1.0)


def test_conf(folder):
    config = load("search", ["task=recorded", f"task.path={folder}", "models=recorded", "task.stages=[write,read]"])
    assert [stage.name for stage in build(config.task).stages] == list(STAGES)


def test_bad_input(folder, tmp_path):
    with pytest.raises(TaskError, match="has no stage 'test'; it has write, read; name these in task.stages"):
        Recorded(folder, stages=["write", "test"])
    with pytest.raises(TaskError, match=r"has answers; a product of stages=\['write', 'read'\] needs marks"):
        Recorded(write(tmp_path / "answers", field="answer"), stages=STAGES)
    with pytest.raises(TaskError, match="'oracle' knows recorded marks only, got the answer '42'; use vote"):
        asyncio.run(Oracle(name="oracle")([Message("42")], None))


@needs_data
def test_livecodebench_joins_problems_and_models_and_says_what_it_skips():
    reader = importlib.import_module("recorded.livecodebench")
    world = reader.composed(Path(os.environ["AGENTGRAPH_DATA"]))
    assert len(world.sizes) == 11
    by_stage = [{key.partition("/")[2] for key in world.questions if key.startswith(s.name)} for s in reader.COMPOSED]
    assert by_stage[0] == by_stage[1] != set()
    assert {reply.question for reply in world.replies} == set(world.questions)
    assert len(world.replies) == 10 * len(world.sizes) * len(world.questions)
    assert any("composed" in note and "declared independent" in note for note in world.notes)
    assert any(note.startswith("left out problems") for note in world.notes)
