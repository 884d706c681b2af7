"""Which networks a zoo has: names, sizes, splits and files, all decided before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meta_train.data import data_root

ZOOS = {  # name -> images
    "small-mnist": "mnist",
    "small-fashion_mnist": "fashion-mnist",
    "small-cifar10": "cifar10",
    "small-svhn": "svhn",
    "small-digits": "digits",  # 8 x 8 pixels, for tests
    "wild": "cifar10",
    "wild-digits": "digits",
}
VERSION = 1  # of what is drawn and how it is trained: raise it with any change of bytes
SPLITS = ("train", "val", "test")
OUT_OF_DISTRIBUTION = ("wider", "deeper", "other-norm")  # of the wild zoo, for tests only
FRACTIONS = (0.1, 0.25, 0.5, 1.0)  # of the training images
ACTIVATIONS = ("relu", "tanh")  # of the small zoo
PATTERN = ("train", "train", "val", "train", "test", "train", "train", "test")  # splits of 8 runs of the small zoo
FIRST = 1_000_000  # runs of the wild zoo: so many numbers for each split


@dataclass(frozen=True)
class Size:
    """How many runs, and how long."""

    checkpoints: tuple[int, ...]  # after so many steps; the last one ends the run
    batch: int
    train_images: int | None  # how many to train on, before each run takes its fraction; None: all
    test_images: int | None
    side: int  # height and width of images of the wild zoo; the small zoo has them as published
    runs: tuple[int, ...]  # per split of the wild zoo; of the small zoo, all in all
    shard: int  # runs in a file, and (small zoo) runs that are trained at once


SMALL = {
    "smoke": Size((20, 60), 32, 500, 300, 0, (32,), 16),
    "small": Size((40, 120, 300, 600), 32, 10_000, 5_000, 0, (384,), 16),
    "medium": Size((50, 200, 500, 1_000), 32, 20_000, 10_000, 0, (2_560,), 16),
    # As published: 86 epochs of batches of 512. For a GPU.
    "full": Size((117, 234, 351, 2_340, 4_680, 7_020, 9_360, 10_062), 512, None, None, 0, (30_000,), 240),
}
WILD = {
    "smoke": Size((8, 16), 32, 500, 300, 16, (6, 2, 3, 2, 2, 2), 4),
    "small": Size((15, 50, 100, 160), 64, 10_000, 3_000, 16, (160, 30, 50, 20, 20, 20), 10),
    "medium": Size((30, 100, 250, 500), 64, 20_000, 10_000, 16, (1_600, 200, 400, 100, 100, 100), 20),
    "full": Size((98, 490, 980, 1_960, 3_920), 128, None, None, 32, (6_000, 750, 1_500, 250, 250, 250), 50),
}
SIZES = tuple(SMALL)


@dataclass(frozen=True)
class Shard:
    """The runs of one file."""

    number: int
    runs: tuple[int, ...]

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.number:05d}.safetensors"


def is_wild(zoo: str) -> bool:
    """Whether every run has an architecture of its own."""
    return zoo.startswith("wild")


def size_of(zoo: str, size: str) -> Size:
    """The numbers behind the name of a size.

    Raises:
        ValueError: Either name is unknown; the message lists what there is.
    """
    if zoo not in ZOOS:
        raise ValueError(f"There is no zoo {zoo!r}; these are known: {', '.join(ZOOS)}.")
    if size not in SIZES:
        raise ValueError(f"There is no size {size!r}; these are known: {', '.join(SIZES)}.")
    return (WILD if is_wild(zoo) else SMALL)[size]


def folder(zoo: str, size: str, root: Path | str | None = None) -> Path:
    """Where a zoo lies: ``zoo/ZOO-SIZE`` under the data root."""
    size_of(zoo, size)
    return data_root(root) / "zoo" / f"{zoo}-{size}"


def splits_of(zoo: str) -> tuple[str, ...]:
    """Names of the splits."""
    return SPLITS + OUT_OF_DISTRIBUTION if is_wild(zoo) else SPLITS


def split_of(zoo: str, run: int) -> str:
    """The split that all checkpoints of a run are in."""
    if is_wild(zoo):
        return splits_of(zoo)[run // FIRST]
    return PATTERN[run % len(PATTERN)]


def conditions(stack: int) -> tuple[str, float]:
    """What all runs of a stack of the small zoo share: activation, and fraction of the training images."""
    return ACTIVATIONS[stack % 2], FRACTIONS[stack // 2 % len(FRACTIONS)]


def make_plan(zoo: str, size: str) -> list[Shard]:
    """Cut a zoo into files."""
    found = size_of(zoo, size)
    starts = [split * FIRST if is_wild(zoo) else 0 for split in range(len(found.runs))]
    runs = [start + i for start, count in zip(starts, found.runs, strict=True) for i in range(count)]
    parts = [runs[at : at + found.shard] for at in range(0, len(runs), found.shard)]
    return [Shard(number, tuple(part)) for number, part in enumerate(parts)]
