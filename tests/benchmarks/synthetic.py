"""Tiny data sets in the real formats, with a catalogue entry of their own."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from meta_train.data.catalogue import CIFAR10, MNIST, File, Spec
from meta_train.data.cifar_png import BATCHES, TEST, TEST_LABELS, TRAIN_LABELS
from meta_train.data.formats import md5, sha256, write_cifar, write_idx


def arrays(shape: tuple[int, ...], train: int, test: int) -> list[np.ndarray]:
    """Train images, train labels, test images, test labels."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (train + test, *shape), dtype=np.uint8)
    labels = random.integers(0, 10, train + test, dtype=np.uint8)
    return [images[:train], labels[:train], images[train:], labels[train:]]


def idx_data(train: int = 12, test: int = 5) -> tuple[Spec, dict[str, bytes], list[np.ndarray]]:
    """A data set like MNIST: catalogue entry, file contents, arrays."""
    truth = arrays((6, 6), train, test)
    contents = {file.name: write_idx(array) for file, array in zip(MNIST.files, truth, strict=True)}
    return _spec("tiny-idx", "idx", contents, "TinyIdx/raw"), contents, truth


def cifar_data(per_batch: int = 3) -> tuple[Spec, dict[str, bytes], list[np.ndarray]]:
    """A data set like CIFAR-10."""
    truth = arrays((32, 32, 3), 5 * per_batch, per_batch)
    images = [*np.split(truth[0], 5), truth[2]]
    labels = [*np.split(truth[1], 5), truth[3]]
    names = [file.name for file in CIFAR10.files]
    contents = {n: write_cifar(i, y) for n, i, y in zip(names, images, labels, strict=True)}
    return _spec("tiny-cifar", "cifar-bin", contents, "cifar-10-batches-bin"), contents, truth


def png_package(truth: list[np.ndarray]) -> dict[str, bytes]:
    """The same images as the sheets of PNG and lists of labels that the npm package holds."""
    files = {
        TRAIN_LABELS: json.dumps(truth[1].tolist()).encode(),
        TEST_LABELS: json.dumps(truth[3].tolist()).encode(),
    }
    for name, images in zip((*BATCHES, TEST), [*np.split(truth[0], 5), truth[2]], strict=True):
        stream = io.BytesIO()
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(stream, "PNG")
        files[f"{name}.png"] = stream.getvalue()
    return files


def tar(contents: dict[str, bytes], folder: str = "package", mode: str = "w:gz") -> bytes:
    """A tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def ar(members: dict[str, bytes]) -> bytes:
    """An ar archive, as a .deb is."""
    data = b"!<arch>\n"
    for name, content in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        data += header + content + b"\n" * (len(content) % 2)
    return data


def write_all(contents: dict[str, bytes], folder: Path) -> None:
    """Write files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)


def _spec(name: str, layout: str, contents: dict[str, bytes], folder: str) -> Spec:
    files = tuple(File(file, sha256(data), md5(data)) for file, data in contents.items())
    return Spec(name=name, layout=layout, files=files, folder=folder, aliases=("other",))  # type: ignore[arg-type]
