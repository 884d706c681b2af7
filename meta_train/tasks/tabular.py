"""Regression by MLPs on the small tables that come with scikit-learn."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta_train.tasks.augment import batch_size, training_conditions
from meta_train.tasks.base import Batch, Task, family
from meta_train.tasks.drawing import choice, example_of, integer
from meta_train.tasks.mlp import ACTIVATIONS, INITS, dense, initialised
from ngopt.extras import extra

COLUMNS = {
    "diabetes": (10, 1),
    "linnerud": (3, 3),
    "iris": (4, 1),
}  # table: columns to predict from, columns to predict


@functools.lru_cache(maxsize=2)
def table(name: str) -> tuple[Tensor, Tensor]:  # float32 [row column], float32 [row column]
    """What to predict from, and what to predict; every column has mean 0 and standard deviation 1.

    Raises:
        MissingExtraError: scikit-learn is not there.
    """
    with extra("train", "the tabular tasks"):
        from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    x, y = (torch.tensor(part, dtype=torch.float64).reshape(len(part), -1) for part in (bunch.data, bunch.target))
    x, y = ((part - part.mean(0)) / part.std(0, correction=0) for part in (x, y))
    return x.float(), y.float()


@dataclass(frozen=True)
class Table:
    """Rows of a table, drawn with replacement.

    Attributes:
        name: One of `COLUMNS`.
    """

    name: str

    def batch(self, generator: torch.Generator, count: int, size: int) -> Batch:
        """See `Data.batch`: ``[count, size, column]`` twice."""
        x, y = table(self.name)
        index = torch.randint(len(x), (count, size), generator=generator)
        return x[index], y[index]

    def example(self) -> tuple[Tensor, ...]:
        """See `Data.example`."""
        return (example_of(2, COLUMNS[self.name][0]),)


@family("tabular")
def tabular(generator: torch.Generator) -> Task:
    """MLPs with one to three hidden layers of 8 to 64 on the diabetes or, less often, the linnerud table."""
    data = Table(choice(generator, ("diabetes", "diabetes", "diabetes", "linnerud")))
    hidden = [choice(generator, (8, 16, 32, 48, 64)) for _ in range(integer(generator, 1, 4))]
    activation, init = choice(generator, list(ACTIVATIONS)), choice(generator, INITS)
    fan_in, fan_out = COLUMNS[data.name]
    widths = [fan_in, *hidden, fan_out]

    def build() -> nn.Module:
        return initialised(nn.Sequential(*dense(widths, activation)), init)

    name = f"tabular {'-'.join(map(str, widths))} {activation} {init} {data.name}"
    batch, conditions = batch_size(generator, (16, 32, 64)), training_conditions(generator, build())
    return Task(name, "tabular", build, data, F.mse_loss, batch, **conditions)
