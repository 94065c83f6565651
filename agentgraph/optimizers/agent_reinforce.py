"""Agent-REINFORCE: sample graphs, let an agent write a textual gradient, move the tables by it.

Source: arXiv 2511.00086. The tell is its three steps by name: `feedback` (the agent writes text), `parse` (text to
nudges, fails loudly), `step` (arithmetic on logits). Departures:

- Every round draws several plans from the tables; the released code lets the agent write the next graph and never
  samples the tables again.
- Role and model probabilities are moved as well as edges; a mix adds to the model logits, it does not fix the multiset.
- Warm-up scores several shapes of each chosen mix on a slice of questions and keeps the best, ties by lower price; the
  released code compares without an absolute value and so picks at random.
- Many plans are drawn and few are run: `agentgraph.optimizers.screen` chooses, by earlier calls and by forecasts from
  the trials. ``candidates: 0`` runs plans as drawn.
- Beside the textual gradient, or instead of it, a numeric one can move the tables: a leave-one-out REINFORCE step from the
  same trials. Screened plans are no plain draws, so with screening that step is a heuristic, not an unbiased estimate.
- In mode ``propose`` (the released code's way, where the agent writes the next graph) the agent may add whole plans to
  those that are drawn; in mode ``sample`` (the paper's idea) it moves the tables only.
- There a language model's own guesses, as in zero-shot search, are tried in the first round, beside the probes.
- Of a task with several stages, each is probed and warmed up by itself while the others have one call; then plans are
  drawn with a split of the budget, and nudges move the shares as they move roles and models. The screen also sees the
  pairings of graphs that did well in their stages, each by its stage's own marks where there are any.
- The outcome is chosen on validation questions from an archive of all trials; the released code returns the last graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from statistics import fmean
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from agentgraph.agents.base import Agent, Evidence, ModelCall
from agentgraph.agents.evidence import account, mixes_text, realised, render, tables_text
from agentgraph.agents.feedback import Note, Prediction, Said, parse, parse_choice, step
from agentgraph.agents.reading import listen
from agentgraph.budget import is_number
from agentgraph.distribution import Distribution
from agentgraph.errors import ConfigError
from agentgraph.forecast import INSIGHTS
from agentgraph.graph import Graph, Node
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Look, Optimizer, draw_new
from agentgraph.optimizers.mixes import Mix, affordable, warm_up_graphs
from agentgraph.optimizers.policy import Ascent
from agentgraph.optimizers.proposing import Proposing
from agentgraph.optimizers.screen import Screen, Screened
from agentgraph.plan import Plan
from agentgraph.space import Space
from agentgraph.trial import Trial

MODES: Final = ("sample", "propose")
GRADIENTS: Final = ("text", "numeric", "both", "turns")
PHASES: Final = ("probe", "warm-up", "search")
_PAIRED: Final = 8  # graphs of a stage that are paired with those of the others


class AgentReinforce(Optimizer):
    """Probes single models and the agent's guesses, tries the agent's mixes, then draws and learns.

    Parameters
    ----------
    agent
        Writes the feedback.
    mode
        'sample' (the agent moves the tables, plans are drawn) or 'propose' (it may add whole plans).
    gradient
        'text' (the agent's nudges), 'numeric' (a REINFORCE step, the agent is not asked for nudges), 'both' in every
        round, or 'turns': one after the other.
    zero_shot
        Whether, in mode 'propose', a language model's guesses from the description of the space alone are in the first round.
    insights
        Which of the paper's three insights to use. 1: single models are probed and the agent chooses mixes to start
        from, else mixes are drawn at random and models do not enter forecasts. 2: width and depth enter forecasts, and
        mixes are tried in several shapes. 3: width and depth may depend on each other in forecasts.
    mixes
        How many mixes of models the agent chooses to start from (the paper: 2); 0 draws plans from the first round on.
    rate
        What part of each nudge is applied, in (0, 1].
    step
        Adam's step of the numeric gradient, in logits, > 0.
    revisit
        How many plans of each round, at most half of them, are contenders that get more marks, >= 0.
    candidates
        How many plans are drawn for each round, of which the screen chooses; 0 runs plans as drawn.
    free
        Whether the screen looks up what earlier calls say of a plan.
    boldness
        How far from the best forecast the screen looks, >= 0 (`agentgraph.optimizers.screen.Screen`).
    contend
        What part of a round is left to close contenders where plans race, in [0, 1): so much fewer plans are asked for.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        mode: str = "sample",
        gradient: str = "text",
        zero_shot: bool = True,
        insights: Collection[int] = INSIGHTS,
        mixes: int = 3,
        rate: float = 0.5,
        step: float = 0.1,
        revisit: int = 4,
        candidates: int = 256,
        free: bool = True,
        boldness: float = 1.0,
        contend: float = 0.5,
    ) -> None:
        for name, value, known in (("mode", mode, MODES), ("gradient", gradient, GRADIENTS)):
            if value not in known:
                raise ConfigError(f"optimizer.{name}={value!r} is unknown; use one of {', '.join(known)}")
        if not set(insights) <= set(INSIGHTS):
            raise ConfigError(f"optimizer.insights={list(insights)} must be some of {list(INSIGHTS)}, or [] for none")
        if type(candidates) is not int or candidates < 0:
            raise ConfigError(f"optimizer.candidates={candidates!r} must be a whole number of at least 0")
        if not is_number(contend) or not 0 <= contend < 1:
            raise ConfigError(f"optimizer.contend={contend!r} must be at least 0 and below 1")
        self.agent, self.mode, self.gradient, self.insights = agent, mode, gradient, frozenset(insights)
        self.zero_shot = zero_shot
        self.mixes, self.rate, self.step, self.revisit = mixes, rate, step, revisit
        self.candidates, self.free, self.boldness, self.contend = candidates, free, boldness, contend

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
        self.phase = PHASES[2] if not self.mixes else PHASES[0] if 1 in self.insights else PHASES[1]
        self.round = 0
        self.chosen: list[list[Mix]] = [[] for _ in space.stages]
        self.rejects: Counter[str] = Counter()  # what of the agent's replies could not be used, by kind
        self.dropped = 0  # rounds in which no attempt could be used
        self.expected: float | None = None
        self.last_mean: float | None = None
        self.predictions: list[Prediction] = []  # of the last feedback
        self.notes: list[Note] = []
        self.proposed: list[Plan] = []  # to be tried next
        self._k = 0
        self._task, self._questions = "", dict[str, tuple[str, str]]()
        self._trials: dict[str, Trial] = {}
        self._screened: Screened | None = None
        self._report = self._headline = ""

    def introduce(self, task: str, questions: Mapping[str, tuple[str, str]]) -> None:
        self._task, self._questions = task, dict(questions)

    def ask(self, k: int, rng: np.random.Generator) -> list[Plan]:
        self._k = k
        plans = self._guesses(k) if self.round == 0 else []
        if self.phase == "probe":
            plans += self._probes()
        elif self.phase == "warm-up":
            plans += self._warm_up(rng)
        if plans:
            return list({plan.id: plan for plan in plans}.values())
        # A phase with nothing left to try (a budget of one call, say) draws at once.
        k = max(min(k, 2), round(k * (1 - self.contend))) if self.races else k
        again = self._contenders(min(self.revisit, k // 2))
        return [*again, *self._new(max(1, k - len(again)), rng)]

    def _new(self, k: int, rng: np.random.Generator) -> list[Plan]:
        """Plans not tried yet: up to half of them the agent's own, the others drawn; of both the screen chooses."""
        own = self.proposed if not self.candidates else self.screen.choose(self.proposed, (k + 1) // 2, rng).plans
        own = own[: (k + 1) // 2]
        known = self._trials.keys() | {plan.id for plan in own}
        missing = k - len(own)
        drawn = draw_new(self.tables, max(missing, self.candidates), rng, known)
        if not self.candidates:
            return [*own, *drawn]
        paired = {plan.id: plan for plan in [*self._pairings(), *drawn] if plan.id not in known}
        self._screened = self.screen.choose(list(paired.values()), missing, rng)
        return [*own, *self._screened.plans]

    def _pairings(self) -> list[Plan]:
        """Plans of several stages whose graphs each did well in its stage, within the budget."""
        if len(self.space.stages) == 1:
            return []
        marked = [trial for trial in self._trials.values() if trial.marks]
        best = [_did_well(marked, self.space, s)[:_PAIRED] for s in range(len(self.space.stages))]
        return [plan for graphs in product(*best) if self.space.feasible(plan := Plan(graphs))]

    def tell(self, trials: Sequence[Trial]) -> None:
        fresh = [trial for trial in trials if trial.plan.id not in self._trials] or list(trials)
        self._trials.update((trial.plan.id, trial) for trial in trials)
        self.screen.fit(list(self._trials.values()))
        evidence = self._evidence(fresh)
        before, shown = tables_text(self.tables), render(evidence)
        self.predictions, self.proposed = [], []
        if self.phase == "probe":
            listed, raw = self._start(evidence)
            shown = f"{shown}\n\nMIXES\n{listed}"
        else:
            text, numeric = self._turn()
            raw = self._learn(evidence) if text else f"not asked: gradient={self.gradient}"
            if numeric:
                self._follow(fresh)
        self._report = account(
            evidence,
            self.agent,
            raw,
            shown=shown,
            before=before,
            after=tables_text(self.tables),
            phase=self.phase,
            steps=self.predictions,
            rejects=self.rejects,
        )
        if self._screened is not None:
            self._report += f"\n\nSCREENING\n{self._screened.text()}"
        self.last_mean = evidence.objective_mean
        self.phase = PHASES[min(PHASES.index(self.phase) + 1, len(PHASES) - 1)]
        self.round += 1

    def _guesses(self, k: int) -> list[Plan]:
        """Plans that the agent proposes from the description of the space alone, if it is one that does."""
        if not (self.zero_shot and self.mode == "propose" and self.agent.proposes):
            return []
        return Proposing(self.agent, self.space, rejects=self.rejects).plans(k, {})

    # Warm-up ---------------------------------------------------------------------------------------------------------

    def _probes(self) -> list[Plan]:
        """Each model alone in each stage, in each role that can solve; the other stages have the dearest solve that fits."""
        plans: dict[str, Plan] = {}
        for s, stage in enumerate(self.space.stages):
            for role in stage.roles:
                if role.min_parents == 0 and role.may_be_sink:
                    for name in stage.pool.names:
                        plan = self._with(s, Graph((Node(role.name, name),)))
                        if plan is not None:
                            plans[plan.id] = plan
        return list(plans.values())

    def _with(self, s: int, graph: Graph) -> Plan | None:
        """The plan with this graph in stage ``s``, and in the others the best single call within their shares.

        If that is too dear the others have their cheapest solve; ``None`` if that is too dear as well.
        """
        for others in (self._singles(s), list(self.space.least_plan.stages)):
            others[s] = graph
            plan = Plan(tuple(others))
            if self.space.feasible(plan):
                return plan
        return None

    def _singles(self, s: int) -> list[Graph]:
        """For each stage but ``s`` the single call that did best, or else the dearest, within its share of the budget."""
        space, graphs = self.space, list(self.space.least_plan.stages)
        for t, stage in enumerate(space.stages):
            if t == s:
                continue
            tried = self._alone(t)
            price = {Node(stage.solver.name, name): cost.flops for name, cost in stage.solvers.items()}
            for node in sorted(tried or price, key=lambda node: -(tried or price)[node]):
                if space.within_share(t, Graph((node,)), float(self.tables.shares[t])):
                    graphs[t] = Graph((node,))
                    break
        return graphs

    def _alone(self, s: int) -> dict[Node, float]:
        """How each single call of a stage did where all other stages had one too: by the stage's own marks if it has any."""
        values: dict[Node, float] = {}
        for trial in self._trials.values():
            if trial.marks and all(len(graph.nodes) == 1 for graph in trial.plan.stages):
                own = trial.stage_marks.get(self.space.stages[s].name)
                value = fmean(own.values()) if own else self.objective.utility(trial)
                node = trial.plan.stages[s].nodes[0]
                values[node] = max(values.get(node, -np.inf), value)
        return values

    def _start(self, evidence: Evidence) -> tuple[str, str]:
        """Insight 1: let the agent choose mixes from what single models did; their models gain probability."""
        listed, said = [], []
        for s in range(len(self.space.stages)):
            mixes = affordable(self.space, np.random.default_rng(0), s, float(self.tables.shares[s]))
            listed.append(mixes_text(self.tables, mixes, s))
            heard = listen(
                lambda complaint, s=s, mixes=mixes: self.agent.choose(  # type: ignore[misc]
                    evidence, mixes, self.mixes, complaint, stage=s
                ),
                lambda raw, mixes=mixes: parse_choice(raw, mixes, self.mixes, cut=self.agent.cut),  # type: ignore[misc]
                self.rejects,
            )
            if heard.value is not None:
                self._adopt(s, [mixes[i] for i in heard.value.mixes])
                self._note(evidence, heard.value.critique)
                said.append(heard.value.text())
            else:
                self.dropped += 1
                self._headline = (
                    f"the agent's choice of mixes could not be used ({heard.complaint}); mixes are drawn at random"
                )
                said.append(heard.raw)
        return "\n\n".join(listed), "\n\n".join(said)

    def _adopt(self, s: int, mixes: list[Mix]) -> None:
        """Start a stage from these mixes: their models gain probability."""
        self.chosen[s] = mixes
        share = torch.tensor(mixes, dtype=torch.float64).sum(0)
        self.tables.stages[s].model_logits += torch.log((share + 0.5) / (share + 0.5).mean())

    def _warm_up(self, rng: np.random.Generator) -> list[Plan]:
        """Shapes of the chosen mixes of each stage; the other stages have the single call that did best."""
        plans: dict[str, Plan] = {}
        for s, stage in enumerate(self.space.stages):
            solver = self._best_solver(s)
            if not self.chosen[s]:  # without insight 1, or without a usable choice
                mixes = affordable(self.space, rng, s, float(self.tables.shares[s]))
                count = min(self.mixes, len(mixes))
                self._adopt(s, [mixes[int(i)] for i in rng.choice(len(mixes), count, replace=False)])
            for mix in self.chosen[s]:
                for graph in warm_up_graphs(stage, mix, solver, lambda graph, s=s: self._with(s, graph) is not None):  # type: ignore[misc]
                    plan = self._with(s, graph)
                    if plan is not None and plan.id not in self._trials:
                        plans[plan.id] = plan
                        if 2 not in self.insights:  # one shape for each mix
                            break
        return list(plans.values())

    def _best_solver(self, s: int) -> list[str]:
        """For each model of a stage the role in which it solves best alone."""
        stage = self.space.stages[s]
        names = [role.name for role in stage.roles if role.min_parents == 0 and role.may_be_sink]
        best = dict.fromkeys(stage.pool.names, (-np.inf, names[0]))
        for node, value in self._alone(s).items():
            if node.role in names:
                best[node.model] = max(best[node.model], (value, node.role))
        return [best[name][1] for name in stage.pool.names]

    def _contenders(self, count: int) -> list[Plan]:
        """Plans that may be the best but have few marks: they get more."""
        if self.phase != "search" or not count:
            return []
        trials = [trial for trial in self._trials.values() if trial.marks]
        mean, error = self.screen.beliefs(trials)
        hopeful = [trials[i] for i in np.argsort(-(mean + error), kind="stable")[: 2 * count]]
        return [trial.plan for trial in sorted(hopeful, key=lambda trial: len(trial.marks))[:count]]

    def ranked(self, trials: Sequence[Trial]) -> list[Trial]:
        """By what is believed of them less one standard deviation: a lucky trial is drawn back to what plans like it did."""
        mean, error = self.screen.beliefs(trials)
        believed = {trial.plan.id: value for trial, value in zip(trials, mean - error, strict=True)}
        return sorted(trials, key=lambda trial: (-believed[trial.plan.id], trial.price.flops, trial.number))

    # Rounds ----------------------------------------------------------------------------------------------------------

    def _evidence(self, trials: Sequence[Trial]) -> Evidence:
        ranked = self.ranked(list(self._trials.values()))
        mean = float(np.mean([self.objective.utility(t) for t in trials])) if trials else 0.0
        return Evidence(
            self.round,
            self.rounds,
            trials,
            ranked,
            self.tables,
            mean,
            self.expected,
            None if self.last_mean is None else mean - self.last_mean,
            task=self._task,
            questions=self._questions,
            objective=self.objective,
            history=self.notes,
            predictions=realised(self.predictions, trials, self.tables, self.objective.utility),
            plans=self._k if self.mode == "propose" else 0,
            insights=self.insights,
        )

    def _learn(self, evidence: Evidence) -> str:
        """feedback → parse → step."""
        heard = listen(
            lambda complaint: self.agent.feedback(evidence, complaint),
            lambda raw: parse(raw, self.tables, plans=bool(evidence.plans), cut=self.agent.cut),
            self.rejects,
        )
        if heard.value is None:
            self.dropped += 1
            self.expected = None
            self._headline = f"the agent's feedback could not be used ({heard.complaint}); the tables stay as they are"
            return heard.raw
        self._step(heard.value)
        self._note(evidence, heard.value.feedback.critique)
        return heard.value.text()

    def _step(self, said: Said) -> None:
        self.predictions = step(self.tables, said.feedback, self.rate)
        self.expected = sum(nudge.expect for nudge in said.feedback.nudges)
        self.proposed = [plan for plan in said.plans if plan.id not in self._trials]

    def _note(self, evidence: Evidence, critique: str) -> None:
        """Keep what the agent said, for the rounds in which it wants to be shown it."""
        self._headline = " ".join(critique.split())
        note = Note(round=evidence.round, critique=critique, mean=evidence.objective_mean)
        kept = len(self.notes) + 1 - self.agent.history
        self.notes = [*self.notes, note][max(0, kept) :]

    def _turn(self) -> tuple[bool, bool]:
        """Whether the agent's nudges and whether a REINFORCE step move the tables after this round."""
        if self.gradient == "turns":
            return self.round % 2 == 1, self.round % 2 == 0
        return self.gradient != "numeric", self.gradient != "text"

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
            "rejects": dict(sorted(self.rejects.items())),
            "dropped": self.dropped,
            "predictions": [one.model_dump() for one in self.predictions],
            "notes": [note.model_dump() for note in self.notes],
            "proposed": [plan.compact() for plan in self.proposed],
            "expected": self.expected,
            "last_mean": self.last_mean,
            "ascent": self.ascent.state(),
        }

    def load_state(self, state: dict[str, Any], trials: Sequence[Trial]) -> None:
        self.tables.load_state(state["tables"])
        self.phase, self.round = state["phase"], state["round"]
        self.rejects, self.dropped = Counter(state["rejects"]), state["dropped"]
        self.predictions = [Prediction.model_validate(one) for one in state["predictions"]]
        self.notes = [Note.model_validate(note) for note in state["notes"]]
        self.proposed = [Plan.from_compact(plan) for plan in state["proposed"]]
        self.chosen = [[tuple(mix) for mix in mixes] for mixes in state["chosen"]]
        self.expected, self.last_mean = state["expected"], state["last_mean"]
        self._trials = {trial.plan.id: trial for trial in trials}
        self.screen.fit(trials)
        self.ascent.load_state(state["ascent"])

    def report(self) -> str:
        return self._report

    def headline(self) -> str:
        return self._headline


def _did_well(trials: Sequence[Trial], space: Space, s: int) -> list[Graph]:
    """Graphs of a stage, best first: by the share of what came to them right that they left right, less one standard error.

    Trials of a graph are pooled. Where stages are not marked by themselves, a graph has the marks of its plans.
    """
    names = [stage.name for stage in space.stages]
    graphs: dict[str, Graph] = {}
    counts: dict[str, NDArray[np.float64]] = {}
    for trial in trials:
        rights = [sum(trial.stage_marks.get(name, {}).values()) for name in names[:-1]] + [sum(trial.marks.values())]
        alone = all(trial.stage_marks.get(name) for name in names[:-1])
        reached = rights[s - 1] if alone and s else len(trial.marks)
        graph = graphs.setdefault(trial.plan.stages[s].id, trial.plan.stages[s])
        counts[graph.id] = counts.get(graph.id, np.zeros(2)) + np.array([rights[s] if alone else rights[-1], reached])

    def rank(name: str) -> float:
        right, reached = counts[name]
        share = (right + 0.5) / (reached + 1.0)
        return float(share - np.sqrt(max(share * (1.0 - share), 0.0) / (reached + 1.0)))

    return [graphs[name] for name in sorted(graphs, key=rank, reverse=True)]
