"""A search from the command line on every public benchmark: a server that writes replies as models do, marks that are known."""

import json
import sys

import pytest
from servers.loopback import chat

from agentgraph.cli import main
from agentgraph.config import load_task
from agentgraph.request import stable_hash
from agentgraph.tasks.base import SPLITS

SMALL = ["rounds=2", "plans_per_round=2", "questions_per_round=6", "max_nodes=3", "budget.units=3", "finalists=2"]
SIZES = [*("task.sizes.train=8", "task.sizes.validation=8", "task.sizes.test=6"), "hydra.run.dir=found"]
REPLIES = {
    "gsm8k": lambda gold: f"<think>maybe 12?</think>Step by step, 3 + 4.\n\nThe answer is **${gold}.00**.",
    "math500": lambda gold: f"Then\n\\[ x = 1 \\]\nThe answer is $\\boxed{{ {gold} }}$.",
    "mmlu": lambda gold: f"A is tempting. Still, the answer is ({gold}).",
    "mmlu_pro": lambda gold: f"**Answer: {gold}**",
    "humaneval": lambda gold: f"<think>def f(): pass</think>Here it is:\n```python\n{gold}\n```\nIt has no loop.",
    "mbpp": lambda gold: f"```python\n{gold}\n```\n\nUse:\n```python\nprint(1)\n```",
}
WRONG = {
    **dict.fromkeys(("gsm8k", "math500"), "The answer is $\\boxed{-987654}$."),
    **dict.fromkeys(("mmlu", "mmlu_pro"), "The answer is (Z)."),
    **dict.fromkeys(("humaneval", "mbpp"), "```python\nimport sys\nsys.exit(0)\n```"),
}


def made(path):
    """A file of questions with four options."""
    rows = [
        {"question": f"What is {i} + 1?", "choices": [str(i + k) for k in (5, 1, 2, 3)], "answer": 1}
        for i in range(100)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", REPLIES)
def test_search(name, loopback, tmp_path, monkeypatch, capsys):
    """`big` is always right, `tiny` on about a third of the questions: the found plan is right on every test question."""
    own = {"path": made(tmp_path / "mmlu.jsonl")} if name == "mmlu" else {}  # no sample of it ships
    questions = {q.text: q for split in SPLITS for q in load_task(name, **own).questions(split)}

    def known(question):
        return stable_hash("tiny", question.id) % 3 == 0

    def answer(body, _number):
        asked = body["messages"][-1]["content"]
        question = next(questions[text] for text in questions if asked.startswith(text))
        right = body["model"] == "big" or known(question)
        return chat(REPLIES[name](question.gold) if right else WRONG[name])

    monkeypatch.chdir(tmp_path)
    loopback.script, loopback.models = answer, ("tiny", "big")
    sizes = {"tiny": 1e9, "big": 2e9}
    members = {
        model: {"parameters": size, "layers": 16, "hidden_size": 2048, "base_url": loopback.url}
        for model, size in sizes.items()
    }
    (tmp_path / "pool.yaml").write_text(json.dumps({"members": members}))
    given = [f"task.{key}={value}" for key, value in own.items()]
    monkeypatch.setattr(
        sys, "argv", ["agentgraph", "search", f"task={name}", "models=pool.yaml", *SMALL, *SIZES, *given]
    )
    main()
    capsys.readouterr()
    trials = [json.loads(line) for line in (tmp_path / "found" / "trials.jsonl").read_text().splitlines()]
    by_id = {question.id: question for question in questions.values()}
    single = [trial for trial in trials if len(trial["plan"][0][0]) == 1]
    assert {trial["plan"][0][0][0][1] for trial in single} == {"tiny", "big"}
    for trial in single:
        always = trial["plan"][0][0][0][1] == "big"
        assert trial["marks"] == {key: float(always or known(by_id[key])) for key in trial["marks"]}
    best = json.loads((tmp_path / "found" / "best.json").read_text())
    assert {score["split"]: score["accuracy"] for score in best["scores"]}["test"] == 1.0
