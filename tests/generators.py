"""Random graphs, plans and plan files that keep every rule of graphs and roles; a seed always gives the same."""

from __future__ import annotations

from typing import Final

import numpy as np

from agentgraph.budget import Budget, Cost
from agentgraph.graph import Graph, Node
from agentgraph.model import Model
from agentgraph.plan import Plan
from agentgraph.plan_file import Found, PlanFile, Score
from agentgraph.request import Settings
from agentgraph.roles.assistant import Assistant
from agentgraph.roles.base import Role
from agentgraph.roles.confidence_vote import ConfidenceVote
from agentgraph.roles.fuser import Fuser
from agentgraph.roles.keep import Keep
from agentgraph.roles.vote import Vote

ROLES: Final[dict[str, Role]] = {
    role.name: role
    for role in (
        Assistant(name="assistant", settings=Settings(temperature=0.7)),
        Assistant(name="careful", settings=Settings(temperature=0.0, max_tokens=64), edge="text"),
        Fuser(name="fuser", settings=Settings(temperature=0.3, top_p=0.9)),
        Keep(name="keep"),
        Vote(name="vote"),
        ConfidenceVote(name="weighted vote"),
    )
}
MODELS: Final[dict[str, Model]] = {
    model.name: model
    for model in (
        Model("tiny", parameters=2e5, layers=2, hidden_size=64, prompt_form="embedded"),
        Model("qwen2.5-1.5b", parameters=1.5e9, layers=28, hidden_size=1536),
        Model("qwen2.5-7b", parameters=7.6e9, layers=28, hidden_size=3584),
    )
}


def random_graph(seed: int, *, nodes: int | None = None) -> Graph:
    """A graph of 1 to 12 nodes, not in canonical order."""
    rng = np.random.default_rng((1, seed))
    n = nodes or int(rng.integers(1, 13))
    density = rng.uniform(0.05, 0.6)
    edges = []
    for i in range(n - 1):
        children = {i + 1 + int(j) for j in np.flatnonzero(rng.random(n - 1 - i) < density)}
        edges += [(i, j) for j in sorted(children or {int(rng.integers(i + 1, n))})]
    members: list[Node] = []
    for i in reversed(range(n)):
        has_parents = any(j == i for _, j in edges)
        below = [members[n - 1 - j] for k, j in edges if k == i]
        options = ["assistant", "careful"]
        if has_parents:
            options += ["keep"] if any(node.role == "fuser" for node in below) else ["keep", "fuser"]
            options += ["vote", "weighted vote"] if i == n - 1 else []
        role = options[int(rng.integers(len(options)))]
        model = list(MODELS)[int(rng.integers(len(MODELS)))] if ROLES[role].needs_model else ""
        members.append(Node(role, model))
    return Graph(tuple(reversed(members)), tuple(edges))


def random_plan(seed: int, *, stages: int | None = None) -> Plan:
    """A plan of 1 to 3 stages."""
    count = stages or int(np.random.default_rng((2, seed)).integers(1, 4))
    return Plan(tuple(random_graph(10 * seed + s) for s in range(count)))


def plan_file_of(plan: Plan, *, seed: int = 0, task: str = "calc") -> PlanFile:
    """A plan's file with random prices and scores."""
    rng = np.random.default_rng((3, seed))
    prices = [float(price) for price in rng.uniform(1e9, 9e9, len(plan.stages))]
    calls = sum(bool(node.model) for graph in plan.stages for node in graph.nodes)
    accuracy = float(rng.uniform(0.2, 0.9))
    single = len(plan.stages) == 1
    return PlanFile.make(
        plan,
        task=task,
        stage_names=[f"step {s}" for s in range(len(plan.stages))],
        roles=ROLES,
        models=MODELS,
        budget=Budget(flops=3e10, unit=1e9),
        price=Cost(flops=sum(prices), calls=calls, prompt_tokens=80.0 * calls, output_tokens=31.5 * calls),
        scores=[
            Score(
                split="validation",
                accuracy=accuracy,
                low=accuracy - 0.1,
                high=accuracy + 0.1,
                questions=200,
                replicate=1,
                charge_flops=sum(prices) * 1.05,
            )
        ],
        found=Found(optimizer="agent_reinforce", seed=seed, rounds=10, plans=80, agentgraph="0.1.0"),
        stage_budgets=[] if single else [1e10] * len(plan.stages),
        stage_prices=[] if single else prices,
    )


def random_plan_file(seed: int, *, stages: int | None = None) -> PlanFile:
    """The file of a random plan."""
    return plan_file_of(random_plan(seed, stages=stages), seed=seed)
