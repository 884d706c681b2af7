"""Ops that only move entries: the op itself, run on the ids, says where they go."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from ngopt.graph.labels import Label, axis_marks
from ngopt.graph.rules.registry import Tracer, rule

aten = torch.ops.aten


@rule(aten.view, aten.reshape, aten._unsafe_view, aten.view_copy, aten._reshape_copy, aten.flatten, aten.unflatten)
def reshape(tracer: Tracer, x: Label, *sizes: Any, **kwargs: Any) -> Label:
    """Row-major order is kept; merged axes carry the product of their fields, split axes share one field."""
    if not isinstance(sizes[0], Sequence):  # a view as another dtype
        return tracer.algebra.rigid(x)
    return tracer.algebra.reshape(x, tracer.shape)


@rule(
    aten.flip,
    aten.repeat,
    aten.tile,
    aten.roll,
    aten.rot90,
    aten.repeat_interleave.self_int,
    aten.split_with_sizes_copy,
    aten.channel_shuffle,
    aten.native_channel_shuffle,
    aten.pixel_shuffle,
    aten.pixel_unshuffle,
    aten.tril,
    aten.triu,
)
def move(tracer: Tracer, x: Label, *args: Any, **kwargs: Any) -> Label | list[Label]:
    """Every output entry is an input entry (or zero), and takes its ids along. Which ids are left is an event."""
    op: Any = tracer.node.target
    if torch.Tag.inplace_view in op.tags:  # squeeze_ and its like: no entry is written
        op = getattr(getattr(aten, op.overloadpacket.__name__.removesuffix("_")), op._overloadname)
    if op in (aten.select.int, aten.unbind.int):
        tracer.condition(x, picked=(args[0] if args else 0) % x.ndim)
    if op in (aten.tril.default, aten.triu.default):  # which entries survive depends on both indices
        return tracer.algebra.rigid(x, (-1, -2))
    shapes = tracer.shapes
    lossless = len(shapes) == 1 and prod(shapes[0]) == prod(x.shape)

    if not isinstance(tracer.node.meta["val"], list | tuple):
        return tracer.algebra.moved(x, shapes[0], lambda f: op(f.expand(x.shape), *args, **kwargs), lossless=lossless)
    return [
        tracer.algebra.moved(x, shape, lambda f, i=i: op(f.expand(x.shape), *args, **kwargs)[i], lossless=lossless)
        for i, shape in enumerate(shapes)
    ]


@rule(aten.view_as_complex)
def view_as_complex(tracer: Tracer, x: Label) -> Label:
    """``[..., 2] -> [...]``: what stands first in a pair is the real part, so pairs keep their order."""
    pairs = tracer.algebra.rigid(x, [x.ndim - 1])
    return tracer.algebra.rearrange(pairs, lambda f: f[..., 0], lossless=False)


@rule(aten.view_as_real)
def view_as_real(tracer: Tracer, x: Label) -> Label:
    """``[...] -> [..., 2]``: the ids of a number are those of both of its parts, which have positions."""
    wide = tracer.algebra.reshape(x, (*x.shape, 1))
    return tracer.algebra.combine(wide, Label(tracer.shape, marks=axis_marks(tracer.shape, [x.ndim])))


@rule(aten.as_strided)
def as_strided(tracer: Tracer, x: Label, size: list[int], stride: list[int], offset: int | None = None) -> Label:
    """A change of memory format keeps every entry in place; other strides say nothing about ids: give up."""
    real = tracer.node.args[0].meta["val"]  # type: ignore[union-attr]
    same = all(n == 1 or a == b for n, a, b in zip(size, stride, real.stride(), strict=False))
    if tuple(size) == x.shape and not offset and (same or set(stride) == set(real.stride())):
        return x
    tracer.algebra.rigid(x)
    return tracer.algebra.rigid(Label(tracer.shape, tags=x.tags))
