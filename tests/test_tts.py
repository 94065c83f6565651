"""AgentTTS: its initial trials, its batches and guidelines, and the numbers of the paper (arXiv 2508.00890)."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fakes import ROLES, backend, setup
from spaces import limited, space

from agentgraph.agents import setting_rules
from agentgraph.agents.base import Agent
from agentgraph.agents.guidelines import INSIGHTS, parse_settings, shown
from agentgraph.agents.language_model import RIVAL_TASKS, LanguageModel
from agentgraph.agents.rule_based import RuleBased
from agentgraph.budget import Budget, Cost, Tokens, tts_cost
from agentgraph.errors import ConfigError, FeedbackError
from agentgraph.model import Model, Pool
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.agent_tts import AgentTTS
from agentgraph.request import Reply
from agentgraph.run import run
from agentgraph.run_folder import RunFolder
from agentgraph.samplings import Sampling, Samplings
from agentgraph.space import Space, StageSpace
from agentgraph.tasks.base import Lengths
from agentgraph.tasks.pipeline import Pipeline
from agentgraph.trial import Answer, Trial

ASSISTANT, FUSER, VOTE = ROLES[0], ROLES[2], ROLES[4]
PAPER = {  # stages: prompt and output tokens of a sample, billions of parameters
    "2Wiki": {"retrieval": ((2048, 128), (7, 32, 72)), "QA": ((256, 64), (3, 8, 70))},
    "KG": {"retrieval": ((1024, 64), (7, 72)), "QA": ((256, 64), (8, 70))},
    "TaskBench": {"1": ((1024, 64), (8, 70)), "2": ((1024, 256), (8, 70)), "3": ((1024, 2048), (8, 70))},
    "ChatDev": {"1": ((1024, 1024), (3, 70)), "2": ((1024, 512), (3, 70)), "3": ((1024, 256), (3, 70))},
}


def paper(task, units, *, roles=(ASSISTANT, VOTE), nodes=101):
    """A task of the paper as a space: answers are counted, which costs nothing, so that prices are the paper's."""
    stages = []
    for name, ((prompt, output), sizes) in PAPER[task].items():
        pool = Pool([Model(f"{size}B", size * 1e9) for size in sizes])
        lengths = Lengths(prompt=prompt, output={"solve": output}, edge=output, exact=True)
        stages.append(StageSpace(name, roles, pool, nodes, lengths))
    return Space(tuple(stages), Budget(tts_units=units, unit=Space.unit(stages)))


def setting(*pairs):
    return tuple(Sampling(f"{size}B", samples) for size, samples in pairs)


# ---- the paper's numbers


def test_the_six_initial_candidates_of_2wiki():
    samplings = Samplings(paper("2Wiki", 1000))
    assert samplings.initial() == [
        setting((7, 60), (70, 1)),
        setting((32, 22), (70, 1)),
        setting((72, 1), (70, 1)),
        setting((72, 1), (3, 60)),
        setting((72, 1), (8, 39)),
        setting((72, 1), (70, 1)),
    ]
    share = {"tts_units": samplings.cost(0, Sampling("72B", 1)).tts_units}
    assert samplings.most(0, "7B", share) == 100  # 158 but for the cap


@pytest.mark.parametrize(
    ("task", "units"), [("2Wiki", 850), ("KG", 550), ("TaskBench", 2000), ("ChatDev", 2000), ("KG", 100)]
)
def test_initial_candidates_are_within_the_budget_and_have_every_model_that_fits(task, units):
    samplings = Samplings(paper(task, units))
    settings = samplings.initial()
    assert all(samplings.allows(one) for one in settings)
    for s in range(len(PAPER[task])):
        small = tuple(Sampling(samplings.models(t)[0], 1) for t in range(len(PAPER[task])))
        for model in samplings.models(s):
            fits = samplings.allows((*small[:s], Sampling(model, 1), *small[s + 1 :]))
            assert any(one[s].model == model for one in settings) is fits


