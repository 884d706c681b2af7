"""A height map as a function of coordinates, by a network on Fourier features."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.learning_to_optimize.tasks.base import MSE, Data, Task, register
from benchmarks.learning_to_optimize.tasks.sources import SEED, parted


@lru_cache(maxsize=1)
def heights() -> Tensor:  # float32 [344 403], mean 0 and standard deviation 1
    """The map of a fault that comes with matplotlib."""
    from matplotlib import cbook

    with cbook.get_sample_data("jacksboro_fault_dem.npz") as file:
        elevation = torch.from_numpy(np.array(file["elevation"])).float()
    return (elevation - elevation.mean()) / elevation.std()


class FourierFeatures(nn.Module):
    """Sines and cosines of fixed random frequencies, then an MLP with GELU."""

    def __init__(self, frequencies: int = 24, scale: float = 3.0, width: int = 48) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        self.register_buffer("frequencies", scale * torch.randn(2, frequencies, generator=generator))
        self.layers = nn.Sequential(
            nn.Linear(2 * frequencies, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:  # [b 2] -> [b 1]
        """Heights at positions."""
        angles = x @ self.frequencies
        return self.layers(torch.cat((angles.sin(), angles.cos()), -1))


@lru_cache(maxsize=1)
def places() -> Data:
    """Positions in [-1, 1] and the heights there, every third row and column, in a seeded order."""
    small = heights()[::3, ::3]
    positions = torch.cartesian_prod(*(torch.linspace(-1, 1, n) for n in small.shape))
    order = torch.from_numpy(np.random.default_rng(SEED).permutation(small.numel()))
    return parted(positions[order], small.reshape(-1, 1)[order])


register(
    Task(
        "fourier",
        "unseen",
        "MLP on Fourier features of coordinates, a height map",
        "matplotlib's jacksboro_fault_dem.npz",
        FourierFeatures,
        places,
        128,
        objective=F.mse_loss,
        metric=MSE,
    )
)
