"""Zero-shot: a language model proposes plans from the description of the space, and is never told how they did.

Source: LLM zero-shot as a rival in Agent-REINFORCE (arXiv 2511.00086). Departures: it proposes the plans of each round
knowing which it has proposed, so that any number of rounds can be filled; what it proposes is checked against the space
and the budget. A reply or plan that cannot be used is dropped and counted; a round that is not full after `ATTEMPTS`
replies is filled as random search would, and that is counted too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from agentgraph.agents.base import Agent, ModelCall
from agentgraph.agents.language_model import LanguageModel
from agentgraph.distribution import Distribution
from agentgraph.errors import BudgetError, ConfigError, GraphError, SpaceError
from agentgraph.graph import Graph, Node
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Optimizer, draw_new
from agentgraph.plan import Plan
from agentgraph.request import Request
from agentgraph.space import Space, StageSpace
from agentgraph.trial import Trial

__all__ = ["ZeroShot"]

ATTEMPTS: Final = 3


class _Node(BaseModel):
    """A node; ``parents`` are numbers of nodes whose messages it reads."""

    model_config = ConfigDict(extra="forbid")

    role: str
    model: str = ""
    parents: list[int] = []


class _Proposal(BaseModel):
    """Plans; each is a list of graphs, one per stage; each graph a list of nodes."""

    model_config = ConfigDict(extra="forbid")

    plans: list[list[list[_Node]]]


class ZeroShot(Optimizer):
    """Asks the agent's model for plans.

    Parameters
    ----------
    agent
        A language model (``agent=language_model agent.model=…``).
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def setup(self, space: Space, objective: Objective, *, rounds: int, call: ModelCall) -> None:
        super().setup(space, objective, rounds=rounds, call=call)
        if not isinstance(self.agent, LanguageModel):
            raise ConfigError(
                f"optimizer=zero_shot asks a language model, got agent {self.agent.name!r}; "
                f"add agent=language_model agent.model=<name in the pool>, or agent.base_url=…"
            )
        self.asked, self.settings = self.agent.model, self.agent.settings
        self._untrained = Distribution(space)
        self.round = 0
        self.counts: Counter[str] = Counter()
        self._known: dict[str, Plan] = {}

    def ask(self, k: int, rng: np.random.Generator) -> list[Plan]:
        plans: dict[str, Plan] = {}
        for attempt in range(ATTEMPTS):
            for plan in self._proposed(k - len(plans), [*self._known.values(), *plans.values()], attempt):
                if plan.id in self._known or plan.id in plans:
                    self.counts["proposed before"] += 1
                elif len(plans) < k:
                    plans[plan.id] = plan
                    self.counts["used"] += 1
            if len(plans) == k:
                return list(plans.values())
        more = draw_new(self._untrained, k - len(plans), rng, self._known.keys() | plans.keys())
        self.counts["drawn at random"] += len(more)
        return [*plans.values(), *more]

    def tell(self, trials: Sequence[Trial]) -> None:
        self._known.update((trial.plan.id, trial.plan) for trial in trials)
        self.round += 1

    def state(self) -> dict[str, Any]:
        return {"round": self.round, "counts": dict(sorted(self.counts.items()))}

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        self.round, self.counts = state["round"], Counter(state["counts"])
        self._known = {trial.plan.id: trial.plan for trial in trials}

    def headline(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))

    def _proposed(self, count: int, known: Sequence[Plan], attempt: int) -> list[Plan]:
        """Valid plans of one reply."""
        request = Request(
            model=self.asked.served_name,
            fingerprint=f"agent/{self.asked.identity}",
            messages=(("user", self._text(count, known)),),
            settings=self.settings,
            replicate=ATTEMPTS * self.round + attempt,
        )
        text = self.call(request, self.asked.backend).text
        try:
            proposal = _Proposal.model_validate(json.loads(text[text.find("{") : text.rfind("}") + 1]))
        except (ValidationError, ValueError, RecursionError):
            self.counts["unusable replies"] += 1
            return []
        return [plan for plan in map(self._plan, proposal.plans) if plan is not None]

    def _plan(self, stages: Sequence[Sequence[_Node]]) -> Plan | None:
        # Before the canonical form, which is slow on large graphs.
        if any(len(nodes) > max(stage.max_nodes for stage in self.space.stages) for nodes in stages):
            self.counts["invalid plans"] += 1
            return None
        try:
            plan = Plan(tuple(map(_graph, stages)))
            self.space.check(plan)
        except BudgetError:
            self.counts["plans over budget"] += 1
        except (GraphError, SpaceError):
            self.counts["invalid plans"] += 1
        else:
            return plan
        return None

    def _text(self, count: int, known: Sequence[Plan]) -> str:
        budget = self.space.budget
        stages = "\n".join(_describe(stage, budget.unit) for stage in self.space.stages)
        listed = "\n".join(_written(plan) for plan in known[-20:]) or "none"
        return (
            f"Propose {count} different collaboration graphs of language models that answer questions as well as possible. "
            f"A node is a role played by a model; it reads the messages of its parents; the last node's message is the "
            f"answer; every other node must be a parent of some later node. Nodes may not form a cycle.\n{stages}\n"
            f"The prices of a plan's nodes may sum to {budget.text()} at most.\n"
            f"Proposed before: {listed}\n"
            f"Answer with one JSON object and nothing else, of this schema: {json.dumps(_Proposal.model_json_schema())}"
        )


def _graph(nodes: Sequence[_Node]) -> Graph:
    return Graph(
        tuple(Node(node.role, node.model) for node in nodes),
        tuple((parent, i) for i, node in enumerate(nodes) for parent in node.parents),
    )


def _written(plan: Plan) -> str:
    """A plan as the reply has it."""
    stages = [
        [
            {"role": node.role, "model": node.model, "parents": parents}
            for node, parents in zip(graph.nodes, graph.parents, strict=True)
        ]
        for graph in plan.stages
    ]
    return json.dumps(stages)


def _describe(stage: StageSpace, unit: float) -> str:
    """The stage's roles with their rules and prices."""
    lines = [
        f"Stage {stage.name}: at most {stage.max_nodes} nodes. Roles, with the price in units by number of parents:"
    ]
    for r, role in enumerate(stage.roles):
        rules = [f"at least {role.min_parents} parents"] if role.min_parents else []
        rules += [] if role.may_be_inner else ["last node only"]
        rules += [f"not a parent of a {kind}" for kind in role.not_above]
        lines.append(
            f"  {role.name} ({'; '.join(rules) or 'anywhere'})" + ("" if role.needs_model else ": no model, free")
        )
        for m, name in enumerate(stage.pool.names) if role.needs_model else ():
            prices = stage.flops_table[r, m, role.min_parents : 4] / unit
            shown = ", ".join(f"{d}: {price:.2f}" for d, price in enumerate(prices, role.min_parents))
            lines.append(f"    with {name}: {shown}")
    return "\n".join(lines)
