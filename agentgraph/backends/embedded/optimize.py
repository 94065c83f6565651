"""One training phase: an optimiser, a learning-rate schedule, and a stop by accuracy."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from agentgraph.backends.embedded.lessons import Lesson
from agentgraph.backends.embedded.network import Network


def reply_log_probs(network: Network, lesson: Lesson) -> tuple[Tensor, Tensor]:
    """Log-probability of every reply token, and its weight; both (rows, reply length)."""
    tokens, weights = lesson.tensors()
    length = weights.shape[1]
    logits = network(tokens[:, :-1], length)
    targets = tokens[:, -length:]
    flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return -flat.view(targets.shape), weights


@torch.inference_mode()
def reply_probability(network: Network, lesson: Lesson) -> float:
    """Mean probability, at temperature 1, of the right reply as a whole."""
    log_probs, _ = reply_log_probs(network, lesson)
    return float(log_probs.sum(1).exp().mean())


class Optimizer:
    """Muon for the matrices, AdamW for embedding and norms, at one learning rate."""

    def __init__(self, network: Network, rate: float) -> None:
        self.rate = rate
        self._parameters = list(network.parameters())
        matrices = [
            parameter
            for name, parameter in network.named_parameters()
            if parameter.ndim == 2 and name != "embed_tokens.weight"
        ]
        chosen = {id(parameter) for parameter in matrices}
        rest = [parameter for parameter in self._parameters if id(parameter) not in chosen]
        self._members: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )

    def step(self, loss: Tensor, share: float) -> None:
        """One update at ``share`` of the learning rate."""
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for member in self._members:
            for group in member.param_groups:
                group["lr"] = self.rate * share
            member.step()
            member.zero_grad(set_to_none=True)


def weighted_loss(network: Network, lessons: Sequence[Lesson]) -> Tensor:
    """Weighted mean cross entropy, each lesson counted by its number of rows."""
    rows = sum(len(lesson.tokens) for lesson in lessons)
    total = torch.zeros(())
    for lesson in lessons:
        log_probs, weights = reply_log_probs(network, lesson)
        loss = -(log_probs * weights).sum() / weights.sum().clamp_min(1.0)
        total = total + loss * (len(lesson.tokens) / rows)
    return total


def optimize(
    network: Network,
    lessons: Callable[[], Sequence[Lesson]],
    *,
    rate: float,
    warm_up: int,
    most: int,
    decay: int,
    reached: Callable[[int], bool] = lambda _: False,
    report: Callable[[str], None] = lambda _: None,
) -> int:
    """Train until ``reached`` says so (asked every 50 steps), then let the rate fall to zero.

    Parameters
    ----------
    lessons
        Makes the batches of one step.
    rate
        Highest learning rate.
    warm_up, most, decay
        Steps of rising, at most of rising and constant, and of falling rate.

    Returns
    -------
    int
        Steps taken.
    """
    optimizer = Optimizer(network, rate)
    began = time.monotonic()
    steps, left = 0, decay
    while left > 0:
        if (left == decay and (steps >= most or (steps and steps % 50 == 0 and reached(steps)))) or left < decay:
            left -= 1
        share = min(1.0, (steps + 1) / warm_up) * (left + 1) / (decay + 1)
        loss = weighted_loss(network, lessons())
        optimizer.step(loss, share)
        steps += 1
        if steps % 100 == 0:
            seconds = time.monotonic() - began
            report(f"step {steps} loss {loss.item():.3f} rate {share * rate:.2e} {seconds:.0f} s")
    return steps
