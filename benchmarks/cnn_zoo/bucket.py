"""Networks of one architecture, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.cnn_zoo.architecture import Architecture

PER_NET = ("accuracy", "loss", "run", "step")


@dataclass(frozen=True)
class Bucket:
    """Networks of one architecture: checkpoints of one run or of many."""

    architecture: Architecture
    params: dict[str, Tensor]  # name -> [net, *shape]: parameters and learned buffers, named as in `ngopt.trace`
    accuracy: Tensor  # float32 [net], on test images, from 0 to 1
    loss: Tensor  # float32 [net], on the same images
    run: Tensor  # int64 [net]: which training run
    step: Tensor  # int64 [net]: after how many steps

    def __len__(self) -> int:
        return len(self.run)

    def subset(self, index: Tensor) -> Bucket:
        """Some of the networks: integers or booleans, as tensors are indexed."""
        params = {name: tensor[index] for name, tensor in self.params.items()}
        return replace(self, params=params, **{name: getattr(self, name)[index] for name in PER_NET})

    def finite(self) -> Tensor:  # bool [net]
        """Whether a network has finite numbers only."""
        numbers = [self.loss.isfinite(), self.accuracy.isfinite()]
        return torch.stack(numbers + [t.flatten(1).isfinite().all(1) for t in self.params.values()]).all(0)

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """All tensors, under names that begin with a prefix; see `shapes`."""
        named = self.params | {name: getattr(self, name) for name in PER_NET}
        return {f"{prefix}/{name}": tensor for name, tensor in named.items()}


def joined(parts: Sequence[Bucket]) -> Bucket:
    """One bucket from some of the same architecture."""
    params = {name: torch.cat([part.params[name] for part in parts]) for name in parts[0].params}
    return replace(
        parts[0], params=params, **{name: torch.cat([getattr(part, name) for part in parts]) for name in PER_NET}
    )


def shapes(architecture: Architecture, count: int, prefix: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of `Bucket.tensors` of so many networks."""
    named = {name: (count, *shape) for name, shape in param_shapes(architecture).items()}
    return {f"{prefix}/{name}": shape for name, shape in (named | {name: (count,) for name in PER_NET}).items()}


def param_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters and learned buffers of one network."""
    with torch.device("meta"):
        state = architecture.build().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if tensor.is_floating_point()}


def from_tensors(architecture: Architecture, tensors: dict[str, Tensor], prefix: str) -> Bucket:
    """Inverse of `Bucket.tensors`."""
    params = {name: tensors[f"{prefix}/{name}"] for name in param_shapes(architecture)}
    return Bucket(architecture, params, **{name: tensors[f"{prefix}/{name}"] for name in PER_NET})
