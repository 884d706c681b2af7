"""What can be exchanged with what: classes of tied ids, refined by colour, and the swaps between them.

A *class* is a set of tied ids: one neuron or block. `Structure` colours classes by everything that sets them apart
(colour refinement, i.e. the 1-dimensional Weisfeiler-Leman test, over the child-parent relations), then looks for swaps
of two classes of one colour and follows what they force: parents, children, and so on. A swap that works out respects
every relation, by construction; whether it also leaves the function unchanged is for the certificate to say.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ngopt.graph.hashing import Hashes, Ids, mix, sum_by, text_hash
from ngopt.graph.neurons import NeuronTable

Swap = dict[int, int]  # class -> class, an involution; classes not listed stay


@dataclass(frozen=True)
class SiblingSet:
    """Classes that can be permuted at will: a symmetric group acting on ``members``."""

    members: tuple[int, ...]
    swaps: tuple[Swap, ...]  # of neighbours in `members`
    is_block: bool
    colour: int


class Structure:
    """Classes of a labelled program and their relations."""

    def __init__(self, table: NeuronTable, frozen: frozenset[int] = frozenset()) -> None:
        """``frozen``: ids whose classes may not move (their certificate failed)."""
        self.table = table
        self._merge_equal_parents()
        roots = table.find(np.arange(table.size))
        self.roots, self.class_of = np.unique(roots, return_inverse=True)  # [class], [id]
        self.count = len(self.roots)
        self.key = self._member_keys(frozen)
        self._collect_relations()
        self.colour = self._refine()
        self.is_block = self._find_blocks()

    # -- classes ----------------------------------------------------------------------------------------------------

    def _merge_equal_parents(self) -> None:
        """Parents with the same children move together; a parent with one child is that child."""
        table = self.table
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

    def _member_keys(self, frozen: frozenset[int]) -> Hashes:
        """``[id]`` tells the ids of a class apart; those that look alike get keys of their own, which freezes."""
        key, doubtful = self.table.colour.copy(), np.zeros(0, np.int64)
        kinds = 0
        while True:
            order = np.lexsort((key, self.class_of))
            same = (key[order][1:] == key[order][:-1]) & (self.class_of[order][1:] == self.class_of[order][:-1])
            doubtful = np.unique(self.class_of[order][1:][same])
            if not len(doubtful) or len(np.unique(key)) == kinds:
                break
            kinds = len(np.unique(key))
            key = self._look_along_ties(key)
        banned = np.unique(self.class_of[np.fromiter(frozen, np.int64, len(frozen))])
        hit = np.isin(self.class_of, np.union1d(doubtful, banned))
        key[hit] = mix(np.flatnonzero(hit).astype(np.uint64) ^ mix(text_hash("alone")))
        return key

    def _look_along_ties(self, key: Hashes) -> Hashes:
        """One round of colour refinement over tied pairs of ids."""
        with np.errstate(over="ignore"):
            total = mix(key)
            for a, b, number in self.table.ties:
                np.add.at(total, a, mix(key[b] + mix(number)))
                np.add.at(total, b, mix(key[a] + np.uint64(3) * mix(number)))
        return total

    def _collect_relations(self) -> None:
        """All child-parent pairs between classes, each with a hash of how they are related."""
        children, parents, kinds = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
        in_block = [np.zeros(0, bool)]
        for relation in self.table.relations:
            child, parent = self.class_of[relation.child], self.class_of[relation.parent]
            with np.errstate(over="ignore"):
                how = mix(self.key[relation.child] + np.uint64(3) * self.key[relation.parent] + mix(relation.number))
            apart = child != parent
            children.append(child[apart])
            parents.append(parent[apart])
            kinds.append(how[apart])
            in_block.append(np.full(int(apart.sum()), relation.is_block))
        self.child, self.parent, self.how = np.concatenate(children), np.concatenate(parents), np.concatenate(kinds)
        self.in_block = np.concatenate(in_block)  # [pair] a neuron in its block, rather than an index of its neuron

    def _refine(self) -> Hashes:
        """Colour refinement to its fixed point: ``[class]``."""
        with np.errstate(over="ignore"):
            colour = mix(sum_by(self.class_of, mix(self.key), self.count))
            kinds = len(np.unique(colour))
            while True:
                up = sum_by(self.child, mix(colour[self.parent] + self.how), self.count)
                down = sum_by(self.parent, mix(colour[self.child] + np.uint64(7) * self.how), self.count)
                colour = mix(colour + mix(up) + np.uint64(5) * mix(down))
                if len(np.unique(colour)) == kinds:
                    return colour
                kinds = len(np.unique(colour))

    def _find_blocks(self) -> np.ndarray:
        """``[class]`` whether a class is a block: members of a reduction that look alike, or a parent of such."""
        pairs = np.unique(np.stack([self.parent, self.child], 1), axis=0)
        look = np.stack([pairs[:, 0], self.colour[pairs[:, 1]].astype(np.int64)], 1)
        alike, count = np.unique(look, axis=0, return_counts=True)
        is_block = np.zeros(self.count, bool)
        is_block[alike[count > 1, 0]] = True
        reduced = np.zeros(self.count, bool)
        reduced[self.parent[self.in_block]] = True
        is_block &= reduced
        while True:
            above = self.parent[is_block[self.child]]
            if is_block[above].all():
                return is_block
            is_block[above] = True

    # -- swaps ------------------------------------------------------------------------------------------------------

    @cached_property
    def up(self) -> dict[int, list[tuple[int, int]]]:
        """class -> sorted (how, parent)."""
        return self._adjacency(self.child, self.parent)

    @cached_property
    def down(self) -> dict[int, list[tuple[int, int]]]:
        """class -> sorted (how, child)."""
        return self._adjacency(self.parent, self.child)

    def _adjacency(self, source: Ids, target: Ids) -> dict[int, list[tuple[int, int]]]:
        order = np.lexsort((target, self.colour[target], self.how, source))
        keep = self.mobile[source[order]]
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        order = order[keep]
        for s, h, t in zip(source[order].tolist(), self.how[order].tolist(), target[order].tolist(), strict=True):
            found[s].append((h, t))
        return found

    @cached_property
    def mobile(self) -> np.ndarray:
        """``[class]`` whether a class shares its colour with another."""
        _, inverse, counts = np.unique(self.colour, return_inverse=True, return_counts=True)
        return counts[inverse] > 1

    def swap(self, a: int, b: int) -> Swap | None:
        """Exchange two classes and all that this forces, matching children in order; None if it does not work."""
        moves: Swap = {a: b, b: a}
        todo = [(a, b)]
        while todo:
            x, y = todo.pop()
            for mine, theirs in ((self.up, self.up), (self.down, self.down)):
                left, right = mine.get(x, []), theirs.get(y, [])
                if len(left) != len(right):
                    return None
                if mine is self.up or left:
                    pairs = self._match(left, right, moves)
                    if pairs is None:
                        return None
                    for p, q in pairs:
                        if moves.setdefault(p, q) != q or moves.setdefault(q, p) != p:
                            return None
                        todo.append((p, q))
        return moves

    def _match(
        self, left: list[tuple[int, int]], right: list[tuple[int, int]], moves: Swap
    ) -> list[tuple[int, int]] | None:
        """Pair up two lists of neighbours that are not paired yet; None on a contradiction."""
        if left == right:  # shared neighbours: each must stay, or move within the list
            here = {n for _, n in left}
            return None if any(n in moves and moves[n] not in here for n in here) else []
        goals = set(right)
        free_left, taken = [], set()
        for how, n in left:
            if n in moves:
                if (how, moves[n]) not in goals:
                    return None
                taken.add((how, moves[n]))
            else:
                free_left.append((how, n))
        free_right = [item for item in right if item not in taken]
        pairs = []
        for (how, n), (other, m) in zip(free_left, free_right, strict=True):
            if how != other or self.colour[n] != self.colour[m] or moves.get(m, n) != n:
                return None
            if n != m:
                pairs.append((n, m))
        return pairs

    @cached_property
    def sibling_sets(self) -> list[SiblingSet]:
        """All sets of classes that can be permuted at will, in order of first id."""
        groups: dict[tuple, list[int]] = defaultdict(list)
        for c in np.flatnonzero(self.mobile).tolist():
            groups[int(self.colour[c]), tuple(sorted(self.up.get(c, ())))].append(c)
        found = []
        for (colour, _), members in groups.items():
            if len(members) > 1:
                found += self._runs(members, colour)
        return sorted(found, key=lambda s: s.members[0])

    def _runs(self, members: list[int], colour: int) -> list[SiblingSet]:
        """Chains of members whose neighbours can be swapped. A neuron does not take whole blocks along."""
        is_block = bool(self.is_block[members[0]])
        runs: list[tuple[list[int], list[Swap]]] = []
        for c in members:
            for chain, swaps in runs[:-4:-1]:
                moves = self.swap(chain[-1], c)
                if moves is not None and (is_block or not any(self.is_block[n] for n in moves)):
                    chain.append(c)
                    swaps.append(moves)
                    break
            else:
                runs.append(([c], []))
        return [SiblingSet(tuple(chain), tuple(swaps), is_block, colour) for chain, swaps in runs if swaps]