@pytest.mark.parametrize("task", PAPER)
def test_a_setting_costs_what_the_paper_says(task):
    samplings = Samplings(paper(task, 5000))
    for s, ((prompt, output), sizes) in enumerate(PAPER[task].values()):
        for size in sizes:
            for samples in (1, 2, 30):
                found = samplings.cost(s, Sampling(f"{size}B", samples)).tts_units
                assert found == pytest.approx(tts_cost(size * 1e9, Tokens(prompt, output), samples))


def counted(task, budget, most, least=1):
    """How many settings cost no more than the budget."""
    sums = np.zeros(1)
    stages = list(PAPER[task].values())
    cheapest = [min(tts_cost(size * 1e9, Tokens(*tokens), least) for size in sizes) for tokens, sizes in stages]
    for s, (tokens, sizes) in enumerate(stages):
        samples = np.arange(least, most + 1)
        costs = np.concatenate([[tts_cost(size * 1e9, Tokens(*tokens), n) for n in samples] for size in sizes])
        if s == len(stages) - 1:
            return int(np.searchsorted(np.sort(costs), budget - sums + 1e-9, "right").sum())
        sums = (sums[:, None] + costs).ravel()
        sums = sums[sums <= budget - sum(cheapest[s + 1 :]) + 1e-9]
    raise AssertionError


@pytest.mark.parametrize(
    ("task", "budget", "capped", "free"),
    [
        ("2Wiki", 1000, 28_498, 142_331),
        ("KG", 550, 11_428, 22_101),
        ("TaskBench", 2000, 180_722, 483_318),
        ("ChatDev", 2000, 924_032, 2_529_307),
    ],
)  # fmt: skip
def test_sizes_of_the_search_spaces(task, budget, capped, free):
    assert counted(task, budget, 100) == capped
    assert counted(task, budget, 1000) == free


def test_size_of_the_search_space_of_chatdev_at_its_default_budget():
    largest = sum(tts_cost(70e9, Tokens(*tokens), 1) for tokens, _ in PAPER["ChatDev"].values())
    assert counted("ChatDev", largest + 1e-6, 2000) == 1_715_779
    assert counted("ChatDev", largest + 1e-6, 2000, least=0) == 1_855_468


def test_found_settings_of_the_paper_against_their_budgets():
    hotpot = Samplings(paper("2Wiki", 1000))
    assert hotpot.cost(0, Sampling("72B", 1)).tts_units + hotpot.cost(1, Sampling("3B", 40)).tts_units == pytest.approx(
        856
    )
    assert hotpot.allows(setting((72, 1), (3, 50)))
    assert not Samplings(paper("KG", 550)).allows(setting((72, 1), (8, 60)))  # printed for AgentHPO on CWQ: 575


# ---- settings as plans


def test_a_setting_is_samples_side_by_side_that_one_node_combines():
    samplings = Samplings(paper("2Wiki", 1000, roles=(ASSISTANT, FUSER, VOTE)), {"retrieval": "vote"})
    plan = samplings.plan(setting((32, 4), (3, 1)))
    first, second = plan.stages
    assert [str(node) for node in first.nodes] == ["assistant(32B)"] * 4 + ["vote"]
    assert (first.width, first.depth, len(second.nodes)) == (4, 2, 1)
    fused = samplings.plan(setting((7, 1), (8, 3))).stages[1]
    assert str(fused.nodes[-1]) == "fuser(8B)"
    for one in (setting((32, 4), (3, 1)), setting((7, 1), (8, 3))):
        assert samplings.of(samplings.plan(one)) == one
    samplings.space.check(plan)


def test_what_is_no_setting():
    inside = space(6, 12, stages=2)
    samplings = Samplings(inside)
    settings = [samplings.random(np.random.default_rng(seed)) for seed in range(50)]
    assert all(samplings.of(samplings.plan(one)) == one for one in settings)
    other = Samplings(inside, "vote")
    wide = next(one for one in settings if one[0].samples > 1)
    assert other.of(samplings.plan(wide)) is None


