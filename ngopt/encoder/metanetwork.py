"""Metanetworks: networks that read the weights of networks. Normalisation, node features, encoder and readout in one.

`metanetwork` builds one from names: a `FlowReader`, or for encoders that embed every weight a `Metanetwork`. Both take
networks of one architecture stacked, or any mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ngopt.encoder.canonical import canonical
from ngopt.encoder.embedding import ValueEmbedding
from ngopt.encoder.flow_editor import FlowEditor
from ngopt.encoder.flow_reader import FlowReader
from ngopt.encoder.layout import Layout, check_params, dense_layout, edge_blocks, require, vector_blocks
from ngopt.encoder.network_reader import Network, NetworkReader, Params
from ngopt.encoder.ng_gnn import NGGNN
from ngopt.encoder.ng_t import NGT
from ngopt.encoder.normalise import Normaliser, compressed
from ngopt.encoder.probes import OutputProbes, ProbeFeatures
from ngopt.encoder.published import Published
from ngopt.encoder.published_ng_gnn import PublishedNGGNN
from ngopt.encoder.published_ng_t import PublishedNGT
from ngopt.encoder.readout import EditReadout, InvariantReadout
from ngopt.encoder.relations import add_rows
from ngopt.encoder.sweeps import SweepEncoder
from ngopt.graph.neural_graph import NeuralGraph

ENCODERS = ("neuron_flow", "ng_gnn", "ng_t")
SWEEPS = {"ng_gnn": NGGNN, "ng_t": NGT}
PUBLISHED = {"ng_gnn": PublishedNGGNN, "ng_t": PublishedNGT}
TASKS = ("classify", "edit")
DENSE_FROM = 8  # networks of one architecture, from which on a stack is faster; see `benchmarks.cost.encoder`


class Metanetwork(NetworkReader):
    """Reads networks: one vector each (`InvariantReadout`), or new parameters (`EditReadout`).

    Args:
        encoder: Reads node features of ``width``, and one channel per edge.
        readout: What to make of the embeddings.
        normaliser: Brings parameters to unit scale.
        width: Of node features and embeddings.
        edge_width: Of edge embeddings.
        sign: Whether networks are read in their canonical form; see `ngopt.encoder.canonical`. Of use for graphs
            traced with ``scalings=True``.
        probes: Node features from running the networks.
    """

    def __init__(
        self,
        encoder: SweepEncoder,
        readout: InvariantReadout | EditReadout,
        normaliser: Normaliser,
        width: int,
        edge_width: int,
        sign: bool = False,
        probes: ProbeFeatures | None = None,
    ) -> None:
        super().__init__(normaliser)
        self.encoder, self.readout, self.sign, self.probes = encoder, readout, sign, probes
        self.width = width
        self.vector = ValueEmbedding(1, width)

    @property
    def smallest_stack(self) -> int:
        """Few networks are faster in a mixture; encoders that read no mixtures get stacks alone."""
        return DENSE_FROM if self.probes is None else 1

    def fit_statistics(self, graph: NeuralGraph, params: Params) -> None:
        """Take normalisation from training networks of one architecture."""
        super().fit_statistics(graph, canonical(graph, params) if self.sign else params)

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
        if self.sign:
            params = canonical(graph, params)
        layout = dense_layout(graph, next(iter(params.values())).device, self.vector.mix.weight.dtype)
        scaled = self._scaled(graph, params)
        values = [scaled[block.name].unsqueeze(-1) for block in edge_blocks(graph)]
        vectors = [scaled[block.name].flatten(1, 3).unsqueeze(-1) for block in vector_blocks(graph)]
        features = self._features(layout, vectors, (len(next(iter(params.values()))),))
        if self.probes is not None:
            features = features + self.probes(graph, params)
        nodes, edges = self.encoder.encode(layout, features, values)
        if isinstance(self.readout, InvariantReadout):
            return self.readout(nodes, layout)
        new = {}
        for k, block in enumerate(edge_blocks(graph)):
            change = self.readout.edges(nodes, edges[k], layout.relations[k], layout.values[k])
            new[block.name] = self.changed(graph, block, params, change.movedim(-1, 1))
        for (row_nodes, place), block in zip(layout.vectors, vector_blocks(graph), strict=True):
            if not block.is_buffer:
                change = self.readout.vectors(nodes, row_nodes, place)
                new[block.name] = self.changed(graph, block, params, change.movedim(-1, 1))
        return new

    def mixed(self, networks: Sequence[Network]) -> Tensor | list[dict[str, Tensor]]:
        """Read networks of any mixture of architectures, collated by PyG.

        Args:
            networks: Graph and parameters (and learned buffers), name -> ``[*shape]``, of each.

        Returns:
            ``[net, output]``; or new parameters of each network, name -> ``[copy, *shape]``. The same as `forward`
            gives, up to rounding.

        Raises:
            GraphMismatchError: A parameter is missing or has another shape.
            ValueError: There are no networks, or the encoder does not read mixtures, or it uses probes.
        """
        from ngopt.encoder.collate import mixed_layout  # PyG takes seconds to import

        if not networks or self.probes is not None:
            raise ValueError("mixed() takes at least one network, and an encoder without probes")
        for graph, params in networks:
            check_params(graph, params, lead=0)
        if self.sign:
            networks = [(graph, canonical(graph, params)) for graph, params in networks]
        layout = mixed_layout([graph for graph, _ in networks], next(iter(networks[0][1].values())).device)
        layout = layout.to(self.vector.mix.weight.dtype)
        scaled = [self._scaled(graph, params) for graph, params in networks]
        edges_of = [edge_blocks(graph) for graph, _ in networks]
        values = [
            torch.cat(
                [own[blocks[k].name].flatten() for own, blocks in zip(scaled, edges_of, strict=True) if k < len(blocks)]
            )
            for k in range(len(layout.relations))
        ]
        vectors = [
            own[block.name].flatten()
            for own, (graph, _) in zip(scaled, networks, strict=True)
            for block in vector_blocks(graph)
        ]
        empty = self.vector.mix.weight.new_zeros(0)  # of networks without biases and norms
        features = self._features(layout, [torch.cat([empty, *vectors])[:, None]], ())
        nodes, edges = self.encoder.encode(layout, features, [x[:, None] for x in values])
        if isinstance(self.readout, InvariantReadout):
            return self.readout(nodes, layout)
        edge_changes = [
            self.readout.edges(nodes, e, relation, place)
            for e, relation, place in zip(edges, layout.relations, layout.values, strict=True)
        ]
        vector_changes = [self.readout.vectors(nodes, *place) for place in layout.vectors]
        return self._dealt(networks, edge_changes, vector_changes)

    def _scaled(self, graph: NeuralGraph, params: Params) -> dict[str, Tensor]:  # name -> [*net, group, row, col, tap]
        blocks = (*edge_blocks(graph), *vector_blocks(graph))
        return {b.name: compressed(self.normaliser(graph, b, b.to_matrix(require(params, b)))) for b in blocks}

    def _features(self, layout: Layout, vectors: Sequence[Tensor], lead: tuple[int, ...]) -> Tensor:
        """Node features ``[*net, node, width]`` from all that belongs to nodes."""
        features = layout.node_codes.new_zeros(*lead, len(layout.node_codes), self.width).to(self.vector.mix.weight)
        for x, (row_nodes, place) in zip(vectors, layout.vectors, strict=True):
            features = add_rows(features, row_nodes, self.vector(x, place))
        return features

    def _dealt(
        self, networks: Sequence[Network], edges: Sequence[Tensor], vectors: Sequence[Tensor]
    ) -> list[dict[str, Tensor]]:
        """Changes ``[entry, copy]`` of all networks, dealt out to each."""
        new: list[dict[str, Tensor]] = [{} for _ in networks]
        for k, changes in enumerate(edges):
            start = 0
            for (graph, params), mine in zip(networks, new, strict=True):
                blocks = edge_blocks(graph)
                if k < len(blocks):
                    part = changes[start : start + blocks[k].numel].mT
                    mine[blocks[k].name] = self.changed(graph, blocks[k], params, part)
                    start += blocks[k].numel
        start = 0
        for (graph, params), mine in zip(networks, new, strict=True):
            for block in vector_blocks(graph):
                if not block.is_buffer:
                    part = vectors[0][start : start + block.numel].mT
                    mine[block.name] = self.changed(graph, block, params, part)
                start += block.numel
        return new


def metanetwork(
    graphs: NeuralGraph | Sequence[NeuralGraph],
    *,
    task: str = "classify",
    outputs: int = 10,
    encoder: str = "neuron_flow",
    faithful: bool = False,
    sign: bool | None = None,
    probes: int = 0,
    module: nn.Module | None = None,
    example: Tensor | None = None,
    copies: int = 1,
    width: int = 0,
    edge_width: int = 16,
    dropout: float = 0.0,
    **options: Any,
) -> nn.Module:
    """A network that reads networks.

    Args:
        graphs: Architectures that normalisation is to be measured of. The encoders read all others too.
        task: ``"classify"`` for a vector per network, ``"edit"`` for new parameters.
        outputs: Size of the vector.
        encoder: ``"neuron_flow"``, ``"ng_gnn"`` or ``"ng_t"``.
        faithful: NG-GNN or NG-T as published, faults included (one architecture); see `ngopt.encoder.published`.
        sign: Exact invariance to sign and scale symmetries (graphs traced with ``scalings=True``). By default only of
            ``"neuron_flow"``, which has it smoothly; the others read a canonical form.
        probes: Learned inputs to run through each network; needs ``module`` and ``example``.
        module: The networks' architecture; ``example``: an input of it, ``[sample, *input]``.
        copies: Parameter sets to emit per network, for output averaging.
        width: Of node embeddings; by default 96 (``"neuron_flow"``) or 64, and as published with ``faithful``.
        edge_width: Of edge embeddings, where edges have any.
        dropout: Of updates and readout.
        options: Of the encoder: ``back``, ``bank``, of a reader ``statistics``, ``apart``, of an editor ``rounds``,
            ``sink``; or ``layers``, ``ordered``, ``message``, ``attention``, ``heads``.

    Returns:
        A `FlowReader`, `FlowEditor`, `Metanetwork` or `Published` one, all called with a graph and stacked parameters.

    Raises:
        ValueError: An unknown name, or options that do not go together.

    Example:
        >>> import torch, ngopt
        >>> from ngopt.encoder import metanetwork
        >>> net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> graph = ngopt.trace(net, torch.randn(2, 5))
        >>> model = metanetwork(graph, outputs=2)
        >>> model(graph, {name: torch.randn(7, *p.shape) for name, p in net.named_parameters()}).shape
        torch.Size([7, 2])
    """
    graphs = [graphs] if isinstance(graphs, NeuralGraph) else list(graphs)
    if encoder not in ENCODERS or task not in TASKS:
        raise ValueError(f"encoder is one of {ENCODERS} and task one of {TASKS}, got {encoder!r} and {task!r}")
    if copies < 1 or (copies > 1 and task != "edit"):
        raise ValueError(f"copies={copies} is for task='edit', and at least 1")
    if faithful:
        if encoder not in PUBLISHED or len(graphs) != 1 or sign or probes or copies > 1:
            raise ValueError("faithful is for NG-GNN or NG-T, one architecture, without sign, probes and copies")
        given = {name: value for name, value in (("width", width), ("dropout", dropout)) if value}
        return PUBLISHED[encoder](graphs[0], task, outputs, **given, **options)
    if probes and (module is None or example is None):
        raise ValueError("probes need module= and example=: they are run through the networks")
    if encoder == "neuron_flow":
        if probes and task == "edit":
            raise ValueError("neuron_flow has probes for task='classify' alone: what a network puts out is no neuron's")
        sizes: dict[str, Any] = {"width": width} if width else {}
        if probes and module is not None and example is not None:
            sizes["probes"] = OutputProbes(module, example, probes)
        if task == "edit":
            return FlowEditor(graphs, sign=sign is not False, copies=copies, **sizes, **options)
        return FlowReader(graphs, outputs, dropout=dropout, sign=sign is not False, **sizes, **options)
    width = width or 64
    model = SWEEPS[encoder](width, 1, width=width, edge_width=edge_width, dropout=dropout, **options)
    if task == "classify":
        readout = InvariantReadout(width, outputs, dropout)
    else:
        readout = EditReadout(width, edge_width, copies)
    runs = None
    if probes and module is not None and example is not None:
        runs = ProbeFeatures(module, example, probes, width)
    return Metanetwork(model, readout, Normaliser(graphs), width, edge_width, bool(sign), runs)


__all__ = ["Metanetwork", "Published", "metanetwork"]
