"""Letters in many typefaces, read by a residual network with BatchNorm whose channels are weighed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.learning_to_optimize.tasks.base import Data, Task, register
from benchmarks.learning_to_optimize.tasks.sources import SEED, parted

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FACES = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmb10", "cmr10", "cmss10", "cmti10", "cmtt10")
SIZE = 12  # pixels
COPIES = 4
NOISE = 0.3


class SqueezeExcite(nn.Module):
    """A residual block of convolutions with BatchNorm; each channel is weighed by what the whole picture says."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.squeeze, self.excite = nn.Linear(width, squeezed), nn.Linear(squeezed, width)

    def forward(self, x: Tensor) -> Tensor:  # [b width h w] -> the same
        """Apply the block."""
        inner = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            inner = convolution(F.relu(norm(inner)))
        weights = torch.sigmoid(self.excite(F.relu(self.squeeze(inner.mean((2, 3))))))
        return x + weights[..., None, None] * inner


def squeeze_excite(width: int = 16, depth: int = 2, classes: int = len(ALPHABET)) -> nn.Sequential:
    """A strided stem, blocks, the mean over pixels, a linear layer."""
    blocks = [SqueezeExcite(width, width // 4) for _ in range(depth)]
    head = [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
    return nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), *blocks, *head)


@lru_cache(maxsize=1)
def letters() -> Data:
    """Letters, small and capital, in the typefaces that come with matplotlib: shifted, turned, with noise."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    generator = np.random.default_rng(SEED)
    pictures, labels = [], []
    for path in sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf")):
        if not path.stem.startswith(FACES) or path.stem.endswith("Display"):
            continue
        font = ImageFont.truetype(str(path), 2 * SIZE - 4)
        for label, letter in enumerate(ALPHABET):
            for character in (letter, letter.lower()) * COPIES:
                canvas = Image.new("L", (2 * SIZE, 2 * SIZE))
                place = SIZE + generator.uniform(-2, 2, 2)
                ImageDraw.Draw(canvas).text(tuple(place), character, 255, font, "mm")
                turned = canvas.rotate(generator.uniform(-10, 10), Image.Resampling.BILINEAR)
                pictures.append(np.asarray(turned.resize((SIZE, SIZE), Image.Resampling.BOX)))
                labels.append(label)
    order = generator.permutation(len(labels))
    x = torch.from_numpy(np.stack(pictures)[order]).float()[:, None]
    x = (x - x.mean()) / x.std()
    x = x + NOISE * torch.from_numpy(generator.standard_normal(x.shape)).float()
    return parted(x, torch.from_numpy(np.array(labels)[order]))


register(
    Task(
        "letters",
        "unseen",
        "squeeze-and-excitation ResNet with BatchNorm, letters in 22 typefaces",
        "matplotlib's fonts",
        squeeze_excite,
        letters,
        16,
    )
)
