"""Pre-norm transformer blocks of plain ops, which `torch.func.vmap` and second derivatives go through."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from meta_train.tasks.mlp import ACTIVATIONS


class Attention(nn.Module):
    """Multi-head self-attention: three projections, or one that packs them."""

    def __init__(self, width: int, heads: int, *, causal: bool, packed: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width) if packed else nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # [batch token width]
        """Same shape."""
        parts = self.qkv(x).chunk(3, -1) if isinstance(self.qkv, nn.Linear) else [linear(x) for linear in self.qkv]
        q, k, v = (rearrange(x, "batch token (head dim) -> batch head token dim", head=self.heads) for x in parts)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        return self.out(rearrange(scores.softmax(-1) @ v, "batch head token dim -> batch token (head dim)"))


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, *, causal: bool, packed: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal, packed=packed)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), ACTIVATIONS[activation](), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:  # [batch token width]
        """Same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))