@pytest.mark.parametrize("roles", [ROLES, (ASSISTANT, FUSER), (ASSISTANT, VOTE)])
def test_a_stage_costs_what_its_graph_does(roles):
    inside = limited(12, {"flops": 60, "usd": 60, "seconds": 9, "tts_units": 60}, stages=2, roles=roles)
    samplings = Samplings(inside)
    for sampling in (Sampling(model, n) for model in samplings.models(0) for n in (1, 2, 5, 11)):
        found, whole = samplings.cost(1, sampling), inside.stages[1].price(samplings.graph(1, sampling))
        for name in Cost.__dataclass_fields__:
            assert getattr(found, name) == pytest.approx(getattr(whole, name))


@pytest.mark.parametrize("seed", range(20))
def test_random_settings_are_valid(seed):
    samplings = Samplings(paper("ChatDev", 500 + 100 * seed))
    rng = np.random.default_rng(seed)
    for _ in range(10):
        assert samplings.allows(samplings.random(rng))


def test_nodes_and_recorded_samples_limit_the_samples():
    inside = paper("2Wiki", 1000, nodes=11)
    few = replace(inside, stages=(replace(inside.stages[0], samples={"7B": 3}), inside.stages[1]))
    samplings = Samplings(few)
    assert [samplings.most(0, model, {}) for model in samplings.models(0)] == [3, 10, 10]
    assert not samplings.allows(setting((7, 4), (3, 1)))
    alone = Samplings(paper("2Wiki", 1000, roles=(ASSISTANT,)))
    assert alone.most(0, "7B", {}) == 1


@pytest.mark.parametrize("fuse", ["fuser", "assistant", {"QA": "keep"}])
def test_bad_fuse(fuse):
    with pytest.raises(
        ConfigError, match=r"optimizer.fuse='\w+' combines no answers in stage '\w+'; use one of vote, or add"
    ):
        Samplings(paper("2Wiki", 1000), fuse)


# ---- the loop


def made(agent=None, inside=None, call=None, **settings):
    optimizer = AgentTTS(agent or RuleBased(), **settings)
    optimizer.setup(inside or paper("2Wiki", 1000), Accuracy(), rounds=6, call=call or (lambda *_: None))
    optimizer.introduce("Task wiki.", {})
    return optimizer


def quality(one):
    """A landscape with the paper's three insights: large models retrieve, and what they retrieve decides how many samples
    a small model needs; more of them do harm."""
    retrieval = {"7B": 0.35, "32B": 0.55, "72B": 0.9}[one[0].model] * (1 - 0.2 / one[0].samples)
    peak = {"3B": 40, "8B": 25, "70B": 6}[one[1].model] * (1.6 - retrieval)
    top = {"3B": 0.8, "8B": 0.78, "70B": 0.7}[one[1].model]
    return retrieval * top * (1 - 0.12 * abs(np.log2(one[1].samples / peak)))


class World:
    """Trials whose marks are exactly the landscape's."""

    def __init__(self, samplings):
        self.samplings, self.trials = samplings, []

    def run(self, plans, round_):
        fresh = []
        for plan in plans:
            trial = Trial(len(self.trials), plan, round_, self.samplings.space.price(plan))
            value = float(np.clip(quality(self.samplings.of(plan)), 0, 1))
            for q in range(200):
                trial.add(Answer(f"q{q}", value, Cost(trial.price.flops)))
            self.trials.append(trial)
            fresh.append(trial)
        return fresh

    def best(self):
        return max(trial.accuracy for trial in self.trials)


def searched(seed, rounds=6, **settings):
    optimizer = made(**settings)
    world, trace = World(optimizer.samplings), []
    for round_ in range(rounds):
        plans = optimizer.ask(10, np.random.default_rng((seed, round_)))
        for plan in plans:
            optimizer.space.check(plan)
        optimizer.tell(world.run(plans, round_))
        trace.append(world.best())
    return optimizer, world, trace


def optimum(samplings):
    best = 0.0
    for first in samplings.models(0):
        for n in range(1, samplings.most(0, first, samplings.space.budget.limits) + 1):
            for second in samplings.models(1):
                left = samplings.left((Sampling(first, n), Sampling(second, 1)), 1)
                most = samplings.most(1, second, left)
                best = max([best, *(quality((Sampling(first, n), Sampling(second, m))) for m in range(1, most + 1))])
    return best


