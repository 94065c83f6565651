"""Scaling laws: known exponents come back, and what points cannot support is said."""

import numpy as np
import pytest
from generators import random_plan_file

from agentgraph.budget import Cost
from agentgraph.errors import ConfigError
from agentgraph.fit import power_law, qat_fraction, qat_law, saturating
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan
from agentgraph.scaling import laws, plot, shares
from agentgraph.trial import Trial

COMPUTE = np.geomspace(1, 4096, 13)


@pytest.mark.parametrize("exponent", [0.57, 0.39, -0.2, 0.0])
def test_exponents_without_noise(exponent):
    fit = power_law(COMPUTE, 3 * COMPUTE**exponent)
    assert fit.values["b"] == pytest.approx(exponent, abs=1e-12)
    assert fit.values["a"] == pytest.approx(3)
    assert fit.doubt == ""
    assert fit.curve(np.array([10.0]))[0] == pytest.approx(3 * 10**exponent)


@pytest.mark.parametrize("exponent", [0.57, 0.39])
def test_exponents_with_noise(exponent):
    """Optima on a grid of powers of two, as in Singhi et al.; 19 of 20 intervals hold the truth, give or take."""
    held = 0
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 0.1, len(COMPUTE))
        fit = power_law(COMPUTE, COMPUTE**exponent * np.exp(noise))
        assert fit.values["b"] == pytest.approx(exponent, abs=0.05)
        held += fit.low["b"] <= exponent <= fit.high["b"]
    assert 34 <= held <= 40


def test_the_published_share_of_quantisation_aware_training():
    shares = {10: 0.054, 100: 0.232, 200: 0.281, 1000: 0.377, 5000: 0.454}
    for tokens, share in shares.items():
        assert qat_law(tokens) == pytest.approx(share, abs=5e-4)
    at = np.array(list(shares), float)
    fit = qat_fraction(at, qat_law(at))
    assert fit.values["a"] == pytest.approx(6.7297, abs=1e-3)
    noisy = qat_law(at, 4.0) + np.random.default_rng(0).normal(0, 0.01, 5)
    again = qat_fraction(at, noisy)
    assert again.low["a"] < 4.0 < again.high["a"]


def test_shares_that_fall_do_not_follow_the_law_of_quantisation_aware_training():
    fit = qat_fraction([4, 16, 64, 256], [0.6, 0.5, 0.5, 0.2])
    assert fit.doubt == "one share for all, 0.45, fits better: these do not grow as the law's do"


def test_a_vote_that_saturates():
    n = np.array([1, 2, 4, 8, 16, 32, 64], float)
    noise = np.random.default_rng(1).normal(0, 0.003, len(n))
    fit = saturating(n, 0.9 - 0.4 * n**-0.8 + noise)
    for name, truth in (("top", 0.9), ("first", 0.5), ("rate", 0.8)):
        assert fit.low[name] < truth < fit.high[name]
    assert fit.doubt == ""


def test_a_vote_that_has_not_flattened():
    n = np.array([1, 2, 4, 8, 16], float)
    assert "not flattened" in saturating(n, 0.2 + 0.05 * np.log2(n)).doubt


