"""The user's own questions: how a file is read and split, how answers are found and marked, and what is refused."""

import json
from pathlib import Path

import pytest

from agentgraph.errors import TaskError
from agentgraph.tasks.base import SPLITS, Question
from agentgraph.tasks.jsonl import Jsonl

ROWS = [{"question": f"What is {i} times 3?", "gold": str(3 * i)} for i in range(400)]


def write(path, rows, *, encoding="utf-8", end="\n"):
    text = end.join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(text.encode(encoding))
    return str(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mine.jsonl"


def task(path, rows=ROWS, **settings):
    return Jsonl(write(path, rows), **settings)


# ---- reading


def test_split_is_half_a_quarter_and_a_quarter(path):
    made = task(path)
    sizes = [len(made.questions(split)) for split in SPLITS]
    assert sum(sizes) == 400
    assert sizes == pytest.approx([200, 100, 100], abs=30)


def test_a_question_stays_in_its_split_when_others_come_or_move(path, tmp_path):
    one = task(path)
    more = [*({"question": f"Other {i}?", "gold": "1"} for i in range(300)), *reversed(ROWS)]
    two = task(tmp_path / "more.jsonl", more)
    for split in SPLITS:
        assert set(one.questions(split)) <= set(two.questions(split))
    assert list(one.questions("test")) == list(task(path).questions("test"))


def test_same_question_twice_is_one(path):
    assert sum(len(task(path, ROWS + ROWS).questions(split)) for split in SPLITS) == 400


def test_odd_lines(path):
    rows = [*ROWS, "", "  ", {"question": "a\u2028b\u0085c\x0bd", "gold": 7}, {"question": "half \ud83d", "gold": 0.5}]
    text = "\r\n".join(
        row if isinstance(row, str) else json.dumps(row, ensure_ascii="\ud83d" in row["question"]) for row in rows
    )
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # as Windows editors write it
    made = Jsonl(str(path))
    found = {question.text: question.gold for split in SPLITS for question in made.questions(split)}
    assert len(found) == 402
    assert found["a\u2028b\u0085c\x0bd"] == "7"
    assert found["half \ud83d"] == "0.5"


def test_fields_by_name(path):
    rows = [{"q": row["question"], "answer": row["gold"]} for row in ROWS]
    made = task(path, rows, question="q", gold="answer")
    assert made.questions("train")[0].text.startswith("What is")


# ---- answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 42", "42"),
        ("It is 41.\nAnswer: 41\nNo, wait.\nFinal answer: **42**", "42"),
        ("answer = Paris.", "paris"),
        ("  The Blue   Whale \n\n", "the blue whale"),
        ("**Answer:** $x$", "x"),
        ("", None),
        ("\n \n", None),
    ],
)
def test_exact(path, text, answer):
    made = task(path)
    assert made.stages[0].extract(text) == answer
    if answer is not None:
        assert made.mark(answer, Question("q", "?", f" {answer.upper()}. ")) == 1.0
        assert made.mark(answer, Question("q", "?", f"{answer} too")) == 0.0


@pytest.mark.parametrize(
    ("text", "gold", "mark"),
    [
        ("so 12 + 30 = 42", "42", 1.0),
        ("The total is 1,234.50.", "1234.5", 1.0),
        ("-3", "3", 0.0),
        ("-3.0", "-3", 1.0),
        ("0.3333333", "0.33333333", 1.0),
        ("0.3334", "0.3333", 0.0),
        ("1000001", "1000000", 0.0),
        ("none", "3", None),
        ("9" * 400, "3", 0.0),
    ],
)
def test_numeric(path, text, gold, mark):
    made = task(path, match="numeric")
    answer = made.stages[0].extract(text)
    assert (answer is None) == (mark is None)
    if answer is not None:
        assert made.mark(answer, Question("q", "?", gold)) == mark


def test_regex(path):
    made = task(path, match="regex", pattern=r"\\boxed\{([^}]*)\}")
    assert made.stages[0].extract(r"\boxed{1} then \boxed{2}") == "2"
    assert made.stages[0].extract("2") is None
    assert task(path, match="regex", pattern="[A-D]").stages[0].extract("B or C") == "C"
    assert made.stages[0].instructions == "Answer the question."


