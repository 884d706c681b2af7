"""Small networks of the kinds that are sharded, without packages that take long to import in every process."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.models_language import LanguageModel, Sizes

VOCABULARY, LENGTH, BATCH, CLASSES = 23, 6, 8, 3


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


SMALL = {"vocabulary": VOCABULARY, "width": 16, "depth": 3, "heads": 4, "classes": CLASSES}


def gpt() -> nn.Module:
    """Packed qkv."""
    return LanguageModel(Sizes(**SMALL, groups=4, hidden=40, positions=LENGTH, packed=True))


def llama() -> nn.Module:
    """Grouped heads."""
    return LanguageModel(Sizes(**SMALL, groups=2, hidden=22))


def experts() -> nn.Module:
    """Stacks of experts, of which ranks own some each, unevenly."""
    return LanguageModel(Sizes(**{**SMALL, "depth": 1}, groups=2, hidden=10, experts=5))


NETWORKS = {build.__name__: build for build in (mlp, even_mlp, cnn, gpt, llama, experts)}
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
