"""An autoencoder with a narrow middle."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from benchmarks.learning_to_optimize.tasks.base import MSE, Data, Task, register
from benchmarks.learning_to_optimize.tasks.sources import small_cifar

WIDTHS = (64, 48, 24, 8)


def autoencoder() -> nn.Sequential:
    """64-48-24-8-24-48-64 with ReLU, none at the middle and the end."""
    widths = [*WIDTHS, *WIDTHS[-2::-1]]
    layers: list[nn.Module] = []
    for at, (before, after) in enumerate(pairwise(widths)):
        layers += [nn.Linear(before, after)] + [nn.ReLU()] * (at not in (len(WIDTHS) - 2, len(widths) - 2))
    return nn.Sequential(*layers)


def _flat() -> Data:
    data = small_cifar(8, True)
    train, test = data.train[0].flatten(1), data.test[0].flatten(1)
    return Data((train, train), (test, test), data.holdout)


register(
    Task(
        "autoencoder",
        "held-out",
        "autoencoder 64-48-24-8 and back, CIFAR-10 grey 8x8",
        "cifar10",
        autoencoder,
        _flat,
        128,
        objective=nn.functional.mse_loss,
        metric=MSE,
    )
)
