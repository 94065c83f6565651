"""How much of the training steps should be quantisation-aware? Searched with task=callable at several totals.

A network of five layers learns the classes of a random teacher, on fresh data at every step: first in full precision,
then with 2-bit weights and activations (fake quantisation, straight-through gradients), each part with a learning
rate of its own that falls to 0. The score is exp(-loss) of the quantised network on unseen data, in [0, 1]. Prints,
for each total, the share found against 10 % and one half at equal steps (paired over test seeds, 95 % interval), then
f(S) = exp(-a / ln S) of arXiv 2509.22935 fitted to the shares. Writes figures/qat_split.svg if matplotlib is there.
Networks of several seeds are trained side by side, as one batch.

    python benchmarks/qat_split.py [--smoke] [out=qat_split.json]
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from splits import Row, figure, searched, table

from agentgraph.errors import ConfigError
from agentgraph.fit import QAT_A, qat_fraction, qat_law
from agentgraph.user_function import Spent

WIDTHS = (16, 32, 32, 32, 32, 8)  # of the network; the teacher has one hidden layer
BITS = 2
BATCH = 32
RATE = 0.01
TOTALS = (100, 200, 400, 800, 1600)  # steps
PARTS = 20  # a total is spent in so many parts
SIDE_BY_SIDE = 10  # seeds that are trained as one batch
BYTES = sum(a * b for a, b in pairwise(WIDTHS)) * BITS / 8
FIGURE = Path(__file__).parent / "figures" / "qat_split.svg"
NAIVE = {"10 %": 0.1, "half": 0.5}


def score(stages: Mapping[str, Spent], seed: int) -> float:
    """Score in [0, 1] of the quantised network after ``fp`` and ``qat`` steps."""
    first = seed - seed % SIDE_BY_SIDE
    return trained(stages["fp"].count, stages["qat"].count, first)[seed - first]


@cache
def trained(fp: int, qat: int, first: int) -> tuple[float, ...]:
    """Scores of the networks of `SIDE_BY_SIDE` seeds from ``first`` on."""
    torch.set_num_threads(1)
    teachers, students, streams = zip(*(_made(first + i) for i in range(SIDE_BY_SIDE)), strict=True)
    teacher = [torch.stack(layer) for layer in zip(*teachers, strict=True)]
    weights = [torch.stack(layer).requires_grad_() for layer in zip(*students, strict=True)]
    for steps, quantised in ((fp, False), (qat, True)):
        x = torch.stack([torch.randn(steps * BATCH, WIDTHS[0], generator=stream) for stream in streams])
        y = logits(teacher, x).argmax(-1)
        optimizer = torch.optim.Adam(weights, lr=RATE)
        for i in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * i / steps))
            here = slice(i * BATCH, (i + 1) * BATCH)
            loss = losses(weights, x[:, here], y[:, here], quantised=quantised).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    x = torch.stack([torch.randn(2_000, WIDTHS[0], generator=stream) for stream in streams])
    with torch.no_grad():
        found = losses(weights, x, logits(teacher, x).argmax(-1), quantised=True)
    return tuple(torch.exp(-found).nan_to_num(0.0).clamp(0, 1).tolist())  # 0: its training diverged


def _made(seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Generator]:
    stream = torch.Generator().manual_seed(seed)
    pairs = list(pairwise(WIDTHS))
    teacher = [torch.randn(a, b, generator=stream) / math.sqrt(a) for a, b in (pairs[0], pairs[-1])]
    student = [torch.randn(a, b, generator=stream) / math.sqrt(a) for a, b in pairs]
    return teacher, student, stream


def quantised_weights(w: torch.Tensor) -> torch.Tensor:
    """Weights of shape (…, inputs, outputs) at four levels for each output, with the gradient of the weights themselves."""
    step = 1.25 * w.detach().abs().mean(-2, keepdim=True)  # near the best step of 2 bits for normal weights
    levels = (torch.floor(w / step).clamp(-2, 1) + 0.5) * step
    return w + (levels - w).detach()


def quantised_activations(x: torch.Tensor) -> torch.Tensor:
    """Activations >= 0 of each network at four levels, 0 among them, with the gradient of the activations themselves."""
    step = x.detach().abs().mean((-2, -1), keepdim=True).clamp_min(1e-9)
    return x + (torch.round(x / step).clamp(0, 3) * step - x).detach()


def logits(weights: Sequence[torch.Tensor], x: torch.Tensor, *, quantised: bool = False) -> torch.Tensor:
    """Outputs of the networks, shape (networks, examples, classes), of inputs alike."""
    for i, w in enumerate(weights):
        if i:
            x = torch.relu(x)
            x = quantised_activations(x) if quantised else x
        x = torch.bmm(x, quantised_weights(w) if quantised else w)
    return x


def losses(weights: Sequence[torch.Tensor], x: torch.Tensor, y: torch.Tensor, *, quantised: bool) -> torch.Tensor:
    """Mean cross-entropy of each network, nats."""
    said = torch.log_softmax(logits(weights, x, quantised=quantised), -1)
    return -said.gather(-1, y[..., None])[..., 0].mean(-1)


def fitted(rows: Sequence[Row]) -> str:
    """The law with a of one's own beside the paper's, or why there is none."""
    points = [(density(row.total), row.share) for row in rows if density(row.total) > 1]
    try:
        fit = qat_fraction([s for s, _ in points], [share for _, share in points])
    except ConfigError as error:
        return f"no fit: {error}"
    off = {"ours": fit.curve, f"a = {QAT_A}": qat_law}
    errors = [
        f"{name} {np.mean([abs(share - curve(np.array(s))) for s, share in points]):.3f}" for name, curve in off.items()
    ]
    return f"{fit.law}: {fit.text()}; mean error: {', '.join(errors)} (the paper, on its own points: 0.091)"


def density(steps: float) -> float:
    """S of the paper: examples for each byte of quantised weights."""
    return steps * BATCH / BYTES


def main(arguments: Sequence[str]) -> None:
    """Search, print and draw."""
    smoke = "--smoke" in arguments
    out = next((Path(a.removeprefix("out=")) for a in arguments if a.startswith("out=")), None)
    began, rows = time.monotonic(), list[Row]()
    for total in (80, 160) if smoke else TOTALS:
        rounds, seeds = (2, 2) if smoke else (6, SIDE_BY_SIDE)
        rows.append(
            searched(Path(__file__), ("fp", "qat"), total, parts=PARTS, naive=NAIVE, rounds=rounds, seeds=seeds)
        )
        print(f"{total} steps done after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    more = {
        "S": lambda row: f"{density(row.total):.3g}",
        "the paper's share": lambda row: f"{qat_law(density(row.total)):.2f}",
    }
    print(table(rows, "QAT", more))
    print(f"\n{fitted(rows)}")
    if out:
        out.write_text(json.dumps([row._asdict() for row in rows], indent=1), encoding="utf-8")
    curves = {f"exp(-{QAT_A} / ln S)": qat_law}
    label = "S, examples per byte of weights"
    if not smoke and figure(rows, FIGURE, x="total", label=label, of="QAT steps", curves=curves, scale=density(1)):
        print(FIGURE)


if __name__ == "__main__":
    main(sys.argv[1:])
