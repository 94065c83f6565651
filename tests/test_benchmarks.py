"""The public benchmarks: their files, their own formats, what is refused, and replies from text to mark."""

import gzip
import json
import sys
import types
from pathlib import Path

import pytest

import agentgraph.tasks
from agentgraph.config import load_task
from agentgraph.errors import SandboxError, TaskError
from agentgraph.tasks.aime import Aime
from agentgraph.tasks.base import SPLITS
from agentgraph.tasks.gsm8k import Gsm8k
from agentgraph.tasks.humaneval import HumanEval
from agentgraph.tasks.math500 import Math500
from agentgraph.tasks.mbpp import Mbpp
from agentgraph.tasks.mmlu import Mmlu
from agentgraph.tasks.mmlu_pro import MmluPro

SAMPLE_FOLDER = Path(agentgraph.tasks.__path__[0]) / "samples"
SAMPLES = {"gsm8k": 200, "math500": 200, "mmlu_pro": 224, "humaneval": 164, "mbpp": 200}


def everything(task):
    return [question for split in SPLITS for question in task.pool(split)]


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def marked(task, reply, number=0):
    """The mark of a reply to a question of the train split."""
    question = task.pool("train")[number]
    answer = task.stages[0].extract(reply)
    return 0.0 if answer is None else task.mark(answer, question)


# ---- samples


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_cut_in_half_and_quarters(name):
    task = load_task(name)
    sizes = [len(task.pool(split)) for split in SPLITS]
    assert sum(sizes) == SAMPLES[name]
    assert sizes == [
        SAMPLES[name] // 2,
        SAMPLES[name] * 3 // 4 - SAMPLES[name] // 2,
        SAMPLES[name] - SAMPLES[name] * 3 // 4,
    ]


