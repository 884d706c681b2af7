"""What a neural graph is made of: groups of nodes, and parameters as dense blocks of edges.

Nodes are numbered ``0 .. num_nodes - 1`` and sorted by `NodeGroup`. Every parameter is one `ParamBlock`, which says
how to see the tensor as a stack of matrices ``[group, row, col, tap]`` and which node stands at each row and column:
rows are the neurons written to (out), columns the neurons read from (in). Nothing is ever stored per weight.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ngopt.graph.symmetry import Symmetries


@dataclass(frozen=True)
class NodeGroup:
    """A contiguous range of nodes that stand for the same thing: one hidden layer, the heads of one attention, ...

    Nodes of a group that is not frozen are structurally interchangeable, and so share every structural feature.
    Nodes of a frozen group (inputs, outputs, positions) each have an identity of their own.
    """

    name: str
    start: int
    size: int
    kind: str  # "neuron" or "block" (head, kv-group, norm group, ...)
    frozen: bool
    activations: tuple[str, ...] = ()  # pointwise functions that the neurons pass through, e.g. ("relu",)

    @property
    def stop(self) -> int:
        """One past the last node."""
        return self.start + self.size


@dataclass(frozen=True)
class ParamBlock:
    """One parameter (or learned buffer) of the module, and where its entries lie on the graph.

    ``tensor.reshape(unfold).permute(perm).reshape(matrix_shape)`` is the matrix view ``[group, row, col, tap]``; for
    most tensors it copies nothing. Parameters with one neuron axis (bias, norm scale) have ``col_nodes is None`` and a
    matrix view ``[1, row, 1, tap]``: they are node features. All others are edges.
    """

    name: str
    shape: tuple[int, ...]
    unfold: tuple[int, ...]
    perm: tuple[int, ...]
    matrix_shape: tuple[int, int, int, int]  # group, row, col, tap
    row_nodes: Tensor  # [group, row] int64: the out neuron of each row
    row_slots: Tensor  # [group, row] int64: which of that neuron's rows it is (LSTM gate, ...)
    col_nodes: Tensor | None  # [group, col] int64: the in neuron of each column
    col_slots: Tensor | None  # [group, col] int64: which of that neuron's columns it is (flattened pixel, ...)
    role: str  # "weight", "query", "key", "value", "embedding", "bias", "scale", "table", "buffer", "unused"
    attributes: tuple[tuple[str, str], ...] = ()  # how it is used: (("op", "convolution"), ("stride", "2,2"), ...)
    aliases: tuple[str, ...] = ()  # other names of the same (tied) tensor
    is_buffer: bool = False
    step: int = 0  # place in the order in which the program first uses its parameters

    @property
    def is_edge(self) -> bool:
        """Whether entries join two neurons (weights) rather than belong to one (biases, scales)."""
        return self.col_nodes is not None

    @property
    def numel(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def fan_in(self) -> int:
        """Entries that are summed into one output: columns times taps; 1 for node features."""
        _, _, cols, taps = self.matrix_shape
        return cols * taps if self.is_edge else 1

    def to_matrix(self, tensor: Tensor) -> Tensor:
        """See a tensor shaped like the parameter as ``[group, row, col, tap]``; leading axes stay as they are."""
        lead = tensor.shape[: tensor.ndim - len(self.shape)]
        perm = (*range(len(lead)), *(len(lead) + axis for axis in self.perm))
        return tensor.reshape((*lead, *self.unfold)).permute(perm).reshape((*lead, *self.matrix_shape))

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """Inverse of `to_matrix`, bit for bit."""
        lead = matrix.shape[:-4]
        permuted = tuple(self.unfold[axis] for axis in self.perm)
        inverse = (*range(len(lead)), *(len(lead) + self.perm.index(axis) for axis in range(len(self.perm))))
        return matrix.reshape((*lead, *permuted)).permute(inverse).reshape((*lead, *self.shape))

    def of_groups(self, start: int, stop: int) -> tuple[ParamBlock, int]:
        """Some groups as a block by itself, and the axis of the tensor along which all groups lie one behind another.

        Along it, the block is of the entries from ``start`` to ``stop`` times the axis' size over the number of groups.
        """
        first, groups = self.perm[0], self.matrix_shape[0]  # no axis before it is unfolded
        shape, unfold = list(self.shape), list(self.unfold)
        shape[first], unfold[first] = (stop - start) * shape[first] // groups, stop - start
        names = ("row_nodes", "row_slots", "col_nodes", "col_slots")
        some = {name: own[start:stop] for name in names if (own := getattr(self, name)) is not None}
        sizes = (stop - start, *self.matrix_shape[1:])
        return dataclasses.replace(self, shape=tuple(shape), unfold=tuple(unfold), matrix_shape=sizes, **some), first

    def to(self, device: torch.device | str) -> ParamBlock:
        """The same block with its index tensors on ``device``."""
        moved = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in ((f, getattr(self, f)) for f in ("row_nodes", "row_slots", "col_nodes", "col_slots"))
        }
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True)
class GraphElements:
    """Nodes, parameters and permutation symmetries of one module: all that drawing, exporting and searching read."""

    groups: tuple[NodeGroup, ...]
    blocks: tuple[ParamBlock, ...]  # every parameter element exactly once
    buffers: tuple[ParamBlock, ...] = ()  # learned buffers (BatchNorm statistics), same form
    links: Tensor = field(default_factory=lambda: torch.zeros(2, 0, dtype=torch.long))  # [2, link] node -> its block
    symmetries: Symmetries | None = None  # iterates over `Symmetry`; None for graphs made by hand
    certified: bool = False  # whether every symmetry was checked by numbers
    program: tuple[str, ...] = ()  # the ops of the forward pass with their settings
    given: Mapping[str, float] = field(default_factory=dict)  # parameter -> root mean square of its module's input

    @property
    def num_nodes(self) -> int:
        """Number of nodes: neurons and blocks."""
        return self.groups[-1].stop if self.groups else 0

    @property
    def num_parameters(self) -> int:
        """Number of parameter entries."""
        return sum(block.numel for block in self.blocks)

    @cached_property
    def edges(self) -> tuple[ParamBlock, ...]:
        """Blocks of edges in the order in which the program first uses them, whatever the order of registration."""
        used = (block for block in self.blocks if block.is_edge and block.role != "unused")
        return tuple(sorted(used, key=lambda block: block.step))

    def group_of(self, node: int) -> NodeGroup:
        """The group that a node is in."""
        return self.groups[bisect_right(self.groups, node, key=lambda group: group.start) - 1]
