"""The networks of one split, stacked, and what is to be said about each of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.inr_data.siren import Params


@dataclass(frozen=True)
class Samples:
    """Networks of one architecture with their targets.

    Attributes:
        params: ``name -> [net, *shape]``.
        targets: ``[net, ...]``.
        left_out: Positions of networks whose weights are not finite, in the set that they were taken from.
    """

    params: Params
    targets: Tensor
    left_out: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Number of networks."""
        return len(self.targets)

    def __getitem__(self, indices: Tensor | slice) -> tuple[Params, Tensor]:
        """Parameters and targets of some networks."""
        return {name: p[indices] for name, p in self.params.items()}, self.targets[indices]

    def to(self, device: str) -> Samples:
        """The same on another device."""
        return Samples({name: p.to(device) for name, p in self.params.items()}, self.targets.to(device), self.left_out)


def finite_samples(params: Params, targets: Tensor) -> Samples:
    """Leave out networks whose weights hold NaN or infinity, and remember which.

    Raises:
        ValueError: None is left.
    """
    finite = torch.stack([p.flatten(1).isfinite().all(1) for p in params.values()]).all(0)
    if not finite.any():
        raise ValueError("No network has finite weights: fit the implicit networks again.")
    left_out = tuple((~finite).nonzero().flatten().tolist())
    return Samples(*({name: p[finite] for name, p in params.items()}, targets[finite]), left_out)
