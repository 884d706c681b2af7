"""From files to tensors, whichever of the known folders they are in."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from meta_train.data import DATASETS, DataMissingError, data_root, load, loading, prepare
from tests.benchmarks.synthetic import cifar_data, idx_data, write_all


@pytest.fixture
def idx(monkeypatch: pytest.MonkeyPatch):
    spec, contents, truth = idx_data()
    monkeypatch.setitem(loading.SPECS, spec.name, spec)
    return spec, contents, truth


@pytest.mark.parametrize("folder", ["TinyIdx/raw", "other"])
@pytest.mark.parametrize("compressed", [False, True])
def test_idx_from_every_layout(idx, tmp_path: Path, folder: str, compressed: bool) -> None:
    spec, contents, truth = idx
    if compressed:
        contents = {f"{name}.gz": gzip.compress(data) for name, data in contents.items()}
    write_all(contents, tmp_path / folder)
    dataset = load(spec.name, tmp_path, fetch=False)
    assert dataset.train_images.dtype == torch.uint8
    assert dataset.train_labels.dtype == torch.int64
    assert dataset.train_images.shape == (12, 6, 6, 1)
    found = (dataset.train_images[..., 0], dataset.train_labels, dataset.test_images[..., 0], dataset.test_labels)
    assert all(np.array_equal(tensor, array) for tensor, array in zip(found, truth, strict=True))


def test_cifar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec, contents, truth = cifar_data()
    monkeypatch.setitem(loading.SPECS, spec.name, spec)
    write_all(contents, tmp_path / spec.folder)
    dataset = load(spec.name, tmp_path, fetch=False)
    assert np.array_equal(dataset.train_images, truth[0])
    assert np.array_equal(dataset.test_labels, truth[3])
    pixels = truth[0].astype(np.float64) / 255
    assert np.allclose(dataset.mean, pixels.mean((0, 1, 2)), rtol=0, atol=1e-12)
    assert np.allclose(dataset.std, pixels.std((0, 1, 2)), rtol=0, atol=1e-12)


def test_a_wrong_byte_is_noticed(idx, tmp_path: Path) -> None:
    spec, contents, _ = idx
    name = spec.files[2].name
    contents[name] = contents[name][:-1] + bytes([contents[name][-1] ^ 1])
    write_all(contents, tmp_path / spec.folder)
    with pytest.raises(ValueError, match=rf"{name} is not the released.*expected {spec.files[2].sha256}"):
        load(spec.name, tmp_path, fetch=False)


def test_what_is_missing_is_said_in_full(idx, tmp_path: Path) -> None:
    spec, contents, _ = idx
    contents.pop(spec.files[0].name)
    write_all(contents, tmp_path / spec.folder)
    with pytest.raises(DataMissingError) as caught:
        load(spec.name, tmp_path, fetch=False)
    for file in spec.files:
        assert f"{file.name}  sha256 {file.sha256}  md5 {file.md5}" in str(caught.value)
    assert str(tmp_path / spec.folder) in str(caught.value)


def test_pickles_are_named_and_never_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec, _, _ = cifar_data()
    monkeypatch.setitem(loading.SPECS, spec.name, spec)
    write_all({"data_batch_1": pickle.dumps(1)}, tmp_path / "cifar-10-batches-py")
    with pytest.raises(DataMissingError, match="pickles"):
        load(spec.name, tmp_path, fetch=False)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=", ".join(DATASETS)):
        load("svhn")


def test_digits_need_no_download(tmp_path: Path) -> None:
    dataset = load("digits", tmp_path, fetch=False)
    assert dataset.train_images.shape == (1437, 8, 8, 1)
    assert dataset.test_images.shape == (360, 8, 8, 1)
    assert dataset.train_images.max() == 255
    assert torch.equal(dataset.train_images, load("digits").train_images)  # the same split every time


def test_prepare_normalises_and_holds_out(tmp_path: Path) -> None:
    dataset = load("digits")
    split = prepare(dataset)
    assert split.train_x.shape == (1437, 1, 8, 8)
    assert split.train_x.dtype == torch.float32
    assert abs(float(split.train_x.mean())) < 1e-5
    assert abs(float(split.train_x.std(correction=0)) - 1) < 1e-5
    held = prepare(dataset, holdout=400)
    assert torch.equal(torch.cat([held.train_x, held.test_x]), split.train_x)
    assert torch.equal(held.test_y, dataset.train_labels[-400:])
    with pytest.raises(ValueError, match="holdout=1437"):
        prepare(dataset, holdout=1437)


def test_data_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NGOPT_DATA", str(tmp_path / "variable"))
    assert data_root() == tmp_path / "variable"
    assert data_root(tmp_path) == tmp_path
    monkeypatch.delenv("NGOPT_DATA")
    assert data_root() == Path.home() / ".cache" / "ngopt" / "data"
