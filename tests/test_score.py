"""Intervals against known values and against what they claim: 95 % of them hold the truth."""

import numpy as np
import pytest

from agentgraph.errors import TaskError
from agentgraph.score import interval, paired_difference


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # Wilson's interval without continuity correction; the first two as in Newcombe 1998, table I
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (8, 10, 0.4902, 0.9433),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson(right, n, low, high):
    marks = [1.0] * right + [0.0] * (n - right)
    assert interval(marks) == pytest.approx((right / n, low, high), abs=5e-5)


def test_fractional_marks():
    # n = 4, mean 0.5, sample variance 1/15: half width 1.96 * sqrt(1/60)
    marks = [0.2, 0.4, 0.6, 0.8]
    assert interval(marks) == pytest.approx((0.5, 0.5 - 0.2530, 0.5 + 0.2530), abs=1e-4)
    assert interval([0.9, 1.0, 1.0, 0.5, 1.0])[2] == 1.0


def test_marks_that_do_not_vary_still_have_an_interval():
    mean, low, high = interval([0.5] * 10)
    assert mean == 0.5
    assert low < 0.3
    assert high > 0.7


@pytest.mark.parametrize("seed", range(50))
def test_mean_is_inside_and_all_are_within_zero_and_one(seed):
    rng = np.random.default_rng(seed)
    marks = rng.random(int(rng.integers(1, 40))).round(int(rng.integers(0, 3)))
    mean, low, high = interval(list(marks))
    assert 0 <= low <= mean <= high <= 1
    assert mean == pytest.approx(marks.mean())
    assert interval(list(marks[::-1])) == pytest.approx((mean, low, high))


@pytest.mark.parametrize("truth", [0.05, 0.3, 0.5, 0.9])
def test_covers_the_truth(truth):
    rng = np.random.default_rng(0)
    draws = (rng.random((1000, 60)) < truth).astype(float)
    held = [low <= truth <= high for _, low, high in map(interval, draws)]
    assert np.mean(held) > 0.92


def test_paired_difference():
    # differences 1, 0, 0, -1, 1, 1: mean 1/3, sample variance 2/3
    a, b = [1, 1, 0, 0, 1, 1], [0, 1, 0, 1, 0, 0]
    mean, low, high = paired_difference(a, b)
    half = 1.959964 * (2 / 3 / 6) ** 0.5
    assert (mean, low, high) == pytest.approx((1 / 3, 1 / 3 - half, 1 / 3 + half))
    assert paired_difference(b, a) == pytest.approx((-mean, -high, -low))
    assert paired_difference(a, a) == (0, 0, 0)
    assert paired_difference([1], [0]) == (1, -1, 1)
    assert paired_difference([1, 1, 0], [0, 0, 0])[2] == 1


def test_pairs_make_the_interval_narrower():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    a, b = (rng.random(200) * 0.1 + hard > 0.5) * 1.0, (rng.random(200) * 0.1 + hard > 0.55) * 1.0
    _, low, high = paired_difference(list(a), list(b))
    assert high - low < interval(list(a))[2] - interval(list(a))[1]


def test_bad_marks():
    with pytest.raises(TaskError, match="there are no marks to average"):
        interval([])
    with pytest.raises(TaskError, match=r"marks must be in \[0, 1\], got 1\.2; correct the task's mark"):
        interval([0, 1.2])
    with pytest.raises(TaskError, match="got nan"):
        interval([float("nan")])
    with pytest.raises(TaskError, match="of the same questions, got 1 and 2 marks"):
        paired_difference([1], [1, 0])
