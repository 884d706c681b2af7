"""Small CNNs on scikit-learn's digits: one with GroupNorm, one of depthwise and pointwise convolutions."""

from __future__ import annotations

from functools import partial

from torch import nn

from benchmarks.learning_to_optimize.tasks.base import Task, register
from benchmarks.learning_to_optimize.tasks.sources import images


def group_norm_cnn(classes: int = 10) -> nn.Sequential:
    """Two convolutions of 16 and 32 channels, each with four norm groups."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


def depthwise_cnn(width: int = 16, classes: int = 10) -> nn.Sequential:
    """A convolution, then twice a 3x3 filter per channel and a 1x1 convolution that mixes channels."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, 1, 1), nn.ReLU()]
    for channels, stride in ((width, 2), (2 * width, 1)):
        layers += [
            nn.Conv2d(channels, channels, 3, stride, 1, groups=channels),
            nn.Conv2d(channels, 2 * width, 1),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes))


for name, about, network in (
    ("group-norm-cnn", "CNN with GroupNorm, scikit-learn digits", group_norm_cnn),
    ("depthwise-cnn", "depthwise separable CNN, scikit-learn digits", depthwise_cnn),
):
    register(Task(name, "held-out", about, "digits", network, partial(images, "digits"), 32))
