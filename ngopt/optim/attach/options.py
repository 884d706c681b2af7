"""Checks of what users pass to `NGOptimizer`; every error says what was given and what to do instead."""

from __future__ import annotations

import gc
import math
import numbers
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ngopt.graph.sharding import is_sharded
from ngopt.optim.rule.config import DEFAULT_LR

SCHEDULES = ("builtin", "user")
SHARED = ("total_steps", "schedule", "step")  # group entries that are the same in every group
SLOW = 100  # steps without a rise after which to say that lr was too small in all of them
LEFTOVER = 0.03  # an lr of at most this share of the default was meant for another optimizer

_RATES = ("lr", "initial_lr")  # the second is written by schedulers
_INSTEAD = {
    "capturable": "NGOptimizer reads step counts on the host and cannot be captured in a CUDA graph; leave it out",
    "differentiable": "to differentiate through steps, use the pure function ngopt.optim.update.update",
}
# Options of other optimizers that factories and configurations pass along. They steer what the rule decides itself.
WITHOUT_EFFECT = frozenset(
    "adjust_lr_fn alpha amsgrad beta betas centered dampening decoupled_weight_decay eps etas foreach fused lambd "
    "max_iter momentum momentum_decay nesterov ns_coefficients ns_steps rho".split()
)


def refuse_unsupported(options: Mapping[str, Any]) -> None:
    """Raise NotImplementedError for options of torch's optimizers that change what a step is, and ngopt has not."""
    for name, instead in _INSTEAD.items():
        if options.get(name):
            raise NotImplementedError(f"NGOptimizer does not support {name}={options[name]!r}: {instead}.")


def check_foreign(options: Mapping[str, Any]) -> str | None:
    """What to say of options that belong to other optimizers, or None if there are none.

    Raises:
        TypeError: An option is not known at all.
    """
    unknown = sorted(set(options) - WITHOUT_EFFECT)
    if unknown:
        raise TypeError(f"NGOptimizer has no option {', '.join(unknown)}. See help(ngopt.NGOptimizer).")
    return without_effect(options)


def without_effect(options: Mapping[str, Any], own: Collection[str] = ()) -> str | None:
    """A sentence on options of other optimizers that are on, or None if there are none.

    Args:
        options: Given to the constructor, or in a group.
        own: Names that mean something to somebody else.
    """
    known = WITHOUT_EFFECT.difference(own)
    names = sorted(
        name for name, value in options.items() if name in known and value is not None and value is not False
    )
    if not names:
        return None
    verb = "has" if len(names) == 1 else "have"
    return f"{', '.join(names)} {verb} no effect on NGOptimizer: the rule decides itself what they steer elsewhere."


def keys_of_wrappers(params: Any) -> frozenset[str]:
    """Names of what optimizers around this one keep in groups for themselves: they made it of their ``param_groups``.

    Sharpness-aware minimisation, for one, has its ``rho`` there.
    """
    if not isinstance(params, list) or not any(isinstance(entry, Mapping) for entry in params):
        return frozenset()
    alive = (obj for obj in gc.get_objects() if issubclass(type(obj), Optimizer))
    return frozenset[str]().union(*(obj.defaults for obj in alive if obj.__dict__.get("param_groups") is params))


def explain_leftover(groups: Iterable[Mapping[str, Any]]) -> str | None:
    """What to say where the largest ``lr`` is surely one of another optimizer, or None."""
    largest = max((float(group["lr"]) for group in groups), default=0.0)
    if not 0.0 < largest <= LEFTOVER * DEFAULT_LR:
        return None
    return (
        f"lr={largest:g} looks like a value for another optimizer. Here lr multiplies the rule's own step size: "
        f"{DEFAULT_LR:g}, the default, suits most runs, and {largest:g} will barely train. Leave lr out."
    )


class Rates:
    """Looks whether the program itself keeps ``lr`` where it was meant for another optimizer.

    A rate that still rises is a warm-up and says nothing yet, however long it takes.
    """

    def __init__(self) -> None:
        self._largest = math.inf  # of this run; unknown in one that was resumed
        self._rose = 0  # number of the step in which it was reached

    def explain_leftover(self, step: int, groups: Iterable[Mapping[str, Any]]) -> str | None:
        """What to say where ``lr`` was never large enough to train and has stopped rising, or None.

        Args:
            step: Number of the step, from zero.
            groups: With ``lr`` as it is in that step. Where a scheduler set it, ``initial_lr`` is what it is a share
                of: a warm-up by epochs keeps ``lr`` small for as long as an epoch is.
        """
        highest = max((float(group[key]) for group in groups for key in _RATES if key in group), default=0.0)
        if step == 0 or highest > self._largest:
            self._largest, self._rose = highest, step
        if step - self._rose < SLOW - 1 or not 0.0 < self._largest <= LEFTOVER * DEFAULT_LR:
            return None
        return (
            f"lr was {self._largest:g} at most in the first {step + 1} steps, which barely train, and has stopped "
            "rising. Here lr multiplies the rule's own step size: where the program or a scheduler sets it, let it "
            f"rise to {DEFAULT_LR:g}."
        )


