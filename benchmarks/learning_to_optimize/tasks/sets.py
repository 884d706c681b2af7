"""Deep sets: a digit as the set of its pixels, each with its place; their order makes no difference."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from benchmarks.learning_to_optimize.tasks.base import Data, Task, register
from benchmarks.learning_to_optimize.tasks.sources import images


class DeepSets(nn.Module):
    """An MLP for every element, the mean over them, an MLP for the mean."""

    def __init__(self, features: int = 3, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.element = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.whole = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:  # [b elements features] -> [b classes]
        """Logits of sets."""
        return self.whole(self.element(x).mean(1))


@lru_cache(maxsize=1)
def pixel_sets() -> Data:
    """Digits as 64 triples: brightness, row and column in [-1, 1]."""
    data = images("digits")
    places = torch.cartesian_prod(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8))

    def as_sets(x: Tensor) -> Tensor:  # [n 1 8 8] -> [n 64 3]
        return torch.cat([x.flatten(1)[..., None], places.expand(len(x), -1, -1)], dim=-1)

    return Data((as_sets(data.train[0]), data.train[1]), (as_sets(data.test[0]), data.test[1]), data.holdout)


register(Task("deep-sets", "held-out", "DeepSets of 32, scikit-learn digits", "digits", DeepSets, pixel_sets, 32))
