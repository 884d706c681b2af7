"""Nodes: which classes become nodes of the graph, in which groups, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ngopt.graph.elements import NodeGroup
from ngopt.graph.hashing import Ids, mix
from ngopt.graph.labelling import Labelling
from ngopt.graph.neurons import ROLES
from ngopt.graph.structure import Structure
from ngopt.graph.views import View


@dataclass(frozen=True)
class Nodes:
    """The nodes of a graph.

    Attributes:
        home: ``[class]`` the class that has the node: of a slot, its neuron; of all others, itself.
        node_of: ``[class]`` the node of each class, -1 where it has none.
        group_of: ``[class]`` the place of its group, -1 where it has none.
        groups: In order.
    """

    home: Ids
    node_of: Ids
    group_of: Ids
    groups: tuple[NodeGroup, ...]

    @property
    def names(self) -> dict[int, str]:
        """Class -> name of its group."""
        return {c: self.groups[g].name for c, g in enumerate(self.group_of.tolist()) if g >= 0}


def number_nodes(labelling: Labelling, structure: Structure, views: Mapping[str, View]) -> Nodes:
    """Number the nodes group by group, in the order in which parameters mention them."""
    home = neurons_of_slots(structure)
    collected = _Collector(structure)
    for name, view in views.items():
        for axis, way in ((view.col, " input"), (view.row, "")):
            if axis is not None or not way:
                ids = view.ids(labelling, name, axis).ravel()
                layer = name.removesuffix(".weight").removesuffix("_weight") + way
                collected.add(home[structure.class_of[ids]], layer, structure.table.role[ids].astype(np.int64))
    collected.add_blocks(home)
    groups = _describe(labelling, structure, collected, home)
    return Nodes(home, collected.number(), collected.group_of, groups)


def neurons_of_slots(s: Structure) -> Ids:
    """``[class] -> class``: a flattened pixel that is fixed by its channel is a slot of the channel, not a neuron."""
    home = np.arange(s.count)
    single = ~s.is_block[s.pairs.parent]
    child, parent = s.pairs.child[single], s.pairs.parent[single]
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


def links(structure: Structure, nodes: Nodes) -> Tensor:  # [2, link]
    """Pairs of a node and the block that it belongs to."""
    child, parent = (nodes.node_of[nodes.home[x]] for x in (structure.pairs.child, structure.pairs.parent))
    keep = (child >= 0) & (parent >= 0) & (child != parent)
    pairs = np.unique(np.stack([child[keep], parent[keep]], 1), axis=0)
    return torch.from_numpy(pairs.T.copy()).reshape(2, -1)


class _Collector:
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
        child, parent = home[self.s.pairs.child], home[self.s.pairs.parent]
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


def _describe(labelling: Labelling, s: Structure, found: _Collector, home: Ids) -> tuple[NodeGroup, ...]:
    """The groups, with the functions that their neurons pass through."""
    chosen = found.group_of >= 0
    members = np.bincount(found.group_of[chosen], minlength=len(found.names))
    starts = np.concatenate([[0], np.cumsum(members)])
    blocks = set(found.group_of[chosen & s.is_block].tolist())
    functions: dict[int, dict[str, None]] = {}
    for ids, what in labelling.functions:
        for group in np.unique(found.group_of[home[s.class_of[ids]]]).tolist():
            functions.setdefault(group, {})[what] = None
    return tuple(
        NodeGroup(
            name,
            int(starts[i]),
            int(members[i]),
            "block" if i in blocks else "neuron",
            found.frozen[i],
            tuple(functions.get(i, ())),
        )
        for i, name in enumerate(found.names)
    )
