"""Draw a neural graph, group by group: boxes are node groups, lines are parameters."""

from __future__ import annotations

from collections import defaultdict
from os import PathLike

from ngopt.graph.export import groups_at
from ngopt.graph.neural_graph import NeuralGraph

COLOURS = {"fixed": "#d9d9d9", "neuron": "#a6cee3", "block": "#fdbf6f"}


def draw(graph: NeuralGraph, path: str | PathLike[str]) -> None:
    """Draw node groups as boxes, in the order in which information flows, with parameters as lines between them.

    Boxes say how many nodes they hold, which functions these pass through, and the symmetric group that acts on them.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'ngopt[train]'") from error

    edges = _edges(graph)
    places = _places(graph, edges)
    columns = max((x for x, _ in places.values()), default=0) + 1
    rows = max((y for _, y in places.values()), default=0) + 1
    figure = Figure(figsize=(max(6.0, 2.9 * columns), max(3.0, 1.75 * rows + 1.2)))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_axis_off()
    axes.set_xlim(-0.6, columns - 0.4)
    axes.set_ylim(-rows + 0.25, 1.0)

    for (source, target), names in edges.items():
        (x1, y1), (x2, y2) = places[source], places[target]
        bend = 0.0 if x2 - x1 == 1 and y1 == y2 else 0.25 if source != target else 0.9
        axes.annotate(
            "", (x2 - 0.33, -y2), (x1 + 0.33, -y1), zorder=1,
            arrowprops={"arrowstyle": "-|>", "color": "#555555", "lw": 1.1, "connectionstyle": f"arc3,rad={-bend}"},
        )
        middle = ((x1 + x2) / 2, -(y1 + y2) / 2 + bend * max(abs(x2 - x1), 0.4) * 0.5 + 0.07)
        axes.text(*middle, _short(names), ha="center", va="bottom", fontsize=7, color="#555555", zorder=3)

    actions = defaultdict(list)
    for s in graph.symmetries or ():
        actions[s.name].append(f"$S_{{{s.degree}}}$" + (f"$^{{{s.copies}}}$" if s.copies > 1 else ""))
    for index, group in enumerate(graph.groups):
        x, y = places[index]
        kind = "fixed" if group.frozen else group.kind
        lines = [_clip(group.name, 24), f"{group.size:,} {'blocks' if group.kind == 'block' else 'neurons'}"]
        lines += [" ".join(group.activations[:3])] if group.activations else []
        lines += [" ".join(actions[group.name])] if actions[group.name] else ["fixed"] if group.frozen else []
        axes.text(
            x, -y, "\n".join(lines), ha="center", va="center", fontsize=8, zorder=4,
            bbox={"boxstyle": "round,pad=0.45", "facecolor": COLOURS[kind], "edgecolor": "#444444", "lw": 0.8},
        )
    note = "certified by numbers" if graph.certified else "not certified"
    title = f"{graph.num_nodes:,} nodes, {graph.num_parameters:,} parameters; symmetries {note}"
    axes.text(-0.55, 0.93, title, fontsize=9, va="top")
    for i, (kind, colour) in enumerate(COLOURS.items()):
        axes.text(
            -0.5 + 0.45 * i, 0.66, kind, fontsize=8, va="center",
            bbox={"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "#444444", "lw": 0.6},
        )
    figure.savefig(path, dpi=130)


def _edges(graph: NeuralGraph) -> dict[tuple[int, int], list[str]]:
    """(in group, out group) -> parameters between them; only matrices, vectors belong to their neurons."""
    index = {group.name: i for i, group in enumerate(graph.groups)}
    edges: dict[tuple[int, int], list[str]] = defaultdict(list)
    for block in graph.blocks:
        if block.col_nodes is not None:
            for source in groups_at(graph, block.col_nodes):
                for target in groups_at(graph, block.row_nodes):
                    edges[index[source], index[target]].append(block.name)
    return edges


def _places(graph: NeuralGraph, edges: dict[tuple[int, int], list[str]]) -> dict[int, tuple[int, int]]:
    """Column and row of each group: one column after the first group that feeds it, blocks under their members."""
    column: dict[int, int] = {}
    sources = defaultdict(list)
    for source, target in edges:
        sources[target].append(source)
    for index, group in enumerate(graph.groups):
        if group.kind == "neuron" and not sources[index]:
            column[index] = 0
    changed = True
    while changed:
        changed = False
        for target in range(len(graph.groups)):
            known = [column[s] for s in sources[target] if s in column]
            if target not in column and known:
                column[target] = min(known) + 1
                changed = True
    members = defaultdict(list)
    starts = [group.start for group in graph.groups]
    for child, parent in graph.links.T.tolist():
        members[_find(starts, parent)].append(_find(starts, child))
    for index in range(len(graph.groups)):
        if index not in column:
            column[index] = max((column.get(m, 0) for m in members[index]), default=0)
    rows: dict[int, int] = defaultdict(int)
    places = {}
    for index in sorted(range(len(graph.groups)), key=lambda i: (graph.groups[i].kind == "block", i)):
        places[index] = column[index], rows[column[index]]
        rows[column[index]] += 1
    return places


def _find(starts: list[int], node: int) -> int:
    from bisect import bisect_right

    return bisect_right(starts, node) - 1


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[-width + 1 :]


def _short(names: list[str]) -> str:
    shown = [_clip(name, 22) for name in names[:2]]
    return "\n".join(shown + ([f"and {len(names) - 2} more"] if len(names) > 2 else []))
