"""Look-ups and scatters: indices that are constants run on the ids; others freeze the axis they pick from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ngopt.graph.labels import Label, axis_marks
from ngopt.graph.rules.registry import Tracer, rule

aten = torch.ops.aten


def without_axis(tracer: Tracer, x: Label, axis: int) -> Label:
    """Freeze one axis and look at one index of it: ``[.., n, ..] -> [.., 1, ..]``."""
    return tracer.algebra.reduce(tracer.algebra.rigid(x, [axis]), [axis], keepdim=True)


@rule(aten.embedding)
def embedding(tracer: Tracer, weight: Label, index: Label, *args: Any, **kwargs: Any) -> Label:
    """Rows of a table, picked by an input: the rows have an identity of their own, the columns travel."""
    tracer.direction(weight, {0}, "in")
    tracer.direction(weight, {1}, "out")
    tracer.attribute(weight, op="embedding")
    row = without_axis(tracer, weight, 0)
    row = tracer.algebra.reshape(row, (*(1,) * index.ndim, weight.shape[1]))
    place = tracer.algebra.rigid(Label((*index.shape, 1), tags=index.tags), range(index.ndim))
    tracer.algebra.rigid(index)
    out = tracer.algebra.combine(row, place)
    return Label(out.shape, out.fields, out.marks, tags=out.tags | {"activation"})


@rule(aten._embedding_bag, aten._embedding_bag_forward_only)
def embedding_bag(tracer: Tracer, weight: Label, index: Label, *args: Any, **kwargs: Any) -> list[Label]:
    """Rows of a table, picked by an input and reduced over bags: as `embedding`, one row per bag."""
    tracer.algebra.rigid(index)
    bags = Label(tracer.shape[:-1], tags=index.tags)
    out = embedding(tracer, weight, bags)
    rest = [tracer.algebra.rigid(Label(shape, tags=index.tags)) for shape in tracer.shapes[1:]]
    return [out, *rest]


def indexed_axes(tracer: Tracer, indices: Sequence[Label | None]) -> tuple[list[int], bool]:
    """Axes that ``x[indices]`` picks from, and whether by a mask: that takes as many axes as it has itself.

    Args:
        tracer: At a call whose second argument is these indices.
        indices: Their labels.
    """
    axes: list[int] = []
    axis, masked = 0, False
    for index, node in zip(indices, tracer.node.args[1], strict=True):  # type: ignore[arg-type]
        is_mask = index is not None and node.meta["val"].dtype == torch.bool  # type: ignore[union-attr]
        width = index.ndim if is_mask else 1  # type: ignore[union-attr]
        axes += range(axis, axis + width) if index is not None else ()
        axis, masked = axis + width, masked or is_mask
    return axes, masked


def first_place(indexed: list[int]) -> int:
    """Where the axes of an index stand in what was picked: in the place of axes side by side, else in front."""
    return indexed[0] if indexed == list(range(indexed[0], indexed[-1] + 1)) else 0


def _masked(tracer: Tracer, x: Label, indexed: list[int]) -> Label:
    """As many entries as a mask lets through, of axes that are frozen."""
    rest, first = tracer.algebra.reduce(x, indexed, keepdim=False), first_place(indexed)
    place = tuple(tracer.shape[first : len(tracer.shape) - (rest.ndim - first)])
    rest = tracer.algebra.reshape(rest, (*rest.shape[:first], *(1 for _ in place), *rest.shape[first:]))
    out = tracer.algebra.combine(rest, shape=tracer.shape)
    marks = axis_marks(tracer.shape, range(first, first + len(place)))
    return Label(out.shape, out.fields, out.marks + marks, tags=x.tags | {"activation"})


@rule(aten.index, aten._unsafe_index)
def index(tracer: Tracer, x: Label, indices: list[Label | None]) -> Label:
    """``x[i, :, j]``. With constant indices the ids are picked alike; else the indexed axes are frozen."""
    return _picked(tracer, x, indices, *indexed_axes(tracer, indices))


def _picked(tracer: Tracer, x: Label, indices: list[Label | None], indexed: list[int], masked: bool) -> Label:
    given = [i for i in indices if i is not None]
    known = all(i.value is not None for i in given)
    if not known:
        for i in given:
            tracer.algebra.rigid(i)
        x = tracer.algebra.rigid(x, indexed)
        if masked:
            return _masked(tracer, x, indexed)
    picks = [
        None if i is None else i.value if i.value is not None else torch.zeros(i.shape, dtype=torch.long)
        for i in indices
    ]

    def pick(field: Tensor) -> Tensor:
        return torch.ops.aten.index(field.expand(x.shape), picks)

    out = tracer.algebra.moved(x, tracer.shape, pick, lossless=False)
    if not known:
        rank, first = max(i.ndim for i in given), first_place(indexed)
        marks = axis_marks(tracer.shape, range(first, first + rank))
        out = Label(out.shape, out.fields, out.marks + marks, tags=out.tags.union(*(i.tags for i in given)))
    return out


@rule(aten.index_select)
def index_select(tracer: Tracer, x: Label, dim: int, picks: Label) -> Label:
    """`index` along one axis."""
    dim %= max(x.ndim, 1)
    return _picked(tracer, x, [*[None] * dim, picks], [dim], masked=False)


@rule(aten.gather)
def gather(tracer: Tracer, x: Label, dim: int, picks: Label, **kwargs: Any) -> Label:
    """``out[.., i, ..] = x[.., picks[.., i, ..], ..]``: the picked axis is frozen."""
    dim %= max(x.ndim, 1)
    rest = without_axis(tracer, x, dim)
    fits = all(a == b for axis, (a, b) in enumerate(zip(x.shape, picks.shape, strict=True)) if axis != dim)
    if not fits:
        tracer.algebra.rigid(x)
        return tracer.algebra.rigid(Label(tracer.shape, tags=x.tags))
    out = tracer.algebra.combine(rest, tracer.algebra.rigid(picks, [dim]), shape=tracer.shape)
    return tracer.algebra.rigid(out, [dim])


@rule(
    aten.scatter,
    aten.scatter_add,
    aten.scatter_reduce,
    aten.index_add,
    aten.index_copy,
    aten.index_put,
    aten.slice_scatter,
    aten.select_scatter,
    aten._unsafe_index_put,
)
def scatter(tracer: Tracer, x: Label, *args: Any, **kwargs: Any) -> Label:
    """Entries written at given places of some axes: those axes are frozen, others keep the ids of both."""
    algebra, name = tracer.algebra, tracer.node.target.overloadpacket.__name__  # type: ignore[union-attr]
    if name in ("index_put", "_unsafe_index_put"):
        indices, source = args[0], args[1]
        dims, _ = indexed_axes(tracer, indices)
        for i in indices:
            if i is not None:
                algebra.rigid(i)
        if dims != list(range(len(dims))) or source.ndim < x.ndim - len(dims):
            algebra.rigid(source)
            return algebra.rigid(x)
        tail = x.ndim - len(dims)
        head = range(source.ndim - tail)
        source = algebra.reduce(algebra.rigid(source, head), head, keepdim=False) if source.ndim > tail else source
        rest = algebra.reduce(algebra.rigid(x, dims), dims, keepdim=True)
        out = algebra.combine(rest, source, shape=x.shape)
        return algebra.rigid(out, dims)
    if name == "select_scatter":
        source, dim = args[0], args[1] % x.ndim
        source = algebra.reshape(source, (*source.shape[:dim], 1, *source.shape[dim:]))
    elif name == "slice_scatter":
        source, dim = args[0], (args[1] if len(args) > 1 else 0) % x.ndim
    else:
        dim, places, source = args[0] % x.ndim, args[1], args[2] if len(args) > 2 else kwargs.get("source")
        algebra.rigid(places, [dim] if places.ndim == x.ndim else None)
        if not isinstance(source, Label):
            source = Label((1,) * x.ndim)
        if places.ndim == x.ndim:
            source = algebra.combine(source, algebra.rigid(places, [dim]))
    if source.ndim != x.ndim or any(
        a not in (b, 1) for i, (a, b) in enumerate(zip(source.shape, x.shape, strict=True)) if i != dim
    ):
        algebra.rigid(source)
        return algebra.rigid(x)
    out = algebra.combine(without_axis(tracer, x, dim), without_axis(tracer, source, dim), shape=x.shape)
    return algebra.rigid(out, [dim])
