"""What is in a set of networks: a table, and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.inr_data.dataset import InrSet
from benchmarks.inr_data.fitting import psnr
from benchmarks.inr_data.siren import render

CHECKED = 64  # networks per split that are rendered again
ROWS, COLUMNS = 4, 8


def table(sets: dict[str, InrSet], left_out: dict[str, int], published: Mapping[str, float] | None = None) -> str:
    """Counts and qualities per split; parameters per layer, beside ``published`` standard deviations."""
    published = published or {}
    lines = [f"{'split':8}{'networks':>10}{'images':>9}{'left out':>10}{'PSNR min':>10}{'median':>8}{'checked':>9}"]
    for split, inrs in sets.items():
        lines.append(
            f"{split:8}{len(inrs):10}{len(inrs.image_index.unique()):9}{left_out[split]:10}"
            f"{inrs.psnr.min():10.2f}{inrs.psnr.median():8.2f}{_checked(inrs):9}"
        )
    lines += ["", f"{'parameter':16}{'mean':>9}{'std':>9}{'largest':>9}{'published std':>15}"]
    for name, tensor in sets["train"].params.items():
        lines.append(
            f"{name:16}{tensor.mean():9.4f}{tensor.std():9.4f}{tensor.abs().max():9.3f}"
            + (f"{published[name]:15.3f}" if name in published else "")
        )
    return "\n".join(lines)


def _checked(inrs: InrSet) -> int:
    """Render some networks again, and compare with their images; returns how many.

    Raises:
        ValueError: A PSNR is not the recorded one.
    """
    at = torch.linspace(0, len(inrs) - 1, min(CHECKED, len(inrs))).long()
    some = inrs.subset(at)
    found = psnr(some.params, some.images(), some.omega)
    # At 100 dB the error is that of float32, which differs from machine to machine.
    wrong = at[((found - some.psnr).abs() > 0.1) & (some.psnr < 80)]
    if len(wrong):
        raise ValueError(f"Networks {wrong.tolist()} of {inrs.name} {inrs.split} do not have the PSNR recorded.")
    return len(at)


def picture(inrs: InrSet, path: Path) -> None:
    """Draw a grid of originals, each above its network, as a PNG."""
    from matplotlib.image import imsave

    some = inrs.subset(torch.arange(min(ROWS * COLUMNS, len(inrs) // COLUMNS * COLUMNS)))
    originals, rendered = some.images(), render(some.params, some.height, some.width, some.omega)
    both = torch.stack([_rows(originals), _rows(rendered)], dim=1)  # [row, 2, column, c, h, w]
    padded = torch.nn.functional.pad(both, (0, 2, 0, 2), value=1.0)
    row, two, column, channel, height, width = padded.shape
    grid = padded.permute(0, 1, 4, 2, 5, 3).reshape(row * two * height, column * width, channel)
    path.parent.mkdir(parents=True, exist_ok=True)
    large = grid.clamp(0, 1).expand(-1, -1, 3).numpy().repeat(3, axis=0).repeat(3, axis=1)
    imsave(path, np.ascontiguousarray(large))


def _rows(images: Tensor) -> Tensor:
    return images.unflatten(0, (-1, COLUMNS))
