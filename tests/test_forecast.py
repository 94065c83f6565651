"""Forecasts: they learn what trials say of plans alike, know what they do not know, and use no insight that is off."""

import numpy as np
import pytest
from spaces import space

from agentgraph.distribution import Distribution
from agentgraph.forecast import Forecast

SPACE = space(5, 8)
PLANS = list(dict.fromkeys(Distribution(SPACE).sample(400, 1)))


def level(plan):
    """Utility that depends on models and depth."""
    (graph,) = plan.stages
    smalls = sum(node.model == "small" for node in graph.nodes)
    return 0.4 + 0.15 * np.log2(1 + smalls) - 0.1 * np.log2(graph.depth)


def shown(insights, n=60):
    forecast = Forecast(SPACE, insights)
    values = np.array([level(plan) for plan in PLANS])
    rng = np.random.default_rng(0)
    forecast.fit(PLANS[:n], values[:n] + 0.05 * rng.standard_normal(n), np.full(n, 0.05))
    mean, covariance = forecast.predict(PLANS[n:])
    return values[n:], mean, covariance


def test_plans_never_tried_are_forecast():
    truth, mean, _ = shown((1, 2, 3))
    assert np.corrcoef(truth, mean)[0, 1] > 0.9
    assert np.sqrt(((truth - mean) ** 2).mean()) < 0.5 * truth.std()


@pytest.mark.parametrize("insights", [(), (1,), (2,), (1, 2), (1, 2, 3)])
def test_the_covariance_is_one_and_shrinks_where_trials_are(insights):
    _, _, covariance = shown(insights)
    assert np.allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9
    forecast = Forecast(SPACE, insights)
    before = forecast.predict(PLANS[:1])[1][0, 0]
    forecast.fit(PLANS[:1], np.array([0.5]), np.array([0.01]))
    assert forecast.predict(PLANS[:1])[1][0, 0] < before


def test_without_insights_only_size_counts():
    def key(plan):
        (graph,) = plan.stages
        return len(graph.nodes), len(graph.parents[-1]), len(graph.edges)

    _, mean, _ = shown(())
    by_key = {}
    for plan, value in zip(PLANS[60:], mean, strict=True):
        by_key.setdefault(key(plan), []).append(value)
    assert len(by_key) > 5
    assert all(np.ptp(values) < 1e-9 for values in by_key.values())
    _, with_models, _ = shown((1,))
    assert any(
        np.ptp([v for p, v in zip(PLANS[60:], with_models, strict=True) if key(p) == one]) > 0.05 for one in by_key
    )


def test_insight_three_lets_width_and_depth_interact():
    """Without it the effect of depth is the same at every width; with it, it need not be."""
    deep = Forecast(SPACE, (2,))._kernel(*_corners(), 1.0, 1.0)
    both = Forecast(SPACE, (2, 3))._kernel(*_corners(), 1.0, 1.0)
    # Covariance of the interaction (a difference of differences) with itself.
    interaction = np.array([1, -1, -1, 1])
    assert interaction @ deep @ interaction == pytest.approx(0, abs=1e-9)
    assert interaction @ both @ interaction > 0.1


def _corners():
    corners = np.array([[d, w, 1.0, 1.0, 1.0] for d in (0.0, 1.0) for w in (0.0, 1.0)])
    return corners, corners


def test_no_trials_no_opinion():
    forecast = Forecast(SPACE)
    forecast.fit([], np.zeros(0), np.zeros(0))
    mean, covariance = forecast.predict(PLANS[:3])
    assert np.ptp(mean) == 0
    assert (np.diag(covariance) > 0).all()
