"""What of a reply is used: what is right in it; the rest is dropped and counted by kind; the step does what was said."""

import json
from collections import Counter

import pytest
import torch
from fakes import POOL, ROLES
from replies import BAD, BAD_PLANS, CHOICE, GOOD, SOLVE, nudge, plan
from spaces import random_tables

from agentgraph.agents.feedback import (
    MOST_NUDGES,
    Choice,
    Feedback,
    FeedbackWithPlans,
    Nudge,
    parse,
    parse_choice,
    probability,
    schema,
    step,
)
from agentgraph.agents.proposals import Proposal, parse_plans, written
from agentgraph.agents.reading import ATTEMPTS, KINDS, Reading, listen
from agentgraph.budget import Budget
from agentgraph.distribution import Distribution
from agentgraph.errors import FeedbackError
from agentgraph.space import Space, StageSpace
from agentgraph.tasks.calc import CalcStage

STAGE = StageSpace("calc", ROLES, POOL, 5, CalcStage.lengths)
SPACE = Space((STAGE,), Budget(16 * STAGE.cheapest, STAGE.cheapest))
POOR = Space((STAGE,), Budget(2 * STAGE.cheapest, STAGE.cheapest))
MIXES = [(4, 4, 0, 0, 0, 0), (0, 0, 2, 0, 0, 0), (1, 0, 0, 1, 0, 0)]
TABLES = Distribution(SPACE)
NUDGES = parse(GOOD, TABLES).value.feedback.nudges


def together(*entries, **more):
    return json.dumps({"critique": "c", "nudges": [json.loads(entry)["nudges"][0] for entry in entries], **more})


# ---- what can be used


def test_good_feedback():
    reading = parse(GOOD, TABLES)
    assert reading.value.feedback.critique == "votes did well"
    assert [n.option for n in NUDGES] == ["vote", "0", "a-small"]
    assert reading.complaint == ""
    assert not reading.rejects


@pytest.mark.parametrize(
    "wrapped",
    [
        f"```json\n{GOOD}\n```",
        f"Here is what I think of {{this}}.\n{GOOD}\nGood luck!",
        GOOD.replace("]}", ",]}"),
        GOOD.replace("}]", "},]"),
        repr(json.loads(GOOD)),
        GOOD.replace("1.5", '"1.5"').replace('"slot": 2', '"slot": "2"'),
        GOOD.replace('"option": "0"', '"option": 0'),
        GOOD.replace("0.1", '"10%"'),
        GOOD.replace('"by": -0.5', '"by": -0.5, "to": null, "because": null'),
        json.dumps({"feedback": json.loads(GOOD)}),
        f"<think>Perhaps {nudge()}? No.</think>{GOOD}",
        f"First {nudge()}, or rather: {GOOD}",
        f"{GOOD} that is all, {GOOD[:99]}",
        GOOD.replace("votes did well", "votes did well").replace("it did", "图表很好,图表很好,图表很好"),
    ],
)
def test_repaired(wrapped):
    reading = parse(wrapped, TABLES)
    assert [n.model_copy(update={"because": ""}) for n in reading.value.feedback.nudges] == [
        n.model_copy(update={"because": ""}) for n in NUDGES
    ]
    assert not reading.rejects


def test_a_share_may_be_a_probability():
    feedback = parse(nudge(by=None, to="40%"), TABLES).value.feedback
    assert feedback.nudges[0].to == 0.4


def test_nothing_to_say_is_no_reject():
    reading = parse('{"critique": "all is well", "nudges": []}', TABLES)
    assert reading.value.feedback == Feedback(critique="all is well", nudges=())
    assert not reading.rejects


def test_without_critique_the_nudges_count():
    reading = parse(json.dumps({"nudges": json.loads(GOOD)["nudges"]}), TABLES)
    assert reading.value.feedback.nudges == NUDGES
    assert reading.rejects == {"schema": 1}
    assert parse(GOOD.replace('"votes did well"', "7"), TABLES).complaint == (
        "at 'critique': Input should be a valid string, got '7'"
    )


