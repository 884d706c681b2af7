"""A variational autoencoder of patches of a photograph."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.learning_to_optimize.tasks.base import MSE, Data, Metric, Task, register
from benchmarks.learning_to_optimize.tasks.sources import SEED, parted

CODES = 8


def portrait() -> Tensor:  # float32 [3 h w], mean 0 and standard deviation 1
    """The one of Grace Hopper that comes with matplotlib."""
    from matplotlib import cbook
    from PIL import Image

    with cbook.get_sample_data("grace_hopper.jpg") as file:
        pixels = np.array(Image.open(file).convert("RGB"))
    image = torch.from_numpy(pixels).permute(2, 0, 1).float()
    return (image - image.mean()) / image.std()


def patches(image: Tensor, size: int) -> Tensor:  # [c h w] -> [n c size size]
    """Squares side by side, none over another, in a seeded order."""
    squares = image.unfold(1, size, size).unfold(2, size, size)  # [c rows columns size size]
    squares = squares.flatten(1, 2).transpose(0, 1)
    return squares[torch.from_numpy(np.random.default_rng(SEED).permutation(len(squares)))].contiguous()


class VariationalAutoencoder(nn.Module):
    """Codes are drawn around their means in training, and are their means in evaluation."""

    def __init__(self, pixels: int = 64, hidden: int = 48, codes: int = CODES) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(pixels, hidden), nn.GELU(), nn.Linear(hidden, 2 * codes))
        self.decode = nn.Sequential(nn.Linear(codes, hidden), nn.GELU(), nn.Linear(hidden, pixels))

    def forward(self, x: Tensor) -> Tensor:  # [b pixels] -> [b pixels+2*codes]
        """Pixels, then means and logarithms of the variances of the codes."""
        mean, log_variance = self.encode(x).chunk(2, -1)
        drawn = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean) if self.training else mean
        return torch.cat((self.decode(drawn), mean, log_variance), -1)


def evidence_bound(outputs: Tensor, targets: Tensor) -> Tensor:  # [b pixels+2*codes], [b pixels] -> []
    """Negative evidence lower bound per pixel, with noise of standard deviation 0.3, and without its constant."""
    pixels, mean, log_variance = outputs.split((targets.shape[-1], CODES, CODES), -1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
    error = (pixels - targets).square().sum(-1) / (2 * 0.3**2)
    return (error + divergence).mean() / targets.shape[-1]


RECONSTRUCTION = Metric("mean squared error", lambda o, y: MSE.of(o[..., : y.shape[-1]], y))


@lru_cache(maxsize=1)
def grey() -> Data:
    """Patches of the portrait, grey and flat, twice."""
    flat = patches(portrait().mean(0, keepdim=True), 8).flatten(1)
    return parted(flat, flat)


register(
    Task(
        "vae",
        "unseen",
        "variational autoencoder of 8 codes, patches of a portrait",
        "matplotlib's grace_hopper.jpg",
        VariationalAutoencoder,
        grey,
        64,
        objective=evidence_bound,
        metric=RECONSTRUCTION,
    )
)