def test_every_sample_names_its_source_and_licence():
    sources = (SAMPLE_FOLDER / "SOURCES.md").read_text()
    of_stages = {"2wikimultihopqa": 100, "tool_use": 40}
    assert {path.stem for path in SAMPLE_FOLDER.glob("*.jsonl")} == {*SAMPLES, *of_stages}
    for name, size in {**SAMPLES, **of_stages}.items():
        line = next(line for line in sources.splitlines() if line.startswith(f"| {name}.jsonl"))
        assert f" {size} " in line
        assert (SAMPLE_FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").count("\n") == size
        assert any(licence in line for licence in ("MIT", "CC BY 4.0", "Apache-2.0", "that of agentgraph"))


def test_another_seed_is_another_split():
    first, again, other = Gsm8k(), Gsm8k(), Gsm8k(seed=1)
    assert first.pool("test") == again.pool("test")
    assert {q.id for q in first.pool("test")} != {q.id for q in other.pool("test")}
    assert {q.id for q in everything(first)} == {q.id for q in everything(other)}


def test_categories_are_in_every_split():
    text = (SAMPLE_FOLDER / "mmlu_pro.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    category = {row["question"].strip(): row["category"] for row in rows}
    task = MmluPro()
    for split in SPLITS:
        assert len({category[question.text.split("\n\nA. ")[0]] for question in task.pool(split)}) == 14


# ---- programs


def test_own_solutions_pass_and_broken_ones_do_not():
    for task in (HumanEval(), Mbpp()):
        questions = everything(task)[::6]
        assert [question.id for question in questions if task.mark(question.gold, question) != 1.0] == []
        for question in questions[:15]:
            tests, names, *_ = task.tests[question.id]
            assert names
            assert tests
            for name in names:
                assert task.mark(f"def {name}(*args):\n    return None", question) == 0.0
                assert task.mark(f"import sys\nsys.exit(0)\ndef {name}(*args): pass", question) == 0.0
                assert task.mark(f"def {name}(*args):\n    raise SystemExit", question) == 0.0


def test_a_program_that_does_not_name_the_function_is_not_run():
    task = HumanEval()
    task._sandbox = None
    assert task.mark("print('hello')", task.pool("train")[0]) == 0.0


def test_the_same_program_is_run_once():
    task = Mbpp()
    question = task.pool("train")[0]
    assert task.mark(question.gold, question) == 1.0
    task._sandbox = None
    assert task.mark(question.gold, question) == 1.0


def test_helpers_of_the_prompt_need_not_be_repeated():
    task = HumanEval()
    question = next(q for q in everything(task) if "def find_zero" in q.text)
    function = question.gold[question.gold.index("def find_zero") :]
    assert "def poly" not in function
    assert task.mark(function, question) == 1.0
    typed = next(q for q in everything(task) if "def has_close_elements" in q.text)
    assert task.mark(typed.gold.replace("from typing import List", ""), typed) == 1.0


def test_multipl_e_form_of_humaneval(tmp_path):
    rows = [
        {
            "name": f"HumanEval_{i}_f{i}",
            "prompt": f'def f{i}(x: int) -> int:\n    """ {i} more. """\n',
            "entry_point": f"f{i}",
            "test": f"def check(c):\n    assert c(1) == {i + 1}\n\ndef test_check():\n    check(f{i})\n\ntest_check()\n",
        }
        for i in range(8)
    ]
    task = HumanEval(write(tmp_path / "he.jsonl", rows))
    for question in everything(task):
        number = int(question.text[5])
        assert task.mark(f"def f{number}(x): return x + {number}", question) == 1.0
        assert task.mark(f"def f{number}(x): return x - 1", question) == 0.0


def test_both_forms_of_mbpp(tmp_path):
    full = [
        {
            "task_id": i,
            "text": f"Add {i}.",
            "code": f"def add(x):\r\n    return x + {i}",
            "test_setup_code": "",
            "challenge_test_list": [],
        }
        | {"test_list": [f"assert add(1) == {i + 1}", f"assert add(2) == {i + 2}"]}
        for i in range(8)
    ]
    clean = [
        {
            "task_id": i,
            "prompt": f"Circle {i}.",
            "code": "def area(r): return 3.14159265 * r * r",
            "test_imports": ["import math"],
        }
        | {"test_list": [f"assert math.isclose(area({i}), math.pi * {i * i}, rel_tol=0.001)"]}
        for i in range(8)
    ]
    (tmp_path / "sanitized-mbpp.json").write_text(json.dumps(clean))
    for path in (write(tmp_path / "mbpp.jsonl", full), str(tmp_path / "sanitized-mbpp.json")):
        task = Mbpp(path)
        assert all(task.mark(question.gold, question) == 1.0 for question in everything(task))
    question = Mbpp(str(tmp_path / "mbpp.jsonl")).pool("train")[0]
    assert question.text.count("assert") == 1  # the others are not shown


def test_a_function_named_like_a_builtin(tmp_path):
    rows = [
        {"text": f"Add {i}.", "code": "def sum(a, b): return a + b", "test_list": [f"assert sum({i}, 1) == {i + 1}"]}
        for i in range(8)
    ]
    task = Mbpp(write(tmp_path / "mbpp.jsonl", rows))
    assert task.mark(task.pool("train")[0].gold, task.pool("train")[0]) == 1.0


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_code_needs_the_sandbox(monkeypatch, name):
    monkeypatch.setattr("agentgraph.sandbox._holes", lambda: "this is plan9")
    with pytest.raises(
        SandboxError, match="generated code cannot be run safely on this system: this is plan9; the sandbox needs"
    ):
        load_task(name)


# ---- replies to marks


def test_replies_are_read_and_marked(tmp_path):
    gsm = Gsm8k(
        write(tmp_path / "a.jsonl", [{"question": f"q{i}", "answer": "so <<3*6=18>>18\n#### 1,018"} for i in range(8)])
    )
    assert marked(gsm, "<think>7</think>He pays 1,018 dollars.\n\nThe answer is $1,018.00.") == 1.0
    assert marked(gsm, "The answer is 18") == 0.0
    aime = Aime(write(tmp_path / "b.jsonl", [{"problem": f"q{i}", "extracted_groundtruth": "025"} for i in range(8)]))
    assert marked(aime, r"Hence $xy = \boxed{25}$.") == 1.0
    assert marked(aime, r"Hence $xy = \boxed{025}$.") == 1.0
    assert marked(aime, r"Hence $xy = \boxed{26}$.") == 0.0
    maths = Math500(write(tmp_path / "c.jsonl", [{"problem": f"q{i}", "answer": r"\frac{\pi}{2}"} for i in range(8)]))
    assert marked(maths, r"The answer is $\boxed{\pi/2}$") == 1.0
    assert marked(maths, r"The answer is $\boxed{\pi/3}$") == 0.0
    mmlu = Mmlu(
        write(tmp_path / "d.jsonl", [{"question": f"q{i}", "choices": list("wxyz"), "answer": 2} for i in range(8)])
    )
    assert mmlu.pool("train")[0].text.endswith("\n\nA. w\nB. x\nC. y\nD. z")
    assert marked(mmlu, "The answer is (C).") == 1.0
    assert marked(mmlu, "The answer is (D).") == 0.0


@pytest.mark.parametrize(("cls", "slow"), [(Gsm8k, False), (Math500, True), (Mbpp, True), (Mmlu, False)])
def test_slow_marks_are_declared(cls, slow):
    assert cls.slow_marks is slow


# ---- files


def test_original_formats(tmp_path):
    folder = tmp_path / "mmlu"
    folder.mkdir()
    for subject in ("anatomy", "virology"):
        rows = [f'"What, {subject} {i}?",w,x,y,"z, too",{"ABCD"[i % 4]}' for i in range(5)]
        (folder / f"{subject}_test.csv").write_text("\n".join(rows))
    task = Mmlu(str(folder))
    assert len(everything(task)) == 10
    assert {question.gold for question in everything(task)} == set("ABCD")
    assert all(question.text.endswith("D. z, too") for question in everything(task))
    with gzip.open(tmp_path / "test.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"question": f"q{i}", "answer": f"#### {i}"}) + "\n" for i in range(9))
    assert len(everything(Gsm8k(str(tmp_path / "test.jsonl.gz")))) == 9


GOOD = {
    Gsm8k: {"question": "q", "answer": "#### 1"},
    Aime: {"problem": "q", "answer": "1"},
    Mmlu: {"question": "q", "choices": list("wxyz"), "answer": 1},
    MmluPro: {"question": "q", "options": list("uvwxyz"), "answer": "F"},
    HumanEval: {"prompt": "def f(x):\n", "entry_point": "f", "test": "def check(c): pass"},
    Mbpp: {"text": "q", "code": "def f(x): return x", "test_list": ["assert f(1) == 1"]},
}


@pytest.mark.parametrize(
    ("cls", "change", "expected"),
    [
        (Gsm8k, {"answer": "no mark"}, "line 3: answer ends in 'no mark', not in '#### number'"),
        (Gsm8k, {"question": None}, r"line 3 has no 'question' \(fields: question, answer\); add it"),
        (Gsm8k, {"question": "  "}, "line 3: question='  ' must be a text that is not empty"),
        (Aime, {"answer": "1.5"}, "line 3: answer '1.5' is not a whole number from 0 to 999"),
        (Aime, {"answer": None}, "line 3 has no 'answer' or 'extracted_groundtruth'"),
        (Mmlu, {"choices": ["w"]}, r"line 3: choices=\['w'\] must be a list of four options"),
        (Mmlu, {"answer": 4}, "line 3: answer 4 of 4 options; give 2 to 4 options, and the letter, the place"),
        (MmluPro, {"answer": "G"}, "line 3: answer 'G' of 6 options; give 2 to 10 options"),
        (MmluPro, {"options": "w"}, "line 3: options='w' must be a list of at least two"),
        (HumanEval, {"prompt": "def f(x"}, "line 3: prompt is not the head of a Python function"),
        (HumanEval, {"test": None}, "line 3 has no 'test'"),
        (Mbpp, {"test_list": []}, r"line 3: test_list=\[\] must be a list of assertions"),
        (Mbpp, {"test_list": ["assert ("]}, "line 3: its code or tests are not Python"),
        (Mbpp, {"test_list": ["assert 1 == 1"]}, "line 3: its tests call no function of the program"),
    ],
)
def test_bad_rows_are_named(tmp_path, cls, change, expected):
    rows = [GOOD[cls], GOOD[cls], {**GOOD[cls], **change}]
    with pytest.raises(TaskError, match=expected) as caught:
        cls(write(tmp_path / "bad.jsonl", rows))
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(
        TaskError, match="no sample of aime ships with agentgraph; set task.path to a file, or to 'hub'"
    ):
        Aime()
    with pytest.raises(TaskError, match="task.path=.*none.jsonl does not exist"):
        Gsm8k(str(tmp_path / "none.jsonl"))
    with pytest.raises(TaskError, match="is a folder without a file .jsonl, .json, .csv"):
        Gsm8k(str(tmp_path))
    with pytest.raises(TaskError, match="has 1 distinct questions; give at least 8"):
        Gsm8k(write(tmp_path / "few.jsonl", [GOOD[Gsm8k]] * 9))
    for name, data, expected in [
        ("a.json", b"{", "is not JSON"),
        ("b.json", b"[1]", "entry 1 is not a JSON object"),
        ("c.jsonl", b"\xff", "must be a UTF-8 text file"),
        ("d.jsonl.gz", b"no gzip", "cannot read task.path="),
        ("e.jsonl", b"[]", "line 1 is not a JSON object"),
        ("f.jsonl", b"{", "line 1 is not JSON"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TaskError, match=expected):
            Gsm8k(str(tmp_path / name))


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"max_tokens": 0}, "max_tokens=0 must be"), ({"output_tokens": -1}, "output_tokens=-1 must")],
)
def test_bad_settings(given, expected):
    with pytest.raises(TaskError, match=expected):
        Gsm8k(**given)


