"""Plain convolutions and pooling, flattened into linear layers: every pixel of the last map has weights of its own."""

from __future__ import annotations

from functools import partial

from torch import nn

from benchmarks.learning_to_optimize.tasks.base import Task, register
from benchmarks.learning_to_optimize.tasks.sources import small_cifar


def vgg(widths: tuple[int, ...] = (8, 16, 16), classes: int = 10) -> nn.Sequential:
    """A convolution, ReLU and pooling per width, then two linear layers."""
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths[:-1]), widths, strict=True):
        layers += [nn.Conv2d(before, after, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 4, 64), nn.ReLU(), nn.Linear(64, classes))


register(Task("vgg", "held-out", "VGG with flatten, CIFAR-10 16x16", "cifar10", vgg, partial(small_cifar, 16), 32))
