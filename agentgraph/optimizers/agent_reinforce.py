"""Agent-REINFORCE: sample graphs, let an agent write a textual gradient, move the tables by it.

Source: arXiv 2511.00086. The tell is its three steps by name: `feedback` (the agent writes text), `parse` (text to
nudges, fails loudly), `step` (arithmetic on logits). Departures:

- Every round draws several plans from the tables; the released code lets the agent write the next graph and never
  samples the tables again.
- Role and model probabilities are moved as well as edges; a mix adds to the model logits, it does not fix the multiset.
- Warm-up scores several shapes of each chosen mix on a slice of questions and keeps the best, ties by lower price; the
  released code compares without an absolute value and so picks at random.
- The outcome is chosen on validation questions from an archive of all trials; the released code returns the last graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from agentgraph.agents.base import Agent, Evidence, ModelCall
from agentgraph.agents.evidence import mixes_text, render, tables_text
from agentgraph.agents.feedback import Feedback, parse, parse_choice, step
from agentgraph.distribution import Distribution
from agentgraph.errors import FeedbackError
from agentgraph.graph import Graph, Node
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Optimizer, draw_new
from agentgraph.optimizers.mixes import Mix, affordable, warm_up_graphs
from agentgraph.plan import Plan
from agentgraph.space import Space, StageSpace
from agentgraph.trial import Trial

ATTEMPTS: Final = 3  # at a usable reply of the agent
PHASES: Final = ("probe", "warm-up", "search")


class AgentReinforce(Optimizer):
    """Probes single models, tries the agent's mixes, then draws and learns.

    Parameters
    ----------
    agent
        Writes the feedback.
    mixes
        How many mixes of models the agent chooses to start from (the paper: 2).
    rate
        What part of each nudge is applied, in (0, 1].
    revisit
        How many plans of each round are contenders that get more marks, >= 0.
    """

    def __init__(self, agent: Agent, *, mixes: int = 3, rate: float = 0.5, revisit: int = 2) -> None:
        self.agent, self.mixes, self.rate, self.revisit = agent, mixes, rate, revisit

    def setup(self, space: Space, objective: Objective, *, rounds: int, call: ModelCall) -> None:
        super().setup(space, objective, rounds=rounds, call=call)
        self.agent.connect(call)
        self.tables = self.distribution = Distribution(space)
        self.phase = PHASES[0]
        self.round = 0
        self.chosen: list[Mix] = []
        self.rejected = 0  # replies of the agent that could not be used, each asked again up to ATTEMPTS times
        self.dropped = 0  # rounds in which no attempt could be used
        self.expected: float | None = None
        self.last_mean: float | None = None
        self._trials: dict[str, Trial] = {}
        self._report = self._headline = ""

    def ask(self, k: int, rng: np.random.Generator) -> list[Plan]:
        if self.phase == "probe":
            plans = self._probes()
        elif self.phase == "warm-up":
            plans = self._warm_up()
        else:
            plans = []
        if plans:
            return plans
        # A phase with nothing left to try (a budget of one call, say) draws at once.
        again = self._contenders()
        return [*again, *draw_new(self.tables, max(1, k - len(again)), rng, set(self._trials))]

    def tell(self, trials: Sequence[Trial]) -> None:
        fresh = [trial for trial in trials if trial.plan.id not in self._trials] or list(trials)
        self._trials.update((trial.plan.id, trial) for trial in trials)
        evidence = self._evidence(fresh)
        before = tables_text(self.tables)
        if self.phase == "probe":
            shown, raw = self._start(evidence)
        else:
            shown, raw = render(evidence), self._learn(evidence)
        self._report = "\n\n".join(
            [
                f"PHASE {self.phase}",
                f"EVIDENCE\n{shown}",
                f"AGENT {self.agent.name}\n{raw}",
                f"TABLES BEFORE\n{before}",
                f"TABLES AFTER\n{tables_text(self.tables)}",
            ]
        )
        self.last_mean = evidence.objective_mean
        self.phase = PHASES[min(PHASES.index(self.phase) + 1, len(PHASES) - 1)]
        self.round += 1

    # Warm-up ---------------------------------------------------------------------------------------------------------

    def _probes(self) -> list[Plan]:
        """Each model alone, in each role that can solve; other stages get their cheapest solve."""
        plans: dict[str, Plan] = {}
        for s, stage in enumerate(self.space.stages):
            for role in stage.roles:
                if role.min_parents == 0 and role.may_be_sink:
                    for name in stage.pool.names:
                        graphs = list(self.space.least_plan.stages)
                        graphs[s] = Graph((Node(role.name, name),))
                        plan = Plan(tuple(graphs))
                        if self.space.feasible(plan):
                            plans[plan.id] = plan
        return list(plans.values())

    def _start(self, evidence: Evidence) -> tuple[str, str]:
        """Insight 1: let the agent choose mixes from what single models did; their models gain probability."""
        rng = np.random.default_rng(0)
        mixes = affordable(self.space, rng)
        listed = mixes_text(self.tables, mixes)
        complaint, raw = "", ""
        for attempt in range(1, ATTEMPTS + 1):
            raw = self.agent.choose(evidence, mixes, self.mixes, complaint)
            try:
                choice = parse_choice(raw, mixes, self.mixes)
            except FeedbackError as error:
                complaint = f"{error} (attempt {attempt} of {ATTEMPTS})"
                self.rejected += 1
                continue
            self.chosen = [mixes[i] for i in choice.mixes]
            self._headline = choice.critique
            raw = choice.text()
            break
        else:
            self.dropped += 1
            picked = rng.choice(len(mixes), min(self.mixes, len(mixes)), replace=False)
            self.chosen = [mixes[int(i)] for i in picked]
            self._headline = f"the agent's choice of mixes could not be used ({complaint}); mixes drawn at random"
        share = torch.tensor(self.chosen, dtype=torch.float64).sum(0)
        for table in self.tables.stages:
            table.model_logits += torch.log((share + 0.5) / (share + 0.5).mean())
        return f"{render(evidence)}\n\nMIXES\n{listed}", raw

    def _warm_up(self) -> list[Plan]:
        """Shapes of the chosen mixes; a stage beside the first keeps its cheapest solve."""
        first, rest = self.space.stages[0], self.space.least_plan.stages[1:]
        solver = self._best_solver(first)
        plans: dict[str, Plan] = {}
        for mix in self.chosen:
            for graph in warm_up_graphs(first, mix, solver, lambda graph: self.space.feasible(Plan((graph, *rest)))):
                plan = Plan((graph, *rest))
                if plan.id not in self._trials:
                    plans[plan.id] = plan
        return list(plans.values())

    def _best_solver(self, stage: StageSpace) -> list[str]:
        """For each model the role in which it solves best alone."""
        names = [role.name for role in stage.roles if role.min_parents == 0 and role.may_be_sink]
        best = dict.fromkeys(stage.pool.names, (-1.0, names[0]))
        for trial in self._trials.values():
            graph = trial.plan.stages[0]
            if len(graph.nodes) == 1 and graph.nodes[0].role in names:
                node = graph.nodes[0]
                best[node.model] = max(best[node.model], (self.objective.utility(trial), node.role))
        return [best[name][1] for name in stage.pool.names]

    def _contenders(self) -> list[Plan]:
        """Plans that may be the best but have few marks: they are marked on this round's questions too."""
        if self.phase != "search":
            return []
        hopeful = sorted(self._trials.values(), key=lambda t: (-(self.objective.utility(t) + t.stderr), t.number))
        few = sorted(hopeful[: 2 * self.revisit], key=lambda t: len(t.marks))
        return [trial.plan for trial in few[: self.revisit]]

    # Rounds ----------------------------------------------------------------------------------------------------------

    def _evidence(self, trials: Sequence[Trial]) -> Evidence:
        ranked = sorted(
            self._trials.values(),
            key=lambda t: (-(self.objective.utility(t) - t.stderr), t.price.flops, t.number),
        )
        mean = float(np.mean([self.objective.utility(t) for t in trials])) if trials else 0.0
        realised = None if self.last_mean is None else mean - self.last_mean
        return Evidence(self.round, self.rounds, trials, ranked, self.tables, mean, self.expected, realised)

    def _learn(self, evidence: Evidence) -> str:
        """feedback → parse → step."""
        complaint, raw = "", ""
        for attempt in range(1, ATTEMPTS + 1):
            raw = self.agent.feedback(evidence, complaint)
            try:
                feedback = parse(raw, self.tables)
            except FeedbackError as error:
                complaint = f"{error} (attempt {attempt} of {ATTEMPTS})"
                self.rejected += 1
                continue
            self._step(feedback)
            return feedback.text()
        self.dropped += 1
        self.expected = None
        self._headline = f"the agent's feedback could not be used ({complaint}); the tables stay as they are"
        return raw

    def _step(self, feedback: Feedback) -> None:
        step(self.tables, feedback, self.rate)
        self.expected = sum(nudge.expect for nudge in feedback.nudges)
        self._headline = feedback.critique

    # State -----------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "tables": self.tables.state(),
            "phase": self.phase,
            "round": self.round,
            "chosen": self.chosen,
            "rejected": self.rejected,
            "dropped": self.dropped,
            "expected": self.expected,
            "last_mean": self.last_mean,
        }

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        self.tables.load_state(state["tables"])
        self.phase, self.round = state["phase"], state["round"]
        self.rejected, self.dropped = state["rejected"], state["dropped"]
        self.chosen = [tuple(mix) for mix in state["chosen"]]
        self.expected, self.last_mean = state["expected"], state["last_mean"]
        self._trials = {trial.plan.id: trial for trial in trials}

    def report(self) -> str:
        return self._report

    def headline(self) -> str:
        return self._headline