def refuse_flattened(tensors: Iterable[Tensor]) -> None:
    """Raise TypeError for parameters that FullyShardedDataParallel (FSDP1) has flattened.

    With ``use_orig_params`` they look like any others, so that the wrappers alive are asked.
    """
    tensors = list(tensors)
    known = {id(tensor) for tensor in tensors}
    wrappers = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")
    found = any(type(tensor).__name__ == "FlatParameter" for tensor in tensors)
    if not found and wrappers is not None:
        kind = wrappers.FullyShardedDataParallel
        modules = (obj for obj in gc.get_objects() if issubclass(type(obj), kind))
        found = any(id(param) in known for module in modules for param in module.parameters())
    if found:
        raise TypeError(
            "NGOptimizer cannot train parameters that FullyShardedDataParallel (FSDP1) has flattened: a piece of a "
            "flat vector does not know its neurons. Use FSDP2, torch.distributed.fsdp.fully_shard, or "
            "DistributedDataParallel."
        )


def refuse_sharded_later(named: Mapping[str, Tensor], roots: Iterable[nn.Module]) -> None:
    """Raise RuntimeError where a model was sharded after its optimizer was built, so that nothing would be trained."""
    own = {id(tensor) for tensor in named.values()}
    for root in roots:
        if later := [name for name, p in root.named_parameters() if is_sharded(p) and id(p) not in own]:
            raise RuntimeError(
                f"The model was sharded after its optimizer was built: {later[0]} is now another tensor, and "
                "NGOptimizer has the old one. Call fully_shard (and parallelize_module) first, then NGOptimizer(model)."
            )


def check_parameter(name: str, param: Any) -> None:
    """Raise TypeError for a parameter that no step can be made for. What torch checks itself is left to torch."""
    if is_sharded(param) and any(placement.is_partial() for placement in param.placements):
        raise TypeError(f"{name} has placements {param.placements}: a parameter must be sharded or replicated.")
    if not isinstance(param, Tensor):
        return
    if param.is_complex():
        raise TypeError(f"{name} is complex ({param.dtype}), not supported. Store torch.view_as_real of it instead.")
    if param.layout != torch.strided:
        raise TypeError(f"{name} has layout {param.layout}, not supported. Use a dense parameter.")


def checked_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter group with its options checked, and turned into plain Python numbers.

    Raises:
        TypeError: An option is of the wrong type.
        ValueError: An option is out of range.
        NotImplementedError: An option is not supported.
    """
    refuse_unsupported(group)
    if group["schedule"] not in SCHEDULES:
        raise ValueError(f"schedule={group['schedule']!r} must be one of {SCHEDULES}.")
    checked = {name: checked_number(name, group[name]) for name in ("lr", "weight_decay")}
    return {**group, **checked, "total_steps": checked_total_steps(group["total_steps"])}


def checked_number(name: str, value: Any) -> float | Tensor:
    """A finite number that is not negative: a float, or the one-element tensor that was given."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name} must be one number, got a tensor of shape {tuple(value.shape)}.")
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}, but must be a number.")
    if not (math.isfinite(float(value)) and float(value) >= 0.0):
        raise ValueError(f"{name}={value!r} must be finite and not negative.")
    return value if isinstance(value, Tensor) else float(value)


def checked_total_steps(value: Any) -> int | None:
    """A positive whole number, also as a float or a number of numpy; or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value).is_integer() or value < 1:
        raise ValueError(f"total_steps={value!r} must be a positive whole number, or None.")
    return int(float(value))


def check_gradient(name: str, grad: Tensor) -> None:
    """Raise RuntimeError for a sparse gradient, as torch's dense optimizers do."""
    if grad.is_sparse or grad.layout != torch.strided:
        raise RuntimeError(
            f"The gradient of {name} is sparse, not supported. Build the layer with sparse=False "
            "(nn.Embedding, nn.EmbeddingBag), or train it with torch.optim.SparseAdam."
        )