# ---- Hugging Face


def hub(monkeypatch, answer):
    """A stand-in for the package datasets."""
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


@pytest.mark.parametrize("cls", GOOD)
def test_hub_is_read_at_a_pinned_commit(monkeypatch, cls):
    key = next(iter(GOOD[cls]))
    asked = hub(
        monkeypatch,
        [{**GOOD[cls], key: GOOD[cls][key].replace("q", f"q{i}").replace("(x)", f"(x, y={i})")} for i in range(20)],
    )
    task = load_task(cls.name, path="hub")
    assert len(everything(task)) == 20
    ((name, subset), more) = asked[0]
    assert (name, subset, more["split"]) == (cls.hub.name, cls.hub.subset, cls.hub.split)
    assert len(more["revision"]) == 40
    assert int(more["revision"], 16)


def test_hub_failures(monkeypatch):
    hub(monkeypatch, OSError("no network\nat all"))
    with pytest.raises(
        TaskError,
        match="cannot load openai/gsm8k at 740312add88f from Hugging Face: no network at all; check the network",
    ):
        load_task("gsm8k", path="hub")
    with pytest.raises(TaskError, match="task.path=hub needs task.revision, the commit of openai/gsm8k"):
        Gsm8k("hub")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TaskError, match=r"needs Hugging Face datasets; pip install 'agentgraph\[data\]'"):
        load_task("gsm8k", path="hub")
