"""Reductions: symmetric ones turn ids inside into blocks; ordered ones freeze."""

from __future__ import annotations

from typing import Any

import torch

from ngopt.graph.labels import Label, axis_marks
from ngopt.graph.rules.registry import Tracer, rule

aten = torch.ops.aten


def call_arguments(tracer: Tracer, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Arguments of the op by the names of its schema, defaults included."""
    schema = tracer.node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((a.name for a in schema), args, strict=False)) | kwargs
    return {a.name: given.get(a.name, a.default_value) for a in schema}


def axes_of(x: Label, dim: Any) -> list[int]:
    """Normal form of a ``dim`` argument: None and () mean all axes."""
    dims = [dim] if isinstance(dim, int) else list(dim or range(x.ndim))
    return [d % x.ndim for d in dims] if x.ndim else []


@rule(
    aten.sum,
    aten.mean,
    aten.prod,
    aten.amax,
    aten.amin,
    aten.any,
    aten.all,
    aten.var,
    aten.std,
    aten.logsumexp,
    aten.var_mean,
    aten.std_mean,
    aten.aminmax,
    aten.linalg_vector_norm,
    aten.norm,
    aten.max.default,
    aten.min.default,
    aten.nansum,
    aten.count_nonzero,
    aten.median.default,
)
def symmetric(tracer: Tracer, *args: Any, **kwargs: Any) -> Label | list[Label]:
    """The result does not depend on the order of the entries that are reduced."""
    given = call_arguments(tracer, args, kwargs)
    x = args[0]
    out = tracer.algebra.reduce(x, axes_of(x, given.get("dim")), keepdim=len(tracer.shape) == x.ndim)
    return [out] * len(tracer.shapes) if len(tracer.shapes) > 1 else out


@rule(aten.max.dim, aten.min.dim, aten.median.dim, aten.mode, aten.kthvalue)
def with_index(tracer: Tracer, *args: Any, **kwargs: Any) -> list[Label]:
    """The value is a symmetric reduction; the index names a position, so where it is read the axis is frozen."""
    given = call_arguments(tracer, args, kwargs)
    x, axes = args[0], axes_of(args[0], given["dim"])
    if tracer.used(1):
        x = tracer.algebra.rigid(x, axes)
    out = tracer.algebra.reduce(x, axes, keepdim=given["keepdim"])
    return [out, out]


@rule(
    aten.cumsum,
    aten.cumprod,
    aten.cummax,
    aten.cummin,
    aten.logcumsumexp,
    aten.sort,
    aten.argsort,
    aten.topk,
    aten.argmax,
    aten.argmin,
    *(aten._fft_r2c, aten._fft_c2c, aten._fft_c2r),
)
def ordered(tracer: Tracer, *args: Any, **kwargs: Any) -> Label | list[Label]:
    """The order along the axes counts, so their ids are frozen; other axes are untouched."""
    given = call_arguments(tracer, args, kwargs)
    x, axes = args[0], axes_of(args[0], given.get("dim"))
    x = tracer.algebra.rigid(x, axes)
    rest = tracer.algebra.reduce(x, axes, keepdim=len(tracer.shape) == x.ndim)
    full = len(tracer.shape) == x.ndim
    out = Label(
        tracer.shape,
        rest.fields,
        rest.marks + (axis_marks(tracer.shape, axes) if full else ()),
        tags=x.tags,
    )
    return [out] * len(tracer.shapes) if len(tracer.shapes) > 1 else out


@rule(aten._softmax, aten._log_softmax, aten._safe_softmax, aten.softmax, aten.log_softmax)
def softmax(tracer: Tracer, x: Label, dim: int, *args: Any, **kwargs: Any) -> Label:
    """``exp(x) / sum(exp(x))``: a symmetric reduction, combined with its input."""
    total = tracer.algebra.reduce(x, [dim], keepdim=True)
    out = tracer.algebra.combine(x, total)
    tracer.record(out, "softmax")
    tags = out.tags | {"attention"} if tracer.attend(x) else out.tags
    return Label(out.shape, out.fields, out.marks, tags=tags)
