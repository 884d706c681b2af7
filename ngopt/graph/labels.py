"""Labels: which neuron stands where in a tensor, and the algebra that carries them through a program.

A `Label` holds, for one tensor of a traced program,

* **fields**: integer tensors of neuron ids that broadcast to the tensor's shape (size 1 where they do not vary);
* **marks**: the same with plain position codes, for axes whose positions have an identity of their own.

*Invariant.* The value of a tensor at a position is a function of the ids and codes there: if a permutation ``g`` of
neurons is applied to the parameters, the entry that was at ids ``(i, j)`` is found at ids ``(g i, g j)``. `Algebra`
keeps this true through four moves: `rearrange` (ids travel with entries), `combine` (pointwise), `reduce` (symmetric
reductions) and `rigid` (give up, soundly). Each move adds to the `NeuronTable` what ``g`` must respect from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from ngopt.graph.hashing import Ids, mix, sum_by, unique_pairs
from ngopt.graph.neurons import NeuronTable


@dataclass(frozen=True)
class Label:
    """What is known of one tensor; see the module docstring."""

    shape: tuple[int, ...]
    fields: tuple[Tensor, ...] = ()
    marks: tuple[Tensor, ...] = ()
    value: Tensor | None = None  # the entries themselves, for small constants
    tags: frozenset[str] = frozenset()  # "activation": depends on an input; "attention": weighs values

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)


def compress(field: Tensor) -> Tensor:
    """Narrow every axis along which the field does not vary to size 1."""
    for axis, size in enumerate(field.shape):
        if size > 1:
            first = field.narrow(axis, 0, 1)
            if field.stride(axis) == 0 or bool((field == first).all()):
                field = first
    return field


def varying(field: Tensor) -> set[int]:
    """Axes along which a compressed field varies."""
    return {axis for axis, size in enumerate(field.shape) if size > 1}


def axis_marks(shape: Sequence[int], axes: Iterable[int] | None = None) -> tuple[Tensor, ...]:
    """One position code per index of each given axis (default: all) that is longer than 1."""
    axes = range(len(shape)) if axes is None else sorted(set(axes))
    return tuple(
        torch.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        for axis in axes
        if shape[axis] > 1
    )


def reshape_field(field: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Reshape a field as the tensor it broadcasts to, expanding only axes that are merged with a varying one."""
    pieces: list[int] = []
    sizes = list(field.shape)
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [i] if i < len(old) else [], [j] if j < len(new) else []
        a, b = prod(old[k] for k in left), prod(new[k] for k in right)
        i, j = i + len(left), j + len(right)
        while a != b:
            if a < b:
                a, i = a * old[i], i + 1
                left.append(i - 1)
            else:
                b, j = b * new[j], j + 1
                right.append(j - 1)
        if any(field.shape[k] > 1 for k in left):
            for k in left:
                sizes[k] = old[k]
            pieces += [new[k] for k in right]
        else:
            pieces += [1] * len(right)
    return field.expand(sizes).reshape(pieces)


def _dedupe(fields: Iterable[Tensor]) -> tuple[Tensor, ...]:
    kept: list[Tensor] = []
    for field in fields:
        if field.numel() > 1 and not any(
            f is field or (f.shape == field.shape and torch.equal(f, field)) for f in kept
        ):
            kept.append(field)
    return tuple(kept)


