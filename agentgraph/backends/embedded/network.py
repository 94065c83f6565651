"""The Llama network of the embedded family, as it is trained."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentgraph.backends.embedded.tokenizer import VOCABULARY

HEAD_SIZE = 32
CONTEXT = 256
ROPE_THETA = 10_000.0
NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Shape:
    """Sizes of one network."""

    hidden: int
    feed_forward: int
    layers: int

    @property
    def heads(self) -> int:
        """Attention heads of 32 channels each."""
        return self.hidden // HEAD_SIZE


def rope_tables(length: int = CONTEXT) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding, each of shape (length, 32), float32."""
    powers = torch.arange(0, HEAD_SIZE, 2, dtype=torch.float32) / HEAD_SIZE
    angles = torch.arange(length, dtype=torch.float32)[:, None] / ROPE_THETA**powers
    return torch.cat([angles, angles], 1).cos(), torch.cat([angles, angles], 1).sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary embedding of ``x`` (..., time, 32), rotate-half form."""
    first, second = x.chunk(2, -1)
    return x * cosines + torch.cat([-second, first], -1) * sines


class _Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, NORM_EPSILON)


class _Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        rows, time, hidden = x.shape

        def split(projection: nn.Linear) -> Tensor:
            projected: Tensor = projection(x)
            return projected.view(rows, time, self.heads, HEAD_SIZE).transpose(1, 2)

        queries = rotate(split(self.q_proj), cosines, sines)
        keys = rotate(split(self.k_proj), cosines, sines)
        mixed = F.scaled_dot_product_attention(queries, keys, split(self.v_proj), is_causal=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, time, hidden))
        return out


class _FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.down_proj = nn.Linear(shape.feed_forward, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class _Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = _Norm(shape.hidden)
        self.self_attn = _Attention(shape)
        self.post_attention_layernorm = _Norm(shape.hidden)
        self.mlp = _FeedForward(shape)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cosines, sines)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Network(nn.Module):
    """Llama: RMS norm, rotary positions, SwiGLU, tied embeddings; parameter names as in Hugging Face.

    Parameters
    ----------
    shape
        Sizes.
    generator
        Source of the initial values: matrices N(0, 1/fan in), the two that write to the residual stream
        a further 1/sqrt(2 layers) smaller, the embedding N(0, 1/hidden).
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(len(VOCABULARY), shape.hidden)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.norm = _Norm(shape.hidden)
        cosines, sines = rope_tables()
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim < 2:
                    continue
                scale = parameter.shape[1] ** -0.5
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    scale /= (2 * shape.layers) ** 0.5
                parameter.normal_(0, scale, generator=generator)

    def forward(self, tokens: Tensor, last: int) -> Tensor:
        """Logits (rows, last, vocabulary) at the ``last`` positions of ``tokens`` (rows, time)."""
        x = self.embed_tokens(tokens)
        cosines, sines = self.cosines[: tokens.shape[1]], self.sines[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, cosines, sines)
        return F.linear(self.norm(x[:, -last:]), self.embed_tokens.weight)
