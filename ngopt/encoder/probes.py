"""Probe features: what learned inputs do inside each network, read off at its neurons.

K learned inputs are run through every network of a stack. Whatever arrives at a linear layer is a feature of the
neurons that it reads, and so are the outputs. Features permute with the neurons, since the network itself does it. An
encoder with probes sees more than weights: its results belong in a table of their own. After Kofinas et al., ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from ngopt.encoder.layout import edge_blocks
from ngopt.encoder.relations import add_rows
from ngopt.graph.neural_graph import NeuralGraph


class ProbeFeatures(nn.Module):
    """Node features from running learned inputs; see the module docstring.

    Args:
        module: The networks' architecture: takes one tensor ``[sample, *input]``. Its own weights are of no interest.
        example: An input, ``[sample, *input]``; probes start as standard normal, or uniform in its range.
        probes: How many.
        width: Of the features.
    """

    def __init__(self, module: nn.Module, example: Tensor, probes: int, width: int) -> None:
        super().__init__()
        low, high = example.min(), example.max()
        self.inputs = nn.Parameter(low + (high - low) * torch.rand(probes, *example.shape[1:]))
        self.project = nn.Linear(probes, width)
        self.norm = nn.LayerNorm(width)
        self._module = [module]  # in a list, so that its parameters are not ours

    def forward(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> Tensor:
        """Features ``[net, node, width]`` of networks of one architecture, ``params``: name -> ``[net, *shape]``.

        Raises:
            ValueError: A linear layer, or the output, gets something else than one vector per probe.
        """
        seen = torch.func.vmap(lambda one: self._run(graph, one))(dict(params))  # node indices are alike in all
        nodes = [index for index, _ in _places(graph, self._module[0])]
        total = self.inputs.new_zeros(len(next(iter(params.values()))), graph.num_nodes, len(self.inputs))
        for index, values in zip(nodes, seen, strict=True):
            total = add_rows(total, index.to(total.device), values)
        return self.norm(self.project(total))

    def _run(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> list[Tensor]:  # [node, probe] of each place
        """What arrives at each layer, and what comes out, of one network."""
        module, places = self._module[0], _places(graph, self._module[0])
        arrived: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for _, name in places:
                if name:
                    keep = partial(_keep, arrived, name)
                    stack.callback(module.get_submodule(name).register_forward_pre_hook(keep).remove)
            arrived[""] = torch.func.functional_call(module, dict(params), (self.inputs,))
        for _, name in places:
            found = arrived.get(name)
            if not isinstance(found, Tensor) or found.ndim != 2:
                what = "nothing" if found is None else tuple(found.shape) if isinstance(found, Tensor) else type(found)
                where = f"'{name}'" if name else "the output"
                raise ValueError(f"probes are read off where there is one vector per input; {where} gets {what}")
        return [arrived[name].mT for _, name in places]


class OutputProbes(nn.Module):
    """What networks put out for learned inputs: no symmetry changes that. Arguments as of `ProbeFeatures`."""

    def __init__(self, module: nn.Module, example: Tensor, probes: int) -> None:
        super().__init__()
        low, high = example.min(), example.max()
        self.inputs = nn.Parameter(low + (high - low) * torch.rand(probes, *example.shape[1:]))
        self._module = [module]  # in a list, so that its parameters are not ours
        with torch.no_grad():
            self.size = module(self.inputs.to(example)).numel()  # numbers per network
        self.norm = nn.LayerNorm(self.size)

    def forward(self, params: Mapping[str, Tensor]) -> Tensor:  # name -> [net, *shape]; [net, size]
        """Run networks of one architecture."""
        module, inputs = self._module[0], self.inputs

        def run(one: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(module, one, (inputs,)).flatten()

        return self.norm(torch.func.vmap(run)(dict(params)))


def _keep(table: dict[str, Tensor], name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
    table.setdefault(name, args[0])


def _places(graph: NeuralGraph, module: nn.Module) -> list[tuple[Tensor, str]]:
    """Nodes that probes can be read off at, and the submodule that they enter; "" for the outputs."""
    names = dict(module.named_modules())
    places, last = [], None
    for block in edge_blocks(graph):
        name = block.name.rpartition(".")[0]
        if isinstance(names.get(name), nn.Linear) and block.col_nodes is not None and block.matrix_shape[0] == 1:
            places.append((block.col_nodes.flatten(), name))
            last = block
    return places if last is None else [*places, (last.row_nodes.flatten(), "")]
