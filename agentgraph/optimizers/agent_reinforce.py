"""Agent-REINFORCE: sample graphs, let an agent write a textual gradient, move the tables by it.

Source: arXiv 2511.00086. The tell is its three steps by name: `feedback` (the agent writes text), `parse` (text to
nudges, fails loudly), `step` (arithmetic on logits). Departures:

- Every round draws several plans from the tables; the released code lets the agent write the next graph and never
  samples the tables again.
- Role and model probabilities are moved as well as edges; a mix adds to the model logits, it does not fix the multiset.
- Warm-up scores several shapes of each chosen mix on a slice of questions and keeps the best, ties by lower price; the
  released code compares without an absolute value and so picks at random.
- Many plans are drawn and few are run: `agentgraph.optimizers.screen` chooses, by stored replies and by forecasts from
  the trials. ``candidates: 0`` runs plans as drawn.
- Beside the textual gradient, or instead of it, a numeric one can move the tables: a leave-one-out REINFORCE step from the
  same trials. Screened plans are no plain draws, so with screening that step is a heuristic, not an unbiased estimate.
- In mode ``propose`` (the released code's way, where the agent writes the next graph) the agent may add whole plans to
  those that are drawn; in mode ``sample`` (the paper's idea) it moves the tables only.
- The outcome is chosen on validation questions from an archive of all trials; the released code returns the last graph.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
import torch

from agentgraph.agents.base import Agent, Evidence, ModelCall
from agentgraph.agents.evidence import mixes_text, render, tables_text
from agentgraph.agents.feedback import Feedback, parse, parse_choice, step
from agentgraph.distribution import Distribution
from agentgraph.errors import ConfigError, FeedbackError
from agentgraph.forecast import INSIGHTS
from agentgraph.graph import Graph, Node
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Look, Optimizer, draw_new
from agentgraph.optimizers.mixes import Mix, exact_spend, proxies, warm_up_graphs
from agentgraph.optimizers.policy import Ascent
from agentgraph.optimizers.screen import Screen, Screened
from agentgraph.plan import Plan
from agentgraph.space import Space, StageSpace
from agentgraph.trial import Trial

ATTEMPTS: Final = 3  # at a usable reply of the agent
MODES: Final = ("sample", "propose")
GRADIENTS: Final = ("text", "numeric", "both")
PHASES: Final = ("probe", "warm-up", "search")


class AgentReinforce(Optimizer):
    """Probes single models, tries the agent's mixes, then draws and learns.

    Parameters
    ----------
    agent
        Writes the feedback.
    mode
        'sample' (the agent moves the tables, plans are drawn) or 'propose' (it may add whole plans).
    gradient
        'text' (the agent's nudges), 'numeric' (a REINFORCE step, the agent is not asked for nudges) or 'both'.
    insights
        Which of the paper's three insights to use. 1: single models are probed and the agent chooses mixes to start
        from, else mixes are drawn at random and models do not enter forecasts. 2: width and depth enter forecasts, and
        mixes are tried in several shapes. 3: width and depth may depend on each other in forecasts.
    mixes
        How many mixes of models the agent chooses to start from (the paper: 2).
    rate
        What part of each nudge is applied, in (0, 1].
    step
        Adam's step of the numeric gradient, in logits, > 0.
    revisit
        How many plans of each round are contenders that get more marks, >= 0.
    candidates
        How many plans are drawn for each round, of which the screen chooses; 0 runs plans as drawn.
    free
        Whether the screen looks up what stored replies say of a plan.
    boldness
        How far from the best forecast the screen looks, >= 0 (`agentgraph.optimizers.screen.Screen`).
    """

    def __init__(
        self,
        agent: Agent,
        *,
        mode: str = "sample",
        gradient: str = "text",
        insights: Collection[int] = INSIGHTS,
        mixes: int = 3,
        rate: float = 0.5,
        step: float = 0.1,
        revisit: int = 0,
        candidates: int = 256,
        free: bool = True,
        boldness: float = 0.5,
    ) -> None:
        for name, value, known in (("mode", mode, MODES), ("gradient", gradient, GRADIENTS)):
            if value not in known:
                raise ConfigError(f"optimizer.{name}={value!r} is unknown; use one of {', '.join(known)}")
        if not set(insights) <= set(INSIGHTS):
            raise ConfigError(f"optimizer.insights={list(insights)} must be some of {list(INSIGHTS)}, or [] for none")
        if type(candidates) is not int or candidates < 0:
            raise ConfigError(f"optimizer.candidates={candidates!r} must be a whole number of at least 0")
        self.agent, self.mode, self.gradient, self.insights = agent, mode, gradient, frozenset(insights)
        self.mixes, self.rate, self.step, self.revisit = mixes, rate, step, revisit
        self.candidates, self.free, self.boldness = candidates, free, boldness

    def setup(
        self, space: Space, objective: Objective, *, rounds: int, call: ModelCall, look: Look | None = None
    ) -> None:
        super().setup(space, objective, rounds=rounds, call=call, look=look)
        self.agent.connect(call)
        self.tables = self.distribution = Distribution(space)
        self.ascent = Ascent(self.tables, self.step)
        self.screen = Screen(
            space, objective, look if self.free else None, insights=self.insights, boldness=self.boldness
        )
        self.phase = PHASES[0]
        self.round = 0
        self.chosen: list[Mix] = []
        self.rejected = 0  # replies of the agent that could not be used, each asked again up to ATTEMPTS times
        self.dropped = 0  # rounds in which no attempt could be used
        self.expected: float | None = None
        self.last_mean: float | None = None
        self._trials: dict[str, Trial] = {}
        self._screened: Screened | None = None
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
        k = max(1, k - len(again))
        drawn = draw_new(self.tables, max(k, self.candidates), rng, set(self._trials))
        if not self.candidates:
            return [*again, *drawn]
        self._screened = self.screen.choose(drawn, k, rng)
        return [*again, *self._screened.plans]

    def tell(self, trials: Sequence[Trial]) -> None:
        fresh = [trial for trial in trials if trial.plan.id not in self._trials] or list(trials)
        self._trials.update((trial.plan.id, trial) for trial in trials)
        self.screen.fit(list(self._trials.values()))
        evidence = self._evidence(fresh)
        before = tables_text(self.tables)
        if self.phase == "probe":
            shown, raw = self._start(evidence)
        else:
            shown, raw = render(evidence), self._learn(evidence) if self.gradient != "numeric" else "not asked"
            if self.gradient != "text":
                self._follow(fresh)
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
                        graphs = [self._cheapest(other) for other in self.space.stages]
                        graphs[s] = Graph((Node(role.name, name),))
                        plan = Plan(tuple(graphs))
                        if self.space.feasible(plan):
                            plans[plan.id] = plan
        return list(plans.values())

    @staticmethod
    def _cheapest(stage: StageSpace) -> Graph:
        role = next(role for role in stage.roles if role.min_parents == 0 and role.may_be_sink)
        return min(
            (Graph((Node(role.name, name),)) for name in stage.pool.names), key=lambda graph: stage.price(graph).flops
        )

    def _start(self, evidence: Evidence) -> tuple[str, str]:
        """Insight 1: let the agent choose mixes from what single models did; their models gain probability."""
        stage = self.space.stages[0]
        rng = np.random.default_rng(0)
        budget = int(self.space.budget.flops / stage.cheapest + 1e-9)
        mixes = exact_spend(proxies(stage), budget, max_nodes=stage.max_nodes, rng=rng)
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
        first, rest = self.space.stages[0], [self._cheapest(stage) for stage in self.space.stages[1:]]
        left = self.space.budget.flops - sum(
            stage.price(graph).flops for stage, graph in zip(self.space.stages[1:], rest, strict=True)
        )
        solver = self._best_solver(first)
        plans: dict[str, Plan] = {}
        for mix in self.chosen:
            for graph in warm_up_graphs(first, mix, solver, left * (1 + 1e-9)):
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

    def ranked(self, trials: Sequence[Trial]) -> list[Trial]:
        """By the forecast, which draws lucky trials back to what plans like them did."""
        smoothed = {t.plan.id: value for t, value in zip(trials, self.screen.smoothed(trials), strict=True)}
        return sorted(trials, key=lambda t: (-smoothed[t.plan.id], t.price.flops, t.number))

    # Rounds ----------------------------------------------------------------------------------------------------------

    def _evidence(self, trials: Sequence[Trial]) -> Evidence:
        ranked = self.ranked(list(self._trials.values()))
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

    def _follow(self, trials: Sequence[Trial]) -> None:
        """One REINFORCE step from the round's trials."""
        marked = [trial for trial in trials if trial.marks]
        if len(marked) < 2:
            return
        utility = torch.tensor([self.objective.utility(trial) for trial in marked], dtype=torch.float64)
        draws = self.tables.label([trial.plan for trial in marked])
        self.ascent.step(draws, utility)

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
            "ascent": self.ascent.state(),
        }

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        self.tables.load_state(state["tables"])
        self.phase, self.round = state["phase"], state["round"]
        self.rejected, self.dropped = state["rejected"], state["dropped"]
        self.chosen = [tuple(mix) for mix in state["chosen"]]
        self.expected, self.last_mean = state["expected"], state["last_mean"]
        self._trials = {trial.plan.id: trial for trial in trials}
        self.screen.fit(trials)
        self.ascent.load_state(state["ascent"])

    def report(self) -> str:
        return self._report

    def headline(self) -> str:
        return self._headline
