"""An MLP-Mixer: MLPs along patches and along channels in turn."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.learning_to_optimize.tasks.base import Task, register
from benchmarks.learning_to_optimize.tasks.sources import small_cifar


class MixerBlock(nn.Module):
    """One MLP that mixes patches, one that mixes channels, each behind a LayerNorm."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.patch_norm, self.channel_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.patch_up, self.patch_down = nn.Linear(patches, 2 * patches), nn.Linear(2 * patches, patches)
        self.channel_up, self.channel_down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # [b patches width] -> the same
        """Apply the block."""
        across = self.patch_norm(x).transpose(1, 2)
        x = x + self.patch_down(F.gelu(self.patch_up(across))).transpose(1, 2)
        return x + self.channel_down(F.gelu(self.channel_up(self.channel_norm(x))))


class Mixer(nn.Module):
    """Patches, blocks, the mean over patches, a linear layer."""

    def __init__(self, size: int = 16, patch: int = 4, width: int = 32, depth: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.Sequential(*(MixerBlock((size // patch) ** 2, width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:  # [b 3 size size] -> [b classes]
        """Logits of images."""
        return self.head(self.norm(self.blocks(self.patches(x).flatten(2).transpose(1, 2))).mean(1))


register(
    Task(
        "mixer",
        "held-out",
        "MLP-Mixer of 2 blocks of 32, CIFAR-10 16x16",
        "cifar10",
        Mixer,
        partial(small_cifar, 16),
        32,
    )
)
