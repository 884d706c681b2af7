"""Ops that only move entries: the op itself, run on the ids, says where they go."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from ngopt.graph.labels import Label
from ngopt.graph.rules.registry import Tracer, rule

aten = torch.ops.aten


@rule(aten.view, aten.reshape, aten._unsafe_view, aten.view_copy, aten._reshape_copy, aten.flatten, aten.unflatten)
def reshape(tracer: Tracer, x: Label, *sizes: Any, **kwargs: Any) -> Label:
    """Row-major order is kept; merged axes carry the product of their fields, split axes share one field."""
    if not isinstance(sizes[0], Sequence):  # a view as another dtype
        return tracer.algebra.rigid(x)
    return tracer.algebra.reshape(x, tracer.shape)


@rule(
    aten.flip, aten.repeat, aten.tile, aten.roll, aten.rot90, aten.repeat_interleave.self_int, aten.split_with_sizes_copy,
    aten.channel_shuffle, aten.native_channel_shuffle, aten.pixel_shuffle, aten.pixel_unshuffle, aten.tril, aten.triu,
)
def move(tracer: Tracer, x: Label, *args: Any, **kwargs: Any) -> Label | list[Label]:
    """Every output entry is an input entry (or zero), and takes its ids along. Which ids are left is an event."""
    op = tracer.node.target
    assert callable(op)
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


@rule(aten.as_strided)
def as_strided(tracer: Tracer, x: Label, *args: Any) -> Label:
    """Strides of the real tensor say nothing about the ids: give up."""
    tracer.algebra.rigid(x)
    return tracer.algebra.rigid(Label(tracer.shape, tags=x.tags))
