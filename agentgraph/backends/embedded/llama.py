"""Batched generation with the embedded Llama models.

A prompt's reply and log-probability are the same to the last bit whatever else is generated beside it: prompts are
grouped by exact length (no masks), batches are padded to a multiple of `ROW_BLOCK` rows, arithmetic is
float32, and every prompt draws from a random stream of its own. The promise holds for one number of threads
(``torch.set_num_threads``), one device and one build of torch.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from agentgraph.backends.embedded.network import (
    CONTEXT,
    HEAD_SIZE,
    NORM_EPSILON,
    Network,
    Shape,
    rope_tables,
)
from agentgraph.backends.embedded.tokenizer import BOS, EOS, VOCABULARY, decode, encode

ROW_BLOCK = 16
"""Batches are padded to a multiple of this many rows; with fewer, results depend on the batch."""

MOST_ROWS = 512
"""Largest batch; more prompts of one length are split."""


@dataclass(frozen=True)
class Generation:
    """One reply.

    Attributes
    ----------
    text
        Without the end token.
    prompt_tokens, output_tokens
        Counts with the start token and, where produced, the end token.
    logprob
        Sum of the log-probabilities, at temperature 1, of all produced tokens, end token included; nats.
    finish_reason
        ``stop`` at the end token, ``length`` at the limit.
    """

    text: str
    prompt_tokens: int
    output_tokens: int
    logprob: float
    finish_reason: str


@dataclass(frozen=True)
class _Layer:
    attention_norm: Tensor
    qkv: Tensor
    out: Tensor
    feed_forward_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True)
class _Sampling:
    """How the rows of one batch are sampled: settings (rows,) and uniform numbers (steps, rows, 1)."""

    temperatures: Tensor
    limits: Tensor
    uniforms: Tensor


def uniforms(seeds: NDArray[np.uint64], steps: int) -> NDArray[np.float32]:
    """Numbers in [0, 1), shape (steps, len(seeds)): splitmix64 of seed and step, top 24 bits."""
    with np.errstate(over="ignore"):
        key = _splitmix(seeds[None, :]) + np.arange(steps, dtype=np.uint64)[:, None]
        return ((_splitmix(key) >> np.uint64(40)).astype(np.float64) * 2.0**-24).astype(np.float32)


def _splitmix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class Llama:
    """A model of the embedded family, ready to generate.

    Parameters
    ----------
    state
        Parameters by their Hugging Face names, without the ``model.`` prefix.
    shape
        Sizes.
    device
        Where to run.
    """

    def __init__(self, state: dict[str, Tensor], shape: Shape, device: str = "cpu") -> None:
        self.shape = shape
        self.device = torch.device(device)
        weight = {name: value.detach().to(self.device, torch.float32) for name, value in state.items()}
        self._embedding = weight["embed_tokens.weight"].contiguous()
        self._norm = weight["norm.weight"]
        self._layers = [_fused(weight, f"layers.{index}.") for index in range(shape.layers)]
        cosines, sines = rope_tables()
        # rotate-half as one multiply-add: the sign of the first half moves into the sines
        sines = torch.cat([-sines[:, : HEAD_SIZE // 2], sines[:, HEAD_SIZE // 2 :]], 1)
        self._cosines, self._sines = cosines.to(self.device), sines.to(self.device)

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> Self:
        """Read ``config.json`` and ``model.safetensors`` of a folder in Hugging Face layout."""
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shape = Shape(config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"])
        state = load_file(folder / "model.safetensors")
        return cls({name.removeprefix("model."): value for name, value in state.items()}, shape, device)

    @classmethod
    def of(cls, network: Network) -> Self:
        """Snapshot of a network in training."""
        return cls({name: value.clone() for name, value in network.state_dict().items()}, network.shape)

    @property
    def parameters(self) -> int:
        """Number of parameters, the embedding counted once."""
        hidden, wide = self.shape.hidden, self.shape.feed_forward
        layer = 4 * hidden * hidden + 3 * hidden * wide + 2 * hidden
        return len(VOCABULARY) * hidden + self.shape.layers * layer + hidden

    def generate(
        self,
        prompts: Sequence[str],
        *,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        max_tokens: Sequence[int],
    ) -> list[Generation]:
        """Replies to prompts, in their order.

        Parameters
        ----------
        prompts
            Texts without the start token, which is put before each.
        temperatures
            0 takes the likeliest token.
        seeds
            Any integers; only the low 64 bits count.
        max_tokens
            Most tokens of each reply, the end token included; a reply also ends where the context does.

        Raises
        ------
        ValueError
            If a character is unknown, a prompt leaves no room in the context, a setting is out of range, or the
            lengths differ.
        """
        self._check(prompts, temperatures, seeds, max_tokens)
        groups: dict[int, list[int]] = {}
        ids = [encode(prompt, context=CONTEXT - 2) for prompt in prompts]
        for index, row in enumerate(ids):
            groups.setdefault(len(row), []).append(index)
        replies: list[Generation | None] = [None] * len(prompts)
        for members in groups.values():
            for begin in range(0, len(members), MOST_ROWS):
                chosen = members[begin : begin + MOST_ROWS]
                batch = self._generate(
                    [ids[i] for i in chosen],
                    [temperatures[i] for i in chosen],
                    [seeds[i] for i in chosen],
                    [max_tokens[i] for i in chosen],
                )
                for i, reply in zip(chosen, batch, strict=True):
                    replies[i] = reply
        return [reply for reply in replies if reply is not None]

    @staticmethod
    def _check(
        prompts: Sequence[str],
        temperatures: Sequence[float],
        seeds: Sequence[int],
        max_tokens: Sequence[int],
    ) -> None:
        counts = (len(prompts), len(temperatures), len(seeds), len(max_tokens))
        if len(set(counts)) > 1:
            raise ValueError(
                f"prompts, temperatures, seeds and max_tokens must be equally many, got {', '.join(map(str, counts))}"
            )
        for temperature in temperatures:
            if not 0 <= temperature < float("inf"):
                raise ValueError(f"temperature={temperature} must be 0 or more and finite")
        for limit in max_tokens:
            if limit < 1:
                raise ValueError(f"max_tokens={limit} must be at least 1")

    @torch.inference_mode()
    def _generate(
        self,
        ids: list[list[int]],
        temperatures: list[float],
        seeds: list[int],
        max_tokens: list[int],
    ) -> list[Generation]:
        """Replies to prompts of one length."""
        rows, length = len(ids), len(ids[0]) + 1
        padding = -rows % ROW_BLOCK
        limits = np.minimum(np.array(max_tokens), CONTEXT - length)
        steps = int(limits.max())
        tokens = np.array([[BOS, *row] for row in ids + [ids[0]] * padding])
        streams = np.array([seed & (1 << 64) - 1 for seed in seeds] + [0] * padding, np.uint64)
        sampling = _Sampling(
            torch.tensor(temperatures + [1.0] * padding, device=self.device)[:, None],
            torch.from_numpy(np.concatenate([limits, np.zeros(padding, limits.dtype)])).to(self.device),
            torch.from_numpy(uniforms(streams, steps)).to(self.device)[:, :, None],
        )
        produced, log_probs = self._decode(torch.from_numpy(tokens).to(self.device), sampling)
        return _collect(produced[:rows], log_probs[:rows], limits, prompt_tokens=length)

    def _decode(self, tokens: Tensor, sampling: _Sampling) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Produced tokens and their log-probabilities, both (rows, steps taken)."""
        rows, length = tokens.shape
        steps = len(sampling.uniforms)
        heads = self.shape.heads
        caches = [torch.empty(2, rows, heads, length + steps, HEAD_SIZE, device=self.device) for _ in self._layers]
        greedy = sampling.temperatures == 0
        mixed = bool(greedy.any())
        inverse = torch.where(greedy, 1.0, 1.0 / sampling.temperatures)
        running = sampling.limits > 0
        all_logits, produced = [], []
        logits = self._forward(tokens, 0, caches)
        for step in range(steps):
            cumulative = torch.softmax(logits * inverse, 1).cumsum(1)
            point = sampling.uniforms[step] * cumulative[:, -1:]
            chosen = torch.searchsorted(cumulative, point, right=True).clamp_max(len(VOCABULARY) - 1)
            if mixed:
                chosen = torch.where(greedy, logits.argmax(1, keepdim=True), chosen)
            all_logits.append(logits)
            produced.append(chosen)
            running &= (chosen[:, 0] != EOS) & (sampling.limits > step + 1)
            if step + 1 == steps or not running.any():
                break
            logits = self._forward(chosen, length + step, caches)
        output = torch.cat(produced, 1)
        log_probs = torch.log_softmax(torch.stack(all_logits, 1), 2)
        taken = log_probs.gather(2, output[:, :, None])[:, :, 0]
        return output.cpu().numpy(), taken.double().cpu().numpy()

    def _forward(self, tokens: Tensor, begin: int, caches: list[Tensor]) -> Tensor:
        """Logits (rows, vocabulary) after the last of ``tokens``, which stand at ``begin`` and onwards."""
        rows, time = tokens.shape
        heads, hidden = self.shape.heads, self.shape.hidden
        end = begin + time
        cosines, sines = self._cosines[begin:end, None], self._sines[begin:end, None]
        x = self._embedding[tokens.flatten()]
        for layer, cache in zip(self._layers, caches, strict=True):
            normed = F.rms_norm(x, (hidden,), layer.attention_norm, NORM_EPSILON)
            qkv = F.linear(normed, layer.qkv).view(rows, time, 3 * heads, HEAD_SIZE)
            turning = qkv[:, :, : 2 * heads]
            turned = turning * cosines + turning.roll(HEAD_SIZE // 2, -1) * sines
            cache[0, :, :, begin:end] = turned[:, :, heads:].transpose(1, 2)
            cache[1, :, :, begin:end] = qkv[:, :, 2 * heads :].transpose(1, 2)
            mixed = F.scaled_dot_product_attention(
                turned[:, :, :heads].transpose(1, 2),
                cache[0, :, :, :end],
                cache[1, :, :, :end],
                is_causal=time > 1,
            )
            x = x + F.linear(mixed.transpose(1, 2).reshape(rows * time, hidden), layer.out)
            normed = F.rms_norm(x, (hidden,), layer.feed_forward_norm, NORM_EPSILON)
            gate, up = F.linear(normed, layer.gate_up).chunk(2, 1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        last = x.view(rows, time, hidden)[:, -1]
        return F.linear(F.rms_norm(last, (hidden,), self._norm, NORM_EPSILON), self._embedding)


def _fused(weight: dict[str, Tensor], prefix: str) -> _Layer:
    attention, feed_forward = prefix + "self_attn.", prefix + "mlp."
    return _Layer(
        attention_norm=weight[prefix + "input_layernorm.weight"],
        qkv=torch.cat([weight[f"{attention}{name}_proj.weight"] for name in "qkv"]),
        out=weight[attention + "o_proj.weight"].contiguous(),
        feed_forward_norm=weight[prefix + "post_attention_layernorm.weight"],
        gate_up=torch.cat([weight[f"{feed_forward}{name}_proj.weight"] for name in ("gate", "up")]),
        down=weight[feed_forward + "down_proj.weight"].contiguous(),
    )


def _collect(
    produced: NDArray[np.int64],
    log_probs: NDArray[np.float64],
    limits: NDArray[np.int64],
    *,
    prompt_tokens: int,
) -> list[Generation]:
    """Replies of the rows of a batch, cut at the end token or the row's limit."""
    steps = produced.shape[1]
    ends = produced == EOS
    first_end = np.where(ends.any(1), ends.argmax(1), steps)
    counts = np.minimum(first_end + 1, limits)
    stopped = first_end < counts
    kept = np.arange(steps) < counts[:, None]
    # left to right, so that zeros after a row's end change nothing
    sums = np.where(kept, log_probs, 0.0).cumsum(1)[:, -1]
    return [
        Generation(decode(row[: count - stop]), prompt_tokens, count, logprob, "stop" if stop else "length")
        for row, count, stop, logprob in zip(
            produced.tolist(), counts.tolist(), stopped.tolist(), sums.tolist(), strict=True
        )
    ]
