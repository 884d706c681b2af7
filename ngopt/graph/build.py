"""From labelled ids to a `NeuralGraph`: classes become nodes, tensors become blocks of edges."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ngopt.graph.hashing import Ids, mix
from ngopt.graph.labelling import Labelling
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock
from ngopt.graph.neurons import ROLES
from ngopt.graph.nodes import Nodes, links, number_nodes
from ngopt.graph.structure import Structure
from ngopt.graph.symmetry import Symmetries
from ngopt.graph.views import View, matrix_view


def build_graph(labelling: Labelling, structure: Structure, certified: bool) -> NeuralGraph:
    """Assemble the graph: matrix views, nodes, and then every parameter in its place between them."""
    views = {name: matrix_view(labelling, structure, name) for name in labelling.tensors}
    nodes = number_nodes(labelling, structure, views)
    blocks = {name: _param_block(labelling, structure, nodes, name, view) for name, view in views.items()}
    return NeuralGraph(
        groups=nodes.groups,
        blocks=tuple(block for block in blocks.values() if not block.is_buffer),
        buffers=tuple(block for block in blocks.values() if block.is_buffer),
        links=links(structure, nodes),
        symmetries=Symmetries(labelling, structure, nodes.names),
        certified=certified,
        program=tuple(labelling.program),
    )


def _param_block(labelling: Labelling, structure: Structure, nodes: Nodes, name: str, view: View) -> ParamBlock:
    shape = labelling.shapes[name]
    unfold, perm, matrix_shape = view.unfold(shape)
    row_ids = view.ids(labelling, name, view.row)
    row_nodes, row_slots = _places(structure, nodes, row_ids)
    cols = None if view.col is None else _places(structure, nodes, view.ids(labelling, name, view.col))
    return ParamBlock(
        name,
        shape,
        unfold,
        perm,
        matrix_shape,
        row_nodes=row_nodes,
        row_slots=row_slots,
        col_nodes=None if cols is None else cols[0],
        col_slots=None if cols is None else cols[1],
        role=_role(labelling, structure, name, row_ids, view),
        attributes=tuple(labelling.attributes.get(name, {}).items()),
        aliases=tuple(labelling.aliases.get(name, ())),
        is_buffer=name in labelling.buffers,
        step=labelling.steps.get(name, 0),
    )


def _places(s: Structure, nodes: Nodes, ids: Ids) -> tuple[Tensor, Tensor]:  # like the ids, twice
    """The node of each index, and its slot there.

    The indices of one neuron are numbered alike for all neurons that have several: by colour, in order of appearance.
    """
    flat = ids.ravel()
    classes = s.class_of[flat]
    home = nodes.home[classes]
    _, where, count = np.unique(home, return_inverse=True, return_counts=True)
    many = count[where] > 1
    slots = np.zeros(len(flat), np.int64)
    if many.any():
        with np.errstate(over="ignore"):
            look = mix(s.colour[classes[many]] + s.key[flat[many]])
        _, first, kind = np.unique(look, return_index=True, return_inverse=True)
        slots[many] = np.argsort(np.argsort(first))[kind]
    return torch.from_numpy(nodes.node_of[home].reshape(ids.shape)), torch.from_numpy(slots.reshape(ids.shape))


def _role(labelling: Labelling, structure: Structure, name: str, row_ids: Ids, view: View) -> str:
    if name in labelling.buffers:
        return "buffer"
    if name not in labelling.used:
        return "unused"
    if labelling.attributes.get(name, {}).get("op") == "embedding":
        return "embedding"
    if view.col is None:
        last = name.rsplit(".", 1)[-1]
        axes = len(labelling.shapes[name]) - (view.given is not None)
        return "table" if axes > 1 else "bias" if "bias" in last else "scale"
    roles = dict.fromkeys(structure.table.role[row_ids.ravel()].tolist())
    return "+".join(ROLES[r] for r in roles)
