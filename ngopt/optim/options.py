"""Checks of what users pass to `NGOptimizer`; every error says what was given and what to do instead."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

SCHEDULES = ("builtin", "user")

_INSTEAD = {
    "capturable": "NGOptimizer reads step counts on the host and cannot be captured in a CUDA graph; leave it out",
    "differentiable": "to differentiate through steps, use the pure function ngopt.optim.update.update",
    "foreach": "the step is batched over tensors already; leave it out",
    "fused": "there is no fused kernel; leave it out",
}


def refuse_unsupported(**options: Any) -> None:
    """Raise NotImplementedError for options of torch's optimizers that ngopt has not."""
    for name, value in options.items():
        if value:
            raise NotImplementedError(f"NGOptimizer does not support {name}={value!r}: {_INSTEAD[name]}.")


def refuse_sharded(model: nn.Module | None) -> None:
    """Raise TypeError for a module that FullyShardedDataParallel has flattened."""
    if model is not None and any(type(m).__name__ == "FullyShardedDataParallel" for m in model.modules()):
        raise TypeError(
            "NGOptimizer cannot train parameters sharded by FullyShardedDataParallel: a shard does not know its "
            "neurons. Use DistributedDataParallel."
        )


def check_parameter(name: str, param: Any) -> None:
    """Raise TypeError for a parameter that no step can be made for. What torch checks itself is left to torch."""
    if not isinstance(param, Tensor):
        return
    if type(param).__name__ == "DTensor":
        raise TypeError(f"{name} is a DTensor (FSDP2, tensor parallelism), not supported. Use DistributedDataParallel.")
    if param.is_complex():
        raise TypeError(f"{name} is complex ({param.dtype}), not supported. Store torch.view_as_real of it instead.")
    if param.layout != torch.strided:
        raise TypeError(f"{name} has layout {param.layout}, not supported. Use a dense parameter.")


def check_group(group: dict[str, Any]) -> None:
    """Raise for an option of a parameter group that is out of range or not supported."""
    refuse_unsupported(**{name: group.get(name) for name in _INSTEAD})
    for name in ("lr", "weight_decay"):
        value = group[name]
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{name} must be one number, got a tensor of shape {tuple(value.shape)}.")
        if not (math.isfinite(float(value)) and float(value) >= 0.0):
            raise ValueError(f"{name}={value!r} must be finite and not negative.")
    total = group["total_steps"]
    if total is not None and (isinstance(total, bool) or not isinstance(total, int) or total < 1):
        raise ValueError(f"total_steps={total!r} must be a positive whole number, or None.")
    if group["schedule"] not in SCHEDULES:
        raise ValueError(f"schedule={group['schedule']!r} must be one of {SCHEDULES}.")


def check_gradient(name: str, grad: Tensor) -> None:
    """Raise RuntimeError for a sparse gradient, as torch's dense optimizers do."""
    if grad.is_sparse or grad.layout != torch.strided:
        raise RuntimeError(
            f"The gradient of {name} is sparse, not supported. Build the layer with sparse=False "
            "(nn.Embedding, nn.EmbeddingBag), or train it with torch.optim.SparseAdam."
        )
