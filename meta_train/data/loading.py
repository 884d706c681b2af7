"""From files to tensors: fetch what is missing, check every byte, normalise."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meta_train.data.catalogue import DATASETS, SPECS, TEXTS, File, Spec
from meta_train.data.fetching import fetch as fetch_missing
from meta_train.data.formats import parse_cifar, parse_idx, sha256, uncompressed
from meta_train.data.places import DataMissingError, data_root, locate, what_is_missing
from ngopt.extras import extra

DIGITS_TEST = 360  # of the 1,797 digits


@dataclass(frozen=True)
class Dataset:
    """Images as they were published, with the statistics of the training pixels, scaled to [0, 1]."""

    name: str
    train_images: Tensor  # uint8 [n h w c]
    train_labels: Tensor  # int64 [n]
    test_images: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]  # per channel
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train_images.shape[-1]


@dataclass(frozen=True)
class Split:
    """Normalised tensors, all in memory."""

    train_x: Tensor  # float32 [n c h w]
    train_y: Tensor  # int64 [n]
    test_x: Tensor
    test_y: Tensor


def load(name: str, root: str | os.PathLike | None = None, *, fetch: bool = True) -> Dataset:
    """Load a data set, and fetch it first if files are missing.

    Args:
        name: ``digits`` (scikit-learn's, no download), ``mnist``, ``fashion-mnist`` or ``cifar10``.
        root: See `data_root`.
        fetch: False: raise instead of fetching.

    Raises:
        ValueError: No such data set, or a file whose bytes are not those of the release.
        DataMissingError: Files are missing, and were not or could not be fetched.
    """
    if name == "digits":
        return _dataset(name, *_digits())
    if name not in SPECS:
        raise ValueError(f"There is no data set {name!r}; these are known: {', '.join(DATASETS)}.")
    spec = SPECS[name]
    contents = read_verified(spec, data_root(root), fetch=fetch)
    return _dataset(name, *(_read_idx(contents) if spec.layout == "idx" else _read_cifar(contents)))


def load_text(name: str, root: str | os.PathLike | None = None, *, fetch: bool = True) -> str:
    """Load a text, and fetch it first if it is missing.

    Args:
        name: ``moby-dick`` (a novel) or ``cmudict`` (a pronouncing dictionary).
        root: See `data_root`.
        fetch: False: raise instead of fetching.

    Raises:
        ValueError: No such text, or a file whose bytes are not those of the release.
        DataMissingError: The file is missing, and was not or could not be fetched.
    """
    if name not in TEXTS:
        raise ValueError(f"There is no text {name!r}; these are known: {', '.join(TEXTS)}.")
    return read_verified(TEXTS[name], data_root(root), fetch=fetch)[0].decode("utf-8")


def read_verified(spec: Spec, root: Path, *, fetch: bool) -> list[bytes]:
    """Contents of a data set's files, every byte checked; what is missing is fetched first, or an error."""
    if locate(spec, root) is None:
        if not fetch:
            raise DataMissingError(what_is_missing(spec, root))
        fetch_missing(spec, root)
    paths = locate(spec, root)
    assert paths is not None
    return [_verified(path, file) for path, file in zip(paths, spec.files, strict=True)]


def prepare(dataset: Dataset, *, holdout: int = 0) -> Split:
    """Normalise a data set with the mean and standard deviation of its training pixels.

    Args:
        dataset: From `load`.
        holdout: Use the last so many training images as the test set, and never look at the real one.
    """
    if not 0 <= holdout < len(dataset.train_labels):
        raise ValueError(f"holdout={holdout} must leave some of the {len(dataset.train_labels)} training images.")
    end = len(dataset.train_labels) - holdout
    test_images = dataset.train_images[end:] if holdout else dataset.test_images
    test_labels = dataset.train_labels[end:] if holdout else dataset.test_labels
    return Split(
        _normalised(dataset.train_images[:end], dataset),
        dataset.train_labels[:end],
        _normalised(test_images, dataset),
        test_labels,
    )


def _verified(path: Path, file: File) -> bytes:
    data = uncompressed(path)
    if (found := sha256(data)) != file.sha256:
        raise ValueError(
            f"{path} is not the released {file.name}: SHA-256 of its (uncompressed) bytes is {found}, expected "
            f"{file.sha256}. Remove it, and it will be fetched again."
        )
    return data


def _dataset(name: str, *arrays: np.ndarray) -> Dataset:
    train_images, train_labels, test_images, test_labels = (torch.from_numpy(a) for a in arrays)
    mean, std = _statistics(train_images)
    return Dataset(name, train_images, train_labels.long(), test_images, test_labels.long(), mean, std)


def _read_idx(contents: list[bytes]) -> list[np.ndarray]:
    arrays = [parse_idx(data) for data in contents]
    return [a[..., None].copy() if a.ndim == 3 else a.copy() for a in arrays]


def _read_cifar(contents: list[bytes]) -> list[np.ndarray]:
    images, labels = zip(*(parse_cifar(data) for data in contents), strict=True)
    return [np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1].copy(), labels[-1].copy()]


def _digits() -> list[np.ndarray]:
    with extra("train", "the digits data set"):
        from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))  # neighbours in the file have the same writer
    train, test = order[:-DIGITS_TEST], order[-DIGITS_TEST:]
    return [images[train], bunch.target[train], images[test], bunch.target[test]]


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, exactly, from how often each of the 256 values occurs."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(images.shape[-1]):
        counts = torch.bincount(images[..., channel].reshape(-1), minlength=256).double()
        share = counts / counts.sum()
        mean.append(float(share @ levels))
        std.append(float(((levels - mean[-1]).square() @ share).sqrt()))
    return tuple(mean), tuple(std)


def _normalised(
    images: Tensor,  # uint8 [n h w c]
    dataset: Dataset,
) -> Tensor:  # float32 [n c h w], contiguous
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (dataset.mean, dataset.std))
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return pixels.div_(255).sub_(mean).div_(std)
