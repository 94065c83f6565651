"""A whole search whose agent is a real HTTP server, which answers nonsense half of the time."""

import json
from collections import Counter

import pytest
from servers.loopback import chat, error

from agentgraph.agents.reading import KINDS
from agentgraph.config import build_search, load
from agentgraph.run import run
from agentgraph.run_folder import RunFolder


def nudged(**changes):
    nudge = {"table": "role", "slot": 0, "option": "vote", "by": 1, **changes}
    return json.dumps({"critique": "x", "nudges": [nudge]})


def proposed(*nodes):
    return json.dumps({"critique": "x", "nudges": [], "plans": [[nodes]]})


SOLVE = {"role": "assistant", "model": "a-small", "parents": []}
NONSENSE = {
    "prose": chat("Sure! Here are my thoughts on the graphs."),
    "empty": chat(""),
    "language": chat("您好,图表很好。"),
    "cut off": chat('{"critique": "cut off in the mid', finish="length"),
    "schema": chat('{"critique": "x", "nudges": "vote more"}'),
    "unknown id": chat(nudged(option="wizard")),
    "probability": chat(nudged(by=40)),
    "cycle": chat(proposed({**SOLVE, "parents": [1]}, {**SOLVE, "parents": [0]})),
    "invalid plan": chat(proposed({"role": "vote", "parents": []})),
    "over budget": chat(proposed({**SOLVE, "model": "a-large"})),
}
CHOICE = json.dumps({"critique": "both families", "mixes": [0, 1, 2]})
GOOD = json.dumps(
    {
        "critique": "The confidence vote does well.",
        "nudges": [
            {"table": "role", "slot": 0, "option": "confidence_vote", "by": 2.0, "expect": 0.1, "because": "best"}
        ],
        "plans": [[[SOLVE, {**SOLVE, "model": "b-small"}, {"role": "confidence_vote", "parents": [0, 1]}]]],
    }
)


def search(server, *more):
    config = [
        "task=recall",
        "task.sizes={train: 32, validation: 16, test: 16}",
        "plans_per_round=3",
        "questions_per_round=8",
        "finalists=2",
        "agent=language_model",
        "agent.model=m",
        f"agent.base_url={server.url}",
        "optimizer.zero_shot=false",
    ]
    return build_search(load("search", [*config, *more]))


def rejected(path):
    """Counts by kind in a feedback file."""
    line = path.read_text().split("REJECTED SO FAR\n")[1].split("\n")[0]
    return {kind: int(count) for kind, count in (entry.split(": ") for entry in line.split(", "))}


def test_every_kind_is_there():
    assert sorted(NONSENSE) == sorted(KINDS)


@pytest.mark.parametrize("takes_schema", [True, False])
def test_search_with_an_agent_that_talks_nonsense_half_of_the_time(loopback, tmp_path, takes_schema):
    kinds = ["prose", *NONSENSE]  # the first round asks for a choice of mixes, each of the others for feedback
    answered = []

    def script(body, _):
        if not takes_schema and "response_format" in body:
            return error(400, "response_format is not supported")
        answered.append(body)
        turn, good = divmod(len(answered) - 1, 2)
        if not good:
            return NONSENSE[kinds[turn]]
        text = CHOICE if "Choose the" in body["messages"][-1]["content"] else GOOD
        return chat(f"<think>Let me see.</think>Here it is:\n```json\n{text}\n```")

    loopback.script = script
    setup = search(loopback, "budget.units=4", f"rounds={len(kinds)}", "optimizer.mode=propose")
    result = run(setup, folder=RunFolder(tmp_path))
    tables = setup.optimizer.distribution.stages[0]
    names = [role.name for role in tables.space.roles]
    assert tables.role_logits[0].argmax() == names.index("confidence_vote")  # the good half was heard
    assert setup.optimizer.dropped == 0  # each bad reply was asked again
    tried = [[node.role for node in trial.plan.stages[0].nodes] for trial in result.archive.trials if trial.marks]
    assert ["assistant", "assistant", "confidence_vote"] in tried
    # Every reject is counted once, by its kind: in the summary, and in each round's file up to that round.
    assert result.summary["agent_rejects"] == Counter(kinds)
    assert json.loads((tmp_path / "summary.json").read_text())["agent_rejects"] == Counter(kinds)
    for round_ in range(len(kinds)):
        assert rejected(tmp_path / "feedback" / f"round_{round_:03d}.txt") == Counter(kinds[: round_ + 1])
    assert len(answered) == 2 * len(kinds)
    assert result.summary["agent_calls"] == len(answered)
    assert result.summary["agent_tokens"] == 9 * len(answered)
    again = [body["messages"][-1]["content"] for body in answered[1::2]]
    assert all("Your last answer could not be used: " in text for text in again)
    assert sum("response_format" in body for body in loopback.chats) == (len(answered) if takes_schema else 1)


