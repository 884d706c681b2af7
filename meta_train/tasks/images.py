"""Images for tasks: MNIST and Fashion-MNIST at any size, a part of the training images, and batches of them.

The last images of each training set are kept from meta-training, for evaluations while it runs; test sets are never
read. CIFAR-10 is not known here at all.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meta_train.data import load
from meta_train.tasks.base import Batch
from meta_train.tasks.drawing import example_of

DATASETS = ("mnist", "fashion-mnist")
CLASSES = 10
HELD_OUT = 10_000  # of the training images


@functools.lru_cache(maxsize=32)
def images(name: str, size: int, held_out: bool = False) -> tuple[Tensor, Tensor]:  # float32 [n 1 size size], int64 [n]
    """Training images, averaged down to a size and normalised; or the held-out part of the training images."""
    dataset = load(name)
    part = slice(-HELD_OUT, None) if held_out else slice(None, -HELD_OUT)
    pixels = dataset.train_images[part].permute(0, 3, 1, 2).float() / 255
    if size != pixels.shape[-1]:
        pixels = F.interpolate(pixels, size=(size, size), mode="area")
    return (pixels - pixels.mean()) / pixels.std(), dataset.train_labels[part]


@dataclass(frozen=True)
class Images:
    """Batches of images and labels, drawn with replacement.

    Attributes:
        name: Data set.
        size: Side length in pixels.
        channels: 1; or 3, the grey image in three random contrasts (drawn once per task), which is not grey any more.
        subset: Use only so many images.
        label_noise: Share of the labels that are replaced by random ones, once and for all.
        seed: Fixes subset, noise and contrasts.
        held_out: Use the images that meta-training never draws.
        targets: ``"labels"``, or ``"pixels"`` for autoencoders.
    """

    name: str
    size: int
    channels: int = 1
    subset: int | None = None
    label_noise: float = 0.0
    seed: int = 0
    held_out: bool = False
    targets: str = "labels"

    def batch(self, generator: torch.Generator, count: int, size: int) -> Batch:
        """See `Data.batch`: ``[count, size, channels, side, side]`` and ``[count, size]``."""
        pixels, labels = images(self.name, self.size, self.held_out)
        total = min(self.subset or len(labels), len(labels))
        index = torch.randint(total, (count, size), generator=generator)
        if self.subset is not None or self.label_noise or self.channels != 1:
            order, noisy, contrast, shift = self._drawn
            index = order[index]
            x, y = pixels[index], torch.where(noisy[index] >= 0, noisy[index], labels[index])
            if self.channels != 1:
                x = torch.tanh(x * contrast + shift)
        else:
            x, y = pixels[index], labels[index]
        return (x, x.flatten(2)) if self.targets == "pixels" else (x, y)

    def example(self) -> tuple[Tensor, ...]:
        """See `Data.example`."""
        return (example_of(2, self.channels, self.size, self.size),)

    @functools.cached_property
    def _drawn(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [n], [n], [channels 1 1], [channels 1 1]
        """Order of the images, noisy labels (-1: the true one), contrast and shift of each channel."""
        total = len(images(self.name, self.size, self.held_out)[1])
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(total, generator=generator)
        noisy = torch.randint(CLASSES, (total,), generator=generator)
        kept = torch.rand(total, generator=generator) >= self.label_noise
        contrast = torch.randn(self.channels, 1, 1, generator=generator)
        shift = 0.5 * torch.randn(self.channels, 1, 1, generator=generator)
        return order, noisy.masked_fill(kept, -1), contrast, shift