@pytest.mark.parametrize("end", [len(GOOD) - 1, len(GOOD) - 30, GOOD.rindex("{") + 1])
def test_cut_off_keeps_the_complete_nudges(end):
    reading = parse(GOOD[:end], TABLES, cut=True)
    assert reading.value.feedback.nudges == (NUDGES if end == len(GOOD) - 1 else NUDGES[:2])
    assert reading.rejects == {"cut off": 1}


def test_bad_nudges_are_dropped_alone():
    one_nudge = [which for which, (text, _, _) in BAD.items() if '"table"' in text and which[:3] != "cut"]
    reading = parse(together(*(BAD[which][0] for which in one_nudge), nudge(by=2)), TABLES)
    assert [n.by for n in reading.value.feedback.nudges] == [2]
    assert reading.rejects == Counter(BAD[which][2] for which in one_nudge)
    assert reading.rejects.keys() == {"schema", "unknown id", "probability", "cycle"}


def test_too_many_nudges():
    reading = parse(together(*[nudge(slot=i % 5) for i in range(MOST_NUDGES + 3)]), TABLES)
    assert len(reading.value.feedback.nudges) == MOST_NUDGES
    assert reading.rejects == {"schema": 3}


def test_probabilities_of_a_row_that_exceed_1_are_dropped():
    targets = [nudge(by=None, to=0.7), nudge(by=None, to=0.6, option="keep"), nudge(by=None, to=0.4, slot=1), nudge()]
    reading = parse(together(*targets), TABLES)
    assert [(n.slot, n.to) for n in reading.value.feedback.nudges] == [(1, 0.4), (0, None)]
    assert reading.rejects == {"probability": 2}
    assert "roles of slot 0 sum to 1.300" in reading.complaint
    edges = [nudge(table="edge", slot=3, option=str(t), by=None, to=0.9) for t in range(3)]
    assert not parse(together(*edges), TABLES).rejects  # each edge is a choice of its own


def test_critique_in_another_script_is_no_reject():
    assert not parse(GOOD.replace("votes did well", "投票很好" * 50), TABLES).rejects


# ---- what cannot


@pytest.mark.parametrize("which", BAD)
def test_bad_feedback(which):
    text, expected, kind = BAD[which]
    with pytest.raises(FeedbackError, match=expected) as caught:
        parse(text, TABLES)
    assert caught.value.kind == kind
    assert caught.value.rejects == {kind: 1}


@pytest.mark.parametrize("text", ["", "Let me think about", "<think>hm", "您好"])
def test_a_limit_of_tokens_is_the_reason(text):
    with pytest.raises(FeedbackError, match="ends early") as caught:
        parse(text, TABLES, cut=True)
    assert caught.value.kind == "cut off"


def test_nothing_left_counts_every_kind():
    with pytest.raises(FeedbackError, match=r"got '9'") as caught:
        parse(together(nudge(by=9), nudge(slot=7), nudge(slot=8)), TABLES)
    assert caught.value.kind == "probability"
    assert caught.value.rejects == {"probability": 1, "unknown id": 2}


def test_every_kind_is_seen():
    assert {kind for _, _, kind in [*BAD.values(), *BAD_PLANS.values()]} == set(KINDS)


# ---- plans


def test_plans_beside_nudges():
    star = [{**SOLVE}, {**SOLVE, "parents": None}, {"role": "vote", "model": "a-small", "parents": [0, 1]}]
    reverse = [{"role": "vote", "parents": [2, 1]}, SOLVE, SOLVE]
    text = together(nudge(), plans=[[star], [[SOLVE]], [reverse], [[{"role": "judge"}]]])
    reading = parse(text, TABLES, plans=True)
    assert [len(p.stages[0].nodes) for p in reading.value.plans] == [3, 1]  # the third is the first
    assert reading.rejects == {"unknown id": 1}
    for proposed in reading.value.plans:
        SPACE.check(proposed)
        assert parse_plans(f'{{"plans": [{written(proposed)}]}}', SPACE).value == [proposed]
        assert written(proposed) in reading.value.text()


def test_plans_alone_will_do():
    reading = parse(json.dumps({"critique": "", "plans": [[[SOLVE]]]}), TABLES, plans=True)
    assert len(reading.value.plans) == 1
    assert not reading.rejects


def test_plans_that_were_not_asked_for_are_a_reject():
    reading = parse(together(nudge(), plans=[[[SOLVE]]]), TABLES)
    assert reading.value.plans == ()
    assert reading.rejects == {"schema": 1}
    assert reading.complaint == "at 'plans': there is no such field"


