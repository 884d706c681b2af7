"""A deep and narrow MLP, whose gradients have a long way to go."""

from __future__ import annotations

from functools import partial

from torch import nn

from benchmarks.learning_to_optimize.tasks.base import Task, register
from benchmarks.learning_to_optimize.tasks.sources import small_cifar
from meta_train.tasks.mlp import dense


def deep_mlp(inputs: int = 64, width: int = 24, depth: int = 8, classes: int = 10) -> nn.Sequential:
    """``depth`` hidden layers of ``width`` with tanh."""
    return nn.Sequential(nn.Flatten(), *dense([inputs, *[width] * depth, classes], "tanh"))


register(
    Task(
        "deep-mlp",
        "held-out",
        "MLP of 8 tanh layers of 24, CIFAR-10 grey 8x8",
        "cifar10",
        deep_mlp,
        partial(small_cifar, 8, True),
        128,
    )
)
