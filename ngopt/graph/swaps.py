"""Swaps: two classes of one colour, exchanged with all that this forces. Chains of swaps are symmetric groups."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ngopt.graph.hashing import Hashes, Ids
from ngopt.graph.refinement import ClassPairs

Swap = dict[int, int]  # class -> class, an involution; classes not listed stay
Neighbours = list[tuple[int, int]]  # sorted (how, class)


@dataclass(frozen=True)
class SiblingSet:
    """Classes that can be permuted at will: a symmetric group acting on ``members``."""

    members: tuple[int, ...]
    swaps: tuple[Swap, ...]  # of neighbours in `members`
    is_block: bool
    colour: int


def sibling_sets(
    colour: Hashes, pairs: ClassPairs, is_block: NDArray[np.bool_], mobile: NDArray[np.bool_]
) -> list[SiblingSet]:
    """All sets of classes that can be permuted at will, in order of first id.

    Args:
        colour: ``[class]``.
        pairs: Children and parents.
        is_block: ``[class]``.
        mobile: ``[class]`` whether a class shares its colour with another.
    """
    search = _Search(colour, pairs, mobile)
    groups: dict[tuple, list[int]] = defaultdict(list)
    for c in np.flatnonzero(mobile).tolist():
        groups[int(colour[c]), tuple(search.up.get(c, ()))].append(c)
    found = []
    for (own, _), members in groups.items():
        for chain, swaps in _runs(search, members, is_block):
            if swaps:
                found.append(SiblingSet(tuple(chain), tuple(swaps), bool(is_block[chain[0]]), own))
    return sorted(found, key=lambda s: s.members[0])


def _runs(search: _Search, members: list[int], is_block: NDArray[np.bool_]) -> list[tuple[list[int], list[Swap]]]:
    """Chains of members whose neighbours can be swapped. A neuron does not take whole blocks along."""
    runs: list[tuple[list[int], list[Swap]]] = []
    for c in members:
        for chain, swaps in runs[:-4:-1]:
            moves = search.swap(chain[-1], c)
            if moves is not None and (is_block[members[0]] or not any(is_block[n] for n in moves)):
                chain.append(c)
                swaps.append(moves)
                break
        else:
            runs.append(([c], []))
    return runs


class _Search:
    """Neighbours of every mobile class, and the swaps that they allow."""

    def __init__(self, colour: Hashes, pairs: ClassPairs, mobile: NDArray[np.bool_]) -> None:
        self.colour = colour
        self.up = self._neighbours(pairs.child, pairs.parent, pairs.how, mobile)
        self.down = self._neighbours(pairs.parent, pairs.child, pairs.how, mobile)

    def _neighbours(self, source: Ids, target: Ids, how: Hashes, mobile: NDArray[np.bool_]) -> dict[int, Neighbours]:
        """Mobile class -> its neighbours."""
        order = np.lexsort((target, self.colour[target], how, source))
        order = order[mobile[source[order]]]
        found: dict[int, Neighbours] = defaultdict(list)
        for s, h, t in zip(source[order].tolist(), how[order].tolist(), target[order].tolist(), strict=True):
            found[s].append((h, t))
        return found

    def swap(self, a: int, b: int) -> Swap | None:
        """Exchange two classes and all that this forces, matching children in order; None if it does not work."""
        moves: Swap = {a: b, b: a}
        todo = [(a, b)]
        while todo:
            x, y = todo.pop()
            for neighbours in (self.up, self.down):
                left, right = neighbours.get(x, []), neighbours.get(y, [])
                pairs = self._match(left, right, moves) if len(left) == len(right) else None
                if pairs is None:
                    return None
                for p, q in pairs:
                    if moves.setdefault(p, q) != q or moves.setdefault(q, p) != p:
                        return None
                    todo.append((p, q))
        return moves

    def _match(self, left: Neighbours, right: Neighbours, moves: Swap) -> list[tuple[int, int]] | None:
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