@pytest.mark.parametrize("which", BAD_PLANS)
def test_bad_plans(which):
    text, expected, kind = BAD_PLANS[which]
    for read in (lambda: parse(text, Distribution(POOR), plans=True), lambda: parse_plans(text, POOR)):
        with pytest.raises(FeedbackError, match=expected) as caught:
            read()
        assert caught.value.kind == kind
    good = json.loads(text)
    good["plans"] = [*(good["plans"] if isinstance(good["plans"], list) else []), [[SOLVE]]]
    reading = parse_plans(json.dumps(good), POOR)
    assert len(reading.value) == 1
    assert set(reading.rejects) <= {kind}


@pytest.mark.parametrize(
    ("tail", "kept"), [("]]]", 2), ("]], [[", 2), ("]], [[{", 2), ("]], [[]", 2), ("]]", 2), ("]", 1)]
)
def test_plans_cut_off(tail, kept):
    solve, large = json.dumps(SOLVE), json.dumps({**SOLVE, "model": "a-large"})
    reading = parse_plans(f'{{"plans": [[[{solve}]], [[{large}{tail}', SPACE)
    assert len(reading.value) == kept
    assert reading.rejects == {"cut off": 1}


# ---- choices


@pytest.mark.parametrize(
    ("text", "expected", "kind"),
    [
        ("none of them", "expected a JSON object, got 'none of them'", "prose"),
        ('{"critique": "", "mixes": []}', r"expected 1 to 2 numbers from 0 to 2 in 'mixes', got \(\)", "schema"),
        ('{"critique": "", "mixes": [0, 3]}', r"got \(0, 3\)", "unknown id"),
        ('{"critique": "", "mixes": [0, 1, 2]}', r"got \(0, 1, 2\)", "schema"),
        ('{"critique": "", "mixes": [-1]}', r"at 'mixes\.0': .*got '-1'", "schema"),
        ('{"critique": "", "mixes": [true]}', r"at 'mixes\.0': .*got 'True'", "schema"),
        ('{"critique": ""}', r"expected a JSON object with 'mixes', got one with \['critique'\]", "schema"),
    ],
)
def test_bad_choice(text, expected, kind):
    with pytest.raises(FeedbackError, match=expected) as caught:
        parse_choice(text, MIXES, 2)
    assert caught.value.kind == kind


def test_good_choice():
    assert parse_choice(CHOICE, MIXES, 2).value.mixes == (2, 0)
    assert parse_choice('{"critique": "", "mixes": [1, "1"]}', MIXES, 1).value.mixes == (1,)
    reading = parse_choice('{"mixes": [0]}', MIXES, 1)
    assert reading.value.mixes == (0,)
    assert reading.rejects == {"schema": 1}


def test_schemas_are_json_schemas():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(GOOD), schema(Feedback))
    jsonschema.validate(json.loads(nudge(by=None, to=0.5)), schema(Feedback))
    jsonschema.validate(json.loads(plan(SOLVE)), schema(FeedbackWithPlans))
    jsonschema.validate({"plans": [[[SOLVE]]]}, schema(Proposal))
    jsonschema.validate(json.loads(CHOICE), schema(Choice))
    for bad in (nudge(table="seed"), nudge(by=None, to=2), plan(SOLVE)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(bad), schema(Feedback))


# ---- asking again


def test_asks_again_and_says_why():
    said, complaints = ["no", nudge(by=9), GOOD[:-30]], []

    def say(complaint):
        complaints.append(complaint)
        return said[len(complaints) - 1]

    rejects = Counter()
    heard = listen(say, lambda raw: parse(raw, TABLES), rejects)
    assert heard.value.feedback.nudges == NUDGES[:2]
    assert heard.raw == GOOD[:-30]
    assert "ends early" in heard.complaint
    assert rejects == {"prose": 1, "probability": 1, "cut off": 1}
    assert complaints[0] == ""
    assert complaints[1] == "expected a JSON object, got 'no' (attempt 1 of 3)"
    assert "got '9' (attempt 2 of 3)" in complaints[2]


