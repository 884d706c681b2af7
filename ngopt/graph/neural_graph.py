"""The neural graph: neurons as nodes, parameters as dense blocks of edges.

A `NeuralGraph` is plain data. `ngopt.trace` builds it; encoders and the optimizer only read it. Its parts are in
`ngopt.graph.elements`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ngopt.graph import drawing, export
from ngopt.graph.elements import GraphElements, NodeGroup, ParamBlock
from ngopt.graph.scaling import Scaling

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from ngopt.graph.symmetry import Generator

__all__ = ["NeuralGraph", "NodeGroup", "ParamBlock"]


@dataclass(frozen=True)
class NeuralGraph(GraphElements):
    """The neural graph of one module; see the module docstring. Made by `ngopt.trace`."""

    scalings: tuple[Scaling, ...] = ()  # sign and scale symmetries; found only if `trace` is asked to

    def generators(self) -> Iterator[Generator]:
        """Permutations that generate all discovered symmetries; see `Generator.apply`."""
        return self.symmetries.generators() if self.symmetries is not None else iter(())

    def fingerprint(self) -> str:
        """A hash of the function's structure: equal for equal architectures, whatever the weights or their order."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return export.fingerprint(self)

    def to_pyg(self, state: Mapping[str, Tensor] | None = None) -> Data:
        """A `torch_geometric.data.Data` with one edge per parameter entry; see `ngopt.graph.export.to_pyg`."""
        return export.to_pyg(self, state)

    def summary(self) -> str:
        """Node groups, parameters and symmetries as a table."""
        return export.summary(self)

    def draw(self, path: str | PathLike[str], state: Mapping[str, Tensor] | None = None, detail: str = "auto") -> None:
        """Draw the graph to an image file, neuron by neuron or in an overview; see `ngopt.graph.drawing.draw`."""
        drawing.draw(self, path, state, detail)

    def to(self, device: torch.device | str) -> NeuralGraph:
        """The same graph with its index tensors on ``device``."""
        return dataclasses.replace(
            self,
            blocks=tuple(b.to(device) for b in self.blocks),
            buffers=tuple(b.to(device) for b in self.buffers),
            links=self.links.to(device),
        )
