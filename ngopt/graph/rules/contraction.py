"""Matrix products: unsqueeze, multiply, sum. All of them reduce to one function."""

from __future__ import annotations

from typing import Any

import torch

from ngopt.graph.labels import Label
from ngopt.graph.rules.registry import Tracer, rule

aten = torch.ops.aten


def contract(tracer: Tracer, a: Label, b: Label, *, batch: bool) -> Label:
    """``out[.., m, n] = sum_k a[.., m, k] b[.., k, n]``: a product of broadcast tensors, reduced over k.

    Where ids meet along k they are tied; a field that runs over k and a batch axis (heads, groups) leaves its blocks.
    """
    k = 2 if batch else 1
    for x, inner in ((a, k), (b, k - 1)):
        if "activation" not in x.tags:
            tracer.condition(x)
        outer = 2 * k - 1 - inner
        tracer.direction(x, {inner}, "in")
        tracer.direction(x, {outer}, "out")
        tracer.attribute(x, op="linear")
    left = tracer.algebra.reshape(a, (*a.shape, 1))
    right = tracer.algebra.reshape(b, (*b.shape[: k - 1], 1, *b.shape[k - 1 :]))
    tags = (a.tags | b.tags) - {"attention"}
    if "attention" in a.tags:
        tracer.roles(b, {k}, "value")
    elif "activation" in a.tags and "activation" in b.tags:
        tags |= {tracer.score((a, {k}), (b, {k - 1}))}
    out = tracer.algebra.reduce(tracer.algebra.combine(left, right), [k], keepdim=False)
    return Label(out.shape, out.fields, out.marks, tags=tags)


@rule(aten.mm)
def mm(tracer: Tracer, a: Label, b: Label) -> Label:
    """Matrix product; see `contract`."""
    return contract(tracer, a, b, batch=False)


@rule(aten.bmm)
def bmm(tracer: Tracer, a: Label, b: Label) -> Label:
    """Batched matrix product; see `contract`."""
    return contract(tracer, a, b, batch=True)


@rule(aten.addmm, aten.baddbmm)
def addmm(tracer: Tracer, bias: Label, a: Label, b: Label, **kwargs: Any) -> Label:
    """A matrix product, then a pointwise sum."""
    return tracer.algebra.combine(contract(tracer, a, b, batch=a.ndim == 3), bias)


@rule(aten._trilinear)
def trilinear(
    tracer: Tracer,
    a: Label,
    b: Label,
    c: Label,
    expand1: list[int],
    expand2: list[int],
    expand3: list[int],
    sumdim: list[int],
    unroll: int = 1,
) -> Label:
    """Three factors, unsqueezed, multiplied and summed (`nn.Bilinear`)."""
    factors = []
    for x, axes in ((a, expand1), (b, expand2), (c, expand3)):
        shape = list(x.shape)
        for axis in sorted(axes):
            shape.insert(axis, 1)
        factors.append(tracer.algebra.reshape(x, shape))
    return tracer.algebra.reduce(tracer.algebra.combine(*factors), sumdim, keepdim=False)


@rule(aten.mv)
def mv(tracer: Tracer, a: Label, b: Label) -> Label:
    """Matrix times vector: a product, reduced over the last axis."""
    return tracer.algebra.reduce(tracer.algebra.combine(a, b), [1], keepdim=False)


@rule(aten.dot, aten.vdot)
def dot(tracer: Tracer, a: Label, b: Label) -> Label:
    """A product, reduced over everything."""
    return tracer.algebra.reduce(tracer.algebra.combine(a, b), [0], keepdim=False)


@rule(aten.linear)
def linear(tracer: Tracer, x: Label, weight: Label, bias: Label | None = None) -> Label:
    """``x W^T + b`` over the last axis of x."""
    rows = tracer.algebra.reshape(x, (-1 if not x.ndim else _rows(x), x.shape[-1]))
    turned = tracer.algebra.rearrange(weight, lambda f: f.mT, lossless=True)
    out = tracer.algebra.reshape(contract(tracer, rows, turned, batch=False), tracer.shape)
    return tracer.algebra.combine(out, bias) if bias is not None else out


def _rows(x: Label) -> int:
    return torch.Size(x.shape[:-1]).numel()