def test_formats_are_told(path):
    assert task(path).stages[0].instructions == "Answer the question. End with a line 'Answer: <your answer>'."
    assert task(path, match="numeric", instructions="").stages[0].instructions == "End with a line 'Answer: <number>'."


def test_lengths_are_estimates(path):
    (stage,) = task(path, max_tokens=50).stages
    assert not stage.lengths.exact
    assert stage.lengths.tokens("solve", 0, "m").output == 50
    assert stage.max_tokens == 50


def test_reasoning_is_no_answer(path):
    thought = "<think>Answer: 7, or 8?</think>\nAnswer: 9"
    assert task(path).stages[0].extract(thought) == "9"
    assert task(path, match="numeric").stages[0].extract("<think>9") is None
    assert task(path, match="regex", pattern=r"\d").stages[0].extract("<think>7</think>9") == "9"


def test_choice(path):
    options = ["red", "green", "blue"]
    golds = [[i % 3, "ABC"[i % 3], options[i % 3]][i % 2] for i in range(100)]
    rows = [{"question": f"{i}?", "options": options, "gold": gold} for i, gold in enumerate(golds)]
    made = task(path, rows, match="choice", choices="options")
    question = made.questions("test")[0]
    assert question.text.endswith("?\n\nA. red\nB. green\nC. blue")
    assert question.gold == "ABC"[int(question.text.split("?")[0]) % 3]
    assert made.stages[0].extract("The answer is (B).") == "B"
    assert made.mark(question.gold, question) == 1.0
    for bad, expected in [
        ({"options": "red"}, "line 2: 'options' must be a list of options, got 'red'"),
        ({"options": ["red"]}, "line 2: answer 'A' of 1 options; give 2 to 26 options"),
        ({"gold": "pink"}, "line 2: answer 'pink' of 3 options"),
        ({"gold": 3}, "line 2: answer 3 of 3 options"),
        ({"options": None}, "line 2 has no 'options' .* name the field with task.choices="),
    ]:
        with pytest.raises(TaskError, match=expected):
            task(path, [rows[0], {**rows[0], "gold": "A", **bad}], match="choice", choices="options")


# ---- a function of the user's


FUNCTION = """
def close(answer, gold):
    return max(0.0, 1.0 - abs(float(answer) - float(gold)))

def right(answer, gold):
    return answer == gold

def bad(answer, gold):
    return {"7": 7, "nan": float("nan"), "text": "1", "none": None}[answer]

number = 3
"""


@pytest.fixture
def marks(tmp_path):
    (tmp_path / "my_marks.py").write_text(FUNCTION)
    return f"{tmp_path}/my_marks.py"


def test_function(path, marks, monkeypatch):
    made = task(path, match="function", function=f"{marks}:close")
    assert made.stages[0].instructions == "Answer the question."
    assert made.stages[0].extract("<think>x</think> 3.5 ") == "3.5"
    assert made.stages[0].extract("<think>x</think>") is None
    assert made.mark("3.5", Question("q", "?", "3")) == 0.5
    assert made.slow_marks
    assert not task(path).slow_marks
    assert task(path, match="function", function=f"{marks}:close", pattern=r"= (\S+)").stages[0].extract("x = 3") == "3"
    assert task(path, match="function", function=f"{marks}:right").mark("3", Question("q", "?", "3")) == 1.0
    monkeypatch.syspath_prepend(str(Path(marks).parent))
    assert task(path, match="function", function="my_marks:close").mark("3", Question("q", "?", "3")) == 1.0


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("close", "many", "raised ValueError: could not convert .*; it must give a mark for any answer"),
        ("bad", "7", "for answer '7', gold '3' gave 7; it must give a number from 0 to 1"),
        ("bad", "nan", "gave nan"),
        ("bad", "text", "gave '1'"),
        ("bad", "none", "gave None"),
        ("bad", "", "raised KeyError"),
    ],
)
def test_function_that_gives_no_mark(path, marks, name, answer, expected):
    made = task(path, match="function", function=f"{marks}:{name}")
    with pytest.raises(TaskError, match=f"task.function={marks}:{name} .*{expected}"):
        made.mark(answer, Question("q", "?", "3"))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("close", "must be 'package.module:name' or 'file.py:name'"),
        ("my.module:", "must be 'package.module:name'"),
        (
            "no_such_module:f",
            "cannot be imported: No module named 'no_such_module'; name an installed module, or a file",
        ),
        ("no_such_file.py:f", "cannot be imported: .*No such file"),
        ("json:no_such_name", "json has no function 'no_such_name'"),
        ("MARKS:number", "has no function 'number'"),
    ],
)
def test_function_that_is_not_there(path, marks, function, expected):
    with pytest.raises(TaskError, match=expected):
        task(path, match="function", function=function.replace("MARKS", marks))


