"""Pictures of edits: what networks show before and after, and what they should show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.weight_space.samples import Samples
from benchmarks.weight_space.tasks import Editing

ROWS = ("before", "after", "target")


def before_after_target(
    task: Editing,
    samples: Samples,
    output: Any,  # what the model says of the samples
) -> Tensor:  # [3, net, channel, height, width], cut off at 0 and 1
    """What networks show before and after their edit, and what they should show."""
    before, after = task.render(samples.stacks[0].params), task.pictures(output)
    return torch.stack([before, after, samples.targets]).clamp(0, 1).cpu()


def tile(rows: Tensor) -> Tensor:  # [row, column, channel, h, w] -> [channel, row * h, column * w]
    """One picture of all."""
    row, column, channel, height, width = rows.shape
    return rows.permute(2, 0, 3, 1, 4).reshape(channel, row * height, column * width)


def draw(rows: Tensor, path: Path, title: str) -> None:
    """Write `before_after_target` as a PNG, each row with its name."""
    from matplotlib.figure import Figure

    picture = tile(rows).permute(1, 2, 0).squeeze(2)
    figure = Figure(figsize=(0.9 * rows.shape[1] + 0.8, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    middle = [(row + 0.5) * rows.shape[3] - 0.5 for row in range(len(ROWS))]
    axes.set(title=title, xticks=[], yticks=middle, yticklabels=ROWS)
    axes.spines[:].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