@pytest.mark.parametrize(
    ("x", "doubt"), [([1, 1, 2, 2], "only 2 different x"), ([10, 11, 12, 13], "x spans a factor of 1.3 only")]
)
def test_what_points_cannot_support(x, doubt):
    assert doubt in power_law(x, [1, 2, 3, 4]).doubt


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power_law([1, 2], [1, 2]), "2 points are too few for this law; give at least 3"),
        (lambda: power_law([1, 2, 0], [1, 2, 3]), "x=0 must be positive"),
        (lambda: power_law([1, 2, 3], [1, -2, 3]), "y=-2 must be positive"),
        (lambda: power_law([2, 2, 2], [1, 2, 3]), "all 3 points have x=2"),
        (lambda: power_law([1, 2, 3], [1, 2]), "two lists of finite numbers of one length"),
        (lambda: power_law([1, 2, float("nan")], [1, 2, 3]), "finite numbers"),
        (lambda: saturating([1, 2, 4, 8], [0.1, 0.2, 0.3, 1.5]), r"accuracies in \[0, 1\]"),
        (lambda: qat_fraction([0.5, 10], [0.1, 0.2]), "tokens per byte must be above 1"),
    ],
)
def test_bad_points(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


# ---- of a search


def star(width):
    """Equal solves under a vote; one is a single call."""
    node = Node("assistant", "m")
    graph = (
        Graph((node,))
        if width == 1
        else Graph((*[node] * width, Node("vote")), tuple((i, width) for i in range(width)))
    )
    return Plan((graph,))


def trials(widths, accuracy, questions=400):
    rng = np.random.default_rng(0)
    luck = rng.random(questions)  # the same questions are hard for all
    return [
        Trial(i, star(w), 0, Cost(flops=w * 10.0), {f"q{q}": float(luck[q] < accuracy(w)) for q in range(questions)})
        for i, w in enumerate(widths)
    ]


def test_width_grows_with_the_budget_where_wider_is_better():
    found = {
        law.name: law for law in laws(trials([1, 2, 3, 4, 6, 8, 12, 16, 24, 32], lambda w: 0.9 - 0.5 / w), unit=10.0)
    }
    assert found["width"].fit.values["b"] == pytest.approx(1.0, abs=0.1)
    assert found["width"].doubt == ""
    assert found["depth"].doubt == "only 2 different values"  # a call alone, and a vote
    vote = found["vote of assistant by m"]
    assert vote.fit.values["top"] == pytest.approx(0.9, abs=0.04)  # the questions are a sample


def test_where_a_single_call_is_best_it_says_so():
    found = {law.name: law for law in laws(trials([1, 2, 4, 8, 16], lambda w: 0.8 - 0.02 * w), unit=10.0)}
    assert "only 1 different best plans over 8 budgets" in found["width"].doubt


def test_trials_that_stopped_early_are_left_out():
    some = trials([1, 4], lambda _: 0.5)
    lucky = Trial(2, star(16), 0, Cost(flops=160.0), {"q1": 1.0})
    assert max(laws([*some, lucky], unit=10.0)[0].x) == 4.0


def test_too_few_trials():
    with pytest.raises(ConfigError, match="1 trials with enough marks; a fit needs at least two"):
        laws(trials([1], lambda _: 0.5), unit=10.0)


def test_plots(tmp_path):
    found = laws(trials([1, 2, 3, 4, 6, 8], lambda w: 0.9 - 0.5 / w), unit=10.0)
    files = plot(found, tmp_path / "fits")
    assert {path.name for path in files} >= {"width.svg", "vote_of_assistant_by_m.svg"}
    assert all(path.read_text().startswith("<?xml") for path in files)


def found_at(units, first, names=("one", "two")):
    """A plan file of two stages at a budget, the first with that share."""
    made = random_plan_file(3, stages=2)
    budget = made.budget.model_copy(update={"flops": units * 10.0, "unit_flops": 10.0})
    parts = zip(made.stages, names, (first, 1 - first), strict=True)
    stages = tuple(stage.model_copy(update={"name": name, "share": share}) for stage, name, share in parts)
    return made.model_copy(update={"budget": budget, "stages": stages})


def test_shares_over_several_budgets(tmp_path):
    plans = [found_at(units, 0.1 * units**0.3) for units in (64, 1, 4, 16)]
    first, second = shares(plans)
    assert first.name == "share of one"
    assert first.x == [1, 4, 16, 64]
    assert first.fit.values["b"] == pytest.approx(0.3)
    assert first.doubt == ""
    assert second.y == pytest.approx([1 - y for y in first.y])
    assert {path.name for path in plot([first, second], tmp_path)} == {"share_of_one.svg", "share_of_two.svg"}
    flat = shares([found_at(units, share) for units, share in ((1, 0.5), (4, 0.4), (16, 0.5), (64, 0.45))])
    assert flat[0].doubt == "the exponent may as well be 0"
    assert shares(plans[:2])[0].doubt == "a law needs three plans at two budgets, and no share of 0"


def test_shares_of_what_is_not_comparable():
    for plans in ([found_at(1, 0.5)], [found_at(1, 0.5), found_at(4, 0.5, ("one", "other"))]):
        with pytest.raises(ConfigError, match="shares need two or more plans of the same stages"):
            shares(plans)
    without = found_at(4, 0.5)
    without = without.model_copy(update={"budget": without.budget.model_copy(update={"flops": None})})
    with pytest.raises(ConfigError, match="fitted against a budget in FLOPs or units"):
        shares([found_at(1, 0.5), without])
