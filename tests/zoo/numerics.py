"""Random weights, exact arithmetic, and the comparison of two functions on one input."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ngopt.graph.capture import output_tensors

POSITIVE = ("running_var", "_u", "_v", "weight_u", "weight_v")  # buffers that a model divides by, or takes roots of


def is_learned_buffer(name: str) -> bool:
    """Running statistics are labelled like parameters; other buffers are constants of the architecture."""
    return name.rsplit(".", 1)[-1] in ("running_mean", *POSITIVE)


def randomise_(module: nn.Module, seed: int) -> nn.Module:
    """Random parameters and learned buffers, in place: zero or equal initial values would hide wrong symmetries.

    Matrices are scaled by ``1 / sqrt(fan_in)``, so that activations stay where nonlinear functions bend.
    """
    generator = torch.Generator().manual_seed(seed)
    learned = [(n, b) for n, b in module.named_buffers() if is_learned_buffer(n) and b.is_floating_point()]
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *learned]:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.rsplit(".", 1)[-1] in POSITIVE:
                noise = 0.5 + noise.abs()
            elif tensor.ndim > 1:
                noise = noise / prod(tensor.shape[1:]) ** 0.5
            tensor.copy_(noise)
    return module


class AllDouble(TorchDispatchMode):
    """Models that cast to float32 inside (RMSNorm, softmax) stay in float64, so that 1e-9 means something."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace float32 in every request for a dtype."""
        swap = {torch.float32: torch.float64}
        args, kwargs = torch.utils._pytree.tree_map_only(torch.dtype, lambda d: swap.get(d, d), (args, kwargs or {}))
        return func(*args, **kwargs)


def evaluate(module: nn.Module, state: Mapping[str, Tensor], args: tuple, kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Outputs of the module with the given parameters and buffers, in float64 and evaluation mode."""
    module.eval()
    # a module under two names is given its tensors once: functional_call would swap them twice, and not swap back
    owned = {
        f"{prefix}.{name}" if prefix else name
        for prefix, child in module.named_modules()
        for name in (*child._parameters, *child._buffers)
    }
    given = {name: tensor for name, tensor in state.items() if name in owned}
    with torch.no_grad(), warnings.catch_warnings(), AllDouble():
        warnings.simplefilter("ignore")  # what a model of another package warns of is not our subject
        outputs = torch.func.functional_call(module, given, args, dict(kwargs), tie_weights=False)
        return [x.clone() for x in output_tensors(outputs) if x.is_floating_point()]


def difference(outputs: list[Tensor], others: list[Tensor]) -> float:
    """Largest difference, relative to the spread of each output."""
    worst = 0.0
    for x, y in zip(outputs, others, strict=True):
        spread = x.std() if x.numel() > 1 else x.abs().max()
        worst = max(worst, ((x - y).abs().max() / spread).item())
    return worst


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, tied names and non-persistent buffers included, detached."""
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach() for name, tensor in named}
