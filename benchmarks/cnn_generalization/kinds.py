"""What the parameters and running statistics of a network are to the neurons that they belong to."""

from __future__ import annotations

from ngopt.encoder.layout import edge_blocks
from ngopt.graph.neural_graph import NeuralGraph

OF_NEURONS = ("bias", "scale", "shift", "running_mean", "running_var")
KINDS = ("weight", *OF_NEURONS, "other")


def kinds(graph: NeuralGraph) -> dict[str, str]:
    """One of `KINDS` for each parameter and learned buffer; ``other`` are tables, as of positions.

    A ``bias`` is a layer's, a ``shift`` a norm's, though PyTorch calls both the same: who has weights is a layer.
    """
    weights = {block.name for block in edge_blocks(graph)}
    layers = {name.rpartition(".")[0] for name in weights}
    found = {}
    for block in (*graph.blocks, *graph.buffers):
        module, _, leaf = block.name.rpartition(".")
        kind = leaf if module in layers else {"weight": "scale", "bias": "shift"}.get(leaf, leaf)
        found[block.name] = "weight" if block.name in weights else kind if kind in OF_NEURONS else "other"
    return found
