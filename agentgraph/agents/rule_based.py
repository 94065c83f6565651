"""An agent that is no language model: arithmetic on trials and tables, written in the same formats.

It knows nothing of the tasks. It follows the insights of Agent-REINFORCE (arXiv 2511.00086):

1. a task prefers certain models and mixes: mixes are ranked by how the models' right answers complement each other;
2. width and depth have an optimum each, and 3. they depend on each other: probabilities move towards the whole graphs
   of the best plans, never towards single edges on their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from agentgraph.agents import setting_rules
from agentgraph.agents.base import Agent, Evidence
from agentgraph.agents.feedback import LARGEST, MOST_NUDGES
from agentgraph.agents.guidelines import History
from agentgraph.agents.guidelines import as_written as as_settings
from agentgraph.agents.proposals import as_written
from agentgraph.distribution import StageDistribution
from agentgraph.errors import BudgetError, GraphError, SpaceError
from agentgraph.mutation import mutated
from agentgraph.plan import Plan
from agentgraph.trial import Trial
from agentgraph.walk import Draws

_TURNS: Final = 32  # tries at a neighbour for each plan that is wanted


class RuleBased(Agent):
    """Moves the tables towards what the best plans share.

    Parameters
    ----------
    elite
        How many of the best plans count, >= 1.
    focus
        Weight of the single best plan against the mean of the elite, in [0, 1].
    sure
        Probability that the tables may reach, in (0.5, 1): what is left is for looking elsewhere.
    """

    name = "rule_based"

    def __init__(self, *, elite: int = 6, focus: float = 0.4, sure: float = 0.9) -> None:
        self.elite, self.focus, self.sure = elite, focus, sure

    def feedback(self, evidence: Evidence, complaint: str = "") -> str:
        del complaint
        elite = [trial for trial in evidence.archive if trial.marks][: self.elite]
        if not elite:
            return json.dumps({"critique": "No plan has marks yet; nothing to learn from.", "nudges": []})
        expect = float(np.mean([trial.accuracy for trial in elite])) - _mean(evidence.trials)
        nudges = [
            nudge
            for s, (stage, draws) in enumerate(
                zip(evidence.distribution.stages, evidence.distribution.label([t.plan for t in elite]), strict=True)
            )
            for nudge in self._nudges(s, stage, draws, elite)
        ]
        nudges += self._shares(evidence, elite)
        nudges.sort(key=lambda nudge: -abs(nudge["by"]))
        nudges = nudges[:MOST_NUDGES]
        for nudge in nudges:
            nudge["expect"] = round(float(np.clip(expect / max(1, len(nudges)), -1, 1)), 4)
        said: dict[str, Any] = {"critique": _critique(evidence, elite), "nudges": nudges}
        if evidence.plans:
            said["plans"] = [as_written(plan) for plan in self._neighbours(evidence, elite)]
        return json.dumps(said)

    def _neighbours(self, evidence: Evidence, elite: Sequence[Trial]) -> list[Plan]:
        """Plans one or two changes away from the best, none of them tried; more than are wanted: the search screens them."""
        space = evidence.distribution.space
        rng = np.random.default_rng((evidence.round, int(elite[0].plan.id, 16)))
        known = {trial.plan.id for trial in evidence.archive}
        found: dict[str, Plan] = {}
        for turn in range(_TURNS * evidence.plans):
            graphs = list(elite[turn % len(elite)].plan.stages)
            if len(graphs) > 1 and turn % 2:  # one stage as in another of the best
                s = int(rng.integers(len(graphs)))
                graphs[s] = elite[int(rng.integers(len(elite)))].plan.stages[s]
            for _ in range(1 + turn % 2):
                s = int(rng.integers(len(graphs)))
                graphs[s] = mutated(graphs[s], space.stages[s], rng)
            try:
                plan = Plan(tuple(graphs))
                space.check(plan)
            except (GraphError, SpaceError, BudgetError):
                continue
            if plan.id not in known:
                found[plan.id] = plan
        return list(found.values())

    def _nudges(self, s: int, stage: StageDistribution, draws: Draws, elite: Sequence[Trial]) -> list[dict[str, Any]]:
        weight = self._weights(len(elite))
        there = draws.present.double() * weight[:, None]  # (K, N)
        seen = there.sum(0)  # (N,) weight of plans that have the slot
        space = stage.space
        asks = torch.tensor([role.needs_model for role in space.roles])[draws.roles] * there
        one_hot = torch.nn.functional.one_hot
        tables: list[tuple[str, list[str], torch.Tensor, torch.Tensor, torch.Tensor]] = [
            (
                "role",
                [role.name for role in space.roles],
                stage.role_logits,
                (one_hot(draws.roles, len(space.roles)) * there[..., None]).sum(0),
                seen,
            ),
            (
                "model",
                list(space.pool.names),
                stage.model_logits,
                (one_hot(draws.models, len(space.pool)) * asks[..., None]).sum(0),
                asks.sum(0),
            ),
        ]
        nudges: list[dict[str, Any]] = []
        for table, names, logits, weights, mass in tables:
            for slot in range(space.max_nodes):
                if mass[slot] < 0.1:
                    continue
                share = weights[slot] / mass[slot]
                target = self.sure * share + (1 - self.sure) / len(names)
                now = torch.softmax(logits[slot], 0)
                nudges += self._moves(s, table, slot, names, target, now, torch.log(target) - torch.log(now))
        # An edge counts as not drawn in plans that have the slot it would go to, whether or not its own slot is there.
        share = (draws.edges * weight[:, None, None]).sum(0) / seen.clamp_min(1e-9)
        for slot in range(1, space.max_nodes):
            target = self.sure * share[slot, :slot] + (1 - self.sure) * 0.25
            target = torch.where(seen[:slot] < 0.1, torch.sigmoid(stage.edge_logits[slot, :slot]), target)
            now = torch.sigmoid(stage.edge_logits[slot, :slot])
            move = torch.logit(target.clamp(0.01, 0.99)) - torch.logit(now.clamp(0.01, 0.99))
            nudges += self._moves(s, "edge", slot, [str(t) for t in range(slot)], target, now, move)
        return nudges

    def _weights(self, count: int) -> torch.Tensor:
        """What each of the best plans counts, best first, shape (count,); sums to 1."""
        rank = 1.0 / torch.arange(1, count + 1, dtype=torch.float64)
        weight = (1 - self.focus) * rank / rank.sum()
        weight[0] += self.focus
        return weight

    def _shares(self, evidence: Evidence, elite: Sequence[Trial]) -> list[dict[str, Any]]:
        """Budget moves to where the best plans spend it."""
        tables = evidence.distribution
        names = [stage.space.name for stage in tables.stages]
        if len(names) == 1:
            return []
        spent = torch.tensor([tables.space.split(trial.plan) for trial in elite], dtype=torch.float64)
        target = self.sure * (self._weights(len(elite)) @ spent) + (1 - self.sure) / len(names)
        move = torch.log(target) - torch.log(tables.shares)
        return self._moves(0, "share", 0, names, target, tables.shares, move)

    @staticmethod
    def _moves(
        s: int, table: str, slot: int, names: Sequence[str], target: torch.Tensor, now: torch.Tensor, move: torch.Tensor
    ) -> list[dict[str, Any]]:
        return [
            {
                "stage": s,
                "table": table,
                "slot": slot,
                "option": name,
                "by": round(float(move[i].clamp(-LARGEST, LARGEST)), 4),
                "because": f"weight {float(target[i]):.2f} among the best plans, {float(now[i]):.2f} in the table",
            }
            for i, name in enumerate(names)
            if abs(float(target[i] - now[i])) > 0.05
        ]

    def choose(
        self, evidence: Evidence, mixes: Sequence[Sequence[int]], count: int, complaint: str = "", *, stage: int = 0
    ) -> str:
        del complaint
        right = _right_by_model(evidence, stage)  # (M, questions)
        scores = [float((1 - np.prod((1 - right) ** np.array(mix)[:, None], axis=0)).mean()) for mix in mixes]
        chosen: list[int] = []
        supports: set[tuple[bool, ...]] = set()
        for i in sorted(range(len(mixes)), key=lambda i: -scores[i]):
            support = tuple(count > 0 for count in mixes[i])
            if support not in supports and len(chosen) < count:
                supports.add(support)
                chosen.append(i)
        words = "; ".join(
            f"mix {i} could answer {scores[i]:.3f} if the right member were always believed" for i in chosen
        )
        return json.dumps(
            {
                "critique": f"Mixes ranked by how the models' right answers complement each other: {words}.",
                "mixes": chosen,
            }
        )

    def guideline(self, history: History) -> str:
        return setting_rules.guideline(history)

    def settings(self, history: History, complaint: str = "") -> str:
        del complaint
        return as_settings(history.samplings, setting_rules.settings(history))


def _right_by_model(evidence: Evidence, stage: int) -> NDArray[np.float64]:
    """Chance that a model answers each question of a stage, shape (M, questions), from trials in which it solves alone.

    Shrunk to the model's mean; of the other stages only those trials count that have one node each.
    """
    names = [each.space.name for each in evidence.distribution.stages]
    single = [trial for trial in evidence.archive if all(len(graph.nodes) == 1 for graph in trial.plan.stages)]
    known = [(trial.plan.stages[stage].nodes[0].model, _marks_of(trial, names, stage)) for trial in single]
    questions = sorted({q for _, marks in known for q in marks})
    pool = evidence.distribution.stages[stage].space.pool.names
    right = np.full((len(pool), max(1, len(questions))), 0.0)
    for m, name in enumerate(pool):
        rows = [[marks.get(q, np.nan) for q in questions] for model, marks in known if model == name and marks]
        if rows:
            marks = np.array(rows)
            there = ~np.isnan(marks)
            mean = float(np.nanmean(marks))
            right[m] = (np.nansum(marks, 0) + mean) / (there.sum(0) + 1)
    result: NDArray[np.float64] = np.minimum(right, 0.999)
    return result


def _marks_of(trial: Trial, names: Sequence[str], stage: int) -> Mapping[str, float]:
    """What a trial says of one stage: its own marks if it has any, else the last ones where all before it were right."""
    own = trial.stage_marks.get(names[stage])
    if own is not None:
        return own
    before = [trial.stage_marks[name] for name in names[:stage] if name in trial.stage_marks]
    return {q: mark for q, mark in trial.marks.items() if all(marks.get(q) == 1 for marks in before)}


def _mean(trials: Sequence[Trial]) -> float:
    return float(np.mean([trial.accuracy for trial in trials])) if trials else 0.0


def _critique(evidence: Evidence, elite: Sequence[Trial]) -> str:
    unit = evidence.distribution.space.budget.unit
    best = elite[0]
    graphs = [graph for trial in elite for graph in trial.plan.stages]
    models = sorted({node.model for graph in graphs for node in graph.nodes if node.model})
    sinks = sorted({graph.nodes[-1].role for graph in graphs})
    return (
        f"Best plan {best.plan.id}: accuracy {best.accuracy:.3f} ± {1.96 * best.stderr:.3f} for "
        f"{best.price.flops / unit:.2f} units; the round's mean was {_mean(evidence.trials):.3f}. The best {len(elite)} plans "
        f"have width {min(g.width for g in graphs)} to {max(g.width for g in graphs)}, depth "
        f"{min(g.depth for g in graphs)} to {max(g.depth for g in graphs)}, sinks {', '.join(sinks)}, models "
        f"{', '.join(models)}. Probabilities move towards what they share."
    )
