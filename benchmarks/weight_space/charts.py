"""Pictures of results: the test measure of every run, and validation over epochs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.weight_space.tables import Measure, Row, by_group

COLOURS = {
    "neuron_flow": "#b5179e",
    "ng_gnn": "#3b7dd8",
    "ng_t": "#e4572e",
    "mlp": "#8a8f98",
    "mlp_aug": "#5b5f66",
    "probe_mlp": "#2a9d8f",
    "statistics": "#e6a700",
}

STYLES = ("-", "--", ":", "-.")  # of the variants of an encoder


def draw_results(rows: list[Row], measure: Measure, path: Path, title: str) -> None:
    """Dots per run and a bar at their mean on the left; validation curves, a line per run, on the right.

    Args:
        rows: Of one task on one data set.
        measure: What to draw.
        path: PNG to write.
        title: Of the picture.
    """
    from matplotlib.figure import Figure

    groups = by_group(rows)
    names = [
        f"{encoder} {variant}".strip() + ("*" if runs[0]["probes"] else "")
        for (encoder, variant), runs in groups.items()
    ]
    figure = Figure(figsize=(12.5, max(3.0, 0.45 * len(groups) + 1.5)), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(title + ("   (* with probes)" if any(row["probes"] for row in rows) else ""))
    for at, ((encoder, _), runs) in enumerate(groups.items()):
        earlier = [name for name, _ in list(groups)[:at]].count(encoder)
        colour, style = COLOURS[encoder], STYLES[earlier % len(STYLES)]
        values = [run["test"][measure.name] for run in runs]
        left.barh(at, np.mean(values), color=colour, alpha=0.3)
        left.plot(values, [at] * len(values), "o", color=colour)
        for number, run in enumerate(runs):
            epochs = [entry["epoch"] for entry in run["history"]]
            curve = [entry[f"val_{measure.name}"] for entry in run["history"]]
            label = names[at] if curve and not number else None  # trees have no epochs
            right.plot(epochs, curve, style, color=colour, label=label, linewidth=1.5)
    left.set(xlabel=measure.title, yticks=range(len(names)), yticklabels=names)
    left.invert_yaxis()
    right.set(xlabel="epoch", ylabel=f"validation {measure.name}")
    right.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside right center", frameon=False, fontsize="small")  # else it covers curves
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
