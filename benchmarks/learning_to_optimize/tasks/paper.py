"""The setting of papers on learned optimizers: a small CNN and a tiny MLP, batch 128."""

from __future__ import annotations

from functools import partial

from torch import nn

from benchmarks.learning_to_optimize.tasks.base import Task, register
from benchmarks.learning_to_optimize.tasks.sources import images
from benchmarks.models import fm16


def mlp20() -> nn.Sequential:
    """784-20-10 with a ReLU."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10))


for name, about, data_set, network, settings_of in (
    ("fm16", "CNN 16-32-32 on Fashion-MNIST", "fashion-mnist", fm16, ""),
    ("cifar-16-32-32", "the same CNN on CIFAR-10", "cifar10", partial(fm16, 3), ""),
    (
        "cifar-32-64-64",
        "a wider CNN on CIFAR-10",
        "cifar10",
        partial(fm16, 3, widths=(32, 64, 64)),
        "cifar-16-32-32",  # tuning it again would cost hours
    ),
    ("mlp20", "MLP 784-20-10 on Fashion-MNIST", "fashion-mnist", mlp20, ""),
):
    register(Task(name, "paper", about, data_set, network, partial(images, data_set), 128, settings_of=settings_of))
