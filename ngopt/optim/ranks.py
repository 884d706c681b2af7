"""What all ranks of a data-parallel run must decide alike.

Every rank holds the same weights, so a step that one of them leaves out must be left out by all.
DistributedDataParallel averages gradients, which makes them equal on all ranks; but a rank can still see another
gradient: of a parameter that the wrapper was told to ignore, under ``no_sync``, or of its own share where
ZeroRedundancyOptimizer splits the work.
"""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_ZERO = "torch.distributed.optim.zero_redundancy_optimizer"


class Ranks:
    """The ranks that step together: those of a DistributedDataParallel wrapper, or of a ZeroRedundancyOptimizer.

    Args:
        model: What the optimizer was built from; it may be wrapped later.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._owner: weakref.ref[Any] | None = None
        self._searched = False
        while model is not None and not isinstance(model, DistributedDataParallel):
            model = getattr(model, "_orig_mod", None)  # torch.compile(DistributedDataParallel(model))
        self._remember(model)

    def notice_forward(self) -> None:
        """Inside a forward pass: whose it is."""
        self._remember(DistributedDataParallel._get_active_ddp_module())

    def any(self, local: bool, optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
        """Whether ``local`` is true on any rank; all of them must ask. A rank that knows of no others decides alone.

        Args:
            local: What this rank found.
            optimizer: The optimizer that is stepping.
            device: Where ranks exchange what they found.
        """
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return local
        if not self._searched:
            self._searched = True
            self._remember(_zero_around(optimizer))
        owner = self._owner() if self._owner is not None else None
        if owner is None or dist.get_world_size(owner.process_group) == 1:
            return local
        if isinstance(owner, DistributedDataParallel) and owner._join_config.enable:
            return local  # under model.join(), ranks that have run out of data make no steps: wait for none
        flag = torch.tensor([float(local)], device=device)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=owner.process_group)
        return bool(flag.item())

    def _remember(self, owner: Any) -> None:
        if owner is not None:
            self._owner = weakref.ref(owner)


def _zero_around(optimizer: torch.optim.Optimizer) -> Any:
    """The ZeroRedundancyOptimizer whose share of the work an optimizer does, or None. It tells its parts nothing."""
    module = sys.modules.get(_ZERO)
    if module is None:
        return None
    zeros = (obj for obj in gc.get_objects() if issubclass(type(obj), module.ZeroRedundancyOptimizer))
    return next((zero for zero in zeros if getattr(zero, "optim", None) is optimizer), None)
