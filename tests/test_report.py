"""The comparison table, in plain text and on a terminal."""

import io
import re

import pytest

from agentgraph.report import Row, table, table_text

ROWS = [
    Row("one solve, tiny", 0.3, 0.2, 0.4, 1.0, 1.012, difference=(-0.5, -0.6, -0.4)),
    Row("found plan", 0.8, 0.7, 0.9, 3.0, 3.2, note="3 replies were\nno answers", found=True),
    Row("vote of 5 [x]", 0.5, 0.4, 0.6, 5.0, 5.0, difference=(-0.3, -0.41, 0.02), note="over budget"),
]


def test_plain_table():
    assert table_text(ROWS, title="calc, test split, 200 questions").splitlines() == [
        "calc, test split, 200 questions",
        "plan                             accuracy  price  charge               difference",
        "                                   [95 %]  units   units          to found [95 %]",
        "-------------------  --------------------  -----  ------  -----------------------",
        "* found plan (1)     0.800 [0.700, 0.900]   3.00    3.20",
        "  one solve, tiny    0.300 [0.200, 0.400]   1.00    1.01  -0.500 [-0.600, -0.400]",
        "  vote of 5 [x] (2)  0.500 [0.400, 0.600]   5.00    5.00  -0.300 [-0.410, +0.020]",
        "(1) 3 replies were no answers",
        "(2) over budget",
    ]


def test_columns_are_aligned():
    lines = table_text([Row(f"plan {10**k}", 0.5, 0.4, 0.6, 10.0**k, 1.0) for k in range(6)]).splitlines()[3:]
    assert len({line.index(" [0.") for line in lines}) == 1
    assert len(set(map(len, lines))) == 1


def test_columns_of_an_objective():
    rows = [
        Row("slow", 0.8, 0.7, 0.9, 3.0, 3.2, amounts={"seconds": 1.5}, utility=0.65, found=True),
        Row("quick", 0.7, 0.6, 0.8, 1.0, 1.0, amounts={"seconds": 0.0123}, utility=0.699),
    ]
    assert table_text(rows).splitlines() == [
        "plan                 accuracy  price  charge   charge  utility",
        "                       [95 %]  units   units  seconds",
        "-------  --------------------  -----  ------  -------  -------",
        "* slow   0.800 [0.700, 0.900]   3.00    3.20      1.5    0.650",
        "  quick  0.700 [0.600, 0.800]   1.00    1.00   0.0123    0.699",
    ]


def test_table_without_rows():
    assert table_text([]).startswith("plan")


def test_not_a_terminal_gets_plain_text():
    stream = io.StringIO()
    table(ROWS, stream, title="x")
    assert stream.getvalue() == table_text(ROWS, title="x")


@pytest.mark.parametrize("columns", ["50", "80", "160"])
def test_terminal_gets_the_same_cells_and_nothing_is_cut(columns, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    table(ROWS, stream)
    text = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= int(columns)
    assert text.index("* found") < text.index("one")
    assert "(2) over budget" in text
    if int(columns) >= 80:
        assert "-0.300 [-0.410, +0.020]" in text
        assert "3.00" in text
