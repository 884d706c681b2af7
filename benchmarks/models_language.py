"""Language models of the kinds that are large: GPT-2, Llama, a mixture of experts. Plain modules of any size.

Rotations of queries and keys are left out, and all experts are computed: neither changes shapes or structure, and no
model here is trained for its own sake.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Of a language model.

    Attributes:
        vocabulary: Tokens.
        width: Of the residual stream.
        depth: Blocks.
        heads: Of queries.
        groups: Heads of keys and values.
        hidden: Width of the MLPs.
        positions: Learned positions; 0 for none.
        experts: In each block; 0 for one plain MLP.
        chosen: Experts that each token uses.
        packed: Query, key and value in one matrix, norms with means, biases (GPT); else apart (Llama).
        tied: Whether the head is the embedding.
        classes: Outputs of the head, if these are not tokens: the mean over positions is classified.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    groups: int
    hidden: int
    positions: int = 0
    experts: int = 0
    chosen: int = 2
    packed: bool = False
    tied: bool = False
    classes: int = 0


class Attention(nn.Module):
    """Causal attention with grouped heads; query, key and value packed in one matrix, or apart."""

    def __init__(self, width: int, heads: int, groups: int, packed: bool) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        sizes = [heads * self.size, groups * self.size, groups * self.size]
        names = ["qkv"] if packed else ["query", "key", "value"]
        self.read = nn.ModuleDict(
            {
                name: nn.Linear(width, size, bias=packed)
                for name, size in zip(names, [sum(sizes)] if packed else sizes, strict=True)
            }
        )
        self.out, self.sizes = nn.Linear(width, width, bias=packed), sizes

    def forward(self, x: Tensor) -> Tensor:
        """[batch, position, width] -> the same."""
        read = torch.cat([layer(x) for layer in self.read.values()], dim=-1)
        query, key, value = read.split(self.sizes, dim=-1)
        query, key, value = (
            y.unflatten(-1, (count, self.size)).transpose(1, 2)
            for y, count in ((query, self.heads), (key, self.groups), (value, self.groups))
        )
        key, value = (y.repeat_interleave(self.heads // self.groups, dim=1) for y in (key, value))
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Experts(nn.Module):
    """SwiGLU by the experts that a router chooses for each token, stacked."""

    def __init__(self, width: int, hidden: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.router, self.chosen = nn.Linear(width, experts, bias=False), chosen
        self.gate, self.up = (nn.Parameter(width**-0.5 * torch.randn(experts, width, hidden)) for _ in range(2))
        self.down = nn.Parameter(hidden**-0.5 * torch.randn(experts, hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same."""
        scores = self.router(x).softmax(-1)
        kept = scores * (scores >= scores.topk(self.chosen).values[..., -1:])
        hidden = F.silu(torch.einsum("...w,ewh->...eh", x, self.gate)) * torch.einsum("...w,ewh->...eh", x, self.up)
        return torch.einsum("...eh,ehw,...e->...w", hidden, self.down, kept)


class Block(nn.Module):
    """Attention and an MLP on a residual stream."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, hidden = sizes.width, sizes.hidden
        kind = nn.LayerNorm if sizes.packed else nn.RMSNorm
        self.norms = nn.ModuleList(kind(width) for _ in range(2))
        self.attention = Attention(width, sizes.heads, sizes.groups, sizes.packed)
        if sizes.experts:
            self.mlp: nn.Module = Experts(width, hidden, sizes.experts, sizes.chosen)
        elif sizes.packed:
            self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        else:
            self.mlp = GatedMLP(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, position, width] -> the same."""
        x = x + self.attention(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class LanguageModel(nn.Module):
    """Predicts tokens, or classifies."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.tokens = nn.Embedding(sizes.vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(sizes.positions, width)) if sizes.positions else None
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(width) if sizes.packed else nn.RMSNorm(width)
        self.head, self.classes = nn.Linear(width, sizes.classes or sizes.vocabulary, bias=False), sizes.classes
        if sizes.tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, position] -> [batch, position, token], or [batch, class]."""
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(1) if self.classes else x)
