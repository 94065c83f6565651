"""What each model of the embedded family is trained with: the schedule, as a table."""

from dataclasses import dataclass

from agentgraph.backends.embedded.network import Shape


@dataclass(frozen=True)
class Schedule:
    """Learning rate and steps of one phase.

    Attributes
    ----------
    rate
        Highest learning rate.
    warm_up, most, decay
        Steps of rising, at most of rising and constant, and of falling rate.
    target
        Probability of the right calc reply (the family's own kind, temperature 1) at which the rate begins to
        fall before ``most``.
    """

    rate: float
    warm_up: int
    most: int
    decay: int
    target: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Sequences per step, by role and task.

    Attributes
    ----------
    end_weight
        Weight in the loss of the end token after a refined or fused calc answer.
    """

    solve_calc: int
    solve_recall: int
    refine_calc: int = 0
    fuse_calc: int = 0
    refine_recall: int = 0
    fuse_recall: int = 0
    end_weight: float = 0.0


@dataclass(frozen=True)
class Size:
    """A column of the family: sizes of the network, and its phases."""

    shape: Shape
    solve: Schedule
    solve_batch: Batch
    roles: tuple[Schedule, ...]


SIZES = {
    "small": Size(
        Shape(32, 96, 2),
        Schedule(8e-3, 100, 1800, 150, target=0.25),
        Batch(128, 128),
        (
            Schedule(4e-3, 50, 50, 350),
            Schedule(2e-3, 50, 50, 300),
            Schedule(4e-3, 50, 250, 650),
            Schedule(2e-3, 20, 30, 120),
        ),
    ),
    "medium": Size(
        Shape(64, 192, 2),
        Schedule(6e-3, 100, 1200, 150, target=0.3),
        Batch(144, 96),
        (
            Schedule(3e-3, 50, 50, 250),
            Schedule(1.5e-3, 50, 50, 200),
            Schedule(2.5e-3, 50, 100, 300),
            Schedule(1.2e-3, 20, 30, 80),
        ),
    ),
    "large": Size(
        Shape(96, 256, 3),
        Schedule(4e-3, 100, 700, 130, target=0.4),
        Batch(128, 112),
        (
            Schedule(2e-3, 50, 50, 180),
            Schedule(1e-3, 50, 50, 130),
            Schedule(1.5e-3, 50, 50, 170),
            Schedule(8e-4, 10, 20, 50),
        ),
    ),
}
"""The three sizes; calc leaves its plateau later when recall takes more of the batch."""

SEEDS = {
    "a-small": 1,
    "a-medium": 2,
    "a-large": 3,
    "b-small": 4,
    "b-medium": 5,
    "b-large": 6,
}
"""Seed of each model; a model that stays on the calc plateau is begun again with the seed plus 100."""

OFTEN = {"a": 0, "b": 1}
"""Index of the kind of calc question, and of the half of the names, that each family sees often."""

RARE_CALC, RARE_RECALL = 0.08, 0.08
"""Share of a family's solve sequences that are about the other kind, and about the other half."""

ROLES_BATCHES = (
    Batch(64, 64, refine_calc=48, fuse_calc=64, refine_recall=48, fuse_recall=64),
    Batch(64, 64, refine_calc=48, fuse_calc=64, refine_recall=48, fuse_recall=64),
    Batch(48, 96, refine_calc=48, fuse_calc=64, refine_recall=96, fuse_recall=128),
    Batch(48, 96, refine_calc=48, fuse_calc=64, refine_recall=96, fuse_recall=128, end_weight=1.0),
)
"""Sequences per step of each role phase; only the last teaches where a decided calc answer ends."""

MOST_CANDIDATES = 6
"""Fusers are trained with 2 to this many candidates."""

LEAST_PROBABILITY = 0.3
"""A model whose solve phase ends below this, on its own kind, has stayed on the plateau."""

ATTEMPTS = 3
"""Seeds tried before giving up."""


def family(model: str) -> str:
    """``a`` or ``b``."""
    return model.split("-", maxsplit=1)[0]


def size(model: str) -> Size:
    """Sizes and phases of a model."""
    return SIZES[model.split("-")[1]]
