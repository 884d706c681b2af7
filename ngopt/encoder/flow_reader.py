"""Metanetworks on `NeuronFlow`: a vector per network, read off where the network has its outputs; or new parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ngopt.encoder.characters import PHASE, SCALE, size
from ngopt.encoder.codes import BLOCK_CODE, IDENTITY, PLACE, TAP_CODE
from ngopt.encoder.layout import alike, check_params, require
from ngopt.encoder.neuron_flow import Flow, NeuronFlow, Units
from ngopt.encoder.normalise import Normaliser, compressed
from ngopt.encoder.probes import OutputProbes
from ngopt.encoder.walk import Walk, walk_of
from ngopt.graph.neural_graph import NeuralGraph

Params = Mapping[str, Tensor]  # name -> [net, *shape]
Network = tuple[NeuralGraph, Mapping[str, Tensor]]  # a graph, and name -> [*shape]

HEADS = 8  # outputs that are kept apart, at most
GAIN = 1.5  # of messages that neurons without a phase hear, on weights of unit scale and as many as come in


class FlowReadout(nn.Module):
    """One vector per network: what arrives at its outputs, and what its layers are like; then an MLP.

    Args:
        heads: Mixtures of the outputs; as many as there are outputs keep all that arrives.
        width: Of the embeddings.
        outputs: Size of the result.
        hidden: Width of the MLP.
        dropout: Of the MLP.
        extra: Further numbers that the MLP is given.
    """

    def __init__(self, heads: int, width: int, outputs: int, hidden: int, dropout: float, extra: int = 0) -> None:
        super().__init__()
        self.share = nn.Linear(IDENTITY, heads)
        nn.init.normal_(self.share.weight, std=1.0 if heads > 1 else 0.01)
        nn.init.constant_(self.share.bias, 1.0 if heads == 1 else 0.0)
        self.norms = nn.ModuleList([nn.LayerNorm(heads * width), nn.LayerNorm(width)])
        self.mlp = nn.Sequential(
            nn.Linear((heads + 1) * width + 2 + extra, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )

    def forward(self, walk: Walk, flow: Flow, *extra: Tensor) -> Tensor:  # -> [*net, outputs]
        """Read a stack of networks; ``extra`` ``[*net, number]`` is given to the MLP as it is."""
        share = self.share(walk.identity[walk.outputs]) * max(1, len(walk.outputs)) ** -0.5  # [output, head]
        arrived = (share.mT @ flow.z.index_select(-2, walk.outputs)).flatten(-2)
        parts = (arrived, flow.pooled)
        normed = [norm(part) for norm, part in zip(self.norms, parts, strict=True)]
        return self.mlp(torch.cat([*normed, *(size(part).log() for part in parts), *extra], dim=-1))


class FlowEdit(nn.Module):
    r"""A change for every entry of every parameter, in units :math:`s` of the parameter's own scale.

    .. math:: \Delta W_{ijt} = \epsilon\, s \sum_m Y_{im}\, T_{tm}\, X_{jm} / \sqrt{M}

    :math:`Y` is linear in what transforms like the inputs of the neuron written to (:math:`z`, and :math:`g` where it
    does), :math:`X` in what transforms like the inverse of the outputs of the neuron read from (:math:`u`, and its
    output where it does), all brought to about unit size by what no symmetry changes: with one of each it is like a
    gradient, outer products of gradients and activations. Parameters that belong to neurons get a change linear in
    :math:`Y`.

    Args:
        width: Of the embeddings.
        copies: Parameter sets to emit for each network.
        rank: M for each of them.
        scale: Initial :math:`\epsilon`. With zero nothing is changed, exactly.
    """

    def __init__(self, width: int, copies: int = 1, rank: int = 64, scale: float = 0.01) -> None:
        super().__init__()
        self.copies, self.rank = copies, rank
        self.row = nn.Linear(2 * width, copies * rank, bias=False)
        self.col = nn.Linear(4 * width, copies * rank, bias=False)
        self.row_code = nn.Linear(BLOCK_CODE, copies * rank)
        self.col_code = nn.Linear(PLACE, copies * rank, bias=False)
        self.tap = nn.Linear(TAP_CODE, copies * rank, bias=False)
        self.vector = nn.Linear(2 * width, copies * rank, bias=False)
        self.vector_code = nn.Linear(BLOCK_CODE, copies * rank)
        self.vector_tap = nn.Linear(TAP_CODE, copies * rank, bias=False)
        self.scale = nn.Parameter(torch.tensor(scale))

    def ends(self, walk: Walk, flow: Flow) -> tuple[Tensor, Tensor]:  # [*net, node, 2 d], [*net, node, 4 d]
        """What transforms like the inputs of each node, and like the inverse of its outputs."""
        assert flow.out is not None and flow.u is not None and flow.g is not None
        scaling = (walk.kinds == SCALE)[:, None]
        scale = torch.where(scaling, size(flow.z), 1.0)

        def bounded(x: Tensor) -> Tensor:
            n = size(x)
            return x / torch.where(scaling, n, (1 + n.square()).sqrt())

        y = torch.cat([bounded(flow.z), bounded(flow.g)], dim=-1)
        x = torch.cat([bounded(flow.u), bounded(flow.out)], dim=-1)
        return y * scale, x / scale

    def weights(self, walk: Walk, k: int, ends: tuple[Tensor, Tensor]) -> Tensor:
        """Changes of the k-th step's parameter, ``[*net, copy, group, row, col, tap]``, in units."""
        step = walk.steps[k]
        group, row, col, tap = step.block.matrix_shape
        y = self.row(ends[0].index_select(-2, step.rows)) * (1 + self.row_code(step.row_code))
        x = self.col(ends[1].index_select(-2, step.cols)) * (1 + self.col_code(step.col_code))
        y = self._split(y.unflatten(-2, (group, row)))  # [*net, copy, group, row, rank]
        x = x.unflatten(-2, (group, col)).unsqueeze(-2) * (1 + self.tap(step.tap_code))
        x = self._split(x.flatten(-3, -2))  # [*net, copy, group, col * tap, rank]
        return self.scale * self.rank**-0.5 * (y @ x.mT).unflatten(-1, (col, tap))

    def vectors(self, walk: Walk, k: int, ends: tuple[Tensor, Tensor]) -> Tensor:
        """Changes of the k-th parameter that belongs to neurons, ``[*net, copy, row, tap]``, in units."""
        vector = walk.vectors[k]
        y = self.vector(ends[0].index_select(-2, vector.nodes)) * (1 + self.vector_code(vector.code))
        y = y.unsqueeze(-2) * (1 + self.vector_tap(vector.tap_code))  # [*net, row, tap, copy * rank]
        return self.scale * self.rank**-0.5 * y.unflatten(-1, (self.copies, self.rank)).sum(-1).movedim(-1, -3)

    def _split(self, x: Tensor) -> Tensor:  # [*net, a, b, copy * rank] -> [*net, copy, a, b, rank]
        return x.unflatten(-1, (self.copies, self.rank)).movedim(-2, -4)


