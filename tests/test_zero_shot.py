"""What a model proposes is checked, counted and never trusted."""

import json
from collections import Counter

import numpy as np
import pytest
from spaces import POOL, space

from agentgraph.agents.language_model import LanguageModel
from agentgraph.agents.rule_based import RuleBased
from agentgraph.errors import ConfigError
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.zero_shot import ZeroShot
from agentgraph.request import Reply

SOLVE = [{"role": "assistant", "model": "small"}]
STAR = [*SOLVE, *SOLVE, {"role": "vote", "parents": [0, 1]}]


class Model:
    """Answers from a list, then nothing of use; remembers what it was asked."""

    def __init__(self, *texts):
        self.texts, self.asked = list(texts), []

    def __call__(self, request, backend):
        assert backend == "default"
        self.asked.append(request)
        return Reply(self.texts.pop(0) if self.texts else "?", 1, 1)


def plans(*stages):
    return json.dumps({"plans": [[stage] for stage in stages]})


def new(model, agent=None):
    made = ZeroShot(agent or LanguageModel(POOL[0]))
    made.setup(space(4, 6), Accuracy(), rounds=4, call=model)
    return made


def test_proposals_are_used():
    model = Model(f"Here you are:\n```json\n{plans(SOLVE, STAR)}\n```")
    made = new(model)
    found = made.ask(2, np.random.default_rng(0))
    assert [len(plan.stages[0].nodes) for plan in found] == [1, 3]
    assert made.headline() == "2 used"
    text = model.asked[0].messages[0][1]
    for word in (
        "at most 4 nodes",
        "with small: 0: 1 units, 1:",
        "vote (at least 1 parents; sink only): no model",
        "may sum to 6 units",
        "none",
    ):
        assert word in text


def test_the_next_reply_fills_what_is_missing():
    model = Model(plans(SOLVE), plans(SOLVE, STAR))
    made = new(model)
    assert len(made.ask(2, np.random.default_rng(0))) == 2
    assert made.asking.counts == {"used": 2, "proposed before": 1}
    assert len({request.replicate for request in model.asked}) == 2
    assert '"role": "assistant"' in model.asked[1].messages[0][1]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        ("Sure!", "prose"),
        ("{}", "schema"),
        ('{"plans": 3}', "schema"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "schema"),
        (plans([]), "invalid plan"),
        (plans([{"role": "judge"}]), "unknown id"),
        (plans([{"role": "assistant", "model": "gpt"}]), "unknown id"),
        (plans([{"role": "vote"}]), "invalid plan"),
        (plans([{"role": "assistant", "model": "small", "parents": [0]}]), "cycle"),
        (plans(SOLVE * 2), "invalid plan"),
        (plans(SOLVE * 9999), "invalid plan"),
        ('{"plans": [[]]}', "invalid plan"),
        (json.dumps({"plans": [[SOLVE, SOLVE]]}), "invalid plan"),
        (plans([{"role": "assistant", "model": "large"}]), "over budget"),
    ],
)
def test_what_cannot_be_used_is_dropped_and_counted(text, kind):
    made = new(Model(text))
    found = made.ask(3, np.random.default_rng(0))
    for plan in found:
        made.space.check(plan)
    assert made.asking.counts == {"drawn at random": 3}
    assert made.asking.rejects == Counter([kind, "prose", "prose"])
    assert len(found) == 3
    assert f"rejected: {kind}" in made.headline()


def test_good_plans_are_used_though_others_are_bad():
    made = new(Model(plans(SOLVE, [{"role": "judge"}], STAR)))
    assert len(made.ask(2, np.random.default_rng(0))) == 2
    assert made.asking.counts == {"used": 2}
    assert made.asking.rejects == {"unknown id": 1}


def test_it_is_told_what_could_not_be_used():
    model = Model(plans(SOLVE, [{"role": "judge"}]), "Sure!", plans(SOLVE, STAR))
    made = new(model)
    assert len(made.ask(2, np.random.default_rng(0))) == 2
    said = [request.messages[0][1].rpartition("\n\n")[2] for request in model.asked]
    assert "could not be used" not in said[0]
    assert "could not be used: plans.1, node 0 has the role 'judge'" in said[1]
    assert "could not be used: expected a JSON object, got 'Sure!'" in said[2]


def test_it_needs_a_language_model():
    with pytest.raises(ConfigError, match="optimizer=zero_shot asks a language model, got agent 'rule_based'"):
        new(Model(), RuleBased())
