"""Evidence as text: what an agent is shown, and what the feedback files keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agentgraph.agents.base import Evidence
from agentgraph.distribution import Distribution, StageDistribution
from agentgraph.graph import Graph
from agentgraph.trial import Trial

__all__ = ["graph_text", "mixes_text", "render", "tables_text", "trial_text"]

_SHOWN = 6  # trials of the archive that are listed


def graph_text(graph: Graph) -> str:
    """One line per node: slot, role, model, slots it receives from, slots it sends to; the sink is marked."""
    last = graph.sink
    lines = []
    for i, node in enumerate(graph.nodes):
        receives = ",".join(str(last - p) for p in graph.parents[i]) or "-"
        sends = ",".join(str(last - c) for c in graph.children[i]) or "SINK"
        lines.append(f"  slot {last - i} | {node.role} | {node.model or '-'} | from {receives} | to {sends}")
    return "\n".join(lines)


def trial_text(trial: Trial, unit: float) -> str:
    """Score with standard error, price and charge in units, shape and nodes of a trial."""
    shapes = " + ".join(
        f"{len(graph.nodes)} nodes, width {graph.width}, depth {graph.depth}" for graph in trial.plan.stages
    )
    head = (
        f"plan {trial.plan.id}: accuracy {trial.accuracy:.3f} ± {1.96 * trial.stderr:.3f} on {len(trial.marks)} questions, "
        f"price {trial.price.flops / unit:.2f}, charge {trial.charge.flops / unit:.2f} units, {shapes}"
    )
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
    """All tables as probabilities with three decimals, in a fixed order."""
    return "\n".join(line for stage in distribution.stages for line in _stage_tables(stage))


def mixes_text(distribution: Distribution, mixes: Sequence[Sequence[int]]) -> str:
    """Numbered list of model mixes."""
    names = distribution.stages[0].space.pool.names
    return "\n".join(
        f"{i}: " + " + ".join(f"{count}×{name}" for name, count in zip(names, mix, strict=True) if count)
        for i, mix in enumerate(mixes)
    )


def render(evidence: Evidence) -> str:
    """Everything an agent is shown after a round."""
    budget = evidence.distribution.space.budget
    parts = [f"Round {evidence.round} of {evidence.rounds}. Budget {budget.text()} per question."]
    if evidence.predicted is not None and evidence.realised is not None:
        parts.append(
            f"Your last nudges foresaw a change of the mean accuracy of a round of {evidence.predicted:+.3f}; "
            f"it was {evidence.realised:+.3f}."
        )
    parts.append("Plans of this round:")
    parts += [trial_text(trial, budget.unit) for trial in evidence.trials]
    parts.append("Best plans so far:")
    parts += [trial_text(trial, budget.unit) for trial in evidence.archive[:_SHOWN]]
    parts.append("Tables of probabilities:")
    parts.append(tables_text(evidence.distribution))
    return "\n".join(parts)
