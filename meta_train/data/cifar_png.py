"""CIFAR-10 from PNG sheets, encoded again as the bytes of the official binary release.

One row of a sheet is one image: its 1,024 pixels in reading order, channels interleaved. Labels are JSON lists.
"""

from __future__ import annotations

import io
import json

import numpy as np

from meta_train.data.formats import write_cifar

BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"
TRAIN_LABELS, TEST_LABELS = "train_lables.json", "test_lables.json"  # spelled so in the package


def binary_batches(files: dict[str, bytes]) -> dict[str, bytes]:
    """Encode the sheets and labels of the package as ``data_batch_1.bin`` ... ``test_batch.bin``.

    Args:
        files: Contents of the package, by base name.

    Raises:
        ValueError: Files are missing, or images and labels do not match.
    """
    needed = {f"{name}.png" for name in (*BATCHES, TEST)} | {TRAIN_LABELS, TEST_LABELS}
    if missing := needed - set(files):
        raise ValueError(f"The package lacks {sorted(missing)}.")
    train, test = (np.asarray(json.loads(files[name]), np.uint8) for name in (TRAIN_LABELS, TEST_LABELS))
    labels = {**dict(zip(BATCHES, np.split(train, len(BATCHES)), strict=True)), TEST: test}
    encoded = {}
    for name, batch_labels in labels.items():
        images = _sheet(files[f"{name}.png"])
        if len(images) != len(batch_labels):
            raise ValueError(f"{name} has {len(images)} images and {len(batch_labels)} labels.")
        encoded[f"{name}.bin"] = write_cifar(images, batch_labels)
    return encoded


def _sheet(png: bytes) -> np.ndarray:  # [n 32 32 3]
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)
