"""Evidence as text: what an agent is shown, and what the feedback files keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import getdoc
from statistics import fmean
from typing import Final

import numpy as np
import torch

from agentgraph.agents.base import Agent, Evidence
from agentgraph.agents.feedback import Prediction
from agentgraph.budget import NOT_FOR_SALE, TTS_REFERENCE, Budget, Cost
from agentgraph.distribution import Distribution, StageDistribution
from agentgraph.graph import Graph
from agentgraph.score import interval
from agentgraph.space import Space, StageSpace
from agentgraph.tasks.base import Task
from agentgraph.trial import Trial

__all__ = [
    "account",
    "graph_text",
    "mixes_text",
    "realised",
    "render",
    "space_text",
    "tables_text",
    "task_text",
    "trial_text",
]

_SHOWN: Final = 6  # trials of the archive that are listed
_PRICED: Final = 4  # numbers of parents that prices are listed for
_FAILED: Final = 4  # questions listed of a plan
_LONGEST: Final = 160  # characters of a question, of a gold answer


def task_text(task: Task) -> str:
    """The task's name, and what models are told in each stage."""
    lines = [f"Task {task.name}."]
    lines += [f"  stage {stage.name}: {' '.join(stage.instructions.split()) or '-'}" for stage in task.stages]
    return "\n".join(lines)


def space_text(space: Space) -> str:
    """The budget, and of each stage the roles with their rules, and prices by number of parents, in all that is limited.

    Prices above the budget are left out; models that then have none are named in one line.
    """
    budget = space.budget
    head = f"Budget: prices may sum to {budget.text()} per question at most."
    return "\n".join([head, *(_stage_text(stage, budget) for stage in space.stages)])


def _stage_text(stage: StageSpace, budget: Budget) -> str:
    lines = [f"Stage {stage.name}: at most {stage.max_nodes} nodes. Roles, with the price by number of parents:"]
    affordable = set()
    for r, role in enumerate(stage.roles):
        rules = [f"at least {role.min_parents} parents"] if role.min_parents else []
        rules += [] if role.may_be_inner else ["sink only"]
        rules += [] if role.may_be_sink else ["not the sink"]
        rules += [f"not a parent of a {kind}" for kind in role.not_above]
        free = "" if role.needs_model else ": no model, free"
        lines.append(f"  {role.name} ({'; '.join(rules) or 'anywhere'}){free}")
        for m, name in enumerate(stage.pool.names) if role.needs_model else ():
            prices = _prices(stage, budget, r, m)
            lines += [f"    with {name}: {', '.join(prices)}"] if prices else []
            affordable |= {name} if prices else set()
    dear = [name for name in stage.pool.names if name not in affordable]
    lines += [f"  too dear for any plan: {', '.join(dear)}"] if dear else []
    limits = ", ".join(f"{name} {count}" for name, count in stage.samples.items() if name in affordable)
    lines += [f"  how often a graph may ask each model: {limits}"] if limits else []
    return "\n".join(lines)


def _prices(stage: StageSpace, budget: Budget, r: int, m: int) -> list[str]:
    """What role r with model m takes by number of parents, where that is within the budget."""
    limits = budget.limits or {"flops": np.inf}
    if not stage.samples.get(stage.pool.names[m], 1):
        return []
    words = []
    for d in range(stage.roles[r].min_parents, min(_PRICED, stage.max_nodes)):
        amounts = {name: float(stage.tables[name][r, m, d]) for name in limits}
        if all(amount < NOT_FOR_SALE and amount <= limits[name] + _given(name) for name, amount in amounts.items()):
            words.append(f"{d}: {' and '.join(budget.amount(name, amount) for name, amount in amounts.items())}")
    return words


def _given(name: str) -> float:
    """What a stage has of a resource beside the budget."""
    return TTS_REFERENCE if name == "tts_units" else 0.0


