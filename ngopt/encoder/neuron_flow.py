r"""NeuronFlow: embeddings of neurons alone, through the network's own weight matrices, as the network computes.

Parameters are walked through in order. What a neuron hears is linear in the raw weights, as in a forward pass:

.. math::

    z_i \leftarrow z_i + c_i \odot \Big(\sum_j \sum_t W_{ijt}\, (1 + T_t) \odot f(z_j)\Big) A_k

:math:`f` answers to the symmetries of its neuron as the neuron's own function does (`ngopt.encoder.characters`), so
that all of :math:`z` does. :math:`A_k` is learned for the k-th parameter, the last one for all that come later; what
nodes, rows and taps are (:math:`c, T`) comes from `ngopt.encoder.codes`. A round costs about what a forward pass of a
few dozen inputs does, and memory is O(neurons).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ngopt.encoder.characters import FREE, PHASE, SCALE, SIGN, pair
from ngopt.encoder.codes import BLOCK_CODE, IDENTITY, NODE_CODE, PLACE, TAP_CODE
from ngopt.encoder.layout import Layout

BANK = 4  # steps that have a mixing matrix of their own
CODE_STD = 0.1  # of the maps from codes to factors, at first
GAIN = 1.5  # of messages that neurons without a phase hear


class NeuronFlow(nn.Module):
    """See the module docstring.

    Args:
        width: Of the embeddings.
        bank: Steps that have a mixing matrix of their own.
    """

    def __init__(self, width: int = 128, bank: int = BANK) -> None:
        super().__init__()
        self.width = width
        self.source = nn.Linear(IDENTITY, 2 * width, bias=False)
        self.mix = nn.Parameter(torch.stack([_start(width) for _ in range(bank)]))
        self.film = nn.Linear(NODE_CODE, 2 * width)
        self.row = nn.Linear(BLOCK_CODE, width)
        self.col = nn.Linear(PLACE, 2 * width, bias=False)
        self.tap = nn.Linear(TAP_CODE, 2 * width, bias=False)
        self.vector = nn.Linear(BLOCK_CODE, width)
        for layer in (self.film, self.row, self.col, self.tap):
            nn.init.normal_(layer.weight, std=CODE_STD / layer.in_features**0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.source.weight, std=(2 * IDENTITY) ** -0.5)

    def encode(
        self,
        layout: Layout,
        values: Sequence[Tensor],  # of each relation: raw weights [*net, group, row, col, tap]
        gains: Sequence[Tensor],  # of each relation: factor of each row, [row]
        vectors: Sequence[Tensor],  # of each collection: raw entries [*net, row], in units
        phase: Tensor,  # [*net, node]: biases of neurons with a phase, in radians
        lead: tuple[int, ...],
    ) -> Tensor:  # [*net, node, width]
        """Embed what lies in a layout."""
        codes = layout.node_codes
        scale, shift = self.film(codes).chunk(2, dim=-1)
        free = (layout.kinds == FREE)[:, None]
        scale, shift = 1 + scale, shift * free
        z = codes.new_zeros(*lead, len(codes), self.width)
        for x, (nodes, place) in zip(vectors, layout.vectors, strict=True):
            z = z.index_add(-2, nodes, x[..., None] * self.vector(place.rows))
        for k, (relation, x, gain, place) in enumerate(
            zip(layout.relations, values, gains, layout.values, strict=True)
        ):
            mix = self.mix[min(k, len(self.mix) - 1)]
            nodes = relation.reversed.nodes
            if bool(torch.isin(nodes, layout.inputs).all()):  # the same in all networks
                told = self.source(layout.identity[nodes]) @ mix
                told = told.index_select(-2, relation.reversed.row_places)
                heard = relation.carry(x, told, None)
            else:
                told = self._act(layout, nodes, z, phase, scale, shift)
                told = told.index_select(-2, relation.reversed.row_places) if not relation.reversed.in_order else told
                told = told * (1 + self.col(place.cols))
                heard = relation.carry(x, told, 1 + self.tap(place.taps)) @ mix
            heard = heard * (gain[:, None] * (1 + self.row(place.rows)))
            z = z.index_add(-2, relation.row_nodes, heard)
        return z

    def _act(
        self, layout: Layout, nodes: Tensor, z: Tensor, phase: Tensor, scale: Tensor, shift: Tensor
    ) -> Tensor:  # [*net, touched, 2 * width]
        kinds = layout.kinds[nodes]
        own = z.index_select(-2, nodes) * scale[nodes]
        angle = phase.index_select(-1, nodes)[..., None]
        first = int(kinds[0])
        if bool((kinds == first).all()):
            return pair(first, own + shift[nodes] if first == FREE else own, angle)
        total = own.new_zeros(*own.shape[:-1], 2 * self.width)
        for kind in (FREE, SIGN, PHASE, SCALE):
            places = (kinds == kind).nonzero().flatten()
            if len(places):
                some = own.index_select(-2, places) + (shift[nodes[places]] if kind == FREE else 0)
                total = total.index_add(-2, places, pair(kind, some, angle.index_select(-2, places)))
        return total


def _start(width: int) -> Tensor:  # [2 * width, width]
    """Both halves alike, so that features of a sine start as sines of neurons at random places."""
    half = (2 * torch.rand(width, width) - 1) * width**-0.5
    return torch.cat([half, half])
