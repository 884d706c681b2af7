"""The binary formats: what is written is read back, and damage is noticed."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_train.data.formats import parse_cifar, parse_idx, uncompressed, write_cifar, write_idx
from tests.benchmarks.synthetic import arrays


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 99))
def test_idx_round_trip(shape: list[int], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(parse_idx(write_idx(array)), array)


def test_idx_header_is_the_published_one() -> None:
    assert write_idx(np.zeros((60000, 28, 28), np.uint8))[:16].hex() == "000008030000ea600000001c0000001c"


@pytest.mark.parametrize(
    "data, message",
    [
        (b"\x80\x04pickle", "two zero bytes"),
        (b"", "two zero bytes"),
        (b"\0\0\x0d\x01\0\0\0\0", "uint8"),
        (b"\0\0\x08\x03\0\0", "inside its header"),
        (write_idx(np.zeros((3, 4), np.uint8))[:-1], "declares shape"),
        (write_idx(np.zeros((3, 4), np.uint8)) + b"x", "declares shape"),
    ],
)
def test_damaged_idx_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_idx(data)


def test_cifar_round_trip_and_plane_order() -> None:
    images, labels, _, _ = arrays((32, 32, 3), 4, 1)
    data = write_cifar(images, labels)
    assert len(data) == 4 * 3073
    assert data[0] == labels[0]
    assert data[1 + 1024] == images[0, 0, 0, 1]  # the green plane follows the whole red one
    again, same = parse_cifar(data)
    assert np.array_equal(again, images)
    assert np.array_equal(same, labels)


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_damaged_cifar_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="3073"):
        parse_cifar(b"\0" * size)


def test_gz_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"inside"))
    (tmp_path / "a").write_bytes(b"as it is")
    assert uncompressed(tmp_path / "a.gz") == b"inside"
    assert uncompressed(tmp_path / "a") == b"as it is"
