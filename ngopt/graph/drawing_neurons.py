"""Draw a small network neuron by neuron: neurons as dots in columns, weights as lines between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ngopt.extras import extra
from ngopt.graph.elements import GraphElements, NodeGroup, ParamBlock

POSITIVE, NEGATIVE, PLAIN = "#2166ac", "#c2410c", "#64748b"
INK, BOX, DOT = "#1f2937", "#e08214", "#ffffff"
MAX_NEURONS, MAX_LINES = 400, 20_000  # beyond these, lines are a blur


def fits(graph: GraphElements) -> bool:
    """Whether single neurons and weights can be told apart in a picture."""
    edges = [block.matrix_shape for block in graph.blocks if block.is_edge]
    lines = sum(group * row * col for group, row, col, _ in edges)
    return graph.num_nodes <= MAX_NEURONS and lines <= MAX_LINES


def draw_neurons(axes: Any, graph: GraphElements, state: Mapping[str, Tensor] | None = None, title: str = "") -> None:
    """Draw into matplotlib axes.

    A column is a group of neurons, headed by its size, the functions that it passes through and the symmetric group
    that acts on it. With ``state``, a line is as wide as its weight is large, blue where it is positive and orange
    where it is negative; a dot has the colour of its bias. Widths are relative to the largest weight of each parameter.
    Neurons that belong to a block (an attention head, a norm group) have a box around them.

    Args:
        axes: Of matplotlib.
        graph: A graph that `fits`.
        state: Values shaped as the parameters: weights, gradients, gains.
        title: Over the picture.

    Raises:
        MissingExtraError: matplotlib is missing.
    """
    with extra("train", "drawing"):
        from matplotlib.collections import LineCollection

    columns = [group for group in graph.groups if group.kind != "block"]
    places = _places(graph, columns)
    tallest = max((group.size for group in columns), default=1)
    for block in graph.blocks:
        if block.col_nodes is None:
            continue
        start, stop, strength = _lines(block, None if state is None else state[block.name])
        order = strength.abs().argsort()  # strong ones on top
        segments = torch.stack([places[start[order]], places[stop[order]]], 1)
        colours = [_colour(float(s), state is not None) for s in strength[order]]
        widths = (0.15 + 1.6 * strength[order].abs()).tolist()
        axes.add_collection(LineCollection(segments.tolist(), colors=colours, linewidths=widths, zorder=1))
    tints = _tints(graph, state)
    for column, group in enumerate(columns):
        x, y = places[group.start : group.stop].T.tolist()
        size = 1200 / (tallest + 8)
        faces = [tints.get(node, DOT) for node in range(group.start, group.stop)]
        axes.scatter(x, y, s=size, c=faces, edgecolors=INK, linewidths=0.7, zorder=3)
        axes.text(column, 1.06, _head(graph, group), ha="center", va="bottom", fontsize=8, color=INK, linespacing=1.4)
    _boxes(axes, graph, places)
    axes.set_title(title, fontsize=10, color=INK, pad=14)
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.set_ylim(-0.06, 1.3)
    axes.set_axis_off()


def _places(graph: GraphElements, columns: list[NodeGroup]) -> Tensor:  # [node, 2]
    """Columns from left to right, each centred, with the same distance between neurons as far as there is room."""
    places = torch.zeros(graph.num_nodes, 2)
    tallest = max((group.size for group in columns), default=1)
    for column, group in enumerate(columns):
        height = min(1.0, (group.size - 1) * max(1 / max(tallest - 1, 1), 0.08))
        places[group.start : group.stop, 0] = column
        places[group.start : group.stop, 1] = 0.5 + height / 2 - torch.linspace(0, height, group.size)
    return places


def _lines(block: ParamBlock, tensor: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """In neuron, out neuron and strength of each line: the largest tap, relative to the largest of the parameter."""
    assert block.col_nodes is not None
    group, row, col, _ = block.matrix_shape
    stop = block.row_nodes[:, :, None].expand(group, row, col).flatten()
    start = block.col_nodes[:, None].expand(group, row, col).flatten()
    if tensor is None:
        return start, stop, torch.full(start.shape, 0.2)
    values = block.to_matrix(tensor.detach().float().cpu()).flatten(0, 2)  # [line, tap]
    largest = values.gather(1, values.abs().argmax(1, keepdim=True))[:, 0]
    return start, stop, largest / largest.abs().max().clamp_min(1e-30)


def _colour(strength: float, valued: bool) -> tuple[str, float]:
    if not valued:
        return PLAIN, 0.35
    return (POSITIVE if strength > 0 else NEGATIVE), 0.08 + 0.8 * abs(strength)


def _tints(graph: GraphElements, state: Mapping[str, Tensor] | None) -> dict[int, Any]:
    """Colour of each neuron with a bias (the first vector parameter on it), relative to the largest of all."""
    with extra("train", "drawing"):
        from matplotlib.colors import LinearSegmentedColormap

    scale = LinearSegmentedColormap.from_list("bias", [NEGATIVE, DOT, POSITIVE])
    tints: dict[int, Any] = {}
    for block in graph.blocks if state is not None else ():
        if block.col_nodes is None:
            assert state is not None
            values = block.to_matrix(state[block.name].detach().float().cpu()).mean(-1).flatten()
            relative = values / values.abs().max().clamp_min(1e-30)
            for node, value in zip(block.row_nodes.flatten().tolist(), relative.tolist(), strict=True):
                tints.setdefault(node, scale(0.5 + 0.4 * value))
    return tints


def _head(graph: GraphElements, group: NodeGroup) -> str:
    action = next((s for s in graph.symmetries or () if s.name == group.name), None)
    copies = f"^{{{action.copies}}}" if action is not None and action.copies > 1 else ""
    symbol = "fixed" if action is None else f"$S_{{{action.degree}}}{copies}$"
    name = group.name if len(group.name) <= 16 else "…" + group.name[-15:]
    return "\n".join([name, f"{group.size}  {' '.join(group.activations)}".strip(), symbol])


def _boxes(axes: Any, graph: GraphElements, places: Tensor) -> None:
    """A box around the neighbours in a column that belong to the same block."""
    with extra("train", "drawing"):
        from matplotlib.patches import FancyBboxPatch

    for members in _members(graph):
        (x, top), (_, bottom) = places[members[0]].tolist(), places[members[-1]].tolist()
        style = {"boxstyle": "round,pad=0.02", "fill": False, "edgecolor": BOX, "linewidth": 1.2, "zorder": 4}
        axes.add_patch(FancyBboxPatch((x - 0.07, bottom), 0.14, top - bottom, **style))


def _members(graph: GraphElements) -> Iterator[list[int]]:
    """Runs of neurons, one after the other, of the same block."""
    pairs = graph.links.T.tolist() if graph.links.numel() else []
    parents = {child: parent for child, parent in pairs if graph.group_of(parent).kind == "block"}
    run: list[int] = []
    for node in sorted(parents):
        same = run and node == run[-1] + 1 and parents[node] == parents[run[-1]]
        if not (same and graph.group_of(node) == graph.group_of(run[-1])):
            if len(run) > 1:
                yield run
            run = []
        run.append(node)
    if len(run) > 1:
        yield run
