"""An autoencoder with a narrow middle."""

from __future__ import annotations

from torch import nn

from benchmarks.learning_to_optimize.tasks.base import MSE, Data, Task, register
from benchmarks.learning_to_optimize.tasks.sources import small_cifar
from meta_train.tasks.mlp import dense

WIDTHS = (64, 48, 24, 8)


def autoencoder() -> nn.Sequential:
    """64-48-24-8-24-48-64 with ReLU, none at the middle and the end."""
    return nn.Sequential(*dense(WIDTHS, "relu"), *dense(WIDTHS[::-1], "relu"))


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
