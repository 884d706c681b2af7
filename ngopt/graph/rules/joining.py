"""Concatenation and padding: parts side by side, each with its own ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ngopt.graph.labels import Label, compress, unique_codes, varying
from ngopt.graph.rules.registry import Tracer, rule

aten = torch.ops.aten


@rule(aten.cat, aten.concat, aten.concatenate)
def cat(tracer: Tracer, parts: Sequence[Label], dim: int = 0) -> Label:
    """Ids are concatenated as the entries are; a mark tells the parts apart."""
    parts = [p for p in parts if p.shape != (0,)]
    dim %= len(tracer.shape)
    keys = _keys(parts, dim)
    clashing = {axis for key in keys if not _fits(parts, key, keys, dim) for axis in key | {dim}}
    if clashing:
        parts = [tracer.algebra.rigid(p, clashing) for p in parts]
        keys = _keys(parts, dim)
    fields = [_join_fields(tracer, parts, key, dim) for key in keys]
    marks = [_join_marks(parts, key, dim) for key in {frozenset(varying(m) - {dim}) for p in parts for m in p.marks}]
    which = torch.cat([torch.full((p.shape[dim],), i) for i, p in enumerate(parts)])
    marks.append(compress(which.reshape([-1 if a == dim else 1 for a in range(len(tracer.shape))])))
    joined = Label(tracer.shape, tuple(fields), tuple(m for m in marks if m.numel() > 1))
    tags = frozenset().union(*(p.tags for p in parts))
    out = tracer.algebra.moved(joined, tracer.shape, lambda f: f, lossless=False)
    return Label(out.shape, out.fields, out.marks, tags=tags)


def _of(fields: Sequence[Tensor], key: frozenset[int], dim: int) -> list[Tensor]:
    return [f for f in fields if varying(f) - {dim} == key]


def _keys(parts: Sequence[Label], dim: int) -> set[frozenset[int]]:
    """The sets of axes, beside the joined one, over which fields of the parts vary."""
    return {frozenset(varying(f) - {dim}) for p in parts for f in p.fields}


def _fits(parts: Sequence[Label], key: frozenset[int], keys: set[frozenset[int]], dim: int) -> bool:
    """Whether the fields over ``key`` can be joined: one per part, or none where the part does not vary there."""
    if any(key & other and key != other for other in keys):
        return False
    for part in parts:
        own = _of(part.fields, key, dim)
        if len(own) > 1 or (not own and key and any(varying(m) & key for m in part.marks)):
            return False
    return True


def _join_fields(tracer: Tracer, parts: Sequence[Label], key: frozenset[int], dim: int) -> Tensor:
    """One field over the joined axis. A part that does not vary over ``key`` may wear any ids there."""
    some = next(f for p in parts for f in _of(p.fields, key, dim))
    filler = some.narrow(dim, 0, 1) if key else torch.from_numpy(tracer.algebra.table.new(1)).reshape([1] * some.ndim)
    pieces = [_widen((_of(p.fields, key, dim) or [filler])[0], p.shape, key, dim) for p in parts]
    return compress(torch.cat(pieces, dim))


def _join_marks(parts: Sequence[Label], key: frozenset[int], dim: int) -> Tensor:
    pieces = []
    for part in parts:
        own = [m for m in part.marks if varying(m) - {dim} == key]
        codes = (
            unique_codes([_widen(m, part.shape, key, dim) for m in own])
            if own
            else torch.zeros([1] * len(part.shape), dtype=torch.long)
        )
        pieces.append(_widen(codes, part.shape, key, dim))
    return compress(torch.cat(pieces, dim))


def _widen(field: Tensor, shape: tuple[int, ...], key: frozenset[int], dim: int) -> Tensor:
    return field.expand([size if axis == dim or axis in key else 1 for axis, size in enumerate(shape)])


@rule(aten.constant_pad_nd)
def constant_pad(tracer: Tracer, x: Label, pad: list[int], *args: Any) -> Label:
    """Concatenation with constants (or slicing, for negative pads), axis by axis from the last."""
    for step in range(len(pad) // 2):
        before, after = pad[2 * step], pad[2 * step + 1]
        axis = x.ndim - 1 - step
        size = x.shape[axis]
        cut = slice(max(0, -before), size - max(0, -after))
        if cut != slice(0, size):
            index = (slice(None),) * axis + (cut,)
            x = tracer.algebra.rearrange(x, lambda f, index=index: f[index], lossless=False)
        sides = [Label((*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in (max(0, before), max(0, after))]
        if any(side.shape[axis] for side in sides):
            parts = [p for p in (sides[0], x, sides[1]) if p.shape[axis]]
            shape = (*x.shape[:axis], sum(p.shape[axis] for p in parts), *x.shape[axis + 1 :])
            x = cat(Shaped(tracer, shape), parts, axis)
    return x


class Shaped:
    """The tracer, with another output shape."""

    def __init__(self, tracer: Tracer, shape: tuple[int, ...]) -> None:
        self.algebra = tracer.algebra
        self.node = tracer.node
        self.shape = shape
