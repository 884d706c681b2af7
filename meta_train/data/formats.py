"""The two binary formats: idx (MNIST's) and the binary release of CIFAR-10. Nothing here unpickles anything."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np

UINT8_CODE = 0x08
CIFAR_ROW = 1 + 3 * 32 * 32  # a label, then three planes


def uncompressed(path: Path) -> bytes:
    """Contents of a file; of a ``.gz`` file, what it holds."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def md5(data: bytes) -> str:
    """MD5 in hexadecimal: the sum that the original releases were published with."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def parse_idx(data: bytes) -> np.ndarray:
    """Read the idx format: two zero bytes, a type code, the number of axes, their sizes, the numbers.

    Raises:
        ValueError: It is not idx, not uint8, or not of the size that it declares.
    """
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError(f"Not an idx file: it begins with {data[:4]!r}, expected two zero bytes.")
    code, ndim = data[2], data[3]
    if code != UINT8_CODE:
        raise ValueError(f"idx type code {code:#04x} is not supported, expected {UINT8_CODE:#04x} (uint8).")
    start = 4 + 4 * ndim
    if len(data) < start:
        raise ValueError(f"The idx file ends inside its header of {start} bytes: it has {len(data)}.")
    shape = struct.unpack(f">{ndim}I", data[4:start])
    expected = start + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise ValueError(f"The idx header declares shape {shape}, that is {expected} bytes; the file has {len(data)}.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def write_idx(array: np.ndarray) -> bytes:
    """Inverse of `parse_idx`."""
    header = struct.pack(f">HBB{array.ndim}I", 0, UINT8_CODE, array.ndim, *array.shape)
    return header + np.ascontiguousarray(array, np.uint8).tobytes()


def parse_cifar(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Read one batch of CIFAR-10's binary release.

    Returns:
        Images ``[n 32 32 3]`` and labels ``[n]``, both uint8.

    Raises:
        ValueError: The size is not a whole number of rows.
    """
    if not data or len(data) % CIFAR_ROW:
        raise ValueError(f"A CIFAR-10 batch has {CIFAR_ROW} bytes per image; {len(data)} is no multiple of that.")
    rows = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_ROW)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]


def write_cifar(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Inverse of `parse_cifar`."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels[:, None].astype(np.uint8), planes.astype(np.uint8)], axis=1).tobytes()
