"""Meta-parameters as one flat vector and back, and the parts of a rule that can be trained apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Theta = dict[str, Tensor]


def flatten(theta: Mapping[str, Tensor]) -> Tensor:  # -> [dim]
    """All meta-parameters, one after the other."""
    return torch.cat([value.reshape(-1) for value in theta.values()])


def unflatten(flat: Tensor, like: Mapping[str, Tensor]) -> Theta:  # [..., dim] -> each [..., *shape]
    """Inverse of `flatten`; leading axes stay."""
    parts = flat.split([value.numel() for value in like.values()], dim=-1)
    return {
        name: part.reshape((*flat.shape[:-1], *value.shape))
        for (name, value), part in zip(like.items(), parts, strict=True)
    }


def mask_of(parts: Sequence[str], masks: Mapping[str, Theta], like: Mapping[str, Tensor]) -> Tensor:  # -> [dim]
    """One where a meta-parameter belongs to one of the parts, else zero.

    Raises:
        ValueError: There is no such part.
    """
    unknown = [part for part in parts if part not in masks]
    if unknown:
        raise ValueError(f"This rule has no parts {unknown}; it has {', '.join(masks)}.")
    total = {name: torch.zeros_like(value) for name, value in like.items()}
    for part in parts:
        for name, mask in masks[part].items():
            total[name] = torch.maximum(total[name], mask.to(total[name]))
    return flatten(total)


def norm(flat: Tensor) -> float:
    """Euclidean norm."""
    return math.sqrt(float(flat.double().square().sum()))
