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
from torch import Tensor, nn
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

    def any(self, local: bool, optimizer: torch.optim.Optimizer) -> bool:
        """Whether ``local`` is true on any rank; all of them must ask. A rank that knows of no others decides alone.

        Args:
            local: What this rank found.
            optimizer: The optimizer that is stepping.
        """
        if self._group(optimizer) is None:
            return local
        params = (param for group in optimizer.param_groups for param in group["params"])
        device = next((param.device for param in params), torch.device("cpu"))
        return not bool(self.all(torch.tensor(not local, device=device), optimizer))

    def all(self, local: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:  # bool [] -> bool []
        """Whether ``local`` is true on all ranks; all of them must ask, here or with `any`. The host does not wait.

        Args:
            local: What this rank found, or will have found when its device has computed it.
            optimizer: The optimizer that is stepping.
        """
        group = self._group(optimizer)
        if group is None:
            return local
        flag = local.to(torch.float32).view(1)
        dist.all_reduce(flag, dist.ReduceOp.MIN, group=group)
        return flag[0] > 0

    def _group(self, optimizer: torch.optim.Optimizer) -> Any:
        """The process group of the ranks that step together; None if there are no others."""
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return None
        if not self._searched:
            self._searched = True
            self._remember(_zero_around(optimizer))
        owner = self._owner() if self._owner is not None else None
        if owner is None or dist.get_world_size(owner.process_group) == 1:
            return None
        if isinstance(owner, DistributedDataParallel) and owner._join_config.enable:
            return None  # under model.join(), ranks that have run out of data make no steps: wait for none
        return owner.process_group

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
