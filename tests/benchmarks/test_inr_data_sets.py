"""Sets of INRs: the same bytes however they were made, and nothing believed that was not checked."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.common.manifests import MANIFEST
from benchmarks.common.shards import write_shard
from benchmarks.inr_data import load, making, plan
from benchmarks.inr_data.__main__ import main
from benchmarks.inr_data.kinds import KINDS
from benchmarks.inr_data.making import Job, make
from benchmarks.inr_data.manifest import FIT, read_manifest
from benchmarks.inr_data.show import table
from meta_train.data import DataMissingError
from ngopt.files import TEMPORARY, read_json, write_json

NAME = "digits-smoke"


def job(root: Path, **changes: Any) -> Job:
    return Job("digits", "smoke", root=root, shard=16, **changes)


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "inr" / NAME).iterdir() if path.name != FIT}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    make(job(root, augment=1))
    return root


@pytest.fixture
def broken(made: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def edit_manifest(root: Path, change: Any) -> None:
    path = root / "inr" / NAME / MANIFEST
    manifest = read_json(path)
    change(manifest)
    write_json(path, manifest)


def rewrite(root: Path, file: str, change: Any) -> None:
    """Change a shard, and its hash in the manifest: what only a check of the content can find."""
    path = root / "inr" / NAME / file
    tensors = load_file(path)
    change(tensors)
    write_shard(path, tensors, {})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_manifest(root, lambda m: next(s for s in m["shards"] if s["file"] == file).update(sha256=digest))


def test_what_is_loaded(made: Path) -> None:
    sets = load("digits", "smoke", made)
    assert {split: len(inrs) for split, inrs in sets.items()} == {"train": 96, "val": 16, "test": 16}
    for split, inrs in sets.items():
        assert (inrs.name, inrs.split, inrs.omega) == ("digits", split, 30.0)
        assert (inrs.height, inrs.width, inrs.channels) == (8, 8, 1)
        assert inrs.labels.dtype == inrs.image_index.dtype == torch.int64
        assert inrs.images().shape == (len(inrs), 1, 8, 8)
        assert inrs.psnr.min() > 30
        assert all(len(tensor) == len(inrs) for tensor in inrs.params.values())
    table(sets, {split: 0 for split in sets})  # renders again, and compares with the recorded PSNR
    wrong = {"train": replace(sets["train"], psnr=sets["train"].psnr.clamp(max=70) - 1)}
    with pytest.raises(ValueError, match="do not have the PSNR recorded"):
        table(wrong, {"train": 0})


def test_copies_are_other_networks_of_the_same_images(made: Path) -> None:
    train = load("digits", "smoke", made)["train"]
    first, second = (train.subset(train.copy == copy) for copy in (0, 1))
    assert len(first) == len(second) == 48
    assert torch.equal(first.image_index, second.image_index)
    assert torch.equal(first.labels, second.labels)
    for name, tensor in first.params.items():
        assert not torch.isclose(tensor, second.params[name]).flatten(1).all(1).any(), name


def test_splits_share_no_image(made: Path, broken: Path) -> None:
    sets = load("digits", "smoke", made)
    assert not set(sets["train"].image_index.tolist()) & set(sets["val"].image_index.tolist())
    assert len(set(sets["train"].image_index.tolist())) == 48
    copy = next(s for s in read_manifest(broken / "inr" / NAME)["shards"] if s["copy"] == 1)

    def cross(manifest: dict[str, Any]) -> None:
        next(s for s in manifest["shards"] if s["file"] == copy["file"])["split"] = "val"

    edit_manifest(broken, cross)
    with pytest.raises(ValueError, match="in train and in val"):
        load("digits", "smoke", broken)


@pytest.mark.parametrize("size", plan.SIZES)
def test_plans_share_no_image(size: str) -> None:
    class Data:
        name, train_labels, test_labels = "mnist", range(60_000), range(10_000)

    shards = plan.make_plan(Data(), size, seed=3, augment=1)  # type: ignore[arg-type]
    images = {(s, c): [i for one in shards if (one.split, one.copy) == (s, c) for i in one.images]
              for s, c in (("train", 0), ("train", 1), ("val", 0), ("test", 0))}  # fmt: skip
    assert images["train", 0] == images["train", 1]
    everything = images["train", 0] + images["val", 0]
    assert len(set(everything)) == len(everything)
    assert len(set(images["test", 0])) == len(images["test", 0])
    assert list(plan.SIZES) == sorted(plan.SIZES, key=lambda s: plan.SIZES[s] or (55_000,))
    expected = plan.SIZES[size] or (55_000, 5_000, 10_000)
    assert tuple(len(images[split, 0]) for split in plan.SPLITS) == expected
    seeds = {shard.seed(3, at, attempt) for shard in shards for at in range(len(shard.images)) for attempt in (0, 1)}
    assert len(seeds) == 2 * sum(len(shard.images) for shard in shards)


def test_the_same_bytes_after_interruptions(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, written = tmp_path / "inr" / NAME, []

    def killed(path: Path, *rest: Any) -> None:
        if len(written) == 3:
            (folder / f".{path.name}-x{TEMPORARY}").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path.name)
        write_shard(path, *rest)

    monkeypatch.setattr(making, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        make(job(tmp_path, augment=1))
    with pytest.raises(DataMissingError):
        load("digits", "smoke", tmp_path)
    monkeypatch.setattr(making, "write_shard", write_shard)
    whole = folder / written[1]
    whole.write_bytes(whole.read_bytes()[:-100])  # as a file system may leave it
    fitted = make(job(tmp_path, augment=1))["fitted"]
    assert fitted == 128 - 2 * 16, "two of three shards are used again"
    assert contents(tmp_path) == contents(made)
    (folder / written[0]).unlink()
    assert make(job(tmp_path, augment=1))["fitted"] == 16
    assert contents(tmp_path) == contents(made)
    assert make(job(tmp_path, augment=1))["fitted"] == 0
    (folder / written[0]).unlink()
    (folder / FIT).unlink()
    with monkeypatch.context() as patch:  # between the report and the manifest, which is the last file
        patch.setattr(making, "write_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(job(tmp_path, augment=1))
    assert make(job(tmp_path, augment=1))["fitted"] == 0
    assert contents(tmp_path) == contents(made) and json.loads((folder / FIT).read_text())["fitted"] == 16


def test_workers_change_nothing_and_copies_can_come_later(made: Path, tmp_path: Path) -> None:
    assert make(job(tmp_path, workers=2))["fitted"] == 80
    assert make(job(tmp_path, augment=1))["fitted"] == 48
    assert contents(tmp_path) == contents(made)


def test_another_seed_is_another_set(made: Path, broken: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other settings: seed 0, not 1"):
        make(job(broken, seed=1))
    make(job(tmp_path / "new", seed=1, augment=1))
    old, new = contents(made), contents(tmp_path / "new")
    assert old.keys() == new.keys()
    assert not any(old[name] == new[name] for name in old)


@pytest.mark.parametrize("init, others", [("dws", "nfn"), ("nfn", "dws")])
def test_kinds_have_the_sizes_of_the_published_sets(init: str, others: str, made: Path, tmp_path: Path) -> None:
    make(job(tmp_path, init=init))
    sets = load("digits", "smoke", tmp_path, init=init)
    far = {}
    for name, published in ((name, KINDS[name].published) for name in (init, others)):
        ratios = [sets["train"].params[key].std() / std for key, std in published.items()]
        far[name] = max(float(max(ratio, 1 / ratio)) for ratio in ratios)
    assert far[init] < 2.5 < far[others], "control: the other kind is far away"
    assert "0.063" in table(sets, {split: 0 for split in sets}, KINDS["dws"].published)
    with pytest.raises(DataMissingError, match=f"fit digits --size smoke --init {others}"):
        load("digits", "smoke", tmp_path, init=others)
    shutil.copytree(tmp_path / "inr" / f"digits-{init}-smoke", tmp_path / "inr" / NAME)
    with pytest.raises(ValueError, match=f"holds digits-{init}-smoke"):
        load("digits", "smoke", tmp_path)
    with pytest.raises(ValueError, match=r"no kind .dsw.*ngopt, dws, nfn"):
        load("digits", "smoke", tmp_path, init="dsw")


def test_below_the_floor(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load("digits", "smoke", made)
    assert not any(tensor["attempt"].any() for tensor in map(load_file, (made / "inr" / NAME).glob("*.safetensors")))
    floor = float(torch.cat([inrs.psnr for inrs in before.values()]).quantile(0.9))
    monkeypatch.setitem(KINDS, "ngopt", replace(KINDS["ngopt"], floors={"digits": floor}))
    make(job(tmp_path, augment=1))
    every, good = (load("digits", "smoke", tmp_path, below_floor=keep) for keep in (True, False))
    named = {s["file"]: s["below_floor"] for s in read_manifest(tmp_path / "inr" / NAME)["shards"]}
    assert sum(map(len, named.values())) == sum(len(every[s]) - len(good[s]) for s in every) > 0
    for split, inrs in every.items():
        assert torch.equal(inrs.image_index, before[split].image_index)
        assert (inrs.psnr >= before[split].psnr).all(), "the best attempt is kept"
        assert good[split].psnr.min() >= floor
    again = every["train"].psnr > before["train"].psnr
    assert again.any() and (before["train"].psnr[again] < floor).all(), "only what is below the floor is fitted again"
    table(every, {split: 0 for split in every})


def test_fits_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fails(images: torch.Tensor, *rest: Any) -> Any:
        params, quality = fit(images, *rest)
        calls.append(len(images))
        first = len(images) == 16
        bad = [0, 5] if first else [0]  # 5 gets better, 0 never does
        params["seq.1.weight"][bad, 3, 3], quality[bad] = torch.nan, torch.nan
        return params, quality

    fit = making.fit
    monkeypatch.setattr(making, "fit", fails)
    make(job(tmp_path))
    assert calls == [16, 2, 1, 1] * 5
    shards = read_manifest(tmp_path / "inr" / NAME)["shards"]
    assert all([(bad["position"], bad["psnr"]) for bad in s["below_floor"]] == [(0, None)] for s in shards)
    for keep in (True, False):
        sets = load("digits", "smoke", tmp_path, below_floor=keep)
        assert {split: len(inrs) for split, inrs in sets.items()} == {"train": 45, "val": 15, "test": 15}


def test_weights_that_are_not_finite_are_named(broken: Path) -> None:
    rewrite(broken, "val-0-00000.safetensors", lambda t: t["seq.0.bias"][2].fill_(torch.inf))
    image = load_file(broken / "inr" / NAME / "val-0-00000.safetensors")["image_index"][2]
    with pytest.warns(UserWarning, match=rf"1 networks are not finite and are left out, of images \[{image}\]"):
        sets = load("digits", "smoke", broken)
    assert len(sets["val"]) == 15 and image not in sets["val"].image_index


def test_another_architecture_is_refused(broken: Path) -> None:
    rewrite(broken, "val-0-00000.safetensors", lambda t: t.update({"seq.1.bias": torch.zeros(16, 31)}))
    with pytest.raises(ValueError, match=r"another architecture.*seq.1.bias is \(16, 31\), expected \(16, 32\)"):
        load("digits", "smoke", broken)


def test_a_wrong_byte_is_noticed_and_can_be_mended(made: Path, broken: Path) -> None:
    path = broken / "inr" / NAME / "test-0-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"test-0-00000.safetensors has SHA-256 .*Remove this file and run"):
        load("digits", "smoke", broken)
    make(job(broken, augment=1))
    assert contents(broken) == contents(made)


def test_a_missing_file_is_named(broken: Path) -> None:
    (broken / "inr" / NAME / "train-1-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-1-00002.safetensors is missing"):
        load("digits", "smoke", broken)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text[: len(text) // 2], "is not whole"),
        (lambda text: "[]", "is not whole"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "not of schema 1"),
        (lambda text: text.replace('"sha256"', '"md5"'), r"lacks \['sha256'\]"),
        (lambda text: text.replace('"split": "val"', '"split": "vla"'), "of split 'vla'"),
        (lambda text: text.replace('"file": "', '"file": "../'), "'../train"),
        (lambda text: text.replace('"size": "smoke"', '"size": "full"'), "holds digits-full"),
    ],
)
def test_bad_manifests(broken: Path, change: Any, message: str) -> None:
    path = broken / "inr" / NAME / MANIFEST
    path.write_text(change(json.dumps(read_json(path), indent=1)))  # without checksum, as if it had been made so
    with pytest.raises(ValueError, match=message):
        load("digits", "smoke", broken)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=f"benchmarks.inr_data fit mnist --size full --root {tmp_path}"):
        load("mnist", "full", tmp_path)
    with pytest.raises(ValueError, match=r"no data set 'mnits'.*mnist"):
        load("mnits", "full", tmp_path)
    with pytest.raises(ValueError, match=r"no size 'huge'.*medium"):
        load("mnist", "huge", tmp_path)
    with pytest.raises(ValueError, match="digits has 1437 training and 360 test images"):
        make(Job("digits", "small", root=tmp_path))


@pytest.mark.parametrize("wrong", [{"augment": -1}, {"threads": 0}, {"workers": 0}, {"workers": 2, "device": "cuda"}])
def test_bad_settings(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|Several workers"):
        make(job(tmp_path, **wrong))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["digits", "--size", "smoke", "--root", str(tmp_path)]
    assert main(["info", *where]) == 1
    assert "python -m benchmarks.inr_data fit digits --size smoke" in capsys.readouterr().err
    assert main(["fit", *where]) == 0
    assert "80 networks in" in capsys.readouterr().out
    assert main(["fit", *where]) == 0
    assert "complete already" in capsys.readouterr().out
    assert main(["info", *where]) == 0
    out = capsys.readouterr().out
    assert "3 files, all hashes verified" in out and "seq.1.weight" in out
    assert main(["info", *where, "--init", "nfn"]) == 1
    assert "--init nfn" in capsys.readouterr().err
    assert main(["picture", *where, "--out", str(tmp_path / "deep" / "grid.png")]) == 0
    assert (tmp_path / "deep" / "grid.png").read_bytes().startswith(b"\x89PNG")
    for wrong in (["fit", "mnits"], ["fit", "mnist", "--size", "huge"], []):
        with pytest.raises(SystemExit):
            main(wrong)
