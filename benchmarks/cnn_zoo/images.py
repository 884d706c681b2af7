"""The images of a zoo: grey or in colour, from -1 to 1 as the published zoo has them, some of them or all."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cnn_zoo.plan import ZOOS, is_wild, size_of
from meta_train.data import DataMissingError, Dataset, data_root
from meta_train.data import load as load_dataset
from meta_train.seeds import generator

SVHN = {  # file -> MD5 of the release
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
SMALLEST = 15  # pixels that three convolutions of stride 2 without padding need


@dataclass(frozen=True)
class Images:
    """Tensors in memory."""

    train_x: Tensor  # float32 [image, channel, height, width]
    train_y: Tensor  # int64 [image]
    test_x: Tensor
    test_y: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train_x.shape[1:]
        return channels, height, width


@functools.cache
def images_of(zoo: str, size: str, root: Path | None = None) -> Images:
    """The images that a zoo's networks are trained and tested on.

    The small zoo's are grey, the wild zoo's are in colour and averaged to its size. Which ones are taken has nothing
    to do with a zoo's seed: accuracies of different zoos are of the same images.

    Raises:
        DataMissingError: Files are missing and could not be fetched.
    """
    which, name = size_of(zoo, size), ZOOS[zoo]
    data = _svhn(data_root(root)) if name == "svhn" else load_dataset(name, root)
    parts = []
    for split, x, y, count in (
        ("train", data.train_images, data.train_labels, which.train_images),
        ("test", data.test_images, data.test_labels, which.test_images),
    ):
        chosen = torch.randperm(len(y), generator=generator("zoo images", split))[:count]
        parts += [_prepared(x[chosen], zoo, which.side), y[chosen]]
    return Images(*parts)


def _prepared(images: Tensor, zoo: str, side: int) -> Tensor:  # uint8 [n h w c] -> float32 [n c h w]
    x = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    if is_wild(zoo):
        x = F.adaptive_avg_pool2d(x, side) if x.shape[-1] > side else x
    else:
        x = x.mean(1, keepdim=True)
        x = F.interpolate(x, scale_factor=2.0) if x.shape[-1] < SMALLEST else x  # digits
    return x.mul_(2).sub_(1)


def _svhn(root: Path) -> Dataset:
    """SVHN's cropped digits, where a user has its files."""
    arrays = []
    for name, md5 in SVHN.items():
        places = [root / "svhn" / name, root / "SVHN" / name, root / name]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise DataMissingError(
                f"SVHN is not fetched. Put its cropped digits, {' and '.join(SVHN)}, into {root / 'svhn'}."
            )
        if (found := hashlib.md5(path.read_bytes()).hexdigest()) != md5:
            raise ValueError(f"{path} is not the released file: its MD5 is {found}, expected {md5}.")
        from scipy.io import loadmat

        content = loadmat(path)
        labels = content["y"].reshape(-1).astype(np.int64) % 10  # the digit 0 has label 10
        arrays += [torch.from_numpy(content["X"].transpose(3, 0, 1, 2).copy()), torch.from_numpy(labels)]
    return Dataset("svhn", *arrays, mean=(), std=())
