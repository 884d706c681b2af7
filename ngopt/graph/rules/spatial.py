"""Ops on pixels, channel by channel: pooling, resizing, padding by reflection, sampling on a grid."""

from __future__ import annotations

from typing import Any

import torch

from ngopt.graph.labels import Label, axis_marks
from ngopt.graph.rules.registry import Tracer, rule

aten = torch.ops.aten


def per_pixel(tracer: Tracer, x: Label, axes: range, shape: tuple[int, ...]) -> Label:
    """Freeze ids that run over the pixels; the new pixels have an identity of their own."""
    channels = tracer.algebra.reduce(tracer.algebra.rigid(x, axes), axes, keepdim=True)
    marks = axis_marks(shape, range(len(shape) - len(axes), len(shape)))
    return Label(shape, channels.fields, channels.marks + marks, tags=x.tags)


def _ops(names: str) -> list[Any]:
    return [getattr(aten, name) for name in names.split() if hasattr(aten, name)]


@rule(
    *_ops(
        "max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices"
        " avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d"
        " adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
        " upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d"
        " upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa upsample_trilinear3d"
        " reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d"
    )
)
def pooling(tracer: Tracer, x: Label, *args: Any, **kwargs: Any) -> Label | list[Label]:
    """Every channel is treated alike, and by itself."""
    name = tracer.node.target.overloadpacket.__name__  # type: ignore[union-attr]
    count = next(int(c) for c in name if c.isdigit())
    out = per_pixel(tracer, x, range(x.ndim - count, x.ndim), tracer.shape)
    if "pad" not in name:
        tracer.record(out, name.strip("_").removesuffix("_with_indices"))
    return [out] * len(tracer.shapes) if len(tracer.shapes) > 1 else out


@rule(*_ops("grid_sampler grid_sampler_2d grid_sampler_3d"))
def grid_sampler(tracer: Tracer, x: Label, grid: Label, *args: Any) -> Label:
    """Pixels of every channel are read at the same places."""
    tracer.algebra.rigid(grid)
    return per_pixel(tracer, x, range(2, x.ndim), tracer.shape)


@rule(*_ops("im2col"))
def im2col(tracer: Tracer, x: Label, kernel: list[int], *args: Any) -> Label:
    """``[n, c, h, w] -> [n, (c tap), place]``: channels keep their ids, taps and places are fixed."""
    taps = kernel[0] * kernel[1]
    shape = (*x.shape[:-2], taps, tracer.shape[-1])
    flat = tracer.algebra.reshape(tracer.algebra.rigid(x, (-1, -2)), (*x.shape[:-2], 1, x.shape[-1] * x.shape[-2]))
    return tracer.algebra.reshape(per_pixel(tracer, flat, range(flat.ndim - 2, flat.ndim), shape), tracer.shape)
