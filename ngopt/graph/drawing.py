"""Draw a neural graph: small ones neuron by neuron, others in an overview.

The overview has node groups as columns, and parameters as links between them, one row each.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from torch import Tensor

from ngopt.extras import extra
from ngopt.graph.drawing_neurons import draw_neurons, fits
from ngopt.graph.elements import GraphElements, NodeGroup
from ngopt.graph.export import check_state, groups_at

COLOURS = {"fixed": "#dddddd", "neuron": "#a6cee3", "block": "#fdbf6f"}
INK, LINK, VECTOR = "#333333", "#1f5f8b", "#b15928"
COLUMN, ROW, HEAD, MARGIN = 1.6, 0.24, 0.95, 2.4  # inches
MAX_ROWS = 90


def draw(
    graph: GraphElements, path: str | PathLike[str], state: Mapping[str, Tensor] | None = None, detail: str = "auto"
) -> None:
    """Draw the graph to an image file (format by suffix).

    *Neurons*: see `ngopt.graph.drawing_neurons.draw_neurons`. *Overview*: columns are node groups, headed by their
    size, the functions that they pass through and the symmetric group that acts on them. An arrow is a weight, from the
    neurons it reads to those it writes; a dot is a bias or scale; a dashed line leads from neurons to the blocks
    (attention heads, ...) that they belong to.

    Args:
        graph: What to draw.
        path: Of the picture; its suffix says the format.
        state: Values shaped as the parameters, such as a ``state_dict``, that colour the lines between neurons.
        detail: ``"neurons"``, ``"overview"``, or ``"auto"``: neurons up to some hundreds of them.

    Raises:
        GraphMismatchError: ``state`` lacks a parameter or holds one of another shape.
        MissingExtraError: matplotlib is missing.
        ValueError: ``detail`` is something else.
    """
    if detail not in ("auto", "neurons", "overview"):
        raise ValueError(f"detail is 'auto', 'neurons' or 'overview', got {detail!r}")
    check_state(graph, state)
    with extra("train", "drawing"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    if detail == "neurons" or (detail == "auto" and fits(graph)):
        columns = sum(group.kind != "block" for group in graph.groups)
        figure = Figure(figsize=(1.5 + 1.5 * columns, 5.0))
        FigureCanvasAgg(figure)
        draw_neurons(figure.add_axes((0.02, 0.02, 0.96, 0.94)), graph, state)
        figure.savefig(path, dpi=140)
        return

    column = {group.name: i for i, group in enumerate(graph.groups)}
    blocks = graph.blocks[:MAX_ROWS]
    memberships = _memberships(graph)
    rows = len(blocks) + len(memberships) + (len(graph.blocks) > MAX_ROWS)
    width, height = MARGIN + COLUMN * len(column), HEAD + 0.5 + ROW * (rows + 1)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-MARGIN, width - MARGIN)
    axes.set_ylim(-ROW * (rows + 1), HEAD + 0.5)

    x = {name: COLUMN * (i + 0.5) for name, i in column.items()}
    actions = _actions(graph)
    for group in graph.groups:
        axes.plot([x[group.name]] * 2, [0, -ROW * (rows + 0.5)], color="#cccccc", lw=1, zorder=0)
        _head(axes, group, x[group.name], actions.get(group.name, ""))
    for row, block in enumerate(blocks, 1):
        y = -ROW * row
        axes.text(-0.1, y, _clip(block.name, 38), ha="right", va="center", fontsize=6.5, color=INK)
        targets = [x[name] for name in groups_at(graph, block.row_nodes)]
        if block.col_nodes is None:
            axes.plot(targets, [y] * len(targets), "o", color=VECTOR, ms=4)
        else:
            for source in (x[name] for name in groups_at(graph, block.col_nodes)):
                for target in targets:
                    _arrow(axes, source, target, y)
    for row, (child, parent) in enumerate(memberships, len(blocks) + 1):
        y = -ROW * row
        axes.text(-0.1, y, "belongs to", ha="right", va="center", fontsize=6.5, color=INK, style="italic")
        axes.plot([x[child], x[parent]], [y, y], "--", color="#e08214", lw=1.2)
        axes.plot([x[parent]], [y], "s", color="#e08214", ms=4)
    if len(graph.blocks) > MAX_ROWS:
        text = f"… and {len(graph.blocks) - MAX_ROWS} more parameters"
        axes.text(-0.1, -ROW * rows, text, ha="right", va="center", fontsize=6.5)
    note = "certified by numbers" if graph.certified else "not certified"
    title = f"{graph.num_nodes:,} nodes, {graph.num_parameters:,} parameters; symmetries {note}"
    axes.text(-MARGIN + 0.1, HEAD + 0.3, title, fontsize=9, va="center", color=INK)
    figure.savefig(path, dpi=140)


def _head(axes: Any, group: NodeGroup, x: float, action: str) -> None:
    kind = "fixed" if group.frozen else group.kind
    what = "blocks" if group.kind == "block" else "neurons"
    lines = [_clip(group.name, 21), f"{group.size:,} {what}", _clip(" ".join(group.activations), 21), action or "fixed"]
    box = {"boxstyle": "round,pad=0.35", "facecolor": COLOURS[kind], "edgecolor": INK, "lw": 0.7}
    axes.text(x, HEAD / 2, "\n".join(line for line in lines if line), ha="center", va="center", fontsize=7, bbox=box)


def _arrow(axes: Any, source: float, target: float, y: float) -> None:
    style = {"arrowstyle": "-|>", "color": LINK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    if source == target:  # a neuron group that writes to itself
        style["connectionstyle"] = "arc3,rad=-1.2"
        axes.annotate("", (target, y - 0.05), (source, y + 0.05), arrowprops=style)
        axes.plot([source], [y], "D", color=LINK, ms=3.5)
    else:
        axes.annotate("", (target, y), (source, y), arrowprops=style)


def _actions(graph: GraphElements) -> dict[str, str]:
    """The symmetric group that acts on each node group, as mathematical text."""
    return {
        s.name: f"$S_{{{s.degree}}}" + (f"^{{{s.copies}}}$" if s.copies > 1 else "$") for s in graph.symmetries or ()
    }


def _memberships(graph: GraphElements) -> list[tuple[str, str]]:
    """Pairs of node groups: members, blocks."""
    pairs = {}
    for child, parent in graph.links.T.unique(dim=0).tolist() if graph.links.numel() else ():
        pairs[graph.group_of(child).name, graph.group_of(parent).name] = graph.group_of(parent)
    return [names for names, parent in pairs.items() if parent.kind == "block"]


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[-width + 1 :]
