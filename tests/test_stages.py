"""Tasks of several stages: what is handed on, how the budget is split, and that one stage is what it was."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import FEW, ROLES, Relay, backend, setup
from spaces import agrees, all_labelled, limited, random_tables, space

from agentgraph.agents.base import Evidence
from agentgraph.agents.feedback import Feedback, Nudge, parse, step
from agentgraph.agents.rule_based import RuleBased
from agentgraph.archive import Archive
from agentgraph.budget import Cost
from agentgraph.distribution import SLICES, Distribution
from agentgraph.draw import tree_text
from agentgraph.errors import BudgetError, ConfigError, FeedbackError, SpaceError, TaskError
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.optimizers.policy import policy_gradient
from agentgraph.plan import Plan
from agentgraph.replay import replay
from agentgraph.request import Reply
from agentgraph.run import build_space, run
from agentgraph.run_folder import RunFolder
from agentgraph.store import ReplyStore
from agentgraph.tasks import calc, recall
from agentgraph.tasks.base import Lengths, Task
from agentgraph.tasks.pipeline import Pipeline
from agentgraph.tasks.pipeline import parse as parse_question
from agentgraph.trial import Answer, Trial

LONG = Lengths(prompt=300, output={"solve": 20}, edge=20, word={"refine": 3, "fuse": 4})


def generator(seed):
    return torch.Generator().manual_seed(seed)


def one(model="a-small", role="assistant"):
    return Graph((Node(role, model),))


# ---- the pipeline: what is asked, handed on and marked


def test_pipeline_hands_the_recalled_number_to_calc():
    task = Pipeline()
    for split in ("train", "validation", "test"):
        for question in task.questions(split):
            factors, name = parse_question(question.text)
            number = recall.answer(name)
            assert task.asked(0, question, "") == name
            asked = task.asked(1, question, number)
            assert calc.answer(asked) == question.gold
            assert task.mark_stage(0, number, question) == 1
            assert task.mark_stage(0, "000", question) == 0
            assert task.mark_stage(1, question.gold, question) is None
            rows, start = calc.parse(asked)
            assert calc.held_out(np.array([rows]), np.array([start])).all()
            assert factors.count("*") == 5


def test_pipeline_has_every_kind_of_name_with_every_kind_of_factor():
    questions = Pipeline().questions("train")
    kinds = Counter()
    for question in questions:
        factors, name = parse_question(question.text)
        kinds[recall.kind(name), calc.kind(factors + "001")] += 1
    assert len(kinds) == 4
    assert max(kinds.values()) - min(kinds.values()) <= 1
    assert len({parse_question(question.text)[1] for question in questions}) == len(questions)


def test_not_a_pipeline_question():
    with pytest.raises(ValueError, match=r"not a pipeline question: '02\*03'"):
        parse_question("02*03")


def knows(request):
    """Both tasks by heart, in replies of exactly the lengths that the stages state."""
    text = request.messages[-1][1]
    question = text.split(":")[1]
    answer = calc.answer(question) if "*" in question else recall.answer(question)
    return Reply(answer, len(text) + 1, 20 if "*" in question else 4, logprob=-0.1)


def execute(task, script, plan, questions=8, roles=ROLES):
    with Executor(
        task, FEW, {role.name: role for role in roles}, {"scripted": backend(script)}, ReplyStore(), seed=0
    ) as executor:
        answers = executor.run([Job(plan, task.questions("train")[:questions])])[0]
        known = executor.known(plan, task.questions("train")[:questions])
    return answers, known


def pipeline_space(units=8.0, **changes):
    made = setup(task=Pipeline(sizes={"train": 32, "validation": 16, "test": 24}), budget_units=units, **changes)
    with Executor(
        made.task, made.pool, {role.name: role for role in made.roles}, made.backends, ReplyStore(), seed=0
    ) as executor:
        return build_space(made, executor)[0]


@pytest.mark.parametrize("seed", range(5))
def test_price_is_charge_over_two_stages(seed):
    inside = pipeline_space()
    plan = random_tables(inside, seed).sample(1, seed)[0]
    answers, _ = execute(Pipeline(), knows, plan)
    for answer in answers:
        assert answer.mark == 1
        assert answer.stages == {"recall": 1.0}
        price = inside.price(plan)
        assert answer.charge.flops == pytest.approx(price.flops)
        assert (answer.charge.calls, answer.charge.tokens) == (price.calls, price.tokens)
        assert answer.charge.tts_units == pytest.approx(price.tts_units)


def test_a_wrong_number_spoils_the_end_and_only_the_stage_that_erred_is_marked_down():
    def wrong(request):
        reply = knows(request)
        return reply if "*" in request.messages[-1][1] else replace(reply, text="000")

    answers, _ = execute(Pipeline(), wrong, Plan((one(), one())))
    assert {(answer.mark, answer.stages["recall"]) for answer in answers} == {(0.0, 0.0)}


def test_nothing_handed_on_asks_no_later_stage():
    asked = []

    def silent(request):
        asked.append(request.messages[-1][1])
        return Reply("", 8, 1)

    plan = Plan((one(), one()))
    answers, known = execute(Pipeline(), silent, plan, 4)
    assert not any("*" in text for text in asked)
    for answer in answers:
        assert answer.mark == 0
        assert answer.outcomes == {"empty": 1, "nothing handed on": 1}
        assert answer.stages == {"recall": 0.0}
        assert answer.charge.calls == 2  # asked once more
    assert known.new_calls == 0
    assert known.marks.tolist() == [0.0] * 4


def test_a_stage_that_no_one_can_mark_has_no_mark():
    answers, _ = execute(Relay(), lambda _: Reply("X", 4, 2), Plan((one(), one())))
    assert all(answer.stages == {} for answer in answers)


def test_stage_marks_are_kept_in_the_archive(tmp_path):
    plan, price = Plan((one(), one())), Cost(2.0)
    archive = Archive(tmp_path / "trials.jsonl")
    for round_ in range(2):
        answers = [Answer(f"q{round_}{i}", 0.0, Cost(1.0), stages={"recall": float(i)}) for i in range(2)]
        archive.add_round(round_, [(plan, price, answers)])
    again = Archive(tmp_path / "trials.jsonl", keep=archive.size)
    assert again.trials == archive.trials
    assert archive.trials[0].stage_marks == {"recall": {"q00": 0.0, "q01": 1.0, "q10": 0.0, "q11": 1.0}}


def test_a_single_stage_leaves_no_stage_marks(tmp_path):
    archive = Archive(tmp_path / "trials.jsonl")
    archive.add_round(0, [(Plan((one(),)), Cost(1.0), [Answer("q", 1.0, Cost(1.0))])])
    assert "stage" not in (tmp_path / "trials.jsonl").read_text()


class Deaf(Relay):
    """Its second stage is asked what the first was."""

    asked = Task.asked


class Twins(Relay):
    stages = (Relay.stages[0], Relay.stages[0])


@pytest.mark.parametrize(
    ("task", "shows"),
    [
        (
            Deaf,
            r"task 'relay': stage 'first' hands on nothing, stage 'second' is asked the question alone; write asked",
        ),
        (Twins, r"task 'relay' has the stages \['first', 'first'\]; give it one or more, each with its own name"),
    ],
)
def test_stages_that_make_no_pipeline(task, shows):
    with pytest.raises(TaskError, match=shows):
        setup(task=task())


# ---- what each stage has


def test_each_stage_may_have_its_own_models_roles_and_nodes():
    inside = pipeline_space(
        stages={
            "recall": {"models": ["b-medium"], "max_nodes": 2, "share": 0.25},
            "calc": {"roles": ["assistant", "vote"]},
        }
    )
    first, second = inside.stages
    assert (first.pool.names, first.max_nodes, len(first.roles)) == (("b-medium",), 2, len(ROLES))
    assert (second.pool.names, second.max_nodes) == (FEW.names, 5)
    assert [role.name for role in second.roles] == ["assistant", "vote"]
    assert inside.shares == (0.25, 0.75)
    assert torch.allclose(Distribution(inside).shares, torch.tensor([0.25, 0.75], dtype=torch.float64))
    for plan in Distribution(inside).sample(50, 0):
        inside.check(plan)


@pytest.mark.parametrize(
    ("stages", "error", "shows"),
    [
        ({"recall": {"share": 0.7}, "calc": {"share": 0.5}}, SpaceError,
         "stage shares sum to 1.2, must sum to 1: recall=0.7, calc=0.5"),
        ({"recall": {"share": 1.0}}, ConfigError, "stage shares sum to 1, must sum to 1 with those of all stages: recall=1; lower"),
        ({"recall": {"share": 0}}, ConfigError, r"stages.recall.share=0 must be above 0 and at most 1"),
        ({"recall": {"models": []}}, ConfigError, r"stages.recall.models=\[\] leaves the stage none; name one or more of a-small"),
        ({"calc": {"roles": []}}, ConfigError, r"stages.calc.roles=\[\] leaves the stage none; name one or more of assistant"),
        ({"calc": {"models": ["gpt"]}}, ConfigError, "stages.calc.models names 'gpt', which the search does not have"),
        ({"calc": {"models": "a-small"}}, ConfigError, "stages.calc.models='a-small' must be a list of names"),
        ({"reason": {}}, ConfigError, "stages.reason: the task has no such stage; it has recall, calc"),
        ({"calc": {"budget": 3}}, ConfigError, r"stages.calc=.*is not understood; give some of models, roles, max_nodes, share"),
        ({"calc": {"max_nodes": 0}}, ConfigError, "stages.calc.max_nodes=0 must be a whole number of at least 1"),
    ],
)  # fmt: skip
def test_bad_stages(stages, error, shows):
    with pytest.raises(error, match=shows):
        pipeline_space(stages=stages)


def test_a_budget_that_cannot_pay_one_call_per_stage():
    with pytest.raises(
        BudgetError,
        match=r"budget.flops=.* \(1 units\) buys no call: the cheapest plan, one solve by 'a-small' per stage",
    ):
        pipeline_space(1.0)


@pytest.mark.parametrize(
    ("shares", "shows"),
    [
        ((0.5, 0.2, 0.3), "3 shares for the stages stage0, stage1; give"),
        ((1.5, -0.5), "stage shares must be above 0: stage0=1.5"),
    ],
)
def test_bad_shares(shares, shows):
    with pytest.raises(SpaceError, match=shows):
        replace(space(3, 6, stages=2), shares=shares)


# ---- shares


@pytest.mark.parametrize("seed", range(10))
def test_the_total_is_never_exceeded(seed):
    """10,000 random plans in all, of two and three stages, one limit and several, with and without handing on."""
    stages = 2 + seed % 2
    if seed % 3:
        inside = space(4, stages * (1.0 + seed), stages=stages)
    else:
        inside = limited(4, {"usd": 2.5 + seed, "seconds": 3.0, "tts_units": 3.0 + seed}, stages=stages, lengths=LONG)
    inside = replace(inside, hand_on=seed < 5)
    distribution = random_tables(inside, seed)
    draws = distribution.draw(1000, generator(seed))
    for row in range(1000):
        plan = distribution.plan(draws, row)
        assert inside.budget.allows(inside.price(plan))
        assert sum(inside.split(plan)) == pytest.approx(1)
    assert agrees(distribution, draws)


def test_without_handing_on_a_stage_has_its_own_share_and_no_more():
    given = replace(space(6, 12, stages=2), hand_on=True)
    kept = replace(given, hand_on=False)
    unit, least = given.budget.unit, [cost.flops for cost in given.least]
    free = given.budget.flops - sum(least)
    uniforms = torch.rand(Distribution(given).choices, 400, dtype=torch.float64, generator=generator(0))
    for inside, more in ((given, True), (kept, False)):
        distribution = Distribution(inside)
        split = torch.bucketize(uniforms[0], distribution.log_splits().exp().cumsum(0)[:-1], right=True)
        ceiling = least[1] + distribution.splits[split][:, 1] / SLICES * free
        second = distribution.decode(uniforms)[1].price
        assert bool((second > ceiling + 1e-6 * unit).any()) is more


def labelled_pairs(inside):
    """Every plan of two stages, labelled."""
    each = all_labelled(inside.stages[0])
    k = len(each.log_prob)
    first, second = zip(*itertools.product(range(k), repeat=2), strict=True)
    return each.rows(list(first)), each.rows(list(second))


@pytest.mark.parametrize("hand_on", [False, True])
@pytest.mark.parametrize("units", [2, 3.5, 9.0])
def test_probabilities_of_two_stages_sum_to_one_over_what_fits(units, hand_on):
    """Without handing on only what fits in some split of the budget can be drawn."""
    inside = replace(space(2, units, stages=2, roles=(ROLES[0], ROLES[4])), hand_on=hand_on)
    distribution = random_tables(inside, 1)
    labelled = labelled_pairs(inside)
    log_prob = distribution.log_prob(labelled)
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-9)
    for row in range(len(log_prob)):
        try:
            inside.check(distribution.plan(labelled, row))
            assert log_prob[row] > -torch.inf or not hand_on
        except (SpaceError, BudgetError, ValueError):
            assert log_prob[row] == -torch.inf


def test_draws_of_two_stages_match_log_prob():
    inside = space(2, 6.0, stages=2, roles=(ROLES[0], ROLES[4]))
    distribution = random_tables(inside, 2)
    labelled = labelled_pairs(inside)
    prob = distribution.log_prob(labelled).exp().numpy()
    count = 20_000
    draws = distribution.draw(count, generator(3))

    def keys(pair):
        columns = [torch.cat([d.edges.flatten(1), d.present, d.roles, d.models], 1) for d in pair]
        return list(map(tuple, torch.cat(columns, 1).tolist()))

    place = {key: k for k, key in enumerate(keys(labelled))}
    seen = np.bincount([place[key] for key in keys(draws)], minlength=len(prob))
    common = prob * count >= 5
    chi = (((seen - prob * count) ** 2)[common] / (prob * count)[common]).sum()
    assert chi < common.sum() + 4 * np.sqrt(2 * common.sum())
    assert seen[prob == 0].sum() == 0


def test_log_probability_has_exact_gradients_in_the_shares():
    inside = space(2, 6.0, stages=2)
    distribution = random_tables(inside, 2)
    draws = distribution.draw(20, generator(3))
    base = distribution.share_logits.clone()
    distribution.share_logits = base.clone().requires_grad_()
    (found,) = torch.autograd.grad(distribution.log_prob(draws).sum(), [distribution.share_logits])
    small = 1e-5
    for s in range(2):
        sides = []
        for sign in (1, -1):
            distribution.share_logits = base.clone()
            distribution.share_logits[s] += sign * small
            sides.append(float(distribution.log_prob(draws).sum()))
        assert float(found[s]) == pytest.approx((sides[0] - sides[1]) / (2 * small), abs=1e-4)
    assert float(found.abs().max()) > 0.1
    assert float(found.sum()) == pytest.approx(0, abs=1e-9)


def test_the_policy_gradient_moves_budget_to_the_stage_that_pays():
    inside = space(4, 12, stages=2)
    distribution = Distribution(inside)
    draws = distribution.draw(400, generator(0))
    spent = draws[0].price / inside.budget.flops
    for sign in (1, -1):
        gradient = policy_gradient(distribution, draws, sign * spent)[-1]
        assert sign * float(gradient[0]) > 0 > sign * float(gradient[1])


@pytest.mark.parametrize("nodes", [1, 3, 6])
def test_one_stage_is_drawn_as_if_there_were_no_shares(nodes):
    inside = space(nodes, 8.0)
    distribution = random_tables(inside, 4)
    stage = distribution.stages[0]
    numbers = torch.rand(stage.choices, 200, dtype=torch.float64, generator=generator(1))
    ceiling = torch.full((1, 200), inside.budget.flops, dtype=torch.float64)
    plain, _ = stage.walk(ceiling, uniforms=numbers)
    assert distribution.choices == stage.choices
    drawn = distribution.draw(200, generator(1))[0]
    for column in ("edges", "present", "roles", "models", "log_prob", "price"):
        assert torch.equal(getattr(drawn, column), getattr(plain, column))
    assert torch.equal(distribution.log_prob([drawn]), stage.walk(ceiling, given=drawn)[0].log_prob)
    assert len(distribution.parameters()) == 3


# ---- nudges


def share(option, **change):
    return {"table": "share", "option": option, **change}


def test_a_share_nudge_moves_budget():
    distribution = Distribution(space(3, 9, stages=2))
    said = json.dumps({"critique": "", "nudges": [share("stage0", by=1.0), share("stage1", to=0.1, stage=7, slot=9)]})
    reading = parse(said, distribution)
    assert reading.complaint == ""
    predictions = step(distribution, reading.value.feedback, 1.0)
    assert [prediction.before for prediction in predictions] == pytest.approx([0.5, 0.5])
    assert predictions[1].after < 0.1
    assert float(distribution.shares.sum()) == pytest.approx(1)


@pytest.mark.parametrize("to", [0.05, 0.3, 0.9])
def test_a_share_nudge_reaches_what_it_says(to):
    distribution = Distribution(space(3, 9, stages=3))
    nudge = Nudge(table="share", option="stage1", to=to)
    (prediction,) = step(distribution, Feedback(critique="", nudges=(nudge,)), 1.0)
    assert prediction.after == pytest.approx(to, abs=1e-6)
    assert "share of stage stage1" in nudge.text()


@pytest.mark.parametrize(
    ("stages", "nudges", "shows", "kind"),
    [
        (1, [share("stage0", by=1)], "the task has one stage, which has the whole budget", "unknown id"),
        (2, [share("answer", by=1)], "share nudge names 'answer'; stages are stage0, stage1", "unknown id"),
        (2, [share("stage0", to=0.8), share("stage1", to=0.7)], "given for the shares sum to 1.500; they must not", "probability"),
    ],
)  # fmt: skip
def test_bad_share_nudges(stages, nudges, shows, kind):
    with pytest.raises(FeedbackError, match=shows) as caught:
        parse(json.dumps({"critique": "", "nudges": nudges}), Distribution(space(3, 9, stages=stages)))
    assert caught.value.kind == kind


def test_the_rule_based_agent_moves_budget_to_where_the_best_plans_spend_it():
    inside = space(5, 12, stages=2)
    tables = Distribution(inside)
    plans = sorted(tables.sample(60, 0), key=lambda plan: inside.split(plan)[0])
    trials = []
    for i, plan in enumerate([*plans[:6], *plans[-6:]]):
        trial = Trial(i, plan, 0, inside.price(plan))
        for q in range(10):
            trial.add(Answer(f"q{q}", float(i >= 6), Cost(1.0)))
        trials.append(trial)
    best = sorted(trials, key=lambda trial: -trial.accuracy)
    said = RuleBased().feedback(Evidence(0, 3, trials, best, tables, 0.5))
    moves = {n["option"]: n["by"] for n in json.loads(said)["nudges"] if n["table"] == "share"}
    assert moves["stage0"] > 0 > moves["stage1"]
    step(tables, parse(said, tables).value.feedback, 0.5)
    assert tables.shares[0] > 0.55


# ---- a whole run


def whole(**changes):
    task = Pipeline(sizes={"train": 32, "validation": 16, "test": 24})
    return setup(task=task, backends={"scripted": backend(knows_some)}, **changes)


def knows_some(request):
    """As `knows`, but small models are wrong on every other question."""
    reply = knows(request)
    weak = request.model.endswith("small") and int(reply.text) % 2
    return replace(reply, text="000", logprob=-2.0) if weak else reply


def test_a_run_of_two_stages_goes_on_where_it_stopped_and_can_be_drawn_and_replayed(tmp_path):
    through = run(whole(), folder=RunFolder(tmp_path / "one"))
    run(whole(rounds=2), folder=RunFolder(tmp_path / "two"))
    run(whole(), folder=RunFolder(tmp_path / "two"))
    assert (tmp_path / "one/trials.jsonl").read_bytes() == (tmp_path / "two/trials.jsonl").read_bytes()
    best = through.best
    assert [stage.name for stage in best.stages] == ["recall", "calc"]
    assert sum(stage.share for stage in best.stages) == pytest.approx(1)
    assert sum(stage.budget_flops for stage in best.stages) == pytest.approx(best.budget.flops)
    assert sum(stage.price_flops for stage in best.stages) == pytest.approx(best.price.flops)
    assert all(stage.price_flops <= stage.budget_flops * (1 + 1e-9) for stage in best.stages)
    drawn = tree_text(best)
    for stage in best.stages:
        assert f"{stage.name}: {stage.share:.0%} of the budget, price " in drawn
    made = whole()
    with Executor(made.task, made.pool, {}, made.backends, ReplyStore(), seed=0) as executor:
        again = replay(best, executor)
    assert again.scored.accuracy == next(score.accuracy for score in best.scores if score.split == "test")
    assert "stage recall alone" in (tmp_path / "one/feedback/round_002.txt").read_text()
    assert "shares of the budget: recall" in (tmp_path / "one/feedback/round_002.txt").read_text()
