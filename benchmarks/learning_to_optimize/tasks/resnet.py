"""A residual network with BatchNorm on CIFAR-10 of 16x16."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.learning_to_optimize.tasks.base import Task, register
from benchmarks.learning_to_optimize.tasks.sources import small_cifar


class Block(nn.Module):
    """Two convolutions with BatchNorm, and a shortcut, projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [b inputs h w] -> [b outputs h/stride w/stride]
        """Apply the block."""
        inner = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        return F.relu(inner + self.shortcut(x))


def resnet(widths: tuple[int, ...] = (8, 16, 32), classes: int = 10) -> nn.Sequential:
    """A stem, a block per width, the mean over pixels, a linear layer."""
    stem = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    pairs = zip((widths[0], *widths[:-1]), widths, strict=True)
    blocks = [Block(before, after, 1 if at == 0 else 2) for at, (before, after) in enumerate(pairs)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


register(
    Task("resnet", "held-out", "ResNet with BatchNorm, CIFAR-10 16x16", "cifar10", resnet, partial(small_cifar, 16), 16)
)
