"""Parameters at unit scale, whatever the architecture and the initialisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ngopt.encoder.layout import require
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock

STD_FLOOR = 1e-8


def compressed(x: Tensor) -> Tensor:
    r""":math:`\operatorname{asinh}(x)`: values of unit scale stay about as they are, and large ones become logarithms.

    Weights of networks that all but diverged are larger by orders of magnitude than those of others.
    """
    return x.asinh()


class Normaliser(nn.Module):
    """Subtracts a mean and divides by a standard deviation, one of each per parameter.

    For architectures that it was made with, both come from training networks (`fit`) and are kept in buffers. For all
    others, and before, weights are multiplied by the root of their fan-in, and the rest is left as it is. So is the
    scale of parameters that are alike in all training networks.

    Args:
        graphs: Architectures to keep statistics of.
    """

    def __init__(self, graphs: Sequence[NeuralGraph] = ()) -> None:
        super().__init__()
        self._place = {graph.fingerprint(): k for k, graph in enumerate(graphs)}
        for k, graph in enumerate(graphs):
            defaults = torch.tensor([[0.0, b.fan_in**-0.5] for b in (*graph.blocks, *graph.buffers)])
            self.register_buffer(f"statistics{k}", defaults.reshape(-1, 2))

    def fit(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> None:
        """Measure mean and standard deviation of every parameter, ``params``: name -> ``[net, *shape]``.

        Raises:
            ValueError: The architecture is not one that this was made with, or a parameter is not finite.
        """
        k = self._index(graph)
        if k is None:
            raise ValueError("statistics can be kept only of the graphs that the metanetwork was made with")
        rows = []
        for block in (*graph.blocks, *graph.buffers):
            values = require(params, block).double()
            if not bool(values.isfinite().all()):
                raise ValueError(f"'{block.name}' has non-finite values: leave such networks out")
            std = values.std() if values.numel() > 1 else values.new_zeros(())
            rows.append(torch.stack([values.mean(), torch.where(std > STD_FLOOR, std, block.fan_in**-0.5)]))
        getattr(self, f"statistics{k}").copy_(torch.stack(rows))

    def forward(self, graph: NeuralGraph, block: ParamBlock, matrix: Tensor) -> Tensor:
        """Bring values of one parameter to unit scale."""
        mean, scale = self._of(graph, block)
        return (matrix - mean) / scale

    def scale(self, graph: NeuralGraph, block: ParamBlock) -> Tensor | float:
        """What one unit is."""
        return self._of(graph, block)[1]

    def _index(self, graph: NeuralGraph) -> int | None:
        return self._place.get(graph.fingerprint()) if self._place else None

    def _of(self, graph: NeuralGraph, block: ParamBlock) -> tuple[Tensor | float, Tensor | float]:
        k = self._index(graph)
        if k is None:
            return 0.0, block.fan_in**-0.5
        place = next(i for i, b in enumerate((*graph.blocks, *graph.buffers)) if b.name == block.name)
        mean, scale = getattr(self, f"statistics{k}")[place]
        return mean, scale
