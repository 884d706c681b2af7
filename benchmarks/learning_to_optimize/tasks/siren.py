"""A SIREN that fits a colour photograph from a part of its pixels; others are its test."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.learning_to_optimize.tasks.base import MSE, Data, Task, register
from benchmarks.learning_to_optimize.tasks.sources import SEED

SIZE = (64, 96)
FREQUENCY = 30.0


class Siren(nn.Module):
    """Sines of ``30 (Wx + b)``, with the initialisation that goes with them."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(width if at else 2, width) for at in range(depth))
        self.head = nn.Linear(width, 3)
        for at, layer in enumerate((*self.hidden, self.head)):
            bound = math.sqrt(6 / width) / FREQUENCY if at else 1 / 2
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:  # [b 2] -> [b 3]
        """Colours at positions."""
        for layer in self.hidden:
            x = torch.sin(FREQUENCY * layer(x))
        return self.head(x)


@lru_cache(maxsize=1)
def pixels() -> Data:
    """Positions in [-1, 1] and colours in [-1, 1] of scikit-learn's photograph, in a seeded order; a sixth each for
    test and validation."""
    from sklearn.datasets import load_sample_image

    image = torch.from_numpy(np.array(load_sample_image("china.jpg"))).float().permute(2, 0, 1)[None]
    small = F.interpolate(image, SIZE, mode="area")[0].flatten(1).T / 127.5 - 1  # [h*w 3]
    rows, columns = (torch.linspace(-1, 1, n) for n in SIZE)
    positions = torch.cartesian_prod(rows, columns)
    order = torch.from_numpy(np.random.default_rng(SEED).permutation(len(small)))
    x, y = positions[order], small[order]
    end = len(x) - len(x) // 6
    return Data((x[:end], y[:end]), (x[end:], y[end:]), len(x) // 6)


register(
    Task(
        "siren",
        "held-out",
        "SIREN of 2 layers of 32, a photograph of 64x96 pixels",
        "scikit-learn's china.jpg",
        Siren,
        pixels,
        512,
        objective=nn.functional.mse_loss,
        metric=MSE,
    )
)
