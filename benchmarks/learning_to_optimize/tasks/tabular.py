"""MLPs on two of scikit-learn's tables."""

from __future__ import annotations

from functools import partial

from torch import nn

from benchmarks.learning_to_optimize.tasks.base import Data, Task, register
from benchmarks.learning_to_optimize.tasks.sources import table


def mlp(inputs: int, hidden: tuple[int, ...], classes: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    widths = (inputs, *hidden)
    layers: list[nn.Module] = []
    for before, after in zip(widths, hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def _breast_cancer() -> Data:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return table(bunch.data, bunch.target)


def _wine() -> Data:
    from sklearn.datasets import load_wine

    bunch = load_wine()
    return table(bunch.data, bunch.target)


for name, about, data_set, network, load in (
    ("breast-cancer", "MLP 30-32-32-2, a table", "scikit-learn's", partial(mlp, 30, (32, 32), 2), _breast_cancer),
    ("wine", "MLP 13-16-3, a table", "scikit-learn's", partial(mlp, 13, (16,), 3), _wine),
):
    register(Task(name, "held-out", about, data_set, network, load, 32))
