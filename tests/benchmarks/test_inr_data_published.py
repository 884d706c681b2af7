"""Sets of INRs in the layout of others: a state dict per file, a JSON file of splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.inr_data import Params, initial, load_published, render
from benchmarks.inr_data.siren import state

COUNTS = {"train": 5, "val": 2, "test": 3}


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, dict[str, Params]]:
    truth, table = {}, {}
    for number, (split, count) in enumerate(COUNTS.items()):
        truth[split] = initial(count, 1, number)
        (tmp_path / split).mkdir()
        for i in range(count):
            torch.save(state(truth[split], i), tmp_path / split / f"{i}.pth")
        paths = [f"{split}/{i}.pth" for i in range(count)]
        table[split] = {"path": paths, "label": [str(i % 10) for i in range(count)]}
    (tmp_path / "splits.json").write_text(json.dumps(table))
    return tmp_path, truth


def edit(folder: Path, change: Any) -> None:
    table = json.loads((folder / "splits.json").read_text())
    change(table)
    (folder / "splits.json").write_text(json.dumps(table))


def test_round_trip(published) -> None:
    folder, truth = published
    for where in (folder, folder / "splits.json"):
        sets = load_published(where)
        for split, count in COUNTS.items():
            assert list(sets[split].params) == list(truth[split])
            assert all(torch.equal(sets[split].params[name], tensor) for name, tensor in truth[split].items())
            assert sets[split].labels.tolist() == list(range(count))
            assert sets[split].psnr.isnan().all()
            assert (sets[split].height, sets[split].channels) == (28, 1)
    assert torch.equal(render(sets["val"].params, 28, 28), render(truth["val"], 28, 28))
    with pytest.raises(ValueError, match="not known which images"):
        sets["val"].images()


def test_keys_in_any_order(published) -> None:
    folder, truth = published
    torch.save(dict(reversed(state(truth["val"], 1).items())), folder / "val" / "1.pth")
    assert torch.equal(load_published(folder)["val"].params["seq.2.weight"], truth["val"]["seq.2.weight"])


def test_what_is_not_finite_is_left_out_and_named(published) -> None:
    folder, truth = published
    torch.save({**state(truth["train"], 3), "seq.2.bias": torch.tensor([torch.nan])}, folder / "train" / "3.pth")
    with pytest.warns(UserWarning, match=r"1 networks are not finite and are left out: \['train/3.pth'\]"):
        train = load_published(folder)["train"]
    assert train.labels.tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize(
    "bad, message",
    [
        (initial(1, 3), "val/0.pth has another architecture"),
        ({name: tensor for name, tensor in initial(1, 1).items() if name != "seq.2.bias"}, "another architecture"),
    ],
)
def test_another_architecture(published, bad: Params, message: str) -> None:
    folder, _ = published
    torch.save(state(bad, 0), folder / "val" / "0.pth")
    with pytest.raises(ValueError, match=message):
        load_published(folder)


def test_not_a_siren(published) -> None:
    folder, _ = published
    for path in folder.glob("*/*.pth"):
        torch.save({"layer.weight": torch.zeros(3, 2)}, path)
    with pytest.raises(ValueError, match=r"train/0.pth is not a SIREN"):
        load_published(folder)


def test_code_is_not_run(published) -> None:
    folder, _ = published
    torch.save(torch.nn.Linear(2, 2), folder / "train" / "0.pth")
    with pytest.raises(ValueError, match=r"0.pth is not a state dict of tensors only"):
        load_published(folder)
    torch.save([torch.zeros(2)], folder / "train" / "0.pth")
    with pytest.raises(ValueError, match=r"0.pth is not a state dict: expected tensors by name"):
        load_published(folder)
    (folder / "train" / "0.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"0.pth is not a state dict of tensors only"):
        load_published(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("val"), "no split 'val'"),
        (lambda t: t["val"].pop("label"), "no split 'val'"),
        (lambda t: t["train"]["label"].pop(), "5 paths and 4 labels"),
        (lambda t: t["val"]["path"].__setitem__(0, "train/0.pth"), "train/0.pth is in train and again in val"),
        (lambda t: t["val"].update(path=[], label=[]), "split val has no network"),
        (lambda t: t["val"]["label"].__setitem__(0, "cat"), "label 'cat'"),
    ],
)
def test_bad_splits(published, change: Any, message: str) -> None:
    folder, _ = published
    edit(folder, change)
    with pytest.raises(ValueError, match=message):
        load_published(folder)


def test_missing_files(published, tmp_path: Path) -> None:
    folder, _ = published
    (folder / "test" / "1.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"1.pth is missing"):
        load_published(folder)
    (folder / "splits.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_published(folder)
    (folder / "splits.json").unlink()
    with pytest.raises(FileNotFoundError, match="found 0"):
        load_published(folder)
