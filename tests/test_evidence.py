"""What an agent is shown: what happened, with intervals, prices and failures; and what became of its nudges, exactly."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from fakes import POOL, ROLES, Relay
from spaces import limited, space

from agentgraph.agents.base import Agent, Evidence
from agentgraph.agents.evidence import account, realised, render, space_text, task_text, trial_text
from agentgraph.agents.feedback import Feedback, Note, Nudge, Prediction, step
from agentgraph.budget import Cost
from agentgraph.distribution import Distribution
from agentgraph.graph import Graph, Node
from agentgraph.objectives.base import Objective
from agentgraph.objectives.weighted import Weighted
from agentgraph.plan import Plan
from agentgraph.score import interval
from agentgraph.trial import Answer, Trial

SPACE = space(4, 12, roles=ROLES, pool=POOL)
STAR = Graph(
    (Node("assistant", "a-small"), Node("assistant", "b-small"), Node("vote")),
    ((0, 2), (1, 2)),
)
CHAIN = Graph((Node("assistant", "a-small"), Node("keep", "b-small")), ((0, 1),))
SOLVE = Graph((Node("assistant", "b-medium"),))


class Thrifty(Objective):
    """Half of the accuracy.

    More words, which are not shown.
    """

    def value(self, accuracy, cost):
        del cost
        return accuracy / 2


class Quiet(Agent):
    name = "quiet"

    def feedback(self, *_):
        raise AssertionError

    choose = feedback


def trial(number, graph, marks, **charge):
    made = Trial(number, Plan((graph,)), 0, SPACE.stages[0].price(graph))
    for q, mark in enumerate(marks):
        made.add(Answer(f"q{q}", mark, Cost(flops=made.price.flops, **charge)))
    return made


TRIALS = [trial(0, STAR, [1, 1, 1, 0]), trial(1, CHAIN, [0, 1, 0, 0]), trial(2, SOLVE, [0, 0, 1, 1])]
QUESTIONS = {"q0": ("what is\n6 x 7?", "42"), "q3": ("long " * 100, "gold"), "q9": ("never asked", "secret")}


def evidence(trials=TRIALS, **more):
    return Evidence(3, 10, trials, sorted(trials, key=lambda t: -t.accuracy), Distribution(SPACE), 0.5, **more)


def test_the_least_that_is_known_will_do():
    text = render(evidence())
    assert "Round 3 of 10." in text
    assert "mean mark in [0, 1]" in text
    assert "What you said" not in text
    assert "nudges" not in text
    assert render(evidence([])).count("plan ") == 0


@pytest.mark.parametrize("seed", range(5))
def test_every_plan_with_its_interval_and_its_sink(seed):
    trials = []
    rng = np.random.default_rng(seed)
    for number, plan in enumerate(Distribution(SPACE).sample(8, seed)):
        trials.append(trial(number, plan.stages[0], (rng.random(rng.integers(1, 30)) < 0.5).tolist()))
    text = render(evidence(trials))
    for one in trials:
        mean, low, high = interval(list(one.marks.values()))
        assert f"plan {one.plan.id}: accuracy {mean:.3f} [{low:.3f}, {high:.3f}] on {len(one.marks)} questions" in text
        listed = trial_text(one, SPACE.budget.unit)
        assert listed in text
        assert listed.count("to SINK") == 1
        assert listed.count("\n") == len(one.plan.stages[0].nodes)
        assert f"price {one.price.flops / SPACE.budget.unit:.2f} units" in listed


def test_what_is_known_of_costs_is_shown():
    plain = trial_text(trial(0, SOLVE, [1]), 1.0)
    assert " s;" not in plain
    assert "$" not in plain
    made = trial(0, SOLVE, [1, 0], seconds=2.5, usd=0.001)
    units = made.price.flops / SPACE.budget.unit
    assert f"; price {units:.2f} units; charge {units:.2f} units, 2.5 s, $0.001;" in trial_text(made, SPACE.budget.unit)
    assert trial_text(trial(0, SOLVE, []), 1.0).startswith(f"plan {TRIALS[2].plan.id}: no marks; price")
    odd = trial(0, SOLVE, [1])
    odd.outcomes.update(["empty", "empty", "cut"])
    assert "replies 1 cut, 2 empty" in trial_text(odd, 1.0)


def test_seconds_are_shown_only_where_they_count():
    """They differ from run to run: a model that is shown them would be asked something else each time."""
    slow, fast = (evidence([trial(0, SOLVE, [1, 0], seconds=s)]) for s in (2.5, 0.5))
    assert render(slow) == render(fast)
    assert "5 s;" not in render(slow)
    assert ", 2.5 s;" in render(replace(slow, objective=Weighted(seconds=0.1)))


def test_utility_is_shown_where_it_is_not_the_accuracy():
    assert "utility" not in render(evidence()).split("Plans of this round")[1].split("\n", 1)[1]
    text = render(evidence(objective=Thrifty()))
    assert "Utility, which is maximised: Half of the accuracy.\n" in text
    assert "on 4 questions; utility 0.375;" in text


def _is_price(line):
    return line.startswith("    with ")


def test_prices_by_number_of_parents():
    text, unit, stage = space_text(SPACE), SPACE.budget.unit, SPACE.stages[0]
    assert "may sum to 12 units" in text
    for role in ROLES:
        part = "\n".join(itertools.takewhile(_is_price, text.split(f"\n  {role.name} (")[1].splitlines()[1:]))
        for model in POOL if role.needs_model else ():
            line = part.partition(f"  with {model.name}: ")[2].partition("\n")[0]
            shown = dict(entry.split(": ") for entry in line.split(", ") if line)
            costs = {d: stage.node_cost(Node(role.name, model.name), d).flops for d in range(role.min_parents, 4)}
            assert set(shown) == {str(d) for d, cost in costs.items() if cost <= 12 * unit}
            for d, price in shown.items():
                cost = stage.node_cost(Node(role.name, model.name), int(d)).flops
                assert price.endswith(" units")
                assert float(price.split()[0]) == pytest.approx(cost / unit, rel=0.005)
    assert "vote (at least 1 parents; sink only): no model, free" in text
    assert "fuser (at least 1 parents; not a parent of a fuser)" in text


def test_prices_are_in_what_is_limited_and_only_where_they_fit():
    times = {"usd": 3.0, "seconds": 4.0}
    made = limited(4, times, samples={"small": 1, "medium": 2, "large": 0}, roles=ROLES[:1])
    text, stage = space_text(made), made.stages[0]
    assert made.budget.text() in text
    assert "units" not in text
    for m, model in enumerate(stage.pool.names):
        costs = [{name: float(stage.tables[name][0, m, d]) for name in times} for d in range(4)]
        fit = {d for d, cost in enumerate(costs) if all(cost[name] <= made.budget.limits[name] for name in times)}
        fit = fit if stage.samples[model] else set()
        line = text.partition(f"with {model}: ")[2].partition("\n")[0]
        shown = {int(entry.partition(": ")[0]): entry.partition(": ")[2] for entry in line.split(", ") if line}
        assert shown.keys() == fit
        for d, words in shown.items():
            usd, seconds = (float(part.split()[0]) for part in words.split(" and "))
            assert (usd, seconds) == pytest.approx((costs[d]["usd"], costs[d]["seconds"]), rel=0.005)
    dear = [name for name in stage.pool.names if f"with {name}:" not in text]
    assert dear
    assert f"too dear for any plan: {', '.join(dear)}\n" in text
    asked = ", ".join(f"{name} {count}" for name, count in stage.samples.items() if name not in dear)
    assert text.endswith(f"how often a graph may ask each model: {asked}")


def test_single_models_have_a_list_of_their_own():
    text = render(evidence()).split("Single models")[1].split("Plans of this round")[0]
    mean, low, high = interval([0, 0, 1, 1])
    assert f"  assistant(b-medium): accuracy {mean:.3f} [{low:.3f}, {high:.3f}] on 4 questions; price" in text
    assert "a-small" not in text


def test_failures_of_the_best_and_the_worst():
    text = render(evidence(questions=QUESTIONS)).split("Questions that")
    best, worst = text[1], text[2].split("Tables")[0]
    assert best.startswith(f" the best plan of the round ({TRIALS[0].plan.id}) failed on, 1 in all:")
    assert best.splitlines()[1].startswith("  q3 (both plans failed): long long")
    assert len(best.splitlines()[1]) < 220
    assert best.splitlines()[1].endswith("… -> gold")
    assert worst.startswith(f" the worst plan of the round ({TRIALS[1].plan.id}) failed on, 3 in all:")
    assert "  q0: what is 6 x 7? -> 42\n" in worst
    assert "  q2\n" in worst  # nothing is known of it but its id
    assert "secret" not in "".join(text)


def test_few_failures_are_listed():
    text = render(evidence([trial(0, SOLVE, [0] * 40)], questions=QUESTIONS))
    assert "failed on, 40 in all" in text
    assert sum(line.startswith("  q") for line in text.splitlines()) == 4
    assert "the worst plan" not in text


def test_what_the_task_says():
    relay = Relay()
    assert task_text(relay).splitlines() == ["Task relay.", "  stage first: -", "  stage second: -"]
    assert render(evidence(task="Task relay.")).startswith("Task relay.\n")


def test_history():
    text = render(
        evidence(history=[Note(round=1, critique="wider", mean=0.25), Note(round=2, critique="no", mean=0.5)])
    )
    assert (
        "What you said in round 1 (mean utility 0.250): wider\nWhat you said in round 2 (mean utility 0.500): no"
        in text
    )


# ---- predictions


def foreseen(**fields):
    nudge = Nudge(**{"table": "role", "slot": 0, "option": "vote", "by": 1.0, **fields})
    return Prediction(nudge=nudge, before=0.2, after=0.4)


@pytest.mark.parametrize(
    ("fields", "effect", "having"),
    [
        ({}, 0.75 - (0.25 + 0.5) / 2, 1),
        ({"option": "keep"}, 0.25 - (0.75 + 0.5) / 2, 1),
        ({"option": "fuser"}, None, 0),
        ({"slot": 1, "option": "assistant"}, (0.75 + 0.25) / 2 - 0.5, 2),
        ({"slot": 2, "option": "assistant"}, 0.75 - (0.25 + 0.5) / 2, 1),
        ({"slot": 3, "option": "assistant"}, None, 0),
        ({"table": "model", "option": "b-small"}, 0.25 - (0.75 + 0.5) / 2, 1),
        ({"table": "model", "option": "a-small"}, None, 0),  # the vote's slot has no model
        ({"table": "edge", "slot": 1, "option": "0"}, (0.75 + 0.25) / 2 - 0.5, 2),
        ({"table": "edge", "slot": 2, "option": "0"}, 0.75 - (0.25 + 0.5) / 2, 1),
        ({"table": "edge", "slot": 2, "option": "1"}, None, 0),
    ],
)
def test_realised_effect(fields, effect, having):
    (one,) = realised([foreseen(**fields)], TRIALS, Distribution(SPACE), lambda t: t.accuracy)
    assert one.effect == pytest.approx(effect) if effect is not None else one.effect is None
    assert (one.having, one.lacking) == (having, 3 - having)
    (half,) = realised([foreseen(**fields)], TRIALS, Distribution(SPACE), Thrifty().utility)
    assert half.effect == pytest.approx(effect / 2) if effect is not None else half.effect is None


def test_plans_without_marks_realise_nothing():
    unmarked = [trial(5, STAR, [])]
    assert realised([foreseen()], unmarked, Distribution(SPACE), lambda t: t.accuracy) == [foreseen()]
    (one,) = realised([foreseen()], [*TRIALS, *unmarked], Distribution(SPACE), lambda t: t.accuracy)
    assert one.having == 1


def test_predictions_are_shown_against_what_happened():
    what = foreseen(expect=0.05).model_copy(update={"effect": -0.125, "having": 2, "lacking": 3})
    up, unknown = what.model_copy(update={"effect": 0.125}), foreseen(option="keep")
    text = render(evidence(predicted=0.1, realised=-0.2, predictions=[what, up, unknown]))
    assert "foresaw a change of the mean utility of a round of +0.100; it was -0.200." in text
    assert "Of 2 nudges whose effect is known, 1 raised" in text
    assert "expected +0.050  realised -0.125 (2 new plans with it, 3 without)" in text
    assert "realised unknown" in text


# ---- the account of a round


def test_account():
    shown = evidence(predicted=0.1, realised=-0.2)
    tables = Distribution(SPACE)
    moves = step(tables, Feedback(critique="", nudges=(foreseen().nudge,)), 0.5)
    text = account(
        shown,
        Quiet(),
        "CRITIQUE\nvotes",
        shown="what was seen",
        before="then",
        after="now",
        phase="warm-up",
        steps=moves,
        rejects={"prose": 2, "cycle": 1},
    )
    sections = [section.split("\n", 1) for section in text.split("\n\n")]
    assert [section[0].split(" (")[0] for section in sections] == [
        "PHASE warm-up, round 3 of 10",
        "EVIDENCE",
        "AGENT quiet",
        "PREDICTED AND REALISED",
        "MOVES",
        "REJECTED SO FAR",
        "TABLES BEFORE",
        "TABLES AFTER",
    ]
    assert "it was -0.200" in sections[3][1]
    before, after = 1 / len(ROLES), np.exp(0.5) / (np.exp(0.5) + len(ROLES) - 1)
    assert f"p {before:.3f} -> {after:.3f}  expected +0.000" in sections[4][1]
    assert sections[5][1] == "cycle: 1, prose: 2"
    bare = account(evidence(), Quiet(), "", shown="", before="", after="")
    assert "REJECTED SO FAR\nnone" in bare
    assert bare.count("\nnone") == 3
