"""A whole search whose agent is a real HTTP server, which answers nonsense half of the time."""

import json

from servers.loopback import chat

from agentgraph.config import build_search, load
from agentgraph.run import run
from agentgraph.run_folder import RunFolder

NONSENSE = [
    "Sure! Here are my thoughts on the graphs.",
    '{"critique": "cut off in the mid',
    "",
    '{"critique": "x", "nudges": [{"table": "role", "slot": 0, "option": "wizard", "by": 1}]}',
    '{"critique": "x", "nudges": [{"table": "edge", "slot": 1, "option": "4", "by": 1}]}',
    '{"critique": "x", "nudges": [{"table": "role", "slot": 0, "option": "vote", "by": 40}]}',
    "您好,图表很好。",
]
GOOD = json.dumps(
    {
        "critique": "The confidence vote does well.",
        "nudges": [
            {"table": "role", "slot": 0, "option": "confidence_vote", "by": 2.0, "expect": 0.1, "because": "best"}
        ],
    }
)


def test_search_with_an_agent_that_talks_nonsense_half_of_the_time(loopback, tmp_path):
    def script(body, number):
        if number % 2 == 0:
            return chat(NONSENSE[(number // 2) % len(NONSENSE)], logprobs=None)
        if "Choose the" in body["messages"][-1]["content"]:
            return chat(json.dumps({"critique": "both families", "mixes": [0, 1, 2]}), logprobs=None)
        return chat(f"Here it is:\n```json\n{GOOD}\n```", logprobs=None)

    loopback.script = script
    config = load(
        "search",
        [
            "task=recall",
            "budget.units=4",
            "rounds=6",
            "plans_per_round=3",
            "questions_per_round=16",
            "finalists=2",
            "task.sizes={train: 32, validation: 16, test: 16}",
            "agent=language_model",
            "agent.model=m",
            f"agent.base_url={loopback.url}",
        ],
    )
    setup = build_search(config)
    result = run(setup, folder=RunFolder(tmp_path))
    tables = setup.optimizer.distribution.stages[0]
    names = [role.name for role in tables.space.roles]
    assert tables.role_logits[0].argmax() == names.index("confidence_vote")  # the good half was heard
    assert setup.optimizer.dropped == 0  # each bad reply was asked again
    assert setup.optimizer.rejected >= 3
    assert result.summary["agent_calls"] == len(loopback.chats)
    assert "could not be used" in loopback.chats[1]["messages"][-1]["content"]
    feedback = (tmp_path / "feedback" / "round_003.txt").read_text()
    assert "The confidence vote does well." in feedback
    assert "TABLES AFTER" in feedback


def test_an_agent_that_never_makes_sense_leaves_the_tables_alone(loopback, tmp_path):
    loopback.script = lambda _body, number: chat(NONSENSE[number % len(NONSENSE)], logprobs=None)
    sizes = "task.sizes={train: 32, validation: 16, test: 16}"
    agent = ["agent=language_model", "agent.model=m", f"agent.base_url={loopback.url}"]
    small = ["rounds=4", "plans_per_round=2", "questions_per_round=8", "finalists=2", "budget.units=2"]
    setup = build_search(load("search", ["task=recall", sizes, *agent, *small]))
    run(setup, folder=RunFolder(tmp_path))
    assert setup.optimizer.dropped == 4
    assert setup.optimizer.rejected == 12