class FlowReader(nn.Module):
    """Reads networks: one vector each, or new parameters.

    Args:
        graphs: Architectures that normalisation is measured of. All others are read too.
        task: ``"classify"`` or ``"edit"``.
        outputs: Size of the vector.
        width: Of the neurons' embeddings.
        hidden: Width of the MLP that makes the vector.
        dropout: Of that MLP.
        sign: Whether sign, phase and scale symmetries that a graph knows of are kept to.
        copies: Parameter sets to emit per network.
        probes: What the networks put out for learned inputs is given to that MLP too.
        back: Whether vectors are made with a sweep back too; new parameters always are.
        options: Of `NeuronFlow`: ``bank``.
    """

    def __init__(
        self,
        graphs: Sequence[NeuralGraph],
        task: str = "classify",
        outputs: int = 10,
        width: int = 96,
        hidden: int = 256,
        dropout: float = 0.0,
        sign: bool = True,
        copies: int = 1,
        probes: OutputProbes | None = None,
        back: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.sign, self.probes = sign, probes
        self.encoder = NeuronFlow(width, back=back or task == "edit", **options)
        self.normaliser = Normaliser(graphs)
        self.readout: FlowReadout | FlowEdit
        if task == "edit":
            self.readout = FlowEdit(width, copies)
        else:
            extra = 0 if probes is None else probes.size
            ends = [len(walk_of(graph, "cpu", torch.float32).outputs) for graph in graphs]
            self.readout = FlowReadout(min(HEADS, max([1, *ends])), width, outputs, hidden, dropout, extra)

    def fit_statistics(self, graph: NeuralGraph, params: Params) -> None:
        """Take normalisation from training networks of one architecture, ``params``: name -> ``[net, *shape]``."""
        self.normaliser.fit(graph, params)

    def forward(self, graph: NeuralGraph, params: Params) -> Tensor | dict[str, Tensor]:
        """Read networks of one architecture, stacked.

        Args:
            graph: Of all of them.
            params: Parameters, and learned buffers if there are any: name -> ``[net, *shape]``.

        Returns:
            ``[net, output]``; or new parameters, name -> ``[net, copy, *shape]``.

        Raises:
            GraphMismatchError: A parameter is missing or has another shape.
        """
        check_params(graph, params, lead=1)
        example = self.encoder.source.weight
        walk = walk_of(graph, example.device, example.dtype, self.sign)
        flow = self.encoder(walk, self._units(walk, graph, params))
        if isinstance(self.readout, FlowReadout):
            return self.readout(walk, flow, *(() if self.probes is None else (self.probes(params),)))
        ends, new = self.readout.ends(walk, flow), {}
        for k, step in enumerate(walk.steps):
            new[step.block.name] = self._changed(graph, step.block, params, self.readout.weights(walk, k, ends))
        for k, vector in enumerate(walk.vectors):
            if not vector.block.is_buffer:
                change = self.readout.vectors(walk, k, ends)
                change = change.unflatten(-2, vector.block.matrix_shape[:2]).unsqueeze(-2)
                new[vector.block.name] = self._changed(graph, vector.block, params, change)
        return new

    def read(self, networks: Sequence[Network]) -> Tensor | list[dict[str, Tensor]]:
        """Read any mixture of networks, those of one architecture together.

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
        for places in alike([graph for graph, _ in networks]):
            graph = networks[places[0]][0]
            blocks = [block for block in (*graph.blocks, *graph.buffers) if block.role != "unused"]
            stack = {b.name: torch.stack([require(networks[place][1], b) for place in places]) for b in blocks}
            result = self(graph, stack)
            for k, place in enumerate(places):
                found[place] = result[k] if isinstance(result, Tensor) else {name: x[k] for name, x in result.items()}
        return torch.stack(found) if isinstance(self.readout, FlowReadout) else found

    mixed = read

    def _units(self, walk: Walk, graph: NeuralGraph, params: Params) -> Units:
        """Raw weights, with factors; biases and norms at unit scale, but phases in radians."""
        like = self.encoder.source.weight
        weights, gains, vectors = [], [], []
        for step in walk.steps:
            weights.append(step.block.to_matrix(require(params, step.block)).to(like))
            unit = GAIN * step.block.fan_in**-0.5 / self.normaliser.scale(graph, step.block)
            turning = walk.kinds[step.rows] == PHASE
            gains.append(torch.where(turning, walk.omega[step.rows], unit).to(like))
        count = len(weights[0]) if weights else len(next(iter(params.values())))
        phase = like.new_zeros(count, len(walk.kinds))
        for vector in walk.vectors:
            raw = vector.block.to_matrix(require(params, vector.block)).to(like)
            raw = raw.flatten(-4, -2)  # [net, row, tap]
            if vector.free:
                vectors.append(compressed(self.normaliser(graph, vector.block, raw)))
                continue
            kinds = walk.kinds[vector.nodes]
            turning = kinds == PHASE
            radians = torch.where(turning, walk.omega[vector.nodes], 0.0) * raw.sum(-1)
            phase = phase.index_add(-1, vector.nodes, radians)
            vectors.append(torch.where(turning[:, None], 0.0, raw / self.normaliser.scale(graph, vector.block)))
        return Units(weights, gains, vectors, phase)

    def _changed(self, graph: NeuralGraph, block: Any, params: Params, change: Tensor) -> Tensor:
        """New values ``[net, copy, *shape]`` from changes ``[net, copy, group, row, col, tap]`` in units."""
        old = require(params, block)
        return old.unsqueeze(1) + block.from_matrix(change) * self.normaliser.scale(graph, block)
