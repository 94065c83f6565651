"""Answers in replies as models write them."""

import pytest

from agentgraph.answers import (
    after_thinking,
    boxed,
    latex,
    letter,
    number,
    parse_python,
    plain_latex,
    program,
    shortest,
    stated,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>2 + 2 = 5? No.</think>\n\n4", "4"),
        ("no opening tag, as some chat templates leave it\n</think>\n4", "4"),
        ("<think>one</think>3<think>two</think>4", "4"),
        ("<think>still thinking when it was cut", ""),
        ("before <reasoning>never ended", "before"),
        ("<THINKING>x</THINKING>4", "4"),
        ("a < b and think > c", "a < b and think > c"),
        ("", ""),
    ],
)
def test_reasoning_is_dropped(text, expected):
    assert after_thinking(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"$\boxed{1}$ or rather $\boxed{\frac{1}{\sqrt{2}}}$.", r"\frac{1}{\sqrt{2}}"),
        (r"\fbox{7}", "7"),
        (r"\boxed 5 apples", "5"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed{1} and \boxed{cut off", "1"),
        (r"\boxed{", None),
        ("boxed{3}", None),
    ],
)
def test_boxed(text, expected):
    assert boxed(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 42", "42"),
        ("**Final Answer:** 42", "42"),
        ("Answer: x\nFinal answer: y", "y"),
        ("steps\n#### 42", "42"),
        ("the correct option is **B) red**", "B) red"),
        ("The answer:\n\n**7**", "7"),
        ("I cannot answer that", None),
    ],
)
def test_stated(text, expected):
    assert stated(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16 - 3 - 4 = 9, and 9 * 2 = $18. The answer is $18 per day, for 1 farmer.", "18"),
        ("She sells 9 eggs.\n#### 18", "18"),
        ("**Answer:** 1,234.50", "1234.5"),
        (r"The final answer is: $\boxed{42}$. I checked 2 times.", "42"),
        (r"\boxed{\frac{3}{4}}", "0.75"),
        (r"\boxed{1{,}000}", "1000"),
        (r"\boxed{10\,000\text{ m}^2}", "10000"),
        ("The answer is 32/3 hours", "10.666666667"),
        ("The answer is -$16", "-16"),
        ("−5 degrees", "-5"),
        ("5-3 = 2 dollars", "2"),
        ("pages 3-4", "4"),
        ("it takes 109.00000000000001", "109"),
        ("of 007", "7"),
        ("-0.0", "0"),
        (".5", "0.5"),
        ("costs $1,200,300.", "1200300"),
        ("choose 1,2,3", "3"),
        ("<think>41</think>The answer is **42**.", "42"),
        ("<think>41", None),
        ("no number", None),
        ("9" * 500, None),
        ("The answer is unclear, but I count 3", "3"),
        (r"\frac{1}{0}", None),
    ],
)
def test_number(text, expected):
    assert number(text) == expected


def test_shortest_form_is_the_same_for_the_same_number():
    for forms in (
        ["5", "5.0", "005", "5.", "5.0000000001"],
        ["-1000", "-1,000", "-1,000.00"],
        ["0", "-0", "0.00", "1e-12"],
    ):
        assert len({shortest(form) for form in forms}) == 1
    assert [shortest(text) for text in ("", "x", "nan", "inf", "1e9999")] == [None] * 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hence the answer is (C).", "C"),
        ("Answer: B", "B"),
        ("**C**", "C"),
        ("C", "C"),
        ("b", "B"),
        ("D.", "D"),
        ("B) Because it is red", "B"),
        (r"\boxed{D}", "D"),
        (r"$\boxed{\text{(B) foo}}$", "B"),
        ("The correct option is **B) red**.", "B"),
        ("The correct answer is:\n\n**E. foo**", "E"),
        ("(A) is false. (B) is true. So (B).", "B"),
        ("Answer: A. Because B is wrong", "A"),
        ("The answer is D.\n\nOption A is false.", "D"),
        ("so the answer is most likely D. mitosis", "D"),
        ("I would go with option C here", "C"),
        ("The answer is I", "I"),
        ("Answer: c", "C"),
        ("The best answer is a good night's sleep", None),
        ("The answer is a matter of taste. A man once said", None),
        ("<think>(A)</think>", None),
        ("<think>(A)</think>The answer is (B)", "B"),
        ("I do not know", None),
    ],
)
def test_letter(text, expected):
    assert letter(text) == expected