def test_six_then_five_batches_of_ten_at_most_and_the_best_never_falls():
    optimizer, world, trace = searched(0)
    sizes = [sum(trial.round == round_ for trial in world.trials) for round_ in range(6)]
    assert sizes[0] == 5  # six candidates, of which two are the same
    assert all(0 < size <= 10 for size in sizes[1:])
    assert all(later >= earlier for earlier, later in pairwise(trace))
    assert len({trial.plan.id for trial in world.trials}) == len(world.trials)
    assert len(optimizer.guidelines) == 6
    assert all(one.best is not None for one in optimizer.guidelines[:-1])


def test_finds_the_optimum_of_a_landscape_with_the_three_insights_sooner_than_at_random():
    best = optimum(Samplings(paper("2Wiki", 1000)))
    ours, random = [], []
    for seed in range(6):
        _, world, trace = searched(seed)
        ours.append(best - trace[-1])
        rng = np.random.default_rng((1, seed))
        samplings = world.samplings
        random.append(best - max(quality(samplings.random(rng)) for _ in world.trials))
    assert np.mean(ours) < 0.01
    assert np.mean(random) > np.mean(ours) + 0.02


def test_insight_1_off_starts_from_one_random_setting():
    for seed in range(3):
        optimizer = made(insights=[2, 3])
        assert len(optimizer.ask(10, np.random.default_rng(seed))) == 1


def test_insight_3_off_changes_one_stage_at_a_time():
    optimizer, world, _ = searched(1, insights=[1, 2])
    settings = [optimizer.samplings.of(trial.plan) for trial in world.trials]
    for round_ in range(1, 6):
        before = [one for one, trial in zip(settings, world.trials, strict=True) if trial.round < round_]
        for one, trial in zip(settings, world.trials, strict=True):
            if trial.round == round_:
                assert any(sum(a != b for a, b in zip(one, other, strict=True)) <= 1 for other in before)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_guideline_obeys_the_switches(number):
    said = {1: "prefer", 2: "Look for the number of samples", 3: "Change stages together"}
    for insights in ([1, 2, 3], [n for n in (1, 2, 3) if n != number]):
        optimizer, _, _ = searched(0, rounds=2, insights=insights)
        assert (said[number] in optimizer.guidelines[-1].text) is (number in insights)


def test_the_report_says_what_the_guideline_led_to():
    optimizer, world, trace = searched(0, rounds=3)
    report = optimizer.report()
    assert optimizer.guidelines[1].text in report
    assert optimizer.guidelines[2].text in report
    assert f"BEST SO FAR\n{trace[1]:.3f} -> {trace[2]:.3f}" in report
    batch = [trial for trial in world.trials if trial.round == 2]
    assert f"led to: best of the batch {max(t.accuracy for t in batch):.3f} (before {trace[1]:.3f}" in report
    for trial in batch:
        assert f"  {optimizer.samplings.text(optimizer.samplings.of(trial.plan))}: " in report


# ---- a language model as agent


class Writer(list):
    """Replies of a language model, in order; keeps what was asked."""

    def __call__(self, request, backend):
        assert backend == "agent"
        self.asked = [*getattr(self, "asked", []), request]
        return Reply(self.pop(0), 10, 10)


LM = Model("agent", 1.0, backend="agent")
GOOD = {"retrieval": {"model": "72B", "samples": 1}, "QA": {"model": "3B", "samples": 30}}
DEAR = {"retrieval": {"model": "72B", "samples": 9}, "QA": {"model": "3B", "samples": 1}}
OTHER = {"retrieval": {"model": "7B", "samples": 2}, "QA": {"model": "8B", "samples": 3}}


def written(*settings):
    return json.dumps({"settings": list(settings)})


def asked_once(replies, **settings):
    model = Writer(["Use 72B for retrieval.", *replies])
    optimizer = made(LanguageModel(LM, **settings.pop("agent", {})), call=model, **settings)
    world = World(optimizer.samplings)
    optimizer.tell(world.run(optimizer.ask(10, np.random.default_rng(0)), 0))
    return optimizer, model, optimizer.ask(10, np.random.default_rng(1))


