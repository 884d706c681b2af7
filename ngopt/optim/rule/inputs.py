"""Larger steps for matrices that read small inputs.

    factor = clamp(NEAR / rms(x), 1, MOST)

A step of ``1 / sqrt(fan_in)`` changes what a matrix puts out by as much as it should if its inputs are numbers of about
one. Rows that are normalised to length one (text and image embeddings, words of a document, nodes of a citation graph)
have entries of ``1 / sqrt(fan_in)``, and would be learned from that much more slowly. ``x`` is what the matrix was
given when the graph was captured. Where several ranks run, each has seen other data, and all must step alike: there the
factor is one. Only matrices that read the network's inputs are meant: all that come later read what
the network itself made, which the other factors were chosen with.

Measured on an MLP of 400-16-5 with rows of length one, 200 steps: a loss of 0.61 without the factor, 0.010 with it; of
length a quarter 1.34 and 0.021. Inputs larger than one want no smaller steps: dividing by their size made it worse.
"""

from __future__ import annotations

import torch.distributed as dist

from ngopt.encoder.layout import end_nodes
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.per_graph import per_graph

NEAR = 0.4  # inputs of at least this size count as numbers of about one
MOST = 100.0


def input_factor(graph: NeuralGraph | None, name: str) -> float:
    """Of one parameter, by name; one without a graph, and where nothing is known of the inputs."""
    return 1.0 if graph is None or several_ranks() else _factors(graph).get(name, 1.0)


def several_ranks() -> bool:
    """Whether other processes train along."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@per_graph
def _factors(graph: NeuralGraph) -> dict[str, float]:
    inputs, _ = end_nodes(graph)
    found = {}
    for block in graph.blocks:
        size = graph.given.get(block.name)
        if size is not None and block.col_nodes is not None and bool(inputs[block.col_nodes.flatten().cpu()].all()):
            found[block.name] = min(MOST, max(1.0, NEAR / size))
    return found
