"""Scatter plots: what was predicted for single test networks against what is true, coloured by architecture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = ("#3b7dd8", "#e4572e", "#3a9e6e", "#e6a700", "#cc79a7", "#56b4e9", "#222222", "#8c2d04")
MOST = 6  # panels


def draw_scatter(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """A panel per row: a dot per test network, predicted over true accuracy in percent.

    Args:
        rows: Each with ``scatter``: name of a split -> ``true`` and ``predicted`` in percent, ``family`` (indices
            into ``families``).
        path: PNG to write.
        title: Of the picture.
    """
    from matplotlib.figure import Figure

    rows = sorted(rows, key=lambda row: len(row["variant"]))[:MOST]  # encoders as they come before their variants
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(3.4 * columns + 1.6, 3.3 * lines + 0.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)).ravel()
    figure.suptitle(f"{title}: accuracy of test networks (%)")
    drawn = [row["scatter"]["test"] for row in rows]
    names = sorted({name for test in drawn for name in test["families"]})
    most = 10 * math.ceil(max(max(test[which]) for test in drawn for which in ("true", "predicted")) / 10)
    for axes, row, test in zip(panels, rows, drawn, strict=False):
        family = np.array([test["families"][k] for k in test["family"]])
        for k, name in enumerate(names):
            true, predicted = (np.array(test[which])[family == name] for which in ("true", "predicted"))
            axes.plot(true, predicted, ".", color=COLOURS[k % len(COLOURS)], markersize=4, alpha=0.6, label=name)
        axes.plot([0, most], [0, most], color="#8a8f98", linewidth=1)
        axes.set_title(f"{row['encoder']} {row['variant']}".strip(), fontsize="medium")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    figure.supxlabel("true")
    figure.supylabel("predicted")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize="small", markerscale=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
