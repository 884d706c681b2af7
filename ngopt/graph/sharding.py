"""Sharded tensors: DTensors, as FSDP2 and tensor parallelism make them of parameters.

A graph depends on shapes, and on values only where the module's Python looks at them. So a sharded parameter is never
gathered: one of its shape stands in for it.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

DRAWN = 2**16  # entries of a stand-in that are drawn; it repeats them
CONSTANT = 2**24  # entries from which on a stand-in is one number, and takes no memory
SIZE = 0.02  # of its entries


def is_sharded(value: Any) -> bool:
    """Whether it is a DTensor. Where nobody has imported these, nothing is one: the import takes a second."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def local(tensor: Any) -> Tensor:
    """What is here of a tensor; itself if it is not sharded. Shares memory with it."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def stand_in(tensor: Tensor) -> Tensor:
    """A plain tensor of the whole shape, number type and device; the same on all ranks."""
    shape, count = tuple(tensor.shape), tensor.numel()
    if not tensor.is_floating_point() or count > CONSTANT:
        return torch.full((), SIZE, device=tensor.device).to(tensor.dtype).expand(shape)
    drawn = torch.randn(min(count, DRAWN), generator=torch.Generator().manual_seed(count), dtype=torch.float32)
    values = drawn.repeat(-(-count // max(1, len(drawn))))[:count].reshape(shape) if count else drawn.reshape(shape)
    return (SIZE * values).to(tensor.device, tensor.dtype)


def plain(tensor: Any) -> Tensor:
    """A tensor itself, or the whole of one that is sharded: of inputs and buffers, which are small."""
    if not is_sharded(tensor):
        return tensor
    replicated = all(placement.is_replicate() for placement in tensor.placements)
    return tensor.to_local() if replicated else tensor.full_tensor()
