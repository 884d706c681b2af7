"""Modules whose symmetries are known by construction, apart from what the tracer says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Groups = Counter[tuple[int, int]]  # (degree, copies): the symmetric group S_degree ^ copies -> how often


@dataclass(frozen=True)
class KnownModule:
    """A module, an input, and its permutation symmetries.

    Attributes:
        name: On one line, which one it is.
        module: In float32.
        example: An input, ``[batch, ...]``.
        groups: ``(degree, copies)`` of each of its symmetric groups, counted; compare with
            ``Counter((s.degree, s.copies) for s in graph.symmetries)``.
    """

    name: str
    module: nn.Module
    example: Tensor
    groups: Groups

    def __repr__(self) -> str:
        return f"KnownModule({self.name})"


def mlp(widths: Sequence[int], function: type[nn.Module] = nn.Tanh) -> KnownModule:
    """A multilayer perceptron: each hidden layer's neurons can be exchanged. At least two neurons in each."""
    layers: list[nn.Module] = []
    for a, b in pairwise([3, *widths]):
        layers += [nn.Linear(a, b), function()]
    module = nn.Sequential(*layers, nn.Linear([3, *widths][-1], 2))
    return KnownModule(f"mlp {list(widths)}", module, torch.randn(4, 3), Counter((w, 1) for w in widths))


def cnn(widths: Sequence[int], kernel: int = 3) -> KnownModule:
    """Convolutions, the mean of all pixels, a linear layer: each hidden layer's channels can be exchanged."""
    layers: list[nn.Module] = []
    for a, b in pairwise([2, *widths]):
        layers += [nn.Conv2d(a, b, kernel, padding=kernel // 2), nn.Tanh()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear([2, *widths][-1], 3))
    return KnownModule(f"cnn {list(widths)}", module, torch.randn(2, 2, 5, 5), Counter((w, 1) for w in widths))


class _Residual(nn.Module):
    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, h), nn.Tanh(), nn.Linear(h, width)) for h in hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def residual(width: int, hidden: Sequence[int]) -> KnownModule:
    """Blocks around one residual stream: the stream's neurons move together, each block's hidden ones by themselves."""
    groups = Counter([(width, 1), *((h, 1) for h in hidden)])
    return KnownModule(f"residual {width} {list(hidden)}", _Residual(width, hidden), torch.randn(4, 3), groups)


class _Attention(nn.Module):
    def __init__(self, heads: int, size: int, value: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(3, heads * size), nn.Linear(3, heads * size)
        self.value, self.out = nn.Linear(3, heads * value), nn.Linear(heads * value, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = (linear(x) for linear in (self.query, self.key, self.value))
        q, k, v = (rearrange(y, "batch token (head dim) -> batch head token dim", head=self.heads) for y in parts)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(rearrange(y, "batch head token dim -> batch token (head dim)"))


def attention(heads: int, size: int, value: int) -> KnownModule:
    """Self-attention: heads can be exchanged; in each, the pairs of query and key entries, and the value's entries."""
    groups = Counter([(heads, 1), (size, heads), (value, heads)])
    name = f"attention, {heads} heads of {size} and {value}"
    return KnownModule(name, _Attention(heads, size, value), torch.randn(2, 4, 3), groups)
