"""The registry: models by name, each with the symmetries that it is known to have."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from tests.zoo.numerics import randomise_

Sizes = tuple[int, int]  # (degree, copies): that many sets of so many interchangeable neurons
Expected = Mapping[str, Sizes]


@dataclass(frozen=True)
class Case:
    """A model ready to be traced: float64, evaluation mode, random parameters and learned buffers."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Model:
    """One model of the zoo."""

    name: str
    factory: Callable[[], tuple]  # () -> (module, args) or (module, args, kwargs)
    expected: Expected
    needs: str = ""  # package that it comes from

    @property
    def available(self) -> bool:
        """Whether its package is installed."""
        return not self.needs or find_spec(self.needs) is not None

    @property
    def sizes(self) -> Counter[Sizes]:
        """The expected symmetric groups, without their names."""
        return Counter(size for size in self.expected.values() if size[0] >= 2)

    def make(self, seed: int = 0) -> Case:
        """Build the model. Two seeds give the same architecture with other weights, on the same inputs."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what other packages warn of while they are imported
            torch.manual_seed(0)
            module, args, *rest = self.factory()
        kwargs = rest[0] if rest else {}
        module = randomise_(module.double().eval(), seed)
        double = torch.utils._pytree.tree_map_only(torch.Tensor, _to_double, (args, kwargs))
        return Case(module, *double)


def _to_double(x: torch.Tensor) -> torch.Tensor:
    return x.double() if x.is_floating_point() else x


MODELS: dict[str, Model] = {}


def model(name: str, *, expected: Expected, needs: str = "") -> Callable[[Callable], Callable]:
    """Add a model to the zoo.

    ``expected`` lists every symmetric group of the model by a name for people: ``{"hidden": (7, 1)}`` says that seven
    hidden neurons can be permuted at will; ``{"qk dims": (5, 3)}`` that the five dimensions in each of three heads can,
    independently. Widths are small, and different wherever possible, so that sizes tell which layer was found.
    """

    def register(factory: Callable[[], tuple]) -> Callable[[], tuple]:
        if name in MODELS:
            raise ValueError(f"there is a zoo model {name!r} already")
        MODELS[name] = Model(name, factory, expected, needs)
        return factory

    return register


def layers(count: int, expected: Expected) -> dict[str, Sizes]:
    """The same symmetries once per layer."""
    return {f"{name}, layer {i}": sizes for i in range(count) for name, sizes in expected.items()}
