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
    keys = {frozenset(varying(f) - {dim}) for p in parts for f in p.fields}
    aligned = all(a == b or not a & b for a in keys for b in keys)
    if not aligned or any(len(_of(p.fields, key, dim)) > 1 for p in parts for key in keys):
        axes = set().union(*keys) | {dim}
        parts = [tracer.algebra.rigid(p, axes) for p in parts]
        keys = {frozenset(varying(f) - {dim}) for p in parts for f in p.fields}
    fields = [f for key in keys for f in _join_fields(tracer, parts, key, dim)]
    marks = [_join_marks(parts, key, dim) for key in {frozenset(varying(m) - {dim}) for p in parts for m in p.marks}]
    which = torch.cat([torch.full((p.shape[dim],), i) for i, p in enumerate(parts)])
    marks.append(compress(which.reshape([-1 if a == dim else 1 for a in range(len(tracer.shape))])))
    joined = Label(tracer.shape, tuple(fields), tuple(m for m in marks if m.numel() > 1))
    tags = frozenset().union(*(p.tags for p in parts))
    out = tracer.algebra.moved(joined, tracer.shape, lambda f: f, lossless=False)
    return Label(out.shape, out.fields, out.marks, tags=tags)


def _of(fields: Sequence[Tensor], key: frozenset[int], dim: int) -> list[Tensor]:
    return [f for f in fields if varying(f) - {dim} == key]


def _join_fields(tracer: Tracer, parts: Sequence[Label], key: frozenset[int], dim: int) -> list[Tensor]:
    """One field over the joined axis. A part that does not vary over ``key`` may wear any ids there."""
    filler = next((f for p in parts for f in _of(p.fields, key, dim) if dim not in varying(f)), None)
    pieces = []
    for part in parts:
        own = _of(part.fields, key, dim)
        if own:
            piece = own[0]
        elif not key:
            piece = torch.from_numpy(tracer.algebra.table.new(1)).reshape([1] * len(part.shape))
        elif filler is not None and not any(varying(m) & key for m in part.marks):
            piece = filler
        else:  # this part has positions where the others have neurons
            for p in parts:
                for f in _of(p.fields, key, dim):
                    tracer.algebra.table.freeze(f.numpy().ravel())
            return []
        pieces.append(_widen(piece, part.shape, key, dim))
    return [compress(torch.cat(pieces, dim))]


def _join_marks(parts: Sequence[Label], key: frozenset[int], dim: int) -> Tensor:
    pieces = []
    for part in parts:
        own = [m for m in part.marks if varying(m) - {dim} == key]
        codes = unique_codes([_widen(m, part.shape, key, dim) for m in own]) if own else torch.zeros([1] * len(part.shape), dtype=torch.long)
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
            x = cat(_Shaped(tracer, shape), parts, axis)
    return x


class _Shaped:
    """The tracer, with another output shape."""

    def __init__(self, tracer: Tracer, shape: tuple[int, ...]) -> None:
        self.algebra = tracer.algebra
        self.node = tracer.node
        self.shape = shape
