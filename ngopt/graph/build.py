"""From labelled ids to a `NeuralGraph`: classes become nodes, tensors become blocks of edges."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from ngopt.graph.hashing import Ids, mix
from ngopt.graph.labelling import Labelling
from ngopt.graph.neural_graph import NeuralGraph, NodeGroup, ParamBlock
from ngopt.graph.neurons import ROLES
from ngopt.graph.structure import Structure
from ngopt.graph.symmetry import Symmetries


@dataclass(frozen=True)
class _Layout:
    """Which axes of a tensor are rows and columns of its matrix view."""

    row: int | None
    col: int | None
    given: int | None = None  # axis that picks the group
    groups: int = 1


def build_graph(labelling: Labelling, structure: Structure, certified: bool) -> NeuralGraph:
    """Assemble the graph. Nodes are numbered group by group, in the order in which parameters mention them."""
    home = _neurons_of_slots(structure)
    layouts = {name: _layout(labelling, structure, name) for name in labelling.tensors}
    nodes = _Nodes(structure)
    for name, layout in layouts.items():
        for axis, way in ((layout.col, " input"), (layout.row, "")):
            if axis is not None or not way:
                ids = _axis_ids(labelling, name, layout, axis).ravel()
                nodes.add(
                    home[structure.class_of[ids]],
                    name.removesuffix(".weight").removesuffix("_weight") + way,
                    structure.table.role[ids].astype(np.int64),
                )
    nodes.add_blocks(home)
    node_of = nodes.number()

    def block(name: str) -> ParamBlock:
        return _param_block(labelling, structure, name, layouts[name], home, node_of)

    names = {c: nodes.names[g] for c, g in enumerate(nodes.group_of.tolist()) if g >= 0}
    return NeuralGraph(
        groups=_describe_groups(labelling, structure, nodes, home, node_of),
        blocks=tuple(block(name) for name in labelling.tensors if name not in labelling.buffers),
        buffers=tuple(block(name) for name in labelling.tensors if name in labelling.buffers),
        links=_links(structure, home, node_of),
        symmetries=Symmetries(labelling, structure, names),
        certified=certified,
        program=tuple(labelling.program),
    )


def _neurons_of_slots(s: Structure) -> Ids:
    """``[class] -> class``: a flattened pixel that is fixed by its channel is a slot of the channel, not a neuron."""
    home = np.arange(s.count)
    single = ~s.is_block[s.parent]
    child, parent = s.child[single], s.parent[single]
    if len(child):
        pairs = np.unique(np.stack([child, parent], 1), axis=0)
        with np.errstate(over="ignore"):
            look = mix(s.colour[pairs[:, 0]] + mix(pairs[:, 1]))
        _, where, count = np.unique(look, return_inverse=True, return_counts=True)
        only = pairs[count[where] == 1]
        home[only[::-1, 0]] = only[::-1, 1]
    while not np.array_equal(home[home], home):
        home = home[home]
    return home


def _layout(labelling: Labelling, s: Structure, name: str) -> _Layout:
    shape, ids = labelling.shapes[name], labelling.tensors[name]
    if len(shape) < 2:
        return _Layout(0 if shape else None, None)
    ways = {axis: labelling.directions.get((name, axis)) for axis in range(len(shape))}
    wish = next((c for c in labelling.conditionals.values() if c.tensor == name), None)
    # An axis that only picks the group (the experts of a stack) is neither row nor column, where there is another.
    spent = wish.given if wish is not None and shape[wish.given] == wish.groups else None
    outs = [a for a, way in ways.items() if way == "out"]
    row = next((a for a in outs if a != spent), next(iter(outs), None))
    col = next((a for a, way in ways.items() if way == "in" and a != row), None)
    mobile = [a for a in range(len(shape)) if a != spent and s.mobile[s.class_of[ids[a].numpy().ravel()]].any()]
    rest = [a for a in mobile if a not in (row, col)] + [a for a in range(len(shape)) if a not in mobile]
    rest = [a for a in rest if a not in (row, col)]
    is_vector = row is None and col is None and len(mobile) < 2 and (mobile or len(shape) > 2)
    row = rest.pop(0) if row is None else row
    col = None if is_vector else rest.pop(0) if col is None else col
    return _Layout(row, col, wish.given, wish.groups) if wish else _Layout(row, col)


def _unfold(
    shape: tuple[int, ...], layout: _Layout
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, int, int, int]]:
    """Sizes, permutation and result of the matrix view; see `ParamBlock`."""
    sizes, places, group = [], {}, []
    for axis, size in enumerate(shape):
        if axis == layout.given:
            group.append(len(sizes))
            sizes.append(layout.groups)
            size //= layout.groups
        places[axis] = len(sizes)
        sizes.append(size)
    row = [places[layout.row]] if layout.row is not None else []
    col = [places[layout.col]] if layout.col is not None else []
    taps = [i for i in range(len(sizes)) if i not in (*group, *row, *col)]
    count = [prod(sizes[i] for i in part) for part in (group, row, col, taps)]
    return tuple(sizes), (*group, *row, *col, *taps), (count[0], count[1], count[2], count[3])


def _axis_ids(labelling: Labelling, name: str, layout: _Layout, axis: int | None) -> Ids:
    """``[group, index]`` ids along one axis of the matrix view."""
    if axis is None:
        return labelling.tensors[name][0].numpy().reshape(1, 1)
    ids = labelling.tensors[name][axis]
    wide = ids.expand([n if a in (axis, layout.given) else 1 for a, n in enumerate(labelling.shapes[name])])
    if layout.given is None or layout.given == axis:
        return wide.numpy().reshape(layout.groups, -1)
    one_per_group = torch.arange(layout.groups) * (wide.shape[layout.given] // layout.groups)
    wide = wide.index_select(layout.given, one_per_group)
    return (wide if layout.given < axis else wide.transpose(layout.given, axis)).numpy().reshape(layout.groups, -1)


class _Nodes:
    """Collects the classes that become nodes, group by group."""

    def __init__(self, structure: Structure) -> None:
        self.s = structure
        self.group_of = np.full(structure.count, -1)  # [class]
        self.rank = np.zeros(structure.count, np.int64)  # [class] order of appearance
        self.names: list[str] = []
        self.frozen: list[bool] = []
        self._by_colour: dict[int, int] = {}
        self._seen = 0

    def add(self, classes: Ids, name: str, roles: Ids) -> None:
        """Add new classes in order: those of one colour share a group, and so do the frozen ones of a call."""
        _, first = np.unique(classes, return_index=True)
        first = np.sort(first)
        first = first[self.group_of[classes[first]] < 0]
        new, roles = classes[first], roles[first]
        self.rank[new] = self._seen + np.arange(len(new))
        self._seen += len(new)
        moving = self.s.mobile[new]
        if (~moving).any():
            self.group_of[new[~moving]] = self._group(name, frozen=True)
        colours, where = np.unique(self.s.colour[new[moving]], return_inverse=True)
        for i in dict.fromkeys(where.tolist()):
            colour = int(colours[i])
            if colour not in self._by_colour:
                role = int(roles[moving][where == i][0])
                self._by_colour[colour] = self._group(f"{name} {ROLES[role]}" if role else name, frozen=False)
            self.group_of[new[moving][where == i]] = self._by_colour[colour]

    def add_blocks(self, home: Ids) -> None:
        """Add the blocks that nodes belong to, and their blocks."""
        child, parent = home[self.s.child], home[self.s.parent]
        while True:
            new = np.unique(parent[(self.group_of[child] >= 0) & (self.group_of[parent] < 0)])
            if not len(new):
                return
            for p in new.tolist():
                inside = child[(parent == p) & (self.group_of[child] >= 0)]
                self.add(np.array([p]), f"{self.names[self.group_of[inside[0]]]} block", np.zeros(1, np.int64))

    def _group(self, name: str, *, frozen: bool) -> int:
        taken, unique = set(self.names), name
        for i in range(2, 1 << 30):
            if unique not in taken:
                break
            unique = f"{name} {i}"
        self.names.append(unique)
        self.frozen.append(frozen)
        return len(self.names) - 1

    def number(self) -> Ids:
        """``[class]`` node of each class, -1 where it is none."""
        node_of = np.full(self.s.count, -1)
        chosen = np.flatnonzero(self.group_of >= 0)
        order = chosen[np.lexsort((self.rank[chosen], self.group_of[chosen]))]
        node_of[order] = np.arange(len(order))
        return node_of


def _describe_groups(
    labelling: Labelling, s: Structure, nodes: _Nodes, home: Ids, node_of: Ids
) -> tuple[NodeGroup, ...]:
    members = np.bincount(nodes.group_of[nodes.group_of >= 0], minlength=len(nodes.names))
    starts = np.concatenate([[0], np.cumsum(members)])
    is_block = np.zeros(len(nodes.names), bool)
    chosen = nodes.group_of >= 0
    is_block[nodes.group_of[chosen & s.is_block]] = True
    functions: dict[int, dict[str, None]] = {}
    for ids, what in labelling.functions:
        for group in np.unique(nodes.group_of[home[s.class_of[ids]]]).tolist():
            functions.setdefault(group, {})[what] = None
    return tuple(
        NodeGroup(
            name,
            int(starts[i]),
            int(members[i]),
            "block" if is_block[i] else "neuron",
            nodes.frozen[i],
            tuple(functions.get(i, ())),
        )
        for i, name in enumerate(nodes.names)
    )


def _links(s: Structure, home: Ids, node_of: Ids) -> Tensor:
    child, parent = node_of[home[s.child]], node_of[home[s.parent]]
    keep = (child >= 0) & (parent >= 0) & (child != parent)
    pairs = np.unique(np.stack([child[keep], parent[keep]], 1), axis=0)
    return torch.from_numpy(pairs.T.copy()).reshape(2, -1)


def _param_block(labelling: Labelling, s: Structure, name: str, layout: _Layout, home: Ids, node_of: Ids) -> ParamBlock:
    shape = labelling.shapes[name]
    unfold, perm, matrix_shape = _unfold(shape, layout)
    row_ids = _axis_ids(labelling, name, layout, layout.row)
    col_ids = None if layout.col is None else _axis_ids(labelling, name, layout, layout.col)

    def nodes(ids: Ids) -> Tensor:
        return torch.from_numpy(node_of[home[s.class_of[ids]]])

    return ParamBlock(
        name,
        shape,
        unfold,
        perm,
        matrix_shape,
        row_nodes=nodes(row_ids),
        row_slots=_slots(s, row_ids, home),
        col_nodes=None if col_ids is None else nodes(col_ids),
        col_slots=None if col_ids is None else _slots(s, col_ids, home),
        role=_role(labelling, s, name, row_ids, layout),
        attributes=tuple(labelling.attributes.get(name, {}).items()),
        aliases=tuple(labelling.aliases.get(name, ())),
        is_buffer=name in labelling.buffers,
        step=labelling.steps.get(name, 0),
    )


def _slots(s: Structure, ids: Ids, home: Ids) -> Tensor:
    """Number the indices of one neuron alike for all neurons that have several: by colour, in order of appearance."""
    flat = ids.ravel()
    classes = s.class_of[flat]
    _, where, count = np.unique(home[classes], return_inverse=True, return_counts=True)
    many = count[where] > 1
    slots = np.zeros(len(flat), np.int64)
    if many.any():
        with np.errstate(over="ignore"):
            look = mix(s.colour[classes[many]] + s.key[flat[many]])
        _, first, kind = np.unique(look, return_index=True, return_inverse=True)
        slots[many] = np.argsort(np.argsort(first))[kind]
    return torch.from_numpy(slots.reshape(ids.shape))


def _role(labelling: Labelling, s: Structure, name: str, row_ids: Ids, layout: _Layout) -> str:
    if name in labelling.buffers:
        return "buffer"
    if name not in labelling.used:
        return "unused"
    if labelling.attributes.get(name, {}).get("op") == "embedding":
        return "embedding"
    if layout.col is None:
        last = name.rsplit(".", 1)[-1]
        axes = len(labelling.shapes[name]) - (layout.given is not None)
        return "table" if axes > 1 else "bias" if "bias" in last else "scale"
    roles = dict.fromkeys(s.table.role[row_ids.ravel()].tolist())
    return "+".join(ROLES[r] for r in roles)