def test_what_a_round_leaves_to_read(loopback, tmp_path):
    loopback.script = lambda body, _: chat(CHOICE if "Choose the" in body["messages"][-1]["content"] else GOOD)
    setup = search(loopback, "budget.units=4", "rounds=4", "optimizer.mode=propose")
    run(setup, folder=RunFolder(tmp_path))
    texts = [(tmp_path / "feedback" / f"round_{round_:03d}.txt").read_text() for round_ in range(4)]
    shown = [body["messages"][-1]["content"] for body in loopback.chats]
    assert "\n\nMIXES\n0: " in texts[0]
    assert "MIXES CHOSEN\n0, 1, 2" in texts[0]
    for text, seen in zip(texts[1:], shown[1:], strict=True):
        evidence = text.split("EVIDENCE\n")[1].split("\n\nAGENT language_model\n")[0]
        assert seen.startswith(evidence)  # the file has what the agent was shown, to the letter
        assert "The confidence vote does well." in text
        assert "PLANS PROPOSED" in text
        before, after = (
            text.split(f"TABLES {which}\n")[1].split("\n\n")[0].splitlines() for which in ("BEFORE", "AFTER")
        )
        assert sum(one != two for one, two in zip(before, after, strict=True)) == 1
    assert "REJECTED SO FAR\nnone" in texts[3]
    moves = texts[2].split("MOVES")[1].split("\n")[1]
    assert f"{moves}  realised " in texts[3].split("AGENT")[0]  # the same nudge, before and after, with what came of it
    assert "foresaw a change of the mean utility of a round of +0.100; it was " in texts[3].split("REALISED")[1]


def test_an_agent_that_never_makes_sense_leaves_the_tables_alone(loopback, tmp_path):
    kinds = list(NONSENSE)
    loopback.script = lambda _body, number: NONSENSE[kinds[number % 4]]
    setup = search(loopback, "budget.units=2", "rounds=4")
    result = run(setup, folder=RunFolder(tmp_path))
    assert setup.optimizer.dropped == 4
    assert result.summary["agent_rejects"] == dict.fromkeys(kinds[:4], 3)
    last = (tmp_path / "feedback" / "round_003.txt").read_text()
    assert last.split("TABLES BEFORE\n")[1].split("\n\nTABLES AFTER\n")[0] in last.split("TABLES AFTER\n")[1]


GUESSES = {"plans": [[[SOLVE]], [[SOLVE, {**SOLVE, "model": "b-small"}, {"role": "vote", "parents": [0, 1]}]]]}


def test_the_guesses_of_a_language_model_are_in_the_first_round(loopback, tmp_path):
    asked = []

    def script(body, number):
        asked.append(body["messages"][-1]["content"])
        if number == 0:
            return NONSENSE["prose"]
        if asked[-1].startswith("Propose "):
            return chat(json.dumps(GUESSES))
        return chat(CHOICE if "Choose the" in asked[-1] else GOOD)

    loopback.script = script
    setup = search(loopback, "budget.units=4", "rounds=3", "plans_per_round=2", "optimizer.zero_shot=true")
    result = run(setup, folder=RunFolder(tmp_path))
    first = [trial.plan for trial in result.archive.trials if trial.round == 0]
    tried = [[(node.role, node.model) for node in plan.stages[0].nodes] for plan in first]
    assert tried[:2] == [
        [("assistant", "a-small")],
        [("assistant", "a-small"), ("assistant", "b-small"), ("vote", "")],
    ]
    assert all(len(plan.stages[0].nodes) == 1 for plan in first[2:])
    assert len({plan.id for plan in first}) == len(first) > 2  # the probes; a guess that is one of them is tried once
    assert [text.split()[0] for text in asked[:2]] == ["Propose", "Propose"]
    assert "Of your last answer this could not be used: expected a JSON object" in asked[1]
    texts = [(tmp_path / "feedback" / f"round_{round_:03d}.txt").read_text() for round_ in range(3)]
    assert [text.split()[1].strip(",") for text in texts] == ["probe", "warm-up", "search"]
    assert rejected(tmp_path / "feedback" / "round_000.txt") == {"prose": 1}
    assert "slot 0 | vote" in asked[2]  # the guesses' marks are evidence for the choice of mixes


def test_a_search_whose_agent_guesses_nothing_begins_with_probes(loopback, tmp_path):
    loopback.script = lambda body, _: (
        NONSENSE["empty"] if body["messages"][-1]["content"].startswith("Propose ") else chat(CHOICE)
    )
    run(search(loopback, "budget.units=4", "rounds=1", "optimizer.zero_shot=true"), folder=RunFolder(tmp_path))
    text = (tmp_path / "feedback" / "round_000.txt").read_text()
    assert text.startswith("PHASE probe")
    assert "REJECTED SO FAR\nempty: 3" in text