def test_a_language_model_writes_guideline_and_settings():
    optimizer, model, plans = asked_once([f"Sure: ```json\n{written(GOOD, DEAR, GOOD)}\n```"])
    assert [optimizer.samplings.of(plan) for plan in plans] == [setting((72, 1), (3, 30))]
    assert optimizer.rejects == {"over budget": 1}
    guideline, settings = model.asked
    assert all(INSIGHTS[n] in guideline.messages[0][1] for n in (1, 2, 3))
    text = settings.messages[1][1]
    for part in (
        "Use 72B for retrieval.",
        "exactly 10 different settings",
        "7e+10 parameters; 256 prompt and 64 output tokens a sample): 1 to 100 samples",
        "0 TTS units",
    ):
        assert part in text
    assert "retrieval 7B×60, QA 70B×1: score" in text
    assert settings.schema is not None
    assert guideline.schema is None


def test_a_language_model_is_told_what_stages_did_alone():
    text = shown(tried([(setting((72, 1), (3, 1)), 0.5, 0.25)]))
    assert "  retrieval 72B×1, QA 3B×1: score 0.250 ± 0.031, stage retrieval alone 0.500, cost " in text
    assert "alone" not in shown(tried([(setting((72, 1), (3, 1)), None, 0.25)]))


def test_later_guidelines_are_told_insights_2_and_3():
    model = Writer(["One.", written(GOOD), "Two."])
    optimizer = made(LanguageModel(LM), call=model)
    world = World(optimizer.samplings)
    for round_ in range(2):
        optimizer.tell(world.run(optimizer.ask(10, np.random.default_rng(round_)), round_))
    system, text = (message[1] for message in model.asked[-1].messages)
    assert INSIGHTS[1] not in system
    assert INSIGHTS[2] in system
    assert "If scores hardly vary, explore more" in text
    assert "Your guideline after batch 0 (best of the batch" in text


@pytest.mark.parametrize(("agent", "insights"), [({"insights": [2]}, [1, 2, 3]), ({}, [2])])
def test_a_language_model_is_told_only_what_is_switched_on(agent, insights):
    _, model, _ = asked_once([written(GOOD)], agent=agent, insights=insights)
    for request in model.asked:
        assert [n for n in INSIGHTS if INSIGHTS[n] in request.messages[0][1]] == [2]


def test_a_bad_reply_is_asked_again_and_then_settings_are_drawn():
    optimizer, model, plans = asked_once(["I cannot.", written(GOOD)])
    assert len(plans) == 1
    assert optimizer.rejects == {"prose": 1}
    assert "Your last answer could not be used" in model.asked[-1].messages[1][1]
    optimizer, model, plans = asked_once(["", "no", written(DEAR)])
    assert len(model.asked) == 4
    assert 1 <= len(plans) <= 10
    assert optimizer.dropped == 1
    assert optimizer.rejects == {"empty": 1, "prose": 1, "over budget": 1}
    assert all(optimizer.space.feasible(plan) for plan in plans)


