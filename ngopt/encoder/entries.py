r"""What the entries of a parameter are like, in whatever order they stand.

`ngopt.encoder.neuron_flow` hears sums of weights, so that what every single one is like, which encoders with edge
embeddings see, is lost to it. Of a parameter with entries :math:`w` at unit scale this gives the share beyond points
:math:`c_k`, without edges that jump, the size, and the tails:

.. math::

    \overline{\sigma\big((\operatorname{asinh} |w| - \operatorname{asinh} c_k) / s\big)}, \qquad
    \log \overline{w^2}, \qquad \overline{\operatorname{asinh} |w|}, \qquad \log (1 + \overline{w^4} / \overline{w^2}^2)

and, where no neuron at the parameter has a symmetry of its own, two means that know the sign. Signs and phases of
neurons change none of the others; where a scale would, nothing is said of the parameter. Statistics of weights predict
accuracies by themselves: Unterthiner et al. 2020, "Predicting neural network accuracy from weights", arXiv:2002.11448.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ngopt.encoder.characters import FREE, SCALE
from ngopt.encoder.neuron_flow import Units
from ngopt.encoder.walk import Walk

POINTS = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2, 1.8, 2.6, 4.0, 7.0)
SMOOTH = 0.15  # width of the step at each point
SIGNED = 2  # numbers that know the sign, the last ones
STATISTICS = len(POINTS) + 3 + SIGNED
HIDDEN = 64
BANK = 8  # parameters that have a readout of their own
TINY = 1e-8
HEAVIEST = 1e4  # tails that count


class EntryReadout(nn.Module):
    """One vector per network from the statistics of its parameters.

    Args:
        width: Of the vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weights, self.vectors = (
            nn.Sequential(nn.Linear(STATISTICS, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU())
            for _ in range(2)
        )
        self.pool, self.pool_vectors = (nn.Parameter(torch.randn(BANK, HIDDEN, width) * HIDDEN**-0.5) for _ in range(2))

    def forward(self, walk: Walk, units: Units) -> Tensor:  # -> [*net, width]
        """Read a stack of networks."""
        total = units.phase.new_zeros(*units.phase.shape[:-1], self.pool.shape[-1])
        raw = zip(walk.steps, units.weights, units.scales, strict=True)
        weights = ((step.kinds, (x * unit).flatten(-4)) for step, x, unit in raw)
        vectors = ((vector.kinds, x.flatten(-2)) for vector, x in zip(walk.vectors, units.vectors, strict=True))
        for net, pool, parts in ((self.weights, self.pool, weights), (self.vectors, self.pool_vectors, vectors)):
            for k, (kinds, entries) in enumerate(parts):
                if SCALE not in kinds:
                    total = total + net(statistics(entries, kinds <= {FREE})) @ pool[min(k, BANK - 1)]
        return total * max(1, len(walk.steps)) ** -0.5


def statistics(x: Tensor, signed: bool) -> Tensor:  # [*net, entry] -> [*net, STATISTICS]
    """See the module docstring; zeros for what knows the sign, unless ``signed``."""
    size, square = x.abs().asinh(), x.square().mean(-1)
    points = torch.tensor(POINTS, dtype=torch.float64).asinh().tolist()
    found = [((size - point) / SMOOTH).sigmoid().mean(-1) for point in points]  # one by one, for the memory
    tails = x.pow(4).mean(-1) / (square.square() + TINY)
    found += [(square + TINY).log() / 2, size.mean(-1), tails.clamp_max(HEAVIEST).log1p()]
    means = [x.mean(-1).asinh(), x.tanh().mean(-1)]
    return torch.stack(found + (means if signed else [torch.zeros_like(mean) for mean in means]), dim=-1)
