"""What can be exchanged with what, in four passes over a labelled program.

1. Ids that are tied form *classes*: one neuron, or one block (`ngopt.graph.classes`).
2. Classes are *coloured* by everything that sets them apart: colour refinement, i.e. the 1-dimensional
   Weisfeiler-Leman test, over the relations of children and parents (`ngopt.graph.refinement`).
3. Some classes are *blocks* of others: heads, groups of a norm.
4. *Swaps* of two classes of one colour are followed through parents and children, and so on
   (`ngopt.graph.swaps`). One that works out respects every relation, by construction; whether it also leaves the
   function unchanged is for the certificate to say.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ngopt.graph.classes import member_keys, merge_equal_parents, number_classes
from ngopt.graph.neurons import NeuronTable
from ngopt.graph.refinement import class_pairs, find_blocks, refine
from ngopt.graph.swaps import SiblingSet, sibling_sets


class Structure:
    """Classes of a labelled program, their relations, and what can be exchanged.

    Args:
        table: The ids.
        frozen: Ids whose classes may not move (their certificate failed).

    Attributes:
        class_of: ``[id]`` the class of each id.
        count: Number of classes.
        key: ``[id]`` tells the ids of a class apart.
        pairs: Classes and their parents.
        colour: ``[class]`` equal for those that look alike.
        is_block: ``[class]``.
    """

    def __init__(self, table: NeuronTable, frozen: frozenset[int] = frozenset()) -> None:
        self.table = table
        merge_equal_parents(table)
        self.class_of, self.count = number_classes(table)
        self.key = member_keys(table, self.class_of, frozen)
        self.pairs = class_pairs(table, self.class_of, self.key)
        self.colour = refine(self.class_of, self.key, self.count, self.pairs)
        self.is_block = find_blocks(self.colour, self.pairs)

    @cached_property
    def mobile(self) -> NDArray[np.bool_]:
        """``[class]`` whether a class shares its colour with another."""
        _, inverse, counts = np.unique(self.colour, return_inverse=True, return_counts=True)
        return counts[inverse] > 1

    @cached_property
    def sibling_sets(self) -> list[SiblingSet]:
        """All sets of classes that can be permuted at will, in order of first id."""
        return sibling_sets(self.colour, self.pairs, self.is_block, self.mobile)
