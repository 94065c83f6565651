"""What every task promises: disjoint splits in a fixed order, gold answers that are marked 1, views that keep the answer."""

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest
from fakes import Relay, record

import agentgraph.tasks
from agentgraph.config import load_task
from agentgraph.errors import TaskError
from agentgraph.tasks.base import SPLITS, Question, Task

FILES = sorted(m.name for m in pkgutil.iter_modules(agentgraph.tasks.__path__) if m.name not in ("base", "benchmark"))


def member(name):
    module = importlib.import_module(f"agentgraph.tasks.{name}")
    found = [
        v
        for v in vars(module).values()
        if isinstance(v, type) and issubclass(v, Task) and v.__module__ == module.__name__
    ]
    assert len(found) == 1
    return found[0]


@pytest.fixture(params=[*FILES, "relay"])
def make(request, tmp_path):
    """Makes the task with the given sizes."""
    if request.param == "relay":
        return Relay
    cls, settings = member(request.param), {}
    if request.param == "jsonl":
        settings["path"] = tmp_path / "questions.jsonl"
        rows = [json.dumps({"question": f"What is {i} + 1?", "gold": f"{i + 1}"}) for i in range(200)]
        settings["path"].write_text("\n".join(rows))
    elif request.param == "aime":  # of which no questions ship
        settings["path"] = str(tmp_path / "aime.jsonl")
        rows = [json.dumps({"problem": f"Find {i}.", "answer": f"{i:03d}"}) for i in range(200)]
        (tmp_path / "aime.jsonl").write_text("\n".join(rows))
    elif request.param == "mmlu":  # of which none ship either
        settings["path"] = str(tmp_path / "mmlu.jsonl")
        rows = [
            json.dumps({"question": f"Which is {i}?", "choices": list("wxyz"), "answer": i % 4}) for i in range(200)
        ]
        (tmp_path / "mmlu.jsonl").write_text("\n".join(rows))
    elif request.param == "recorded":
        settings["path"] = record(tmp_path / "recorded")
    elif request.param == "callable":
        settings["stages"] = {"only": {"options": {"this": 1, "that": 2}, "most": 3}}
    return lambda **more: cls(**settings, **more)


def test_splits_are_disjoint_and_fixed(make):
    task = make()
    seen, texts = set(), set()
    for split in SPLITS:
        questions = list(task.questions(split))
        assert questions
        assert all(isinstance(question, Question) for question in questions)
        assert list(make().questions(split)) == questions
        ids = {question.id for question in questions}
        assert len(ids) == len(questions)
        assert not ids & seen
        seen |= ids
        assert not {question.text for question in questions} & texts
        texts |= {question.text for question in questions}


def test_sizes_take_the_first(make):
    task = make(sizes={"train": 3, "test": None})
    assert list(task.questions("train")) == list(make().questions("train"))[:3]
    assert list(task.questions("test")) == list(make().questions("test"))


@pytest.mark.parametrize("size", [0, -1, 10**9])
def test_bad_size(make, size):
    with pytest.raises(TaskError, match=rf"has \d+ train questions, {size} were asked for; set task.sizes.train to 1"):
        make(sizes={"train": size}).questions("train")


@pytest.mark.parametrize("size", ["many", 2.5, True])
def test_size_that_is_no_number(make, size):
    with pytest.raises(TaskError, match=rf"task.sizes.train={size!r} is not a whole number"):
        make(sizes={"train": size})


def test_bad_split(make):
    with pytest.raises(TaskError, match=r"splits \['dev'\] are unknown; there are train, validation, test"):
        make(sizes={"dev": 3})
    with pytest.raises(TaskError, match="split 'dev' is unknown; there are train, validation, test"):
        make().questions("dev")


def test_stages_make_a_pipeline(make):
    task = make()
    task.check()
    for s, stage in enumerate(task.stages):
        mark = task.mark_stage(s, "853", task.questions("train")[0])
        assert stage.name
        assert mark is None or 0 <= mark <= 1


def test_marks(make):
    task = make()
    for split in SPLITS:
        for question in list(task.questions(split))[:20]:
            assert task.mark(question.gold, question) == 1.0
            for wrong in ("", "no", "-17.25", "\ud800", "9" * 500, "__import__('os').abort()"):
                assert wrong == question.gold or 0.0 <= task.mark(wrong, question) < 1.0


def test_views_keep_the_answer(make):
    task = make()
    for question in list(task.questions("train"))[:20]:
        for s, stage in enumerate(task.stages):
            asked = task.asked(s, question, "123" if s else "")
            views = [stage.view(asked, seed) for seed in (0, 1, 2**64 - 1, 0)]
            assert views[0] == views[3]
            assert all(sorted(view) == sorted(asked) for view in views)


def test_stages_are_complete(make):
    for stage in make().stages:
        assert stage.name
        assert len(stage.tag) == 1
        assert stage.tag.isupper()
        assert stage.max_tokens >= 1
        for word in ("solve", "refine", "fuse"):
            lengths = [stage.lengths.tokens(word, d, "any") for d in range(5)]
            assert all(tokens.prompt > 0 and 0 < tokens.output <= stage.max_tokens for tokens in lengths)
            assert [t.prompt for t in lengths] == sorted(t.prompt for t in lengths)
        for odd in ("", "\x00", "\ud800", "x" * 10_000, "ü½", "½"):
            assert stage.extract(odd) is None or isinstance(stage.extract(odd), str)


@pytest.mark.parametrize(
    "file", [name for name in FILES if name not in ("callable", "jsonl", "recorded", "aime", "mmlu")]
)
def test_same_questions_in_every_process(file):
    name = member(file).name
    load_task(name)  # code tasks refuse here where there is no sandbox
    script = (
        f"from agentgraph.config import load_task; "
        f"print([q.id + q.text + q.gold for s in ('train', 'test') for q in list(load_task({name!r}).questions(s))[:50]])"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


# ---- the tasks that ship


def test_calc_views_multiply_to_the_same():
    from agentgraph.tasks import calc

    task = member("calc")()
    for question in task.questions("test")[:200]:
        assert calc.answer(question.text) == question.gold
        for seed in range(5):
            assert calc.answer(calc.view(question.text, seed)) == question.gold
        assert task.stages[0].extract(calc.trace(question.text)) == question.gold
    kinds = [calc.kind(question.text) for question in task.questions("train")]
    assert kinds.count("odd") * 2 == len(kinds)


def test_recall_halves_alternate():
    from agentgraph.tasks import recall

    questions = member("recall")().questions("validation")
    assert [recall.kind(q.text) for q in questions[:4]] == ["first", "second"] * 2
    assert all(recall.answer(q.text) == q.gold for q in questions)
