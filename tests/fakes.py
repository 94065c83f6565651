"""Models with known skills, scripted; a task of two stages; a whole search on them."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import Counter
from pathlib import Path

from agentgraph.agents.rule_based import RuleBased
from agentgraph.backends.base import Backend
from agentgraph.backends.scripted import Scripted
from agentgraph.model import Model, Pool
from agentgraph.objectives.accuracy import Accuracy
from agentgraph.optimizers.agent_reinforce import AgentReinforce
from agentgraph.request import Reply, Settings
from agentgraph.roles.assistant import Assistant
from agentgraph.roles.confidence_vote import ConfidenceVote
from agentgraph.roles.fuser import Fuser
from agentgraph.roles.keep import Keep
from agentgraph.roles.vote import Vote
from agentgraph.setup import Setup
from agentgraph.tasks import calc
from agentgraph.tasks.base import Lengths, Question, Stage, Task

SKILL = {"small": 0.5, "medium": 0.7, "large": 0.85}
SIZES = {"small": (28416, 2, 32), "medium": (110080, 2, 64), "large": (337344, 3, 96)}
POOL = Pool(
    [
        Model(f"{family}-{size}", *SIZES[size], backend="scripted", prompt_form="embedded")
        for size in SIZES
        for family in "ab"
    ]
)
FEW = Pool([POOL.named(name) for name in ("a-small", "b-small", "b-medium")])
ROLES = (
    Assistant(name="assistant"),
    Assistant(name="assistant_greedy", settings=Settings(temperature=0.0)),
    Fuser(name="fuser", settings=Settings(temperature=0.3)),
    Keep(name="keep"),
    Vote(name="vote"),
    ConfidenceVote(name="confidence_vote"),
)


def skilled(request):
    """A reply of exactly the lengths of the calc task: family a knows odd factors, b even ones; large ones know more.

    Right replies are the more confident ones. What is answered depends on nothing but the request.
    """
    text = request.messages[-1][1]
    question = text.split(":")[1]
    family, size = request.model.split("-")
    knows = (calc.kind(question) == "odd") == (family == "a")
    rng = random.Random(request.seed)
    right = rng.random() < (SKILL[size] if knows else 0.15)
    confidence = rng.betavariate(6, 2) if right else rng.betavariate(2, 6)
    answer = calc.answer(question) if right else f"{rng.randrange(1000):03d}"
    return Reply("0" * 16 + answer, len(text) + 1, 20, logprob=math.log(confidence))


def backend(script=skilled, **settings):
    return Scripted(script, **{"limit": 4096, "has_logprobs": True, **settings})


class Waves(Backend):
    """Answers only when nothing more is coming, all that is waiting at once: a wave for each step that must be waited for.

    Attributes
    ----------
    waves
        How many requests each wave answered.
    """

    def __init__(self, script=skilled, *, name="scripted", limit=4096):
        super().__init__(name, limit=limit, has_logprobs=True)
        self.script = script
        self.waves = []
        self.waiting = []
        self.releasing = None

    async def reply(self, request):
        gate = asyncio.get_running_loop().create_future()
        self.waiting.append(gate)
        if self.releasing is None:
            self.releasing = asyncio.ensure_future(self.release())
        await gate
        return self.script(request)

    async def release(self):
        while self.waiting:
            before = -1
            while len(self.waiting) != before:
                before = len(self.waiting)
                for _ in range(20):
                    await asyncio.sleep(0)
            wave, self.waiting = self.waiting, []
            self.waves.append(len(wave))
            for gate in wave:
                gate.set_result(None)
            for _ in range(20):
                await asyncio.sleep(0)
        self.releasing = None

    async def served(self):
        return ()


class Shouting(Stage):
    """Asks for the question in capitals."""

    tag = "S"
    max_tokens = 8

    def __init__(self, name):
        self.name = name
        self.lengths = Lengths(prompt=4, output={"solve": 2}, edge=2, exact=True)

    def extract(self, text):
        return text or None


class Relay(Task):
    """Two stages: the second is asked what the first answered, with an exclamation mark."""

    name = "relay"
    stages = (Shouting("first"), Shouting("second"))

    def pool(self, split):
        return [Question(f"{split}-{i}", f"{split[:2]}{i}", f"{split[:2]}{i}!".upper()) for i in range(40)]

    def asked(self, stage, question, handed):
        return f"{handed}!" if stage else question.text

    def mark(self, answer, question):
        return float(answer == question.gold)


def record(folder, questions=120):
    """Write a recorded folder: two models, three samples of each question; its path."""
    folder.mkdir()
    models = {"one": {"parameters": 1e9}, "two": {"parameters": 3e9}}
    asked = [{"id": f"q{i}", "question": f"{i}?", "gold": str(i % 7)} for i in range(questions)]
    replies = [
        {
            "question": f"q{i}",
            "model": model,
            "sample": sample,
            "answer": str((i if (i + sample) % 3 else i + 1) % 7),
            "confidence": 0.5,
            "prompt_tokens": 20,
            "output_tokens": 5,
        }
        for i in range(questions)
        for model in models
        for sample in range(3)
    ]
    (folder / "models.json").write_text(json.dumps(models))
    for name, rows in (("questions", asked), ("replies", replies)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def optimizer():
    return AgentReinforce(RuleBased())


def setup(**changes):
    """A small search on models of known skill."""
    settings = {
        "task": calc.Calc(sizes={"train": 32, "validation": 16, "test": 24}),
        "pool": FEW,
        "backends": {"scripted": backend()},
        "roles": ROLES,
        "optimizer": optimizer(),
        "objective": Accuracy(),
        "budget_units": 6.0,
        "max_nodes": 5,
        "rounds": 4,
        "plans_per_round": 4,
        "questions_per_round": 16,
        "finalists": 3,
    }
    return Setup(**{**settings, **changes})


class Logged:
    """A script that appends the key of each request to a file, and counts them by key."""

    def __init__(self, path: Path, script=skilled):
        self.script, self.keys = script, Counter()
        self.file = path.open("ab", buffering=0)

    def __call__(self, request):
        self.keys[request.key] += 1
        self.file.write(f"{request.key}\n".encode())
        return self.script(request)

    def close(self):
        self.file.close()
