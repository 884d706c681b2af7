r"""From the values of parameters, and codes of what they are, to the first embeddings of edges and nodes.

A value :math:`w` becomes :math:`\phi(w) = [w, \sin 2\pi f w, \cos 2\pi f w]` with fixed random frequencies :math:`f`
(Tancik et al., Fourier Features, 2020). The taps of a kernel are told apart by their offset :math:`t` from its middle
and summed, for kernels of any size; the parameter's role and slot :math:`r` scale and shift the result:

.. math:: e = (1 + A r) \odot W \sum_t (1 + B t) \odot \phi(w_t) / \sqrt{T} + C r
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ngopt.encoder.codes import BLOCK_CODE, PLACE, TAP_CODE
from ngopt.encoder.layout import Values
from ngopt.encoder.relations import Relation, add_rows


class ValueEmbedding(nn.Module):
    """Embeds the entries of edges, or of parameters that belong to nodes; see the module docstring.

    Args:
        channels: Values per entry (weight; or weight and momentum).
        width: Of the embeddings.
        frequencies: How many; 0 for the plain value.
        sigma: Standard deviation of the frequencies, for values of unit scale.
    """

    frequency: Tensor

    def __init__(self, channels: int, width: int, frequencies: int = 8, sigma: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("frequency", 2 * torch.pi * sigma * torch.randn(frequencies))
        features = channels * (1 + 2 * frequencies)
        self.tap = nn.Linear(TAP_CODE, features, bias=False)
        self.mix = nn.Linear(features, width, bias=False)
        self.row = nn.Linear(BLOCK_CODE, 2 * width)
        self.col = nn.Linear(PLACE, width, bias=False)

    def forward(self, values: Tensor, place: Values, relation: Relation | None = None) -> Tensor:
        """Embed.

        Args:
            values: ``[*net, *edge, tap, channel]``, or ``[entry, channel]`` in a list; rows instead of edges for nodes.
            place: What they are.
            relation: Of the edges; None for nodes.

        Returns:
            ``[*net, *edge, width]``, or ``[*net, row, width]``.
        """
        angles = values[..., None] * self.frequency
        features = torch.cat([values[..., None], angles.sin(), angles.cos()], dim=-1).flatten(-2)
        features = _total(features * (1 + self.tap(place.taps)), place)
        scale, shift = self.row(place.rows).chunk(2, dim=-1)
        if relation is None:
            return self.mix(features) * (1 + scale) + shift
        shift = relation.at_rows(shift)
        if place.cols is not None:
            shift = shift + relation.reversed.at_rows(self.col(place.cols))
        return self.mix(features) * (1 + relation.at_rows(scale)) + shift


def total_over_taps(values: Tensor, place: Values) -> Tensor:  # [*net, *edge, tap] or [entry] -> [*net, *edge]
    """Sum over the taps of each edge, over the root of their number."""
    return _total(values[..., None], place)[..., 0]


def _total(features: Tensor, place: Values) -> Tensor:  # [*net, *edge, tap, d] or [entry, d] -> [*net, *edge, d]
    if place.entry_edge is None or place.edge_taps is None:
        return features.sum(-2) * place.taps.shape[0] ** -0.5
    total = features.new_zeros(len(place.edge_taps), features.shape[-1])
    return add_rows(total, place.entry_edge, features) * place.edge_taps.to(features.dtype) ** -0.5