def graph_text(graph: Graph) -> str:
    """One line per node: slot, role, model, slots it receives from, slots it sends to; the sink is marked."""
    last = graph.sink
    lines = []
    for i, node in enumerate(graph.nodes):
        receives = ",".join(str(last - p) for p in graph.parents[i]) or "-"
        sends = ",".join(str(last - c) for c in graph.children[i]) or "SINK"
        lines.append(f"  slot {last - i} | {node.role} | {node.model or '-'} | from {receives} | to {sends}")
    return "\n".join(lines)


def _accuracy(trial: Trial) -> str:
    """Accuracy with its 95 % interval and the number of questions."""
    if not trial.marks:
        return "no marks"
    mean, low, high = interval(list(trial.marks.values()))
    return f"accuracy {mean:.3f} [{low:.3f}, {high:.3f}] on {len(trial.marks)} questions"


def _cost(name: str, cost: Cost, unit: float, *, timed: bool) -> str:
    """Units, and dollars and (if ``timed``) seconds where they are known."""
    parts = [f"{cost.flops / unit:.2f} units"]
    parts += [f"{cost.seconds:.3g} s"] if cost.seconds and timed else []
    parts += [f"${cost.usd:.3g}"] if cost.usd else []
    return f"{name} {', '.join(parts)}"


def _timed(evidence: Evidence) -> bool:
    """Whether seconds count. Where they do not they are not shown: no two runs measure the same, and all else may be the same."""
    counted = () if evidence.objective is None else evidence.objective.resources
    return "seconds" in counted or "seconds" in evidence.distribution.space.budget.limits


def trial_text(trial: Trial, unit: float, utility: float | None = None, *, timed: bool = True) -> str:
    """Accuracy with its interval, utility, price, charge, shape and nodes of a trial; seconds if they count (``timed``)."""
    shapes = " + ".join(
        f"{len(graph.nodes)} nodes, width {graph.width}, depth {graph.depth}" for graph in trial.plan.stages
    )
    parts = [_accuracy(trial)]
    parts += [f"stage {stage} alone {fmean(marks.values()):.3f}" for stage, marks in trial.stage_marks.items()]
    parts += [] if utility is None or utility == trial.accuracy else [f"utility {utility:.3f}"]
    parts += [_cost("price", trial.price, unit, timed=timed)]
    parts += [_cost("charge", trial.charge, unit, timed=timed)] if trial.marks else []
    outcomes = ", ".join(f"{count} {kind}" for kind, count in sorted(trial.outcomes.items()))
    parts += [f"replies {outcomes}"] if outcomes else []
    head = f"plan {trial.plan.id}: {'; '.join([*parts, shapes])}"
    return "\n".join([head, *(graph_text(graph) for graph in trial.plan.stages)])


def _row(names: Sequence[str], logits: torch.Tensor) -> str:
    probs = torch.softmax(logits, 0).tolist()
    return "  ".join(f"{name} {p:.3f}" for name, p in zip(names, probs, strict=True))


def _stage_tables(stage: StageDistribution) -> list[str]:
    n = stage.space.max_nodes
    roles = [role.name for role in stage.space.roles]
    edges = torch.sigmoid(stage.edge_logits).tolist()
    lines = [f"stage {stage.space.name}; slot 0 is the sink; an edge s>t hands the message of slot s to slot t"]
    lines += [f"  role  slot {s}: {_row(roles, stage.role_logits[s])}" for s in range(n)]
    lines += [f"  model slot {s}: {_row(stage.space.pool.names, stage.model_logits[s])}" for s in range(n)]
    lines += [f"  edge  slot {s}: " + "  ".join(f"{s}>{t} {edges[s][t]:.3f}" for t in range(s)) for s in range(1, n)]
    return lines


def tables_text(distribution: Distribution) -> str:
    """All tables as probabilities with three decimals, in a fixed order; of several stages first their shares."""
    lines = [line for stage in distribution.stages for line in _stage_tables(stage)]
    if len(distribution.stages) > 1:
        shares = _row([stage.space.name for stage in distribution.stages], distribution.share_logits)
        lines.insert(0, f"shares of the budget: {shares}")
    return "\n".join(lines)


