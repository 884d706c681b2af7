"""Small networks of the kinds that are sharded, without packages that take long to import in every process."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, LENGTH, BATCH, CLASSES = 23, 6, 8, 3


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


class Block(nn.Module):
    """Attention and an MLP on a residual stream."""

    def __init__(self, width: int, heads: int, groups: int, packed: bool, mlp: nn.Module) -> None:
        super().__init__()
        kind = nn.LayerNorm if packed else nn.RMSNorm
        self.norms = nn.ModuleList(kind(width) for _ in range(2))
        self.attention, self.mlp = Attention(width, heads, groups, packed), mlp

    def forward(self, x: Tensor) -> Tensor:
        """[batch, position, width] -> the same."""
        x = x + self.attention(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class LanguageModel(nn.Module):
    """GPT with packed qkv, or Llama with grouped heads."""

    def __init__(self, packed: bool, depth: int = 3, width: int = 16) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.blocks = nn.ModuleList(
            Block(width, 4, 4, True, nn.Sequential(nn.Linear(width, 40), nn.GELU(), nn.Linear(40, width)))
            if packed
            else Block(width, 4, 2, False, GatedMLP(width, 22))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, CLASSES, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, position] -> [batch, CLASSES]."""
        x = self.tokens(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def mlp() -> nn.Module:
    """Widths that two and four ranks divide unevenly; four ranks leave one without a part of the last layer."""
    layers = [nn.Linear(5, 17), nn.ReLU(), nn.Linear(17, 10), nn.LayerNorm(10), nn.Tanh(), nn.Linear(10, CLASSES)]
    return nn.Sequential(*layers)


def even_mlp() -> nn.Module:
    """Widths that four divides, but for inputs and classes."""
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.LayerNorm(12), nn.Linear(12, CLASSES))


def cnn() -> nn.Module:
    """Convolutions with both kinds of norms."""
    layers = [
        nn.Conv2d(2, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 9, 3, groups=3, bias=False),
        nn.GroupNorm(3, 9),
    ]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, CLASSES))


def gpt() -> nn.Module:
    """Packed qkv."""
    return LanguageModel(packed=True)


def llama() -> nn.Module:
    """Grouped heads."""
    return LanguageModel(packed=False)


NETWORKS = {build.__name__: build for build in (mlp, even_mlp, cnn, gpt, llama)}
SHAPES = {"mlp": (5,), "even_mlp": (8,), "cnn": (2, 7, 7)}


def make(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network; the same on all ranks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS[name]().to(dtype)


def batch(name: str, index: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Inputs and classes number ``index`` of an endless stream; the same on all ranks."""
    generator = torch.Generator().manual_seed(1000 + index)
    if name in SHAPES:
        x = torch.randn(BATCH, *SHAPES[name], generator=generator, dtype=torch.float64)
        return x.to(dtype), (x.flatten(1)[:, 0] > 0).long() + (x.flatten(1)[:, 1] > 0).long()
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)
    return ids, ids[:, 0] % CLASSES
