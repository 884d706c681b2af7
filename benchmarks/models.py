"""Networks that the benchmarks train, in PyTorch's default initialisation."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def fm16(channels: int = 1, classes: int = 10, widths: tuple[int, int, int] = (16, 32, 32)) -> nn.Sequential:
    """The small CNN that learned-optimizer papers train on Fashion-MNIST: 14,378 parameters with one input channel.

    Args:
        channels: Channels of the images.
        classes: Number of classes.
        widths: Channels of the three convolutions.
    """
    first, second, third = widths
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(second, third, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(third, classes),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {"fm16": fm16}
