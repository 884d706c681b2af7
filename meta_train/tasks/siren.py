"""SIRENs: networks of sines that map coordinates to the pixels of one image."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta_train.tasks.augment import training_conditions
from meta_train.tasks.base import Batch, Task, family
from meta_train.tasks.drawing import chance, choice, example_of, integer, uniform
from meta_train.tasks.images import DATASETS, images


class Sine(nn.Module):
    """``sin(omega x)``."""

    def __init__(self, omega: float) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, x: Tensor) -> Tensor:  # [...]
        """Same shape."""
        return torch.sin(self.omega * x)


def siren(width: int, layers: int, omega: float) -> nn.Sequential:
    """Coordinates ``[..., 2]`` to a pixel ``[..., 1]``, initialised as in Sitzmann et al., 2020, arXiv:2006.09661."""
    sizes = [2, *[width] * layers, 1]
    modules: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        bound = math.sqrt(6 / fan_in) / omega if modules else 1 / fan_in
        nn.init.uniform_(linear.weight, -bound, bound)
        modules += [linear, Sine(omega)]
    return nn.Sequential(*modules[:-1])


@dataclass(frozen=True)
class Pixels:
    """Random pixels of images, one image for each optimizee of a stack: optimizee ``k`` always has the same one.

    Attributes:
        name: Data set.
        size: Side length in pixels.
        seed: Fixes the images.
    """

    name: str
    size: int
    seed: int

    def batch(self, generator: torch.Generator, count: int, size: int) -> Batch:
        """See `Data.batch`: coordinates in [-1, 1], ``[count, size, 2]``, and pixels ``[count, size, 1]``."""
        pixels, _ = images(self.name, self.size)
        index = torch.randint(self.size**2, (count, size), generator=generator)
        own = self._order[torch.arange(count) % len(self._order)]
        xy = torch.stack((index % self.size, index // self.size), -1) * (2 / (self.size - 1)) - 1
        return xy, pixels[own].flatten(1).gather(1, index)[..., None]

    def example(self) -> tuple[Tensor, ...]:
        """See `Data.example`."""
        return (example_of(2, 2),)

    @functools.cached_property
    def _order(self) -> Tensor:  # int64 [n]
        """Which image each optimizee has."""
        total = len(images(self.name, self.size)[1])
        return torch.randperm(total, generator=torch.Generator().manual_seed(self.seed))


@family("siren")
def fit_image(generator: torch.Generator) -> Task:
    """SIRENs with two hidden layers (now and then one or three) of 16 to 64, each fitting one 28 x 28 image."""
    width, layers = choice(generator, (16, 24, 32, 32, 48, 64)), choice(generator, (1, 2, 2, 2, 3))
    omega = uniform(generator, 10.0, 30.0) if chance(generator, 0.5) else 30.0
    data = Pixels(choice(generator, DATASETS), 28, integer(generator, 0, 2**31))

    def build() -> nn.Module:
        return siren(width, layers, omega)

    name = f"siren {'-'.join(map(str, [2, *[width] * layers, 1]))} omega {omega:.3g} {data.name}"
    batch, conditions = choice(generator, (64, 128, 256)), training_conditions(generator, build())
    return Task(name, "siren", build, data, F.mse_loss, batch, **conditions)