def mixes_text(distribution: Distribution, mixes: Sequence[Sequence[int]], stage: int = 0) -> str:
    """Numbered list of model mixes of a stage."""
    names = distribution.stages[stage].space.pool.names
    return "\n".join(
        f"{i}: " + " + ".join(f"{count}×{name}" for name, count in zip(names, mix, strict=True) if count)
        for i, mix in enumerate(mixes)
    )


def realised(
    predictions: Sequence[Prediction],
    trials: Sequence[Trial],
    distribution: Distribution,
    utility: Callable[[Trial], float],
) -> list[Prediction]:
    """The predictions with what happened.

    Parameters
    ----------
    trials
        The new trials of the round after the nudges; those without marks say nothing.
    """
    marked = [trial for trial in trials if trial.marks]
    if not marked:
        return list(predictions)
    draws = distribution.label([trial.plan for trial in marked])
    values = np.array([utility(trial) for trial in marked])
    result = []
    for prediction in predictions:
        nudge = prediction.nudge
        draw, space = draws[nudge.stage], distribution.stages[nudge.stage].space
        if nudge.table == "share":
            place = [stage.space.name for stage in distribution.stages].index(nudge.option)
            having = torch.tensor([distribution.space.split(t.plan)[place] > prediction.before for t in marked])
        elif nudge.table == "edge":
            having = draw.edges[:, nudge.slot, int(nudge.option)]
        elif nudge.table == "role":
            role = [role.name for role in space.roles].index(nudge.option)
            having = draw.present[:, nudge.slot] & (draw.roles[:, nudge.slot] == role)
        else:
            asks = torch.tensor([role.needs_model for role in space.roles])[draw.roles[:, nudge.slot]]
            model = space.pool.names.index(nudge.option)
            having = draw.present[:, nudge.slot] & asks & (draw.models[:, nudge.slot] == model)
        with_it, without = values[having.numpy()], values[~having.numpy()]
        effect = float(with_it.mean() - without.mean()) if len(with_it) and len(without) else None
        result.append(prediction.model_copy(update={"effect": effect, "having": len(with_it), "lacking": len(without)}))
    return result


def _prediction(prediction: Prediction) -> str:
    nudge = prediction.nudge
    effect = "unknown" if prediction.effect is None else f"{prediction.effect:+.3f}"
    return (
        f"  {nudge.what:<34} p {prediction.before:.3f} -> {prediction.after:.3f}  expected {nudge.expect:+.3f}  "
        f"realised {effect} ({prediction.having} new plans with it, {prediction.lacking} without)"
    )


def _singles(evidence: Evidence, unit: float) -> list[str]:
    """Plans of one node per stage, in the order first drawn."""
    trials = [trial for trial in evidence.archive if all(len(graph.nodes) == 1 for graph in trial.plan.stages)]
    return [
        f"  {' then '.join(str(graph.nodes[0]) for graph in trial.plan.stages)}: {_accuracy(trial)}; "
        f"{_cost('price', trial.price, unit, timed=_timed(evidence))}"
        for trial in sorted(trials, key=lambda trial: trial.number)
        if trial.marks
    ]


def _failures(evidence: Evidence) -> list[str]:
    """Questions that the best and the worst plan of the round failed on."""
    marked = [trial for trial in evidence.trials if trial.marks]
    if not marked:
        return []
    best = max(marked, key=lambda trial: (evidence.utility(trial), -trial.number))
    worst = min(marked, key=lambda trial: (evidence.utility(trial), -trial.number))
    shown = [("best", best, worst)] if best is worst else [("best", best, worst), ("worst", worst, best)]
    lines = []
    for which, trial, other in shown:
        failed = [question for question, mark in trial.marks.items() if mark < 1]
        lines.append(f"Questions that the {which} plan of the round ({trial.plan.id}) failed on, {len(failed)} in all:")
        for question in failed[:_FAILED]:
            both = " (both plans failed)" if other is not trial and other.marks.get(question, 1.0) < 1 else ""
            text, gold = evidence.questions.get(question, ("", ""))
            said = f": {_short(text)} -> {_short(gold)}" if text else ""
            lines.append(f"  {question}{both}{said}")
    return lines


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"


