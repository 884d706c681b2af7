"""Classes: ids that are tied are one neuron, or one block. The first of the passes of `ngopt.graph.structure`."""

from __future__ import annotations

import numpy as np

from ngopt.graph.hashing import Hashes, Ids, mix, sum_by, text_hash
from ngopt.graph.neurons import NeuronTable


def merge_equal_parents(table: NeuronTable) -> None:
    """Parents with the same children move together; a parent with one child is that child."""
    while True:
        before = np.unique(table.find(np.arange(table.size))).size
        by_members: dict[int, int] = {}
        for relation in table.relations:
            child, parent = table.find(relation.child), table.find(relation.parent)
            parents, where = np.unique(parent, return_inverse=True)
            keys = np.unique(np.stack([where, child], 1), axis=0)
            if len(keys) == len(parents) == len(np.unique(child)):
                table.tie(child, parent)
                continue
            members = sum_by(keys[:, 0], mix(keys[:, 1]), len(parents))
            twins = [(int(p), by_members.setdefault(int(m), int(p))) for p, m in zip(parents, members, strict=True)]
            ours, theirs = np.array(twins).T
            table.tie(ours, theirs)
        if np.unique(table.find(np.arange(table.size))).size == before:
            return


def number_classes(table: NeuronTable) -> tuple[Ids, int]:
    """``[id]`` the class of each id, and how many there are."""
    roots, class_of = np.unique(table.find(np.arange(table.size)), return_inverse=True)
    return class_of, len(roots)


def member_keys(table: NeuronTable, class_of: Ids, frozen: frozenset[int]) -> Hashes:
    """``[id]`` tells the ids of a class apart; those that look alike get keys of their own, which freezes.

    Args:
        table: Of the ids.
        class_of: ``[id]``.
        frozen: Ids whose classes may not move (their certificate failed).
    """
    key, doubtful = table.colour.copy(), np.zeros(0, np.int64)
    kinds = 0
    while True:
        order = np.lexsort((key, class_of))
        same = (key[order][1:] == key[order][:-1]) & (class_of[order][1:] == class_of[order][:-1])
        doubtful = np.unique(class_of[order][1:][same])
        if not len(doubtful) or len(np.unique(key)) == kinds:
            break
        kinds = len(np.unique(key))
        key = _look_along_ties(table, key)
    banned = np.unique(class_of[np.fromiter(frozen, np.int64, len(frozen))])
    hit = np.isin(class_of, np.union1d(doubtful, banned))
    key[hit] = mix(np.flatnonzero(hit).astype(np.uint64) ^ mix(text_hash("alone")))
    return key


def _look_along_ties(table: NeuronTable, key: Hashes) -> Hashes:
    """One round of colour refinement over tied pairs of ids."""
    with np.errstate(over="ignore"):
        total = mix(key)
        for a, b, number in table.ties:
            np.add.at(total, a, mix(key[b] + mix(number)))
            np.add.at(total, b, mix(key[a] + np.uint64(3) * mix(number)))
    return total
