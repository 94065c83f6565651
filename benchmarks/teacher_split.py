"""How much of the training should a frozen teacher get, how much its student? Searched with task=callable.

After SALT (arXiv 2509.24317), small: clips of 8 frames of 8 x 8 pixels, a square or cross that moves in one of four
directions, one or two pixels a frame. One half of the frames is hidden. Stage 1 trains a teacher by reconstruction of
the hidden pixels and freezes it; stage 2 trains a student with a predictor to the teacher's latents of the hidden
half (L1). The score, in [0, 1], tells how well the student's features of the visible half know the motion: the share
of variance of the hidden half's pixels, of where the shape goes, that a linear probe explains on fresh clips. Prints,
for each total of steps, the split found against one half and the paper's 1/6 for the teacher (40,000 of 240,000
steps) at equal steps, paired over test seeds, with 95 % intervals. Writes figures/teacher_split.svg if matplotlib is
there. Networks of several seeds are trained side by side, as one batch.

    python benchmarks/teacher_split.py [--smoke] [rounds=8] [out=teacher_split.json]
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from splits import Row, figure, searched, table
from torch import Tensor

from agentgraph.user_function import Spent

FRAMES, SIDE = 8, 8  # frames, and pixels of a side; one half of the frames is hidden
INPUTS = FRAMES // 2 * SIDE**2
HIDDEN, WIDTH = 64, 32  # of the networks' inner layers, and of the latents
BATCH = 32
RATE = 0.003
PROBES = 512  # clips that the probe is fitted on, and as many that it is tried on
TOTALS = (120, 240, 480, 960)  # steps
PARTS = 20  # a total is spent in so many parts
SIDE_BY_SIDE = 6  # seeds that are trained as one batch
FIGURE = Path(__file__).parent / "figures" / "teacher_split.svg"
PAPER = 5 / 6  # the student's share
NAIVE = {"half": 0.5, "the paper's 1/6 : 5/6": PAPER}


def score(stages: Mapping[str, Spent], seed: int) -> float:
    """Score in [0, 1] of the student after ``teacher`` and ``student`` steps."""
    first = seed - seed % SIDE_BY_SIDE
    return trained(stages["teacher"].count, stages["student"].count, first)[seed - first]


@cache
def trained(teacher_steps: int, student_steps: int, first: int) -> tuple[float, ...]:
    """Scores of the students of `SIDE_BY_SIDE` seeds from ``first`` on."""
    torch.set_num_threads(1)
    streams = [torch.Generator().manual_seed(first + i) for i in range(SIDE_BY_SIDE)]
    teacher, student = (network(streams, INPUTS, WIDTH) for _ in range(2))
    fit(teacher, network(streams, WIDTH, INPUTS), streams, teacher_steps, None)
    fit(student, network(streams, WIDTH, WIDTH), streams, student_steps, teacher)
    with torch.no_grad():
        seen, asked = (clips(streams, PROBES) for _ in range(2))
        features = [through(student, halves[:, :, 0]) for halves in (seen, asked)]
    return tuple(probe(features[0], seen[:, :, 1], features[1], asked[:, :, 1]))


def clips(streams: Sequence[torch.Generator], count: int) -> Tensor:
    """So many fresh clips for each network, in halves, shape (networks, count, 2, INPUTS)."""
    drawn = torch.stack([torch.rand(count, 5, generator=stream) for stream in streams])
    start, direction = (drawn[..., :2] * SIDE).floor(), (drawn[..., 2] * 4).long()
    heading = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])[direction]
    speed = 1 + (drawn[..., 3] * 2).floor()
    centre = start[..., None, :] + (heading * speed[..., None])[..., None, :] * torch.arange(FRAMES)[:, None]
    away = ((torch.arange(SIDE) - centre[..., None] + SIDE / 2) % SIDE - SIDE / 2).abs()  # the field is a torus
    down, across = away[..., 0, :, None], away[..., 1, None, :]
    square, cross = torch.maximum(down, across) <= 1, down + across <= 1
    pixels = torch.where(drawn[..., 4, None, None, None] < 0.5, square, cross).float()
    return pixels.reshape(len(streams), count, 2, INPUTS)


def network(streams: Sequence[torch.Generator], inputs: int, outputs: int) -> list[Tensor]:
    """Weights of two layers for each stream."""
    shapes = ((inputs, HIDDEN), (HIDDEN, outputs))
    return [
        torch.stack([torch.randn(a, b, generator=stream) * math.sqrt(2 / a) for stream in streams]).requires_grad_()
        for a, b in shapes
    ]


def through(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """Outputs of the networks, shape (networks, clips, outputs); latents have mean 0 and variance 1 over their entries."""
    out = torch.bmm(torch.relu(torch.bmm(x, weights[0])), weights[1])
    return out if out.shape[-1] == INPUTS else torch.nn.functional.layer_norm(out, out.shape[-1:])


def fit(
    model: list[Tensor],
    head: list[Tensor],
    streams: Sequence[torch.Generator],
    steps: int,
    teacher: list[Tensor] | None,
) -> None:
    """Train to say of the hidden half its pixels, or a teacher's latents, with a learning rate that falls to 0."""
    optimizer = torch.optim.Adam([*model, *head], lr=RATE)
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * i / steps))
        halves = clips(streams, BATCH)
        hidden = halves[:, :, 1]
        with torch.no_grad():
            wanted = hidden if teacher is None else through(teacher, hidden)
        off = through(head, through(model, halves[:, :, 0])) - wanted
        loss = (off.square() if teacher is None else off.abs()).mean((1, 2)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def probe(seen: Tensor, wanted: Tensor, asked: Tensor, truth: Tensor) -> list[float]:
    """Share of the variance that a ridge regression on features explains in fresh clips, for each network."""
    mean, level = seen.mean(1, keepdim=True), wanted.mean(1, keepdim=True)
    a, b = seen - mean, asked - mean
    weights = torch.linalg.solve(a.transpose(1, 2) @ a + torch.eye(a.shape[-1]), a.transpose(1, 2) @ (wanted - level))
    missed = (truth - level - b @ weights).square().sum((1, 2)) / (truth - level).square().sum((1, 2))
    return (1 - missed).clamp(0, 1).tolist()


def main(arguments: Sequence[str]) -> None:
    """Search, print and draw."""
    smoke = "--smoke" in arguments
    out = next((Path(a.removeprefix("out=")) for a in arguments if a.startswith("out=")), None)
    rounds = int(next((a.removeprefix("rounds=") for a in arguments if a.startswith("rounds=")), "8"))
    began, rows = time.monotonic(), list[Row]()
    for total in (12, 24) if smoke else TOTALS:
        rows.append(
            searched(
                Path(__file__),
                ("teacher", "student"),
                total,
                parts=PARTS if not smoke else 6,
                naive=NAIVE,
                rounds=2 if smoke else rounds,
                seeds=2 if smoke else SIDE_BY_SIDE,
            )
        )
        print(f"{total} steps done after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(table(rows, "student"))
    if out:
        out.write_text(json.dumps([row._asdict() for row in rows], indent=1), encoding="utf-8")
    if not smoke and figure(
        rows, FIGURE, x="total", label="steps", of="the student", curves={"5/6, the paper's": lambda _: PAPER}
    ):
        print(FIGURE)


if __name__ == "__main__":
    main(sys.argv[1:])
