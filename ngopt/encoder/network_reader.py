"""What all metanetworks share: normalisation, networks in any mixture, and changes in units of the normaliser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ngopt.encoder.layout import alike, check_params, require
from ngopt.encoder.normalise import Normaliser
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock

Params = Mapping[str, Tensor]  # name -> [net, *shape]
Network = tuple[NeuralGraph, Mapping[str, Tensor]]  # a graph, and name -> [*shape]


class NetworkReader(nn.Module):
    """A module called with a graph and stacked parameters; it returns vectors, or new parameters.

    Args:
        normaliser: Brings parameters to unit scale.
    """

    def __init__(self, normaliser: Normaliser) -> None:
        super().__init__()
        self.normaliser = normaliser

    @property
    def smallest_stack(self) -> int:
        """Networks of one architecture from which on `read` stacks them; it takes fewer to `mixed`."""
        return 1

    def fit_statistics(self, graph: NeuralGraph, params: Params) -> None:
        """Take normalisation from training networks of one architecture, ``params``: name -> ``[net, *shape]``."""
        self.normaliser.fit(graph, params)

    def mixed(self, networks: Sequence[Network]) -> Tensor | list[dict[str, Tensor]]:
        """As `read`, in one batch where the encoder can."""
        return self.read(networks)

    def read(self, networks: Sequence[Network]) -> Tensor | list[dict[str, Tensor]]:
        """Read any networks the fastest way: stacks of what there is much of, and one mixture of all the rest.

        Args:
            networks: Graph and parameters (and learned buffers), name -> ``[*shape]``, of each.

        Returns:
            ``[net, output]``; or new parameters of each network, name -> ``[copy, *shape]``; in the order given.

        Raises:
            GraphMismatchError: A parameter is missing or has another shape.
            ValueError: There are no networks.
        """
        if not networks:
            raise ValueError("read() takes at least one network")
        for graph, params in networks:
            check_params(graph, params, lead=0)
        found: list[Any] = [None] * len(networks)
        rest: list[int] = []
        for places in alike([graph for graph, _ in networks]):
            if len(places) < self.smallest_stack:
                rest += places
                continue
            graph = networks[places[0]][0]
            blocks = [block for block in (*graph.blocks, *graph.buffers) if block.role != "unused"]
            result = self(graph, {b.name: torch.stack([require(networks[p][1], b) for p in places]) for b in blocks})
            for k, place in enumerate(places):
                found[place] = result[k] if isinstance(result, Tensor) else {name: x[k] for name, x in result.items()}
        if rest:
            for place, result in zip(rest, self.mixed([networks[place] for place in rest]), strict=True):
                found[place] = result
        return torch.stack(found) if isinstance(found[0], Tensor) else found

    def changed(self, graph: NeuralGraph, block: ParamBlock, params: Params, change: Tensor) -> Tensor:
        """New values of a parameter, ``[*net, copy, *shape]``.

        Args:
            graph: That the parameter is on.
            block: The parameter.
            params: Old values, name -> ``[*net, *shape]``.
            change: In units of the normaliser, ``[*net, copy, ...]`` with as many entries as the parameter.
        """
        old = require(params, block)
        lead = change.shape[: 1 + old.ndim - len(block.shape)]
        change = block.from_matrix(change.reshape(*lead, *block.matrix_shape)) * self.normaliser.scale(graph, block)
        return old.unsqueeze(len(lead) - 1) + change
