"""Small helpers to draw from a generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def choice(generator: torch.Generator, options: Sequence[T]) -> T:
    """One of the options, each as likely."""
    return options[integer(generator, 0, len(options))]


def integer(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number in ``[low, high)``."""
    return int(torch.randint(low, high, (), generator=generator))


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number in ``[low, high)``."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def log_uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A positive number whose logarithm is uniform."""
    return math.exp(uniform(generator, math.log(low), math.log(high)))


def example_of(*shape: int) -> Tensor:  # float32 [*shape]
    """Inputs to trace with: normal, and always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def chance(generator: torch.Generator, probability: float) -> bool:
    """True with this probability."""
    return uniform(generator, 0.0, 1.0) < probability
