"""Colours: which classes look alike. Colour refinement (1-WL) over the relations of children and parents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ngopt.graph.hashing import Hashes, Ids, mix, sum_by
from ngopt.graph.neurons import NeuronTable


@dataclass(frozen=True)
class ClassPairs:
    """All pairs of a class and a parent of it.

    Attributes:
        child: ``[pair]``.
        parent: ``[pair]``.
        how: ``[pair]`` a hash of how they are related.
        in_block: ``[pair]`` whether it is a neuron in its block, rather than an index of its neuron.
    """

    child: Ids
    parent: Ids
    how: Hashes
    in_block: NDArray[np.bool_]


def class_pairs(table: NeuronTable, class_of: Ids, key: Hashes) -> ClassPairs:
    """The relations of ids, as relations of their classes."""
    children, parents, kinds = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    in_block = [np.zeros(0, bool)]
    for relation in table.relations:
        child, parent = class_of[relation.child], class_of[relation.parent]
        with np.errstate(over="ignore"):
            how = mix(key[relation.child] + np.uint64(3) * key[relation.parent] + mix(relation.number))
        apart = child != parent
        children.append(child[apart])
        parents.append(parent[apart])
        kinds.append(how[apart])
        in_block.append(np.full(int(apart.sum()), relation.is_block))
    return ClassPairs(
        np.concatenate(children), np.concatenate(parents), np.concatenate(kinds), np.concatenate(in_block)
    )


def refine(class_of: Ids, key: Hashes, count: int, pairs: ClassPairs) -> Hashes:
    """``[class]`` colours at the fixed point: equal for classes that nothing sets apart."""
    with np.errstate(over="ignore"):
        colour = mix(sum_by(class_of, mix(key), count))
        kinds = len(np.unique(colour))
        while True:
            up = sum_by(pairs.child, mix(colour[pairs.parent] + pairs.how), count)
            down = sum_by(pairs.parent, mix(colour[pairs.child] + np.uint64(7) * pairs.how), count)
            colour = mix(colour + mix(up) + np.uint64(5) * mix(down))
            if len(np.unique(colour)) == kinds:
                return colour
            kinds = len(np.unique(colour))


def find_blocks(colour: Hashes, pairs: ClassPairs) -> NDArray[np.bool_]:
    """``[class]`` whether a class is a block: members of a reduction that look alike, or a parent of such."""
    both = np.unique(np.stack([pairs.parent, pairs.child], 1), axis=0)
    look = np.stack([both[:, 0], colour[both[:, 1]].astype(np.int64)], 1)
    alike, count = np.unique(look, axis=0, return_counts=True)
    is_block = np.zeros(len(colour), bool)
    is_block[alike[count > 1, 0]] = True
    reduced = np.zeros(len(colour), bool)
    reduced[pairs.parent[pairs.in_block]] = True
    is_block &= reduced
    while True:
        above = pairs.parent[is_block[pairs.child]]
        if is_block[above].all():
            return is_block
        is_block[above] = True
