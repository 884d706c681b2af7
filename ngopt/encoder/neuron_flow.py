r"""NeuronFlow: embeddings of neurons alone, through the network's own weight matrices, there and back.

*Forth*, as the network computes, parameter after parameter in the order in which it uses them. What a neuron hears is
linear in the raw weights :math:`W` (k-th parameter, row i, column j, tap t):

.. math:: z_i \leftarrow z_i + r_i \odot \Big(\sum_{j, t} W_{ijt}\; c_j \odot T_t \odot f(z_j)\Big) A_k

*Back*, as gradients flow, from the neurons that nothing reads, whose :math:`g` is a function of their :math:`z`:

.. math:: u_j \leftarrow u_j + c'_j \odot \Big(\sum_{i, t} W_{ijt}\; T'_t \odot r'_i \odot g_i\Big) B_k, \qquad
          g_j = f'(z_j) \cdot u_j

:math:`f` and :math:`f'` answer to the symmetries of a neuron as its own function and the derivative do
(`ngopt.encoder.characters`). So :math:`z, f, u, g` transform like the network's own preactivations, activations, and
their gradients, exactly and smoothly, and products such as :math:`f \odot u` do not change at all. :math:`A_k, B_k` are
learned for each of the first parameters, and the last one for all that come later; what neurons, rows, columns and taps
are (:math:`r, c, T`, and factors of :math:`z`) comes from `ngopt.encoder.codes`. Neurons of blocks (heads, norm groups)
are told what their block's members are like.

Nothing is ever stored per weight: a sweep costs about what a forward pass of a few dozen inputs does, and memory is
O(neurons).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ngopt.encoder.characters import FREE, gates, invariant, pair
from ngopt.encoder.codes import BLOCK_CODE, IDENTITY, NODE_CODE, PLACE, TAP_CODE
from ngopt.encoder.relations import add_rows
from ngopt.encoder.walk import Parts, Step, Walk

BANK = 4  # steps that have mixing matrices of their own
NOISE = 0.1  # of matrices that start near the identity
CODE_STD = 0.1  # of the factors that codes make, about one, at first
MEMBERS = 32  # numbers that members of a block tell each other


@dataclass(frozen=True)
class Units:
    """Raw parameters of a stack of networks, and the factors that bring them to unit scale and to that of features.

    Attributes:
        weights: Of each step, ``[*net, group, row, col, tap]``.
        scales: What brings these to unit scale.
        gains: Of each step, ``[row]``.
        vectors: Of each vector ``[*net, row, tap]``, scaled; zero for biases of neurons with a phase.
        phase: These, ``[*net, node]``, in radians.
    """

    weights: Sequence[Tensor]
    scales: Sequence[Tensor | float]
    gains: Sequence[Tensor]
    vectors: Sequence[Tensor]
    phase: Tensor


@dataclass(frozen=True)
class Flow:
    """Embeddings of all nodes; ``d`` is the width.

    Attributes:
        z: What arrives at each, ``[*net, node, d]``.
        pooled: What no symmetry changes, of each layer on its own, then of all: ``[*net, d]``.
        out: What it puts out, ``[*net, node, 2 d]``; None after a sweep forth alone, like all that follows.
        u: Gradient of what it puts out, ``[*net, node, 2 d]``.
        g: Gradient of what arrives, ``[*net, node, d]``.
        arrived: What the sweep back began with: ``[*net, end, e]``, of nodes that nothing reads.
    """

    z: Tensor
    pooled: Tensor
    out: Tensor | None = None
    u: Tensor | None = None
    g: Tensor | None = None
    arrived: Tensor | None = None


class NeuronFlow(nn.Module):
    """See the module docstring.

    Args:
        width: Of the embeddings.
        bank: Steps that have mixing matrices of their own.
        back: Whether to sweep back too.
        sink: Hidden width of what makes gradients of what arrived at the ends; 0: they are linear in it.
        memo: Numbers that each end is given besides.
    """

    def __init__(self, width: int = 96, bank: int = BANK, back: bool = False, sink: int = 0, memo: int = 0) -> None:
        super().__init__()
        self.width, self.back = width, back
        self.source = nn.Linear(IDENTITY, width, bias=False)
        self.mix = nn.Parameter(torch.stack([_near_one(width) for _ in range(bank)]))
        self.pool = nn.Parameter(torch.randn(bank + 1, 2 * width, width) * (2 * width) ** -0.5)
        self.film = nn.Linear(NODE_CODE, 2 * width)
        self.row = nn.Linear(BLOCK_CODE, width)
        self.col = nn.Linear(PLACE, 2 * width, bias=False)
        self.tap = nn.Linear(TAP_CODE, 2 * width, bias=False)
        self.vector = nn.Linear(BLOCK_CODE, width)
        self.vector_tap = nn.Linear(TAP_CODE, width, bias=False)
        self.tell = nn.Linear(2 * width, MEMBERS, bias=False)
        self.told = nn.Linear(MEMBERS, 2 * width, bias=False)
        maps = [self.film, self.row, self.col, self.tap, self.vector_tap]
        if back:
            self.mix_back = nn.Parameter(torch.stack([_start(width).T for _ in range(bank)]))
            self.pool_back = nn.Parameter(torch.randn(bank, 2 * width, width) * (2 * width) ** -0.5)
            self.sink = nn.Linear(2 * width + memo, width, bias=False)
            self.think = None
            if sink:  # of each end, and of all of them
                size = 2 * (2 * width + memo)
                layers = [nn.LayerNorm(size), nn.Linear(size, sink), nn.SiLU(), nn.Linear(sink, sink), nn.SiLU()]
                self.think = nn.Sequential(*layers, nn.Linear(sink, width, bias=False))
            self.which = nn.Linear(IDENTITY, width, bias=False)
            self.row_back = nn.Linear(BLOCK_CODE, width)
            self.col_back = nn.Linear(PLACE, 2 * width, bias=False)
            self.tap_back = nn.Linear(TAP_CODE, width, bias=False)
            maps += [self.row_back, self.col_back, self.tap_back]
        nn.init.normal_(self.source.weight, std=3**-0.5)
        for layer in maps:
            nn.init.normal_(layer.weight, std=CODE_STD / layer.in_features**0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, walk: Walk, units: Units, memo: Tensor | None = None) -> Flow:
        """Embed a stack of networks of one architecture, with a ``memo`` for the sweep back, ``[*net, end, e]``."""
        scale, shift = self.film(walk.codes).chunk(2, dim=-1)
        film = (1 + scale, shift)
        lead = units.phase.shape[:-1]
        z = walk.codes.new_zeros(*lead, len(walk.codes), self.width)
        for x, vector in zip(units.vectors, walk.vectors, strict=True):
            taps = 1 + self.vector_tap(vector.tap_code)
            z = add_rows(z, vector.nodes, x @ taps * self.vector(vector.code))
        pooled = z.new_zeros(*lead, self.width)
        for k, (step, x, gain) in enumerate(zip(walk.steps, units.weights, units.gains, strict=True)):
            mix = self.mix[min(k, len(self.mix) - 1)]
            if step.constant:
                heard = forth(x, self._at_columns(step, self.source(walk.identity[step.cols])))
            else:
                context = self._context(walk, z, units.phase, film) if step.linked else None
                out = self._act(step.read, step.parts, z, units.phase, film, context)
                pooled = pooled + self._pooled(step.parts, out, min(k, len(self.pool) - 2))
                told = out if step.places is None else out.index_select(-2, step.places)
                heard = forth(x, self._at_columns(step, told)) @ mix
            z = add_rows(z, step.rows, heard * (gain[:, None] * (1 + self.row(step.row_code))))
        if len(walk.dead):
            out = self._act(walk.dead, walk.dead_parts, z, units.phase, film, None)
            pooled = pooled + self._pooled(walk.dead_parts, out, -1)
        if not self.back:
            return Flow(z, pooled * max(1, len(walk.steps)) ** -0.5)
        return self._back(walk, units, z, pooled, film, memo)

    def _back(
        self,
        walk: Walk,
        units: Units,
        z: Tensor,
        pooled: Tensor,
        film: tuple[Tensor, Tensor],
        memo: Tensor | None,
    ) -> Flow:
        """Sweep back."""
        everything = torch.arange(len(walk.codes), device=z.device)
        which = self.source(walk.identity[walk.inputs])
        z = add_rows(z, walk.inputs, which.expand(*z.shape[:-2], *which.shape))
        context = self._context(walk, z, units.phase, film) if walk.levels else None
        out = self._act(everything, walk.parts, z, units.phase, film, context)
        gate = self._act(everything, walk.parts, z, units.phase, film, context, gates)
        ends = walk.ends
        arrived = out.index_select(-2, ends)
        arrived = arrived if memo is None else torch.cat([arrived, memo], dim=-1)
        start = self.sink(arrived) + self.which(walk.identity[ends])
        if self.think is not None and len(ends):
            everywhere = arrived.mean(-2, keepdim=True).expand_as(arrived)
            start = start + self.think(torch.cat([arrived, everywhere], dim=-1))
        source = add_rows(torch.zeros_like(z), ends, start)
        u = torch.zeros_like(out)

        def gradient(nodes: Tensor) -> Tensor:
            first, second = (u.index_select(-2, nodes) * gate.index_select(-2, nodes)).chunk(2, dim=-1)
            return first + second + source.index_select(-2, nodes)

        for k, (step, x, gain) in reversed([*enumerate(zip(walk.steps, units.weights, units.gains, strict=True))]):
            mix = self.mix_back[min(k, len(self.mix_back) - 1)]
            _, row, col, _ = step.block.matrix_shape
            told = gradient(step.rows) * (gain[:, None] * (col / row) ** 0.5 * (1 + self.row_back(step.row_code)))
            heard = back(x, told, 1 + self.tap_back(step.tap_code)) @ mix
            u = add_rows(u, step.cols, heard * (1 + self.col_back(step.col_code)))
            share = (out * u).index_select(-2, step.read).mean(-2)  # of each layer in what the network makes of it
            pooled = pooled + share @ self.pool_back[min(k, len(self.pool_back) - 1)]
        return Flow(z, pooled * max(1, len(walk.steps)) ** -0.5, out, u, gradient(everything), arrived)

    def _act(
        self,
        nodes: Tensor,
        parts: Parts,
        z: Tensor,  # [*net, node, d]
        phase: Tensor,  # [*net, node]
        film: tuple[Tensor, Tensor],
        context: Tensor | None,  # [*net, node, MEMBERS]
        function: Callable[[int, Tensor, Tensor], Tensor] = pair,
    ) -> Tensor:  # [*net, touched, 2 d]
        """A function of some nodes, of each according to its character."""
        own = z.index_select(-2, nodes) * film[0].index_select(0, nodes)
        shift = film[1].index_select(0, nodes)
        if context is not None:
            factor, term = self.told(context.index_select(-2, nodes)).chunk(2, dim=-1)
            own, shift = own * (1 + factor), shift + term
        angle = phase.index_select(-1, nodes)[..., None]
        if len(parts) == 1:
            return function(parts[0][0], own + shift if parts[0][0] == FREE else own, angle)
        total = own.new_zeros(*own.shape[:-1], 2 * self.width)
        for kind, places in parts:
            assert places is not None
            some = own.index_select(-2, places)
            some = some + shift.index_select(-2, places) if kind == FREE else some
            total = add_rows(total, places, function(kind, some, angle.index_select(-2, places)))
        return total

    def _pooled(self, parts: Parts, out: Tensor, place: int) -> Tensor:  # [*net, node, 2 d] -> [*net, d]
        """What no symmetry changes of some nodes."""
        return _quiet(parts, out).mean(-2) @ self.pool[place]

    def _context(
        self, walk: Walk, z: Tensor, phase: Tensor, film: tuple[Tensor, Tensor]
    ) -> Tensor:  # [*net, node, MEMBERS]
        """What each node is told by its blocks: the mean of what their members say."""
        everything = torch.arange(len(walk.codes), device=z.device)
        said = self.tell(_quiet(walk.parts, self._act(everything, walk.parts, z, phase, film, None)))
        node, block = walk.links
        for _ in range(walk.levels):
            up = add_rows(torch.zeros_like(said), block, said.index_select(-2, node)) * walk.member_share
            said = torch.where(walk.is_block, up, said)
        told = torch.zeros_like(said)
        for _ in range(walk.levels):
            down = (said + told).index_select(-2, block)
            told = add_rows(torch.zeros_like(said), node, down) * walk.block_share
        return told

    def _at_columns(self, step: Step, told: Tensor) -> Tensor:  # [*net, group * col, e] -> [*net, group, col * tap, e]
        """What each column and tap passes on."""
        width = told.shape[-1]
        told = (told * (1 + self.col(step.col_code)[:, :width])).unflatten(-2, (step.block.matrix_shape[0], -1))
        taps = 1 + self.tap(step.tap_code)[:, :width]
        return (told.unsqueeze(-2) * taps).flatten(-3, -2)


def forth(x: Tensor, sources: Tensor) -> Tensor:  # [*net, group, row, col, tap], [*net, group, col * tap, e]
    """Sum over columns and taps: ``[*net, group * row, e]``."""
    matrix = x.flatten(-2)
    if sources.ndim == 3 and len(sources) == 1:  # the same for all networks, which is one large product
        return matrix.squeeze(-3) @ sources.squeeze(0)
    return (matrix @ sources).flatten(-3, -2)


def back(x: Tensor, rows: Tensor, taps: Tensor) -> Tensor:  # [*net, group, row, col, tap], [*net, group * row, d]
    """Sum over rows and taps, each tap with its factors ``[tap, d]``: ``[*net, group * col, d]``."""
    group, row, col, tap = x.shape[-4:]
    heard = x.flatten(-2).mT @ rows.unflatten(-2, (group, row))  # [*net, group, col * tap, d]
    return (heard.unflatten(-2, (col, tap)) * taps).sum(-2).flatten(-3, -2)


def _quiet(parts: Parts, out: Tensor) -> Tensor:
    """What no symmetry changes of what nodes put out."""
    if len(parts) == 1:
        return invariant(parts[0][0], out)
    total = torch.zeros_like(out)
    for kind, places in parts:
        assert places is not None
        total = add_rows(total, places, invariant(kind, out.index_select(-2, places)))
    return total


def _near_one(width: int) -> Tensor:  # [2 * width, width]
    """Both halves near the identity: features of sines start near what the network itself has there, place by place.

    After 600 equal steps a reader of implicit MNIST networks was at 91.7 % from here, at 89.4 % from random matrices.
    """
    half = torch.eye(width) + NOISE * (2 * torch.rand(width, width) - 1) * width**-0.5
    return torch.cat([half, half])


def _start(width: int) -> Tensor:  # [2 * width, width]
    """Both halves alike, so that features of a sine start as sines of neurons at random places."""
    half = (2 * torch.rand(width, width) - 1) * width**-0.5
    return torch.cat([half, half])
