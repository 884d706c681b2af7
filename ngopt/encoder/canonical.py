"""Canonical forms: of all networks that sign and scale symmetries call equal, always the same one.

An encoder behind `canonical` is invariant to these symmetries, exactly, at little cost. The price: near a border (a
bias of about zero) two networks that are nearly equal can get forms that are not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.scaling import Scaling, touched

TINY = 1e-12


def canonical(graph: NeuralGraph, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The canonical form of networks: name -> ``[*net, *shape]``, the same function.

    Signs: biases are not negative, and at most a quarter of a sine's period; without a bias, the sum of the cubes of a
    neuron's incoming weights is not negative. Scales: incoming weights and bias have a norm of one, the
    size of fresh ones.

    Args:
        graph: Traced with ``scalings=True``; without scalings nothing changes.
        params: Parameters of networks of this architecture.
    """
    state = dict(params)
    for scaling in graph.scalings:  # in order: what comes in from earlier groups is canonical already
        biases, cubes, squares = _incoming(graph, state, scaling)
        if scaling.kind == "scale":
            state = scaling.apply(graph, state, squares.sqrt().clamp_min(TINY).reciprocal())
            continue
        turns = None if scaling.phase is None or biases is None else -torch.round(biases / scaling.phase)
        if turns is not None:
            state = scaling.apply(graph, state, torch.ones_like(turns), turns)
            biases = _incoming(graph, state, scaling)[0]
        decides = cubes if biases is None else biases
        state = scaling.apply(graph, state, torch.where(decides < 0, -1.0, 1.0).to(decides))
    return state


def _incoming(
    graph: NeuralGraph, state: Mapping[str, Tensor], scaling: Scaling
) -> tuple[Tensor | None, Tensor, Tensor]:  # [*net, neuron], each
    """Bias of each neuron (None without), and over all that comes in: sum of cubes, and of squares."""
    biases, cubes, squares = None, 0.0, 0.0
    for place in touched(graph, scaling, next(iter(state.values())).device):
        block = place.block
        if place.rows is None or block.name not in state:
            continue
        matrix = block.to_matrix(state[block.name])
        zeros = matrix.new_zeros(*matrix.shape[:-4], scaling.stop - scaling.start)
        entries = matrix.flatten(-4, -3).index_select(-3, place.own).flatten(-2)  # [*net, row, entry]
        cubes = cubes + zeros.index_add(-1, place.neurons, entries.pow(3).sum(-1))
        squares = squares + zeros.index_add(-1, place.neurons, entries.square().sum(-1))
        if not block.is_edge:
            here = zeros.index_add(-1, place.neurons, entries.sum(-1))
            biases = here if biases is None else biases + here
    assert isinstance(cubes, Tensor) and isinstance(squares, Tensor)
    return biases, cubes, squares
