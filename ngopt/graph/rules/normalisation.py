"""Normalisations: statistics over some axes, combined with the input and with scales and shifts per channel."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from ngopt.graph.labels import Label
from ngopt.graph.rules.reduction import call_arguments
from ngopt.graph.rules.registry import Tracer, known, rule

aten = torch.ops.aten


def per_channel(tracer: Tracer, vector: Label, ndim: int) -> Label:
    """See ``[channel]`` as ``[1, channel, 1, ...]``."""
    return tracer.algebra.reshape(vector, (1, vector.shape[0]) + (1,) * (ndim - 2))


@rule(*known("native_layer_norm", "_fused_rms_norm"))  # the second one came with torch 2.9
def layer_norm(
    tracer: Tracer, x: Label, shape: list[int], weight: Any = None, bias: Any = None, *rest: Any
) -> list[Label]:
    """Mean and variance are symmetric in the normalised axes; scale and shift belong to the entries they multiply."""
    axes = range(x.ndim - len(shape), x.ndim)
    statistics = tracer.algebra.reduce(x, axes, keepdim=True)
    given = [p for p in (weight, bias) if isinstance(p, Label)]
    out = tracer.algebra.combine(x, statistics, *given)
    tracer.record(out, "layer_norm")
    return [out] + [statistics] * (len(tracer.shapes) - 1)


@rule(aten.native_group_norm)
def group_norm(
    tracer: Tracer, x: Label, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, eps: float
) -> list[Label]:
    """As layer norm within each group of channels: the groups become blocks."""
    grouped = tracer.algebra.reshape(x, (n, groups, c // groups, *x.shape[2:]))
    statistics = tracer.algebra.reduce(grouped, range(2, grouped.ndim), keepdim=True)
    out = tracer.algebra.reshape(tracer.algebra.combine(grouped, statistics), x.shape)
    out = tracer.algebra.combine(out, *(per_channel(tracer, p, x.ndim) for p in (weight, bias) if p is not None))
    tracer.record(out, f"group_norm{groups}")
    flat = tracer.algebra.reduce(grouped, range(2, grouped.ndim), keepdim=False)
    return [out, flat, flat]


@rule(
    aten._native_batch_norm_legit,
    aten._native_batch_norm_legit_no_training,
    aten._native_batch_norm_legit_functional,
    aten.native_batch_norm,
    aten._batch_norm_no_update,
    aten._batch_norm_with_update_functional,
    aten.batch_norm,
    aten.cudnn_batch_norm,
)
def batch_norm(tracer: Tracer, *args: Any, **kwargs: Any) -> list[Label] | Label:
    """Every channel by itself: scale, shift and statistics belong to the channel."""
    given = call_arguments(tracer, args, kwargs)
    x = given["input"]
    vectors = [given.get(k) for k in ("weight", "bias", "running_mean", "running_var")]
    parts = [x, *(per_channel(tracer, v, x.ndim) for v in vectors if isinstance(v, Label))]
    if given.get("training"):
        parts.append(tracer.algebra.reduce(x, [0, *range(2, x.ndim)], keepdim=True))
    elif tracer.node.target is aten._native_batch_norm_legit.no_stats:
        parts.append(tracer.algebra.reduce(x, [0, *range(2, x.ndim)], keepdim=True))
    out = tracer.algebra.combine(*parts)
    tracer.record(out, "batch_norm")
    if len(tracer.shapes) == 1:
        return out
    channel = tracer.algebra.reduce(out, [0, *range(2, x.ndim)], keepdim=False)
    return [out, *(channel if prod(s) == prod(channel.shape) else Label(s) for s in tracer.shapes[1:])]
