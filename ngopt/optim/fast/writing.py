"""What a step writes: into the state, and into the weights.

On a GPU the host does not wait to learn whether all gradients are finite. There a step has a *gate*, true or false on
the device: where it is closed, every write leaves what it finds.
"""

# pyright: reportPrivateImportUsage=false
# (torch's own optimizers are built on torch._foreach_*, and there is no public name for it)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Change:
    """How some weights change in a step: ``w <- (1 - rate * weight_decay) w - rate * change``.

    Attributes:
        names: Of the parameters.
        changes: Of each, in its shape.
        rates: Of each.
        weight_decays: Of each.
    """

    names: Sequence[str]
    changes: list[Tensor]
    rates: Sequence[float]
    weight_decays: Sequence[float]


def apply_(change: Change, weights: Mapping[str, Tensor], gate: Tensor | None = None) -> None:
    """Change the weights, where the gate is open. Uses up the changes, which must be finite even if it is closed."""
    each, rates = [weights[name] for name in change.names], change.rates
    changes = [x.to(weight.dtype) for x, weight in zip(change.changes, each, strict=True)]
    if gate is not None and each:
        if any(change.weight_decays):
            torch._foreach_add_(changes, torch._foreach_mul(each, list(change.weight_decays)))
        torch._foreach_mul_(changes, gate.to(changes[0].dtype))
    elif any(change.weight_decays):
        torch._foreach_mul_(each, [1.0 - rate * own for rate, own in zip(rates, change.weight_decays, strict=True)])
    if len(set(rates)) > 1:
        torch._foreach_mul_(changes, [-rate for rate in rates])
        torch._foreach_add_(each, changes)
    elif each:
        torch._foreach_add_(each, changes, alpha=-rates[0])


def write_(target: Tensor, value: Tensor, gate: Tensor | None) -> None:
    """``target <- value``, where the gate is open or there is none."""
    if gate is None:
        target.copy_(value)
    else:
        torch.where(gate, value.to(target.dtype), target, out=target)
