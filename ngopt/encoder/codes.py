"""Codes: fixed vectors that tell encoders what the nodes and edges of a graph are, for any architecture.

Text (roles, activations, settings of an op) becomes a random vector seeded by its hash, so that there is no vocabulary
to run out of; places (slots, kernel taps, depth, index of an input) become sinusoids [1]. Interchangeable nodes get
equal codes, frozen nodes each their own. Learned linear maps read them.

[1] Vaswani et al., Attention Is All You Need, 2017, section 3.5.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ngopt.encoder.structure import FUNCTIONS, STRUCTURAL_FEATURES, structure
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock
from ngopt.graph.per_graph import per_graph

TEXT = 16  # size of the code of a text
PLACE = 8  # size of the code of a place
NODE_CODE = STRUCTURAL_FEATURES + 2 * TEXT + 3 * PLACE
BLOCK_CODE = TEXT + PLACE  # of each row; columns have the place alone
TAP_CODE = 2 * PLACE
IDENTITY = 32  # size of the code of a node with an identity of its own
CHUNK = 1024  # identities that are drawn together


@dataclass(frozen=True)
class Codes:
    """Codes of one graph on one device.

    Attributes:
        nodes: ``[node, NODE_CODE]``: structure, activations, the whole program, depth from both ends, identity.
        rows: For each block (and learned buffer) role, settings and slot of its rows, ``[group * row, BLOCK_CODE]``.
        cols: For each block of edges the slots of its columns, ``[group * col, PLACE]``.
        taps: For each block the offsets of its taps from the middle of the kernel, ``[tap, TAP_CODE]``; zero where taps
            are neurons that can be exchanged.
    """

    nodes: Tensor
    rows: dict[str, Tensor]
    cols: dict[str, Tensor]
    taps: dict[str, Tensor]


def codes(graph: NeuralGraph, device: torch.device | str = "cpu") -> Codes:
    """The codes of ``graph`` on ``device``, in the default dtype; made once and kept as long as the graph lives."""
    return _build(graph, torch.device(device), torch.get_default_dtype())


def plain(nodes: Tensor) -> Tensor:  # [node, NODE_CODE], the same
    """Codes of nodes without what says which functions they, and the program, compute."""
    hidden = torch.arange(NODE_CODE, device=nodes.device)
    hidden = (hidden >= STRUCTURAL_FEATURES - FUNCTIONS) & (hidden < STRUCTURAL_FEATURES + 2 * TEXT)
    return nodes.masked_fill(hidden, 0.0)


def text_code(*texts: str) -> Tensor:  # [TEXT]
    """A unit vector for a multiset of texts; zero for none."""
    total = torch.zeros(TEXT, dtype=torch.float64)
    for text, count in sorted(Counter(texts).items()):
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
        total += count**0.5 * torch.randn(TEXT, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return total / total.norm().clamp_min(1e-12)


def place_code(place: Tensor) -> Tensor:  # [...] -> [..., PLACE]
    """Sinusoids of wavelengths from about 2 to 4,000; differences of places stay linear."""
    rates = torch.pi / 2.0 ** torch.linspace(0, 11, PLACE // 2, dtype=torch.float64)
    angles = place.double()[..., None] * rates * 0.9  # 0.9: the shortest wavelength must not fall on the integers
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def identities(graph: NeuralGraph) -> Tensor:  # [node, IDENTITY]
    """A random unit vector for each place in a frozen group, the same in all graphs; zero for all other nodes.

    Unlike sinusoids of neighbouring places, these are nearly at right angles.
    """
    codes = torch.zeros(graph.num_nodes, IDENTITY, dtype=torch.float32)
    for group in graph.groups:
        if group.frozen:
            chunks = [
                torch.randn(CHUNK, IDENTITY, generator=torch.Generator().manual_seed(chunk), dtype=torch.float32)
                for chunk in range(-(-group.size // CHUNK))
            ]
            drawn = torch.cat(chunks)[: group.size]
            codes[group.start : group.stop] = drawn / drawn.norm(dim=1, keepdim=True)
    return codes


@per_graph
def _build(graph: NeuralGraph, device: torch.device, dtype: torch.dtype) -> Codes:
    blocks = (*graph.blocks, *graph.buffers)
    rows = {
        block.name: torch.cat([_kind(block).expand(block.row_slots.numel(), -1), _slots(block.row_slots)], dim=1)
        for block in blocks
    }
    cols = {block.name: _slots(block.col_slots) for block in blocks if block.col_slots is not None}
    taps = {b.name: _tap_codes(b) * (0.0 if _taps_move(graph, b) else 1.0) for b in blocks}

    def moved(table: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.to(device, dtype) for name, x in table.items()}

    return Codes(_node_codes(graph).to(device, dtype), moved(rows), moved(cols), moved(taps))


def _kind(block: ParamBlock) -> Tensor:  # [TEXT]
    leaf = (block.name.rpartition(".")[2],) if block.is_buffer else ()  # running_mean or running_var
    return text_code(f"role {block.role}", *(f"{key} {value}" for key, value in block.attributes), *leaf)


def _slots(slots: Tensor) -> Tensor:  # [group, index] -> [group * index, PLACE]
    return place_code(slots.flatten().cpu())


def _tap_codes(block: ParamBlock) -> Tensor:  # [tap, TAP_CODE]
    """Vertical and horizontal offset from the kernel's middle, so that kernels of all sizes line up."""
    taps = block.matrix_shape[3]
    kernel = block.shape[2:] if dict(block.attributes).get("op") == "convolution" else ()
    height, width = kernel if len(kernel) == 2 and prod(kernel) == taps else (1, taps)
    y, x = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in (height, width))
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.cat([place_code(y.flatten()), place_code(x.flatten())], dim=1)


def _taps_move(graph: NeuralGraph, block: ParamBlock) -> bool:
    """Whether a symmetry exchanges taps: the third neuron axis of a parameter ends up there."""
    taps = block.matrix_shape[3]
    if taps == 1 or graph.symmetries is None:
        return False
    place = block.from_matrix(torch.arange(taps).expand(block.matrix_shape))
    structure_of, ids = graph.symmetries.structure, graph.symmetries.labelling.tensors[block.name]
    axes = [axis for axis in range(place.ndim) if bool(place.diff(dim=axis).any())]
    if not any(structure_of.mobile[structure_of.class_of[ids[axis].numpy().ravel()]].any() for axis in axes):
        return False
    return any(not torch.equal(g.apply({block.name: place})[block.name], place) for g in graph.generators())


def _node_codes(graph: NeuralGraph) -> Tensor:  # [node, NODE_CODE]
    edges = graph.edges
    first_written = torch.full((graph.num_nodes,), 0)
    last_read = torch.full((graph.num_nodes,), 0)
    for step, block in enumerate(reversed(edges)):  # the first writer writes last, and so stays
        first_written[block.row_nodes.flatten().cpu()] = len(edges) - step
    for step, block in enumerate(edges):
        assert block.col_nodes is not None
        last_read[block.col_nodes.flatten().cpu()] = len(edges) - step
    activations = torch.zeros(graph.num_nodes, TEXT, dtype=torch.float64)
    identity = torch.zeros(graph.num_nodes, PLACE, dtype=torch.float64)
    for group in graph.groups:
        nodes = slice(group.start, group.stop)
        activations[nodes] = text_code(*group.activations)
        if group.frozen:
            identity[nodes] = place_code(torch.arange(group.size))
    program = text_code(*graph.program).expand(graph.num_nodes, -1)
    depth = (place_code(first_written), place_code(last_read))
    return torch.cat([structure(graph).features, activations, program, *depth, identity], dim=1)
