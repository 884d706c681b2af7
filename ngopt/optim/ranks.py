"""What all ranks of a data-parallel run must decide alike.

Every rank holds the same weights, so a step that one of them leaves out must be left out by all.
DistributedDataParallel averages gradients, which makes them equal on all ranks; but a rank can still see another
gradient: of a parameter that the wrapper was told to ignore, under ``no_sync``, or of its own share where
ZeroRedundancyOptimizer splits the work.
"""

from __future__ import annotations

import weakref

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def wrapper_of(model: nn.Module | None) -> weakref.ref[DistributedDataParallel] | None:
    """The DistributedDataParallel around (or in) a model, or around the forward pass that is running now."""
    inner = model
    while inner is not None and not isinstance(inner, DistributedDataParallel):
        inner = getattr(inner, "_orig_mod", None)  # torch.compile(DistributedDataParallel(model))
    inner = inner or DistributedDataParallel._get_active_ddp_module()
    return weakref.ref(inner) if isinstance(inner, DistributedDataParallel) else None


def any_rank(local: bool, wrapper: weakref.ref[DistributedDataParallel] | None, device: torch.device) -> bool:
    """Whether ``local`` is true on any rank of the wrapper; all of them must ask.

    Under ``model.join()`` ranks that have run out of data make no steps, and nobody may wait for them: there, and where
    no wrapper is known, each rank decides alone.
    """
    model = wrapper() if wrapper is not None else None
    if model is None or not dist.is_initialized() or model._join_config.enable:
        return local
    if dist.get_world_size(model.process_group) == 1:
        return local
    flag = torch.tensor([float(local)], device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX, group=model.process_group)
    return bool(flag.item())
