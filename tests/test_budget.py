"""Budgets: what they allow, what they say, and what is refused."""

import pytest

from agentgraph.budget import RESOURCES, Budget, Cost
from agentgraph.errors import BudgetError

FULL = Cost(flops=40.0, calls=3, prompt_tokens=30, output_tokens=9, usd=0.02, seconds=1.5, tts_units=7.0)


def test_allows_up_to_rounding():
    budget = Budget(flops=3 * 0.1, unit=0.1)
    assert budget.units == pytest.approx(3)
    assert budget.allows(Cost(0.1 + 0.1 + 0.1))
    assert not budget.allows(Cost(0.3001))


@pytest.mark.parametrize("name", RESOURCES)
def test_every_limit_binds(name):
    amount = getattr(FULL, name)
    assert Budget(**{name: amount}).allows(FULL)
    assert not Budget(**{name: amount * 0.99}).allows(FULL)
    others = {other: 2 * getattr(FULL, other) for other in RESOURCES if other != name}
    assert Budget(**others, **{name: amount}).allows(FULL)
    assert not Budget(**others, **{name: amount * 0.99}).allows(FULL)


def test_no_limit_allows_everything():
    assert Budget().allows(Cost(1e300, 1e9, 1e30, 1e30, 1e9, 1e9, 1e9))
    assert Budget().limits == {}
    assert Budget().note(FULL) == Budget(80.0, 10.0).note(FULL) == ""
    assert Budget(80.0, 10.0, calls=5).note(FULL) == "; charge 4 of 8 units, 3 of 5 calls"
    assert Budget().text() == "no limit"


@pytest.mark.parametrize(
    ("limits", "text", "of_a_cost"),
    [
        ({"flops": 80.0, "unit": 10.0}, "8 units", "4 of 8 units"),
        ({"usd": 0.02, "seconds": 3}, "0.02 USD, 3 s", "0.02 of 0.02 USD, 1.5 of 3 s"),
        ({"calls": 5, "tokens": 12_000}, "5 calls, 12,000 tokens", "3 of 5 calls, 39 of 12,000 tokens"),
        ({"tts_units": 929, "flops": 45, "unit": 10}, "4.5 units, 929 TTS units", "4 of 4.5 units, 7 of 929 TTS units"),
    ],
)
def test_text(limits, text, of_a_cost):
    assert Budget(**limits).text() == text
    assert Budget(**limits).text(FULL) == of_a_cost


@pytest.mark.parametrize("value", [0, -1.5, float("nan")])
def test_bad_budget(value):
    with pytest.raises(
        BudgetError, match=rf"the budget must be positive, got {value}; give budget.units or budget.flops"
    ):
        Budget(value, 1.0)
    with pytest.raises(BudgetError, match=rf"the unit must be positive, got {value}"):
        Budget(1.0, value)
    for name in RESOURCES[1:]:
        with pytest.raises(BudgetError, match=rf"the budget must be positive, got {value}; give budget.{name}"):
            Budget(**{name: value})