# ---- bad lines


def test_bad_lines_are_left_out_if_wished(path, caplog):
    rows = [*ROWS, {"question": "no gold"}, {"gold": "1"}, {"question": "why", "gold": "because"}]
    made = task(path, rows, match="numeric", skip_bad=True)
    assert made.skipped == 3
    assert sum(len(made.questions(split)) for split in SPLITS) == 400
    assert "3 lines without question or gold answer were left out" in caplog.text
    with pytest.raises(TaskError, match="line 401 has no 'gold' .*task.skip_bad=true leaves such lines out"):
        task(path, rows)
    with pytest.raises(TaskError, match="line 1: gold answer 'because' holds no number; use match=exact"):
        task(path, rows[-1:], match="numeric")


# ---- what is refused


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([*ROWS[:3], '{"question": "x"'], r"mine.jsonl, line 4 is not JSON \(.*\): '\{\"question\": \"x\"'"),
        ([ROWS[0], "[1, 2]"], r"mine.jsonl, line 2 is not a JSON object: '\[1, 2\]'"),
        ([ROWS[0], {"question": "Why?"}], r"line 2 has no 'gold' \(fields: question\); add it or name .* task.gold="),
        ([{"gold": 3}], r"line 1 has no 'question' \(fields: gold\); add it or name the field with task.question="),
        ([{"question": "Why?", "gold": ""}], "line 1 has no 'gold'"),
        ([{"question": None, "gold": "1"}], "line 1 has no 'question'"),
        ([{}], r"line 1 has no 'question' \(fields: none\)"),
        (
            ROWS[:20],
            r"has 20 distinct questions, \d of them for \w+; each split needs 8, so give at least 48 questions",
        ),
        ([], "has 0 distinct questions, 0 of them for train"),
        ([ROWS[0]] * 100, "has 1 distinct questions"),
    ],
)
def test_bad_file(path, rows, expected):
    with pytest.raises(TaskError, match=expected):
        task(path, rows)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"match": "fuzzy"}, "task.match='fuzzy' is unknown; use one of exact, numeric, regex, choice, function"),
        ({"match": "regex"}, "task.match='regex' with task.pattern=None: a pattern goes with match=regex"),
        ({"pattern": "x"}, "task.match='exact' with task.pattern='x'"),
        ({"match": "function"}, "task.match='function' with task.function=None: a function goes with match=function"),
        ({"function": "json:loads"}, "task.match='exact' with task.function='json:loads'"),
        ({"match": "regex", "pattern": "("}, r"task.pattern='\(' is not a regular expression: missing \)"),
        ({"max_tokens": 0}, "task.max_tokens=0 must be a whole number of at least 1"),
        ({"output_tokens": -1.0}, "task.output_tokens=-1.0 must be positive"),
    ],
)
def test_bad_settings(path, settings, expected):
    with pytest.raises(TaskError, match=expected):
        task(path, **settings)


def test_no_such_file(tmp_path):
    with pytest.raises(TaskError, match=f"task.path={tmp_path}/none.jsonl does not exist; name a file"):
        Jsonl(str(tmp_path / "none.jsonl"))
    with pytest.raises(TaskError, match=f"cannot read task.path={tmp_path}: .*directory"):
        Jsonl(str(tmp_path))
    write(tmp_path / "latin.jsonl", ['{"question": "é"}'], encoding="latin-1")
    with pytest.raises(TaskError, match="latin.jsonl: .*it must be a UTF-8 text file"):
        Jsonl(str(tmp_path / "latin.jsonl"))
