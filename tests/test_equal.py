"""Mathematical answers that are the same, that are not, and that take for ever."""

import threading

import pytest

from agentgraph.equal import Equality
from agentgraph.errors import TaskError


@pytest.fixture(scope="module")
def equal():
    return Equality()


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1}{2}", "0.5"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
        ("1,-2", "-2,1"),
        ("x+1", "1+x"),
        (r"11\sqrt2", r"\sqrt{242}"),
        ("6-5i", "-5i+6"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"(-\infty,2)", r"(-\infty, 2)"),
    ],
)
def test_same(equal, gold, answer):
    assert equal(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("p-q", "q-p"),
        (r"\frac{1}{2}", "0.51"),
        ("(1,2)", "(2,1)"),
        ("2", ""),
        ("", ""),
        ("2", "}} {"),
        ("2", "\ud800"),
        ("2", "\x00\n2"),
        ("2", "2" * 5000),
        ("3", "__import__('os').abort()"),
        (r"\frac{1}{0}", "1"),
    ],
)
def test_not_the_same(equal, gold, answer):
    assert not equal(gold, answer)


def test_a_pair_that_takes_for_ever_is_not_the_same_and_hurts_nobody(monkeypatch):
    monkeypatch.setattr("agentgraph.equal.SECONDS", 1.0)
    equal = Equality()
    assert not equal("2", "9^{9^{9^{9}}}")
    assert equal("2", r"\frac{4}{2}")


def test_from_many_threads(equal):
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: equal(f"{i}", rf"\frac{{{2 * i}}}{{2}}")}))
        for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(20), True)


def test_without_math_verify(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(TaskError, match=r"needs math-verify; pip install 'agentgraph\[math\]'"):
        Equality()