def test_letters_end_where_the_options_end():
    assert letter("The answer is (J)", "D") is None
    assert letter("The answer is (D)", "D") == "D"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"Thus the answer is $\boxed{ \left( 3, \dfrac{\pi}{2} \right) }$.", r"(3,\frac{\pi}{2})"),
        ("The answer is $x = 5$.", "5"),
        (r"Answer: \(\tfrac12\)", r"\frac12"),
        (r"so $a = 1$ and finally \[ p - q \]", "p-q"),
        (r"\boxed{\text{Evelyn}}", "Evelyn"),
        (r"\boxed{1,234}", "1234"),
        (r"\boxed{1, -2}", "1,-2"),
        (r"\boxed{90^\circ}", "90"),
        (r"\boxed{\$32{,}348}", "32{,}348"),
        (r"\boxed{50\%}", "50"),
        (r"\boxed{x \in [-2, 7]}", r"x\in[-2,7]"),
        (r"\boxed{\sqrt 2}", r"\sqrt2"),
        (r"\boxed{\sin x}", r"\sin x"),
        ("The answer is 6√2", r"6\sqrt2"),
        ("The answer is 25√(10)/2", r"25\sqrt{10}/2"),
        ("The answer is 6 * sqrt(2)", r"6*\sqrt{2}"),
        ("The answer is 50π/2", r"50\pi/2"),
        ("The answer is −4 ≤ x²", r"-4\le x^2"),
        ("The answer is ___3___", "3"),
        ("it is 7 after all", "7"),
        ("nothing", None),
        (r"<think>\boxed{1}</think>", None),
    ],
)
def test_latex(text, expected):
    assert latex(text) == expected


def test_plain_form_is_a_fixed_point():
    for text in (
        r"\left( 3, \dfrac{\pi}{2} \right)",
        "x = 5",
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        "1,000,000",
        r"\text{even} ",
    ):
        assert plain_latex(plain_latex(text)) == plain_latex(text)


CODE = "def f(x):\n    return x + 1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Here you are:\n```python\n{CODE}\n```\nIt adds one.", CODE),
        (f"```\n{CODE}\n```", CODE),
        (f"```py\n{CODE}\n```", CODE),
        (
            f"First try:\n```python\ndef f(x):\n    return x\n```\nThat is wrong. Corrected:\n```python\n{CODE}\n```",
            CODE,
        ),
        (f"```python\n{CODE}\n```\nUse it so:\n```python\nprint(f(1))\n```", CODE),
        (f"```python\n{CODE}\n```\nTests:\n```python\ndef test_f():\n    assert f(1) == 2\n```", CODE),
        (f"```bash\npip install x\n```\n```python\n{CODE}\n```", CODE),
        (f"```python\n{CODE}", CODE),
        (f"<think>```python\ndef g(): pass\n```</think>```python\n{CODE}\n```", CODE),
        (CODE, CODE),
        (f"Sure! This is it:\n\n{CODE}\n\nI hope that helps.", CODE),
        (f"import re\n{CODE}", f"import re\n{CODE}"),
        ("```python\nprint(1)\n```", "print(1)"),
        ("```python\ndef f(x:\n```", "def f(x:"),
        ("I cannot do that.", None),
        ("def is a keyword of Python.", None),
        ("```python\n```", None),
        ("", None),
    ],
)
def test_program(text, expected):
    assert program(text) == expected


def test_python_is_read_without_warnings():
    assert parse_python("'\\d'").body
    for bad in ("x = (", "\x00", "\ud800", "(" * 1000):
        with pytest.raises(SyntaxError):
            parse_python(bad)
