"""Matrix views: which axes of a parameter are rows and columns of its ``[group, row, col, tap]``."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from ngopt.graph.hashing import Ids
from ngopt.graph.labelling import Labelling
from ngopt.graph.structure import Structure


@dataclass(frozen=True)
class View:
    """The matrix view of one parameter.

    Attributes:
        row: Axis of the rows; None for a scalar.
        col: Axis of the columns; None for parameters that belong to neurons.
        given: Axis that picks the group, if any.
        groups: How many groups.
    """

    row: int | None
    col: int | None
    given: int | None = None
    groups: int = 1

    def unfold(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, int, int, int]]:
        """Sizes, permutation and result; see `ngopt.graph.elements.ParamBlock`."""
        sizes, places, group = [], {}, []
        for axis, size in enumerate(shape):
            if axis == self.given:
                group.append(len(sizes))
                sizes.append(self.groups)
                size //= self.groups
            places[axis] = len(sizes)
            sizes.append(size)
        row = [places[self.row]] if self.row is not None else []
        col = [places[self.col]] if self.col is not None else []
        taps = [i for i in range(len(sizes)) if i not in (*group, *row, *col)]
        count = [prod(sizes[i] for i in part) for part in (group, row, col, taps)]
        return tuple(sizes), (*group, *row, *col, *taps), (count[0], count[1], count[2], count[3])

    def ids(self, labelling: Labelling, name: str, axis: int | None) -> Ids:
        """``[group, index]`` ids along one axis; of the parameter as a whole without an axis."""
        if axis is None:
            return labelling.tensors[name][0].numpy().reshape(1, 1)
        ids = labelling.tensors[name][axis]
        wide = ids.expand([n if a in (axis, self.given) else 1 for a, n in enumerate(labelling.shapes[name])])
        if self.given is None or self.given == axis:
            return wide.numpy().reshape(self.groups, -1)
        one_per_group = torch.arange(self.groups) * (wide.shape[self.given] // self.groups)
        wide = wide.index_select(self.given, one_per_group)
        return (wide if self.given < axis else wide.transpose(self.given, axis)).numpy().reshape(self.groups, -1)


def matrix_view(labelling: Labelling, structure: Structure, name: str) -> View:
    """Rows are the axis that is written to, columns the one that is read from.

    Where the program says neither, axes whose neurons can be exchanged go first.
    """
    shape, ids = labelling.shapes[name], labelling.tensors[name]
    if len(shape) < 2:
        return View(0 if shape else None, None)
    ways = {axis: labelling.directions.get((name, axis)) for axis in range(len(shape))}
    wish = next((c for c in labelling.conditionals.values() if c.tensor == name), None)
    # An axis that only picks the group (the experts of a stack) is neither row nor column, where there is another.
    spent = wish.given if wish is not None and shape[wish.given] == wish.groups else None
    outs = [axis for axis, way in ways.items() if way == "out"]
    row = next((axis for axis in outs if axis != spent), next(iter(outs), None))
    col = next((axis for axis, way in ways.items() if way == "in" and axis != row), None)

    def moves(axis: int) -> bool:
        return axis != spent and bool(structure.mobile[structure.class_of[ids[axis].numpy().ravel()]].any())

    mobile = [axis for axis in range(len(shape)) if moves(axis)]
    rest = [*mobile, *(axis for axis in range(len(shape)) if axis not in mobile)]
    rest = [axis for axis in rest if axis not in (row, col)]
    is_vector = row is None and col is None and len(mobile) < 2 and (mobile or len(shape) > 2)
    row = rest.pop(0) if row is None else row
    col = None if is_vector else rest.pop(0) if col is None else col
    return View(row, col, wish.given, wish.groups) if wish else View(row, col)
