"""The words that every drawing of a plan file shares: nodes, stages, price and scores in one line each."""

from __future__ import annotations

from agentgraph.graph import Node
from agentgraph.plan_file import PlanFile
from agentgraph.plan_format import Score, StageEntry

__all__ = ["node_label", "price_line", "score_line", "stage_line", "temperature"]


def node_label(plan_file: PlanFile, node: Node) -> str:
    """``role(model) T=0.7``; without temperature for roles that call no model."""
    return f"{node} {temperature(plan_file, node)}".rstrip()


def temperature(plan_file: PlanFile, node: Node) -> str:
    """``T=0.7``, or nothing for roles that call no model."""
    return f"T={plan_file.roles[node.role].settings.temperature:g}" if node.model else ""


def price_line(plan_file: PlanFile) -> str:
    """Price against budget in what is limited, FLOPs beside it, and the calls of a question."""
    price, budget = plan_file.price.cost(), plan_file.budget.budget()
    if "flops" in budget.limits:
        flops = f"{_flops(price.flops)} of {_flops(budget.flops)}"
    else:
        flops = f"{budget.shown('flops', price.flops)} units, {_flops(price.flops)}"
    return f"price {budget.text(price)} ({flops}), {price.calls:.3g} call{'' if price.calls == 1 else 's'} a question"


def stage_line(plan_file: PlanFile, stage: StageEntry) -> str:
    """Name of a stage, with its share of the budget, price and budget where they are known."""
    unit = plan_file.budget.unit_flops
    price = "" if stage.price_flops is None else f"price {stage.price_flops / unit:.3g}"
    budget = "" if stage.budget_flops is None else f"{'of' if price else 'budget'} {stage.budget_flops / unit:.3g}"
    share = "" if stage.share is None else f"{stage.share:.0%} of the budget"
    known = " ".join(filter(None, (price, budget)))
    said = ", ".join(filter(None, (share, f"{known} units" if known else "")))
    return f"{stage.name}: {said}" if said else stage.name


def score_line(plan_file: PlanFile, score: Score) -> str:
    """Accuracy with its interval, on what, and what it was charged."""
    charge = [f"{score.charge_flops / plan_file.budget.unit_flops:.3g} units"]
    charge += [f"{score.charge_usd:.3g} USD"] if score.charge_usd else []
    charge += [f"{score.charge_seconds:.3g} s"] if score.charge_seconds else []
    return (
        f"{score.split} accuracy {score.accuracy:.3f} [{score.low:.3f}, {score.high:.3f}] on {score.questions} "
        f"questions, charge {', '.join(charge)}"
    )


def _flops(value: float) -> str:
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}FLOP"
    return f"{value:.3g} FLOP"