def test_gives_up():
    complaints, rejects = [], Counter()
    heard = listen(lambda complaint: complaints.append(complaint) or "", lambda raw: parse(raw, TABLES), rejects)
    assert (heard.value, heard.raw) == (None, "")
    assert len(complaints) == ATTEMPTS
    assert rejects == {"empty": ATTEMPTS}


def test_what_is_good_is_not_asked_again():
    heard = listen(lambda complaint: complaint or "first", Reading, Counter())
    assert heard.value == "first"


# ---- the step


def tables_with(*nudges, rate=1.0, seed=0):
    distribution = random_tables(SPACE, seed, spread=1.0)
    before = [table.clone() for table in distribution.stages[0].parameters()]
    moved = step(distribution, Feedback(critique="", nudges=tuple(nudges)), rate)
    return distribution, before, moved


def made(**fields):
    return Nudge(**{"table": "role", "slot": 0, "option": "vote", **fields})


def test_step_adds_to_logits():
    distribution = Distribution(SPACE)
    stage = distribution.stages[0]
    before = stage.role_logits[0].clone(), stage.edge_logits[2, 0].clone(), stage.model_logits[1].clone()
    step(distribution, Feedback(critique="", nudges=NUDGES), 0.5)
    assert stage.role_logits[0, 4] == before[0][4] + 0.75
    assert stage.edge_logits[2, 0] == before[1] - 0.25
    assert stage.model_logits[1, 0] == before[2][0] + 1.5
    assert torch.equal(stage.role_logits[0, :4], before[0][:4])
    for _ in range(20):
        step(distribution, Feedback(critique="", nudges=NUDGES), 1.0)
    assert stage.role_logits.max() == 5
    assert stage.edge_logits[2, 0] == -5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("p", [0.05, 0.4, 0.8])
def test_to_reaches_the_probability(p, seed):
    targets = [
        made(to=p),
        made(slot=1, to=p / 2),
        made(slot=1, option="keep", to=p / 4),
        made(table="model", slot=3, option="b-large", to=p),
        made(table="edge", slot=4, option="2", to=p),
    ]
    distribution, before, moved = tables_with(*targets, seed=seed)
    for target, one in zip(targets, moved, strict=True):
        assert probability(distribution, target) == pytest.approx(target.to, abs=1e-9)
        assert one.after == pytest.approx(target.to, abs=1e-9)
        assert one.nudge == target
    roles = distribution.stages[0].role_logits
    untouched = [r for r, role in enumerate(ROLES) if role.name not in ("vote", "keep")]
    assert torch.equal(roles[1, untouched], before[1][1, untouched])  # the others share the rest as before
    assert torch.equal(roles[2:], before[1][2:])


def test_the_order_of_nudges_does_not_matter():
    nudges = [made(to=0.3), made(option="keep", to=0.5), made(slot=2, by=1.0), made(slot=2, by=-0.5), made(by=0.5)]
    one, _, _ = tables_with(*nudges)
    two, _, _ = tables_with(*reversed(nudges))
    for a, b in zip(one.stages[0].parameters(), two.stages[0].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-12, rtol=0)


def test_a_whole_row_and_the_ends():
    share = 1 / len(ROLES)
    distribution, _, _ = tables_with(*[made(option=role.name, to=share) for role in ROLES])
    assert torch.softmax(distribution.stages[0].role_logits[0], 0).tolist() == pytest.approx([share] * len(ROLES))
    for p, least, most in ((0.0, 0.0, 0.01), (1.0, 0.9, 1.0)):
        distribution, _, _ = tables_with(made(to=p), made(table="edge", slot=1, option="0", to=p), seed=1)
        for table in distribution.stages[0].parameters():
            assert table.isfinite().all()
        for target in (made(to=p), made(table="edge", slot=1, option="0", to=p)):
            assert least < probability(distribution, target) < most


def test_part_of_the_way():
    target = made(table="edge", slot=3, option="1", to=0.7)
    whole, before, _ = tables_with(target)
    half, _, moved = tables_with(target, rate=0.5)
    start, end = before[0][3, 1], whole.stages[0].edge_logits[3, 1]
    assert half.stages[0].edge_logits[3, 1] == pytest.approx(float((start + end) / 2))
    assert moved[0].before == pytest.approx(float(torch.sigmoid(start)))