class Algebra:
    """The four moves, over one `NeuronTable`."""

    def __init__(self, table: NeuronTable) -> None:
        self.table = table
        self._blocks: dict[tuple[bytes, bytes], Ids] = {}
        self._seen: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # keeps the tensors alive, so ids stay unique

    # -- moves ---------------------------------------------------------------------------------------------------

    def rearrange(self, x: Label, op: Callable[[Tensor], Tensor], *, lossless: bool) -> Label:
        """Run an op that only moves entries on the ids. Unless ``lossless``, which ids are left is an event."""

        shape = tuple(op(torch.empty(x.shape, device="meta")).shape)
        return self.moved(x, shape, lambda field: op(field.expand(x.shape)), lossless=lossless)

    def reshape(self, x: Label, shape: Sequence[int]) -> Label:
        """`rearrange` for reshapes, without expanding the fields to full size."""
        return self.moved(x, tuple(shape), lambda f: reshape_field(f, x.shape, shape), lossless=True)

    def moved(self, x: Label, shape: tuple[int, ...], run: Callable[[Tensor], Tensor], *, lossless: bool) -> Label:
        """The label of a tensor of that shape whose fields are ``run`` on those of ``x``."""
        fields, marks = ([compress(run(field)) for field in group] for group in (x.fields, x.marks))
        out = Label(shape, _dedupe(fields), _dedupe(marks), tags=x.tags)
        if not lossless:
            for before, after in zip(x.fields, fields, strict=True):
                if before.numel() > 1 and after.numel() == 1:  # one neuron, read by itself
                    self.table.freeze(after.numpy().ravel())
            tangled = {axis for field in out.fields if not is_regular(field) for axis in varying(field)}
            if tangled:
                out = self.rigid(out, tangled)
            self.event(out)
            self._settle(out.fields, out.marks)
        return out

    def combine(self, *labels: Label, shape: Sequence[int] | None = None) -> Label:
        """Pointwise function of broadcast tensors: where two fields meet, their pairs of ids decide."""
        shape = tuple(shape if shape is not None else np.broadcast_shapes(*(x.shape for x in labels)))
        fields: tuple[Tensor, ...] = ()
        marks: tuple[Tensor, ...] = ()
        for label in labels:
            self._touch(label)
            pad = (None,) * (len(shape) - label.ndim)
            new_fields = tuple(f[pad] for f in label.fields) if pad else label.fields
            new_marks = tuple(m[pad] for m in label.marks) if pad else label.marks
            if fields or marks:
                self._cross(fields, new_marks)
                self._cross(new_fields, marks)
                fields = self._merge(fields, new_fields)
            else:
                fields = new_fields
            marks = _dedupe(marks + new_marks)
        return Label(shape, fields, marks, tags=frozenset().union(*(x.tags for x in labels)))

    def reduce(self, x: Label, axes: Iterable[int], *, keepdim: bool) -> Label:
        """Symmetric reduction (sum, mean, max, norm, ...): ids that vary inside become blocks."""
        axes = {axis % x.ndim for axis in axes} if x.ndim else set()
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        self._touch(x)
        fields: list[Tensor] = []
        marks: list[Tensor] = []
        for field in x.fields:
            outside = varying(field) - axes
            if not varying(field) & axes:
                fields.append(field)
            elif outside:
                block = self.block(field, outside)
                if block is None:
                    marks.append(row_codes(field, outside))
                else:
                    fields.append(block)
        marks += [row_codes(m, varying(m) - axes) if varying(m) & axes else m for m in x.marks]
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
        out = Label(shape, _dedupe(fields), _dedupe(marks), tags=x.tags)
        self._settle(out.fields, out.marks)
        if keepdim:
            return out
        squeeze = tuple(slice(None) if axis in kept else 0 for axis in range(x.ndim))
        return replace(
            out,
            shape=tuple(x.shape[axis] for axis in kept),
            fields=tuple(f[squeeze] for f in out.fields),
            marks=tuple(m[squeeze] for m in out.marks),
        )

    def rigid(self, x: Label, axes: Iterable[int] | None = None) -> Label:
        """Give up the symmetry of all fields that vary along the axes (default: all), which get position codes."""
        chosen = set(range(x.ndim)) if axes is None else {axis % x.ndim for axis in axes}
        frozen = [f for f in x.fields if varying(f) & chosen]
        kept = tuple(f for f in x.fields if not varying(f) & chosen)
        for field in frozen:
            self.table.freeze(field.numpy().ravel())
        touched = chosen.union(*(varying(f) for f in frozen))
        marks = tuple(m for m in x.marks if not varying(m) <= touched) + axis_marks(x.shape, touched)
        self._cross(kept, marks)
        return replace(x, fields=kept, marks=_dedupe(marks), value=None)

    def _touch(self, x: Label) -> None:
        """The entries are computed with, not only moved."""
        for field in x.fields:
            self.table.touched[field.numpy().ravel()] = True

    def event(self, x: Label) -> None:
        """Something happens to all entries of a tensor alike."""
        number = mix(self.table.event())
        for field in x.fields:
            self.table.paint(field.numpy(), number)

    # -- how fields relate ----------------------------------------------------------------------------------------

    def block(self, field: Tensor, outside: set[int]) -> Tensor | None:
        """Ids of the blocks ``{field[s, :]}`` over the axes ``outside``; None (and frozen) where these overlap."""
        order = sorted(outside) + [axis for axis in range(field.ndim) if axis not in outside]
        sizes = [field.shape[axis] for axis in order[: len(outside)]]
        ids = field.permute(order).reshape(prod(sizes), -1).numpy()  # [outside, inside]
        kind = row_kinds(ids)
        pairs = unique_pairs(ids.ravel(), np.repeat(kind, ids.shape[1]))
        if len(np.unique(pairs[:, 0])) < len(pairs):
            self.table.freeze(ids.ravel())
            return None
        shape = [field.shape[axis] if axis in outside else 1 for axis in range(field.ndim)]
        if len(pairs) == kind.max() + 1:  # blocks of one neuron are that neuron
            return compress(torch.from_numpy(np.ascontiguousarray(ids[:, 0])).reshape(shape))
        key = pairs[:, 0].tobytes(), pairs[:, 1].tobytes()
        if key not in self._blocks:
            self._blocks[key] = self.table.new(int(kind.max()) + 1)
            self.table.attach(pairs[:, 0], self._blocks[key][pairs[:, 1]], is_block=True)
        return compress(torch.from_numpy(self._blocks[key][kind]).reshape(shape))

    def _merge(self, old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Relate all pairs of fields of two tensors; drop those that another one determines."""
        alive = {id(f): f for f in old + new}
        for f in old:
            for g in new:
                if id(f) in alive and id(g) in alive and f is not g:
                    for lost in self._relate(f, g):
                        alive.pop(id(lost), None)
        return _dedupe(alive.values())

    def _relate(self, f: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        """Make permutations respect the pairs in which ids of two fields occur; returns fields not needed any more."""
        shared = varying(f) & varying(g)
        if not shared:
            return ()
        if varying(f) - shared and varying(g) - shared:
            left, right = self.block(f, shared), self.block(g, shared)
            if left is not None and right is not None:
                self._relate(left, right)
            else:
                self._cross((f, g), (row_codes(f, shared), row_codes(g, shared)))
            return ()
        a, b = (t.numpy().ravel() for t in torch.broadcast_tensors(f, g))
        if np.array_equal(a, b):
            return (g,)
        pairs = unique_pairs(a, b)
        count_a, count_b = len(np.unique(pairs[:, 0])), len(np.unique(pairs[:, 1]))
        if len(pairs) == count_a == count_b:
            self.table.tie(pairs[:, 0], pairs[:, 1])
            return (g,)
        if len(pairs) == count_a:
            self.table.attach(pairs[:, 0], pairs[:, 1], is_block=False)
            return (g,)
        if len(pairs) == count_b:
            self.table.attach(pairs[:, 1], pairs[:, 0], is_block=False)
            return (f,)
        if len(pairs) < count_a * count_b:
            self._components(pairs)
        return ()

    def _components(self, pairs: Ids) -> None:
        """Ids that meet every id of their connected component share a block with it; anything else is frozen."""
        codes = [np.unique(pairs[:, side], return_inverse=True) for side in (0, 1)]
        (ids_a, a), (ids_b, b) = codes
        seen_a = sum_by(a, mix(ids_b[b]), len(ids_a))  # hash of each id's partners
        kinds_a, kind_a = np.unique(seen_a, return_inverse=True)
        block_of_b = np.full(len(ids_b), -1)
        block_of_b[b] = kind_a[a]
        sizes_a = np.bincount(kind_a, minlength=len(kinds_a))
        sizes_b = np.bincount(block_of_b, minlength=len(kinds_a))
        if not (block_of_b[b] == kind_a[a]).all() or (sizes_a * sizes_b).sum() != len(pairs):
            self.table.freeze(pairs.ravel())
            return
        blocks = self.table.new(len(kinds_a))
        self.table.attach(ids_a, blocks[kind_a], is_block=True)
        self.table.attach(ids_b, blocks[block_of_b], is_block=True)

    def _cross(self, fields: Iterable[Tensor], marks: Iterable[Tensor]) -> None:
        """An id is set apart by the position codes that it is seen with."""
        for field in fields:
            for mark in marks:
                if (id(field), id(mark)) in self._seen or not varying(field) & varying(mark):
                    continue
                self._seen[id(field), id(mark)] = field, mark
                ids, codes = (t.numpy().ravel() for t in torch.broadcast_tensors(field, mark))
                self.table.paint(ids, mix(codes.astype(np.uint64) ^ mix(self.table.event())))

    def _settle(self, fields: tuple[Tensor, ...], marks: tuple[Tensor, ...]) -> None:
        """Record how the fields and marks of one new tensor stand to each other."""
        self._cross(fields, marks)
        for i, f in enumerate(fields):
            for g in fields[i + 1 :]:
                self._relate(f, g)


def row_kinds(ids: Ids) -> Ids:
    """``[row, column] -> [row]``: number the different rows, in order of appearance.

    Rows must agree in order: what else varies along them may pair up differently with a shuffled row.
    """
    with np.errstate(over="ignore"):
        hashes = mix(mix(ids) + mix(np.arange(ids.shape[1]))).sum(1, dtype=np.uint64)
    _, first, kind = np.unique(hashes, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[kind]


def is_regular(field: Tensor) -> bool:
    """Whether slices along every axis are equal or share no id. Others (circulant tables) tie three things at once."""
    axes = varying(field)
    ids = field.numpy()
    if len(axes) < 2 or len(np.unique(ids)) == ids.size:
        return True
    for axis in axes:
        rows = np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)
        pairs = unique_pairs(rows.ravel(), np.repeat(row_kinds(rows), rows.shape[1]))
        if len(np.unique(pairs[:, 0])) < len(pairs):
            return False
    return True


def row_codes(mark: Tensor, outside: set[int]) -> Tensor:
    """One code per different row ``mark[s, :]`` over the axes ``outside``."""
    order = sorted(outside) + [axis for axis in range(mark.ndim) if axis not in outside]
    sizes = [mark.shape[axis] for axis in sorted(outside)]
    _, codes = torch.unique(mark.permute(order).reshape(prod(sizes), -1), dim=0, return_inverse=True)
    return compress(codes.reshape([mark.shape[axis] if axis in outside else 1 for axis in range(mark.ndim)]))


def unique_codes(marks: Sequence[Tensor]) -> Tensor:
    """One code per different tuple of codes, broadcast over the marks."""
    stacked = torch.stack(torch.broadcast_tensors(*marks))
    _, codes = torch.unique(stacked.reshape(len(marks), -1), dim=1, return_inverse=True)
    return codes.reshape(stacked.shape[1:])
