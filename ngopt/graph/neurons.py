"""Neuron ids: what is known of each index of each parameter axis.

Every axis of every parameter is a *leg*: a range of fresh integer ids, one per index. While the module is read, ids are

* **tied**: they stand for the same neuron and can only move together (union-find);
* given **parents**: a neuron belongs to a block (an attention head), or an index to its neuron (a flattened pixel);
* **coloured**: a 64-bit sum of everything that sets an id apart. Two ids that saw the same events can be exchanged;
  a *frozen* id is simply one with a colour of its own.

All operations are vectorised over numpy arrays of ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ngopt.graph.hashing import Hashes, Ids, mix, text_hash, unique_pairs


@dataclass(frozen=True)
class Leg:
    """The ids of one axis of one tensor, in order; conditional legs repeat per index of another axis."""

    tensor: str
    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class Relation:
    """``child[i]`` belongs to ``parent[i]``; ``is_block`` tells a neuron's block from an index's neuron."""

    child: Ids
    parent: Ids
    is_block: bool
    number: int


class NeuronTable:
    """All ids, what is tied to what, and what is known of each."""

    def __init__(self) -> None:
        self.size = 0
        self._root = np.zeros(1024, np.int64)
        self._colour = np.zeros(1024, np.uint64)
        self._role = np.zeros(1024, np.int8)
        self._touched = np.zeros(1024, bool)
        self.legs: list[Leg] = []
        self.relations: list[Relation] = []
        self.ties: list[tuple[Ids, Ids, int]] = []  # tied pairs, and the number of the event
        self._events = 0

    @property
    def colour(self) -> Hashes:
        """``[id]`` sum of the events each id saw."""
        return self._colour[: self.size]

    @property
    def role(self) -> NDArray[np.int8]:
        """``[id]`` index into `ROLES`."""
        return self._role[: self.size]

    @property
    def touched(self) -> NDArray[np.bool_]:
        """``[id]`` whether the program computes with it."""
        return self._touched[: self.size]

    def new(self, count: int, tensor: str = "", axis: int = 0) -> Ids:
        """Fresh ids, all of one kind."""
        start, self.size = self.size, self.size + count
        while self.size > len(self._root):
            grow = len(self._root)
            self._root = np.concatenate([self._root, np.zeros(grow, np.int64)])
            self._colour = np.concatenate([self._colour, np.zeros(grow, np.uint64)])
            self._role = np.concatenate([self._role, np.zeros(grow, np.int8)])
            self._touched = np.concatenate([self._touched, np.zeros(grow, bool)])
        ids = np.arange(start, self.size)
        self._root[start : self.size] = ids
        self._colour[start : self.size] = mix(text_hash(f"{tensor}:{axis}") if tensor else self.event())
        if tensor:
            self.legs.append(Leg(tensor, axis, start, self.size))
        return ids

    def event(self) -> int:
        """A number no event had before."""
        self._events += 1
        return self._events

    def find(self, ids: Ids) -> Ids:
        """The representative of each id's class of tied ids."""
        roots = self._root[ids]
        while True:
            above = self._root[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._root[ids] = roots
        return roots

    def tie(self, a: Ids, b: Ids) -> None:
        """``a[i]`` and ``b[i]`` stand for the same neuron."""
        self.ties.append((a, b, self.event()))
        while True:
            left, right = self.find(a), self.find(b)
            apart = left != right
            if not apart.any():
                return
            low, high = np.minimum(left, right)[apart], np.maximum(left, right)[apart]
            np.minimum.at(self._root, high, low)

    def attach(self, child: Ids, parent: Ids, *, is_block: bool) -> None:
        """``child[i]`` belongs to ``parent[i]`` (many-to-one)."""
        pairs = unique_pairs(child, parent)
        self.relations.append(Relation(pairs[:, 0], pairs[:, 1], is_block, self.event()))

    def paint(self, ids: Ids, hashes: Hashes | int) -> None:
        """Add an event to the colour of each id, as often as the id is listed."""
        values = np.broadcast_to(np.asarray(hashes, np.uint64), ids.shape)
        with np.errstate(over="ignore"):
            np.add.at(self._colour, ids.ravel(), values.ravel())

    def freeze(self, ids: Ids) -> None:
        """Give each id a colour of its own."""
        ids = np.unique(ids)
        self.paint(ids, mix(ids.astype(np.uint64) ^ mix(self.event())))

    def set_role(self, ids: Ids, role: int) -> None:
        """Set the role of each id and of all that is tied to it, where it has none yet."""
        hit = np.zeros(self.size, bool)
        hit[self.find(ids)] = True
        members = hit[self.find(np.arange(self.size))] & (self.role == 0)
        self.role[members] = role


ROLES = ("weight", "query", "key", "value")