def _foreseen(evidence: Evidence) -> list[str]:
    """What the last nudges should have done together, and what happened."""
    lines = []
    if evidence.predicted is not None and evidence.realised is not None:
        lines.append(
            f"The last nudges foresaw a change of the mean utility of a round of {evidence.predicted:+.3f}; "
            f"it was {evidence.realised:+.3f}."
        )
    known = [(one.after - one.before) * one.effect for one in evidence.predictions if one.effect is not None]
    if known:
        borne_out = sum(product > 0 for product in known)
        lines.append(
            f"Of {len(known)} nudges whose effect is known, {borne_out} raised what did well or lowered what did poorly."
        )
    return lines


def _last_round(evidence: Evidence) -> list[str]:
    """What the agent foresaw, and what happened."""
    lines = _foreseen(evidence)
    if evidence.predictions:
        lines.append(
            "One by one; realised is the mean utility of the round's new plans that have the option in "
            "that slot, less that of those that have not:"
        )
        lines += map(_prediction, evidence.predictions)
    return lines


def _goal(evidence: Evidence) -> str:
    said = "" if evidence.objective is None else (getdoc(type(evidence.objective)) or "").partition("\n")[0]
    return f"Utility, which is maximised: {said or 'mean mark in [0, 1].'}"


def render(evidence: Evidence) -> str:
    """Everything an agent is shown after a round."""
    space = evidence.distribution.space
    unit, timed = space.budget.unit, _timed(evidence)
    parts = [evidence.task] if evidence.task else []
    parts += [f"Round {evidence.round} of {evidence.rounds}.", _goal(evidence), space_text(space)]
    parts += _titled("Single models (accuracies with 95 % intervals, here and below):", _singles(evidence, unit))
    for note in evidence.history:
        parts.append(f"What you said in round {note.round} (mean utility {note.mean:.3f}): {note.critique}")
    parts += _last_round(evidence)
    parts.append(f"Plans of this round (mean utility {evidence.objective_mean:.3f}):")
    parts += [trial_text(trial, unit, evidence.utility(trial), timed=timed) for trial in evidence.trials]
    parts.append("Best plans so far:")
    parts += [trial_text(trial, unit, evidence.utility(trial), timed=timed) for trial in evidence.archive[:_SHOWN]]
    parts += _failures(evidence)
    parts.append("Tables of probabilities:")
    parts.append(tables_text(evidence.distribution))
    return "\n".join(parts)


def _titled(title: str, lines: Sequence[str]) -> list[str]:
    return [title, *lines] if lines else []


def account(
    evidence: Evidence,
    agent: Agent,
    said: str,
    *,
    shown: str,
    before: str,
    after: str,
    phase: str = "search",
    steps: Sequence[Prediction] = (),
    rejects: Mapping[str, int] | None = None,
) -> str:
    """A round's readable account, as the feedback files keep it.

    Parameters
    ----------
    said
        What could be used of the agent's words, or its last reply if nothing could.
    shown
        The evidence as text, before the tables moved (`render`).
    before, after
        The tables as text (`tables_text`).
    steps
        What `agentgraph.agents.feedback.step` did to each probability.
    rejects
        What of the agent's replies could not be used so far, by kind.
    """
    counted = ", ".join(f"{kind}: {count}" for kind, count in sorted((rejects or {}).items())) or "none"
    moved = [
        f"  {one.nudge.what:<34} p {one.before:.3f} -> {one.after:.3f}  expected {one.nudge.expect:+.3f}"
        for one in steps
    ]
    sections = [
        f"PHASE {phase}, round {evidence.round} of {evidence.rounds}",
        f"EVIDENCE\n{shown}",
        f"AGENT {agent.name}\n{said}",
        "PREDICTED AND REALISED (nudge by nudge in the evidence)\n" + ("\n".join(_foreseen(evidence)) or "none before"),
        "MOVES (probabilities before and after, effect expected)\n" + ("\n".join(moved) or "none"),
        f"REJECTED SO FAR\n{counted}",
        f"TABLES BEFORE\n{before}",
        f"TABLES AFTER\n{after}",
    ]
    return "\n\n".join(sections)
