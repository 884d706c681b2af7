"""Convolutions: matrix products over channels, with kernel taps and pixels that have an identity of their own."""

from __future__ import annotations

import torch

from ngopt.graph.labels import Label, axis_marks
from ngopt.graph.rules.normalisation import per_channel
from ngopt.graph.rules.registry import Tracer, rule

aten = torch.ops.aten


@rule(aten.convolution)
def convolution(
    tracer: Tracer,
    x: Label,
    weight: Label,
    bias: Label | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Label:
    """``out[n, (g o)] = sum_i w[(g o), i] * x[n, (g i)]``, with ``*`` over pixels and taps.

    Pixels and taps are read in a fixed order, so ids that run over them are frozen. Over channels it is a matrix
    product per group: ids meet along ``(g, i)``, and the sum over i leaves blocks ``g``.
    """
    algebra = tracer.algebra
    spatial = weight.ndim - 2
    batched = x if x.ndim == spatial + 2 else algebra.reshape(x, (1, *x.shape))
    if groups > 1:
        tracer.condition(weight, groups=groups)
    tracer.direction(weight, {1}, "out" if transposed else "in")  # first: conditional ids vary along axis 0 too
    tracer.direction(weight, {0}, "in" if transposed else "out")
    tracer.attribute(
        weight,
        op="convolution",
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        transposed=transposed,
    )
    pixels = range(2, spatial + 2)
    channels = algebra.reduce(algebra.rigid(batched, pixels), pixels, keepdim=False)  # [n, (g i)]
    kernel = algebra.reduce(algebra.rigid(weight, pixels), pixels, keepdim=False)  # [(g o), i]; transposed [(g i), o]
    n = channels.shape[0]
    left = algebra.reshape(channels, (n, groups, -1 if not groups else channels.shape[1] // groups, 1))  # [n, g, i, 1]
    right = algebra.reshape(kernel, (1, groups, kernel.shape[0] // groups, kernel.shape[1]))
    if not transposed:
        right = algebra.rearrange(right, lambda f: f.mT, lossless=True)  # [1, g, i, o]
    out = algebra.reduce(algebra.combine(left, right), [2], keepdim=False)  # [n, g, o]
    shape = tracer.shape if x.ndim == spatial + 2 else (1, *tracer.shape)
    out = algebra.reshape(out, (*shape[:2], *(1,) * spatial))
    if bias is not None:
        out = algebra.combine(out, per_channel(tracer, bias, spatial + 2))
    full = Label(shape, out.fields, out.marks + axis_marks(shape, pixels), tags=x.tags | weight.tags)
    return full if x.ndim == spatial + 2 else algebra.reshape(full, tracer.shape)