@pytest.mark.parametrize(
    ("text", "shows", "kind"),
    [
        (written({"retrieval": GOOD["retrieval"]}), "settings.0 must have the stages retrieval, QA, got", "schema"),
        (written({**GOOD, "QA": {"model": "9B", "samples": 1}}), "settings.0.QA has the model '9B'; there are", "unknown id"),
        (written({**GOOD, "QA": {"model": "3B", "samples": 101}}), "'settings.0.QA.samples': Input should be less than", "schema"),
        (written({**GOOD, "QA": {"model": "3B", "samples": True}}), "'settings.0.QA.samples'.*should be a number", "schema"),
        (written(DEAR), "settings.0, retrieval 72B×9, QA 3B×1, is not within the budget", "over budget"),
        ('{"settings": 3}', "'settings' must be a list, got '3'", "schema"),
        ('{"plans": []}', r"expected a JSON object with 'settings', got one with \['plans'\]", "schema"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used(text, shows, kind):
    with pytest.raises(FeedbackError, match=shows) as caught:
        parse_settings(text, Samplings(paper("2Wiki", 1000)))
    assert caught.value.kind == kind


class Silent(Agent):
    name = "silent"

    def feedback(self, evidence, complaint=""):
        raise AssertionError((evidence, complaint))

    def choose(self, evidence, mixes, count, complaint="", *, stage=0):
        raise AssertionError((evidence, mixes, count, complaint, stage))


def test_an_agent_without_guidelines():
    with pytest.raises(
        ConfigError, match="agent 'silent' writes no guidelines; use agent=rule_based or agent=language_model"
    ):
        made(Silent()).tell([])


@pytest.mark.parametrize(
    ("settings", "shows"),
    [
        ({"insights": [4]}, r"optimizer.insights=\[4\] must be some of \[1, 2, 3\]"),
        ({"batch": 0}, "optimizer.batch=0 must be a whole number of at least 1, or null"),
    ],
)
def test_bad_settings(settings, shows):
    with pytest.raises(ConfigError, match=shows):
        AgentTTS(RuleBased(), **settings)


def tried(rows):
    """A history in which these settings had these shares of 200 questions right: (setting, first stage's, all)."""
    optimizer = made()
    trials = []
    for one, first, right in rows:
        plan = optimizer.samplings.plan(one)
        trial = Trial(len(trials), plan, 0, optimizer.space.price(plan))
        for q in range(200):
            own = {} if first is None else {"retrieval": float(q < 200 * first)}
            trial.add(Answer(f"q{q}", float(q < 200 * right), Cost(1.0), stages=own))
        trials.append(trial)
    optimizer._trials = {trial.plan.id: trial for trial in trials}
    return optimizer._history(0, 4, 0)


def test_a_model_beside_a_poor_stage_is_not_thought_poor():
    poor, good = (7, 1), (72, 1)
    history = tried([
        (setting(poor, (3, 1)), None, 0.1),
        (setting(good, (3, 1)), None, 0.4),
        (setting(poor, (8, 1)), None, 0.2),
    ])  # fmt: skip
    beliefs = setting_rules._Beliefs(history)
    assert beliefs.models(1)["8B"][0] > beliefs.models(1)["3B"][0]
    assert beliefs.models(0)["72B"][0] > beliefs.models(0)["7B"][0]
    best = max(
        (setting(r, a) for r in (poor, good) for a in ((3, 1), (8, 1))),
        key=lambda one: beliefs.forecasts([one], 1, np.random.default_rng(0))[0, 0],
    )
    assert best == setting(good, (8, 1))


def test_a_stage_with_marks_of_its_own_is_judged_by_them():
    history = tried([(setting((72, 1), (3, 1)), 0.5, 0.25)])
    ((_, trial),) = history.trials
    first, second = setting_rules._rates(history, trial)
    assert first[:2] == ((0,), pytest.approx(100.5 / 201))
    assert second[:2] == ((1,), pytest.approx(50.5 / 101))
    unmarked = tried([(setting((72, 1), (3, 1)), None, 0.25)])
    ((both, rate, _),) = setting_rules._rates(unmarked, unmarked.trials[0][1])
    assert (list(both), rate) == ([0, 1], 0.25)


# ---- rivals


RIVALS = {name: {"manner": name, "batch": 1, "insights": []} for name in ("hpo", "copilot")}


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_try_one_setting_at_a_time_and_none_twice(name):
    _, world, _ = searched(2, rounds=40, **RIVALS[name])
    assert [trial.round for trial in world.trials] == list(range(40))
    assert len({trial.plan.id for trial in world.trials}) == 40


def test_agent_hpo_changes_one_thing_of_the_best_by_one_step():
    optimizer, world, _ = searched(0, rounds=12, **RIVALS["hpo"])
    settings = [optimizer.samplings.of(trial.plan) for trial in world.trials]
    for i in range(1, 12):
        ranked = sorted(range(i), key=lambda j: -world.trials[j].accuracy)
        changed = [sum(a != b for a, b in zip(settings[i], settings[j], strict=True)) for j in ranked]
        assert 1 in changed  # one stage of an earlier setting
        base = settings[ranked[changed.index(1)]]
        ((new, old),) = [(a, b) for a, b in zip(settings[i], base, strict=True) if a != b]
        assert (new.model == old.model) != (new.samples == old.samples)


def test_ml_copilot_recalls_what_the_best_have_on_average():
    optimizer, world, _ = searched(3, rounds=6, **RIVALS["copilot"])
    best = sorted(world.trials[:5], key=lambda trial: -trial.accuracy)
    experiences = [optimizer.samplings.of(trial.plan) for trial in best]
    last = optimizer.samplings.of(world.trials[5].plan)
    for s, one in enumerate(last):
        assert one.model in {setting[s].model for setting in experiences}
        assert one.samples & (one.samples - 1) == 0 or one.samples in {setting[s].samples for setting in experiences}


@pytest.mark.parametrize("name", RIVALS)
def test_a_language_model_as_rival_is_told_no_insight(name):
    _, model, plans = asked_once([written(GOOD)], **RIVALS[name])
    assert len(plans) == 1
    for request in model.asked:
        assert request.messages[0][1] == RIVAL_TASKS[name]
    assert "exactly 1 different settings" in model.asked[-1].messages[1][1]


def test_zero_shot_is_told_what_it_proposed_and_never_how_it_did():
    model = Writer([written(GOOD, DEAR), written(GOOD, OTHER)])
    optimizer = made(LanguageModel(LM), call=model, manner="zero_shot", batch=2, insights=[])
    world = World(optimizer.samplings)
    for round_ in range(2):
        optimizer.tell(world.run(optimizer.ask(2, np.random.default_rng(round_)), round_))
    tried = [optimizer.samplings.text(optimizer.samplings.of(trial.plan)) for trial in world.trials]
    assert tried == ["retrieval 72B×1, QA 3B×30", "retrieval 7B×2, QA 8B×3"]
    first, second = (request.messages for request in model.asked)
    assert first[0][1] == second[0][1] == RIVAL_TASKS["zero_shot"]
    assert "Proposed before:\n  none" in first[1][1]
    assert f"Proposed before:\n  {tried[0]}\n\n" in second[1][1]
    assert not any("score" in text or "guideline" in text for _, text in second)
    assert optimizer.rejects == {"over budget": 1}
    assert optimizer.headline() == ""
    assert "NEXT GUIDELINE\nnone: it is not told how settings did" in optimizer.report()


def test_zero_shot_needs_a_language_model():
    with pytest.raises(ConfigError, match="optimizer.manner=zero_shot asks a language model, got agent 'rule_based'"):
        made(RuleBased(), manner="zero_shot")


def test_more_samples_than_a_stage_can_make_are_not_called_too_dear():
    samplings = Samplings(paper("2Wiki", 1000, nodes=9))
    with pytest.raises(FeedbackError, match="settings.0.QA has 30 samples of 3B; 1 to 8 are allowed") as caught:
        parse_settings(written(GOOD), samplings)
    assert caught.value.kind == "invalid plan"


def test_an_unknown_manner():
    with pytest.raises(
        ConfigError, match="optimizer.manner='bohb' is unknown; use one of tts, hpo, copilot, zero_shot"
    ):
        AgentTTS(RuleBased(), manner="bohb")


# ---- a whole run


def test_a_run_leaves_guidelines_in_its_feedback_files_and_goes_on(tmp_path):
    def whole(rounds):
        task = Pipeline(sizes={"train": 32, "validation": 16, "test": 24})
        weak = backend(lambda request: Reply("000", len(request.messages[-1][1]) + 1, 4, logprob=-1.0))
        return setup(task=task, backends={"scripted": weak}, optimizer=AgentTTS(RuleBased()), rounds=rounds, race=None)

    run(whole(4), folder=RunFolder(tmp_path / "one"))
    run(whole(2), folder=RunFolder(tmp_path / "two"))
    run(whole(4), folder=RunFolder(tmp_path / "two"))
    assert (tmp_path / "one/trials.jsonl").read_bytes() == (tmp_path / "two/trials.jsonl").read_bytes()
    texts = [(tmp_path / f"one/feedback/round_{n:03}.txt").read_text() for n in range(4)]
    assert texts[0].startswith("BATCH 0, initial trials")
    for before, after in pairwise(texts):
        guideline = before.split("NEXT GUIDELINE\n")[1].split("\n")[0]
        assert f"GUIDELINE FOLLOWED\n{guideline}\nled to: " in after
