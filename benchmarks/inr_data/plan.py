"""Which images become networks, in which split, in which file: all decided by the seed before anything is fitted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.inr_data.kinds import KINDS
from benchmarks.inr_data.siren import HIDDEN, OMEGA, shapes
from meta_train.data import DATASETS, Dataset, data_root

SPLITS = ("train", "val", "test")
SIZES = {  # images per split; val is taken from the official training images
    "smoke": (48, 16, 16),
    "small": (2000, 500, 500),
    "medium": (10000, 1000, 2000),
    "large": (20000, 2000, 10000),  # all official test images
    "full": None,  # all: 5,000 for val, the rest of the training images for train
}
FULL_VAL = 5000
SHARD = 1000  # networks in a file


@dataclass(frozen=True)
class Shard:
    """The networks of one file."""

    split: str
    copy: int  # 0, or which of the extra fits of the same images
    number: int
    images: tuple[int, ...]  # indices in the official training images, or (split test) test images

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.split}-{self.copy}-{self.number:05d}.safetensors"

    def seed(self, seed: int, position: int, attempt: int) -> int:
        """Where the start of a network comes from: its image, copy and attempt, whatever else is fitted."""
        source = "test" if self.split == "test" else "train"
        text = f"{seed} {source} {self.images[position]} {self.copy} {attempt}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def check_names(dataset: str, size: str, init: str = "ngopt") -> None:
    """Raise a ValueError that lists what there is, if a name is unknown."""
    if dataset not in DATASETS:
        raise ValueError(f"There is no data set {dataset!r}; these are known: {', '.join(DATASETS)}.")
    if size not in SIZES:
        raise ValueError(f"There is no size {size!r}; these are known: {', '.join(SIZES)}.")
    if init not in KINDS:
        raise ValueError(f"There is no kind {init!r}; these are known: {', '.join(KINDS)}.")


def set_name(dataset: str, init: str) -> str:
    """``DATASET`` of kind ngopt, ``DATASET-KIND`` of the others; `SETS` leads back."""
    return dataset if init == "ngopt" else f"{dataset}-{init}"


SETS = {set_name(dataset, init): (dataset, init) for dataset in DATASETS for init in KINDS}


def folder(dataset: str, size: str, root: Path | str | None = None, init: str = "ngopt") -> Path:
    """Where a set of networks lies: ``inr/SET-SIZE`` under the data root."""
    check_names(dataset, size, init)
    return data_root(root) / "inr" / f"{set_name(dataset, init)}-{size}"


def make_plan(data: Dataset, size: str, seed: int, augment: int = 0, shard: int = SHARD) -> list[Shard]:
    """Cut a data set into shards.

    Copies come after all first fits and in files of their own, so a set can be augmented later without a new fit.

    Args:
        data: From `meta_train.data.load`.
        size: Of `SIZES`.
        seed: Of the permutations that choose images.
        augment: Extra fits of each image of split train.
        shard: Networks in a file.

    Raises:
        ValueError: The data set has too few images.
    """
    generator = torch.Generator().manual_seed(seed)
    train = torch.randperm(len(data.train_labels), generator=generator).tolist()
    test = torch.randperm(len(data.test_labels), generator=generator).tolist()
    counts = SIZES[size] or (len(train) - FULL_VAL, FULL_VAL, len(test))
    if min(counts) < 1 or counts[0] + counts[1] > len(train) or counts[2] > len(test):
        raise ValueError(
            f"Size {size!r} needs {counts} images for {SPLITS}; {data.name} has {len(train)} training and {len(test)} "
            "test images. Choose a smaller size."
        )
    chosen = {"train": train[: counts[0]], "val": train[counts[0] : counts[0] + counts[1]], "test": test[: counts[2]]}
    jobs = [(split, 0) for split in SPLITS] + [("train", copy) for copy in range(1, augment + 1)]
    return [
        Shard(split, copy, number, tuple(chosen[split][at : at + shard]))
        for split, copy in jobs
        for number, at in enumerate(range(0, len(chosen[split]), shard))
    ]


def architecture(data: Dataset) -> dict[str, Any]:
    """What all networks of a set have in common, as the manifest has it."""
    layout = {name: list(shape) for name, shape in shapes(data.channels, HIDDEN).items()}
    return {"kind": "siren", "omega": OMEGA, "shapes": layout, "image": list(data.train_images.shape[1:])}


def originals(data: Dataset, split: str, index: Tensor) -> tuple[Tensor, Tensor]:
    """Images of a split as they were published, float32 [n, c, h, w] from 0 to 1, and their labels."""
    images, labels = (data.test_images, data.test_labels) if split == "test" else (data.train_images, data.train_labels)
    planes = images[index].permute(0, 3, 1, 2)
    return planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255), labels[index]
