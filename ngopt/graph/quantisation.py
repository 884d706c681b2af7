"""Fake quantisation, written out: quantisation-aware training rounds weights and activations while it trains.

Torch has opaque ops for it, which take no float64 either. What they compute is entry-wise, with settings that are one
number or one per channel, taken from minima and maxima where an observer is on. Written out, the rules of those parts
carry it, and the certificate can run it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

_OWNERS = ("weight_fake_quant", "activation_post_process")  # what torch.ao.quantization calls its modules


def is_setting(name: str, buffer: Tensor) -> bool:
    """Whether a buffer holds a setting of every channel: a step, or what was observed there."""
    *_, owner, last = ("", *name.split("."))
    return owner.startswith(_OWNERS) and last in ("scale", "min_val", "max_val") and buffer.numel() > 1


def drawn_setting(name: str, normal: Tensor) -> Tensor:
    """A sensible setting from a normal draw: steps of 0.01 and more, minima and maxima on both sides of zero."""
    positive = 0.5 + normal.abs()
    return 0.02 * positive if name.endswith("scale") else -positive if name.endswith("min_val") else positive


def quantised(
    x: Tensor,
    scale: float | Tensor,  # one number, or [channel]
    zero_point: float | Tensor,  # the same
    axis: int | None,  # of the channels
    low: int,
    high: int,
) -> tuple[Tensor, Tensor]:
    """The nearest value that an integer from ``low`` to ``high`` stands for; and whether ``x`` is in that range."""
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    step, zero = (s.reshape(shape) if isinstance(s, Tensor) else s for s in (scale, zero_point))
    level = torch.round(x / step) + zero
    out = (torch.clamp(level, low, high) - zero) * step
    return out.to(x.dtype), (level >= low) & (level <= high)


def _one_step(x: Tensor, scale: float | Tensor, zero_point: float | Tensor, low: int, high: int) -> Any:
    return quantised(x, scale, zero_point, None, low, high)


def _one_step_if(x: Tensor, scale: Tensor, zero_point: Tensor, on: Tensor, low: int, high: int) -> Any:
    out, inside = quantised(x, scale, zero_point, None, low, high)
    return torch.where(on != 0, out, x), inside | (on == 0)


def _learnable(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, grad_factor: float = 1.0) -> Tensor:
    return _learnable_by_channel(x, scale, zero_point, None, low, high)


def _learnable_by_channel(
    x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, low: int, high: int, grad_factor: float = 1.0
) -> Tensor:
    return quantised(x, scale, torch.clamp(torch.round(zero_point), low, high), axis, low, high)[0]


def observed(
    x: Tensor,
    observing: Tensor,  # int [1]
    quantising: Tensor,  # int [1]
    least: Tensor,  # [channel], or one number; before the first observation [0], or infinite
    most: Tensor,  # the same
    scale: Tensor,  # the same
    zero_point: Tensor,  # the same
    share: float,
    low: int,
    high: int,
    axis: int,
    by_channel: bool = False,
    symmetric: bool = False,
) -> tuple[Tensor, ...]:
    """Quantise with a step that follows from running minima and maxima; these follow those of ``x`` by a share.

    Returns:
        What `quantised` does, and the new values of the four tensors.
    """
    rows = x.movedim(axis, 0).flatten(1) if by_channel else x.reshape(1, -1)
    least, most = (
        torch.where(observing != 0, _followed(old, now, share), old) if old.numel() else now
        for old, now in zip((least, most), torch.aminmax(rows, dim=1), strict=True)
    )
    step, zero = _settings(least, most, low, high, symmetric)
    out, inside = quantised(x, step, zero, axis if by_channel else None, low, high)
    on = quantising != 0
    if scale.numel():
        step, zero = torch.where(on, step, scale), torch.where(on, zero, zero_point)
    return torch.where(on, out, x), inside | ~on, least, most, step, zero.to(zero_point.dtype)


def _followed(old: Tensor, now: Tensor, share: float) -> Tensor:
    now = now.reshape(old.shape)
    return torch.where(torch.isinf(old), now, old + share * (now - old))


def _settings(least: Tensor, most: Tensor, low: int, high: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Step and zero point such that all from ``least`` to ``most``, and zero, can be had."""
    least, most = torch.clamp(least, max=0.0), torch.clamp(most, min=0.0)
    if symmetric:
        half = (high - low) // 2
        both, step = (least < 0) & (most > 0), torch.maximum(-least / (half + 1), most / half)
        least, most = torch.where(both, -(half + 1) * step, least), torch.where(both, half * step, most)
    step = (most - least) / (high - low)
    step = torch.where(step == 0, 0.1, step)
    return step, torch.clamp(torch.round(low - least / step), low, high)


def _observed_in_place(x: Tensor, observing: Tensor, quantising: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    out, inside, *new = observed(x, observing, quantising, *rest)
    for buffer, value in zip(rest, new, strict=False):
        buffer.resize_(value.shape).copy_(value)
    return out, inside


WRITTEN_OUT: dict[Any, Callable[..., Any]] = {
    aten.fake_quantize_per_tensor_affine_cachemask.default: _one_step,
    aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default: _one_step_if,
    aten.fake_quantize_per_channel_affine_cachemask.default: quantised,
    aten._fake_quantize_learnable_per_tensor_affine.default: _learnable,
    aten._fake_quantize_learnable_per_channel_affine.default: _learnable_by_channel,
    aten._fused_moving_avg_obs_fq_helper.default: _observed_in_place,
    aten._fused_moving_avg_obs_fq_helper_functional.default: observed,
}
"""Ops of fake quantisation, and what they do in terms of core ops."""
