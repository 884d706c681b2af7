"""Zoos of networks: the same bytes however they were made, and nothing believed that was not checked."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.cnn_zoo import SIZES, ZOOS, images_of, load, making, plan
from benchmarks.cnn_zoo.__main__ import main
from benchmarks.cnn_zoo.making import Job, make, make_shard
from benchmarks.cnn_zoo.manifest import REPORT
from benchmarks.cnn_zoo.plan import make_plan, split_of, splits_of
from benchmarks.cnn_zoo.show import ceiling, check
from benchmarks.cnn_zoo.wild import evaluate
from benchmarks.common.manifests import MANIFEST
from benchmarks.common.shards import read_notes, write_shard
from meta_train.data import DataMissingError
from ngopt.files import TEMPORARY, read_json, write_json

SMALL, WILD = "small-digits", "wild-digits"


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Any:
    """A wild zoo of few runs, and no time for the tracer: test_cnn_zoo_networks.py has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "frozen_parts", lambda architecture: [])
        patch.setitem(plan.WILD, "smoke", replace(plan.WILD["smoke"], runs=(2, 1, 1, 1, 1, 1), shard=4))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    for zoo in (SMALL, WILD):
        make(Job(zoo, "smoke", root=root))
    return root


@pytest.fixture
def broken(made: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def place(root: Path, zoo: str = SMALL) -> Path:
    return root / "zoo" / f"{zoo}-smoke"


def contents(root: Path, zoo: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place(root, zoo).iterdir() if path.name != REPORT}


def edit_manifest(root: Path, change: Any, zoo: str = SMALL) -> None:
    path = place(root, zoo) / MANIFEST
    manifest = read_json(path)
    change(manifest)
    write_json(path, manifest)


def rewrite(root: Path, number: int, change: Any, zoo: str = SMALL) -> None:
    """Change a shard, and its hash in the manifest: what only a check of the content can find."""
    path = place(root, zoo) / f"{number:05d}.safetensors"
    tensors = load_file(path)
    change(tensors)
    write_shard(path, tensors, {})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_manifest(root, lambda m: m["shards"][number].update(sha256=digest), zoo)


@pytest.mark.parametrize("zoo", [SMALL, WILD])
def test_what_is_loaded(made: Path, zoo: str) -> None:
    buckets = load(zoo, "smoke", made)
    assert tuple(buckets) == splits_of(zoo)
    runs = [set(torch.cat([bucket.run for bucket in found]).tolist()) for found in buckets.values()]
    assert sum(map(len, runs)) == len(set.union(*runs)), "all checkpoints of a run are in one split"
    size = plan.size_of(zoo, "smoke")
    assert sum(map(len, runs)) == sum(size.runs)
    for split, found in buckets.items():
        for bucket in found:
            assert {split_of(zoo, run) for run in bucket.run.tolist()} == {split}
            assert all(len(tensor) == len(bucket) for tensor in bucket.params.values())
            assert set(bucket.step.tolist()) == set(size.checkpoints)
            assert bucket.run.dtype == bucket.step.dtype == torch.int64
            assert 0 <= bucket.accuracy.min() <= bucket.accuracy.max() <= 1
        assert len({bucket.architecture for bucket in found}) == len(found)
    if zoo == SMALL:
        assert [b.architecture.family for b in buckets["train"]] == ["small-relu", "small-tanh"]
        assert sum(x[0].numel() for x in buckets["train"][0].params.values()) == 4970


@pytest.mark.parametrize("zoo", [SMALL, WILD])
def test_accuracies_are_those_of_the_networks(made: Path, zoo: str) -> None:
    buckets, images = load(zoo, "smoke", made), images_of(zoo, "smoke", made)
    assert check(buckets, images) >= 6
    best = max((bucket for found in buckets.values() for bucket in found), key=lambda bucket: bucket.accuracy.max())
    at = int(best.accuracy.argmax())
    model = best.architecture.build()
    model.load_state_dict({name: tensor[at] for name, tensor in best.params.items()}, strict=False)
    assert evaluate(model, images.test_x, images.test_y)[0] == pytest.approx(float(best.accuracy[at]), abs=0.005)
    assert best.accuracy[at] > 0.2, "something was learned"
    for tensor in model.parameters():
        shuffled = tensor.data.flatten()[torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(0))]
        tensor.data = shuffled.reshape(tensor.shape)
    assert evaluate(model, images.test_x, images.test_y)[0] < best.accuracy[at] - 0.08, "control: shuffled weights"
    wrong = {split: [replace(b, accuracy=(b.accuracy + 0.5) % 1) for b in found] for split, found in buckets.items()}
    with pytest.raises(ValueError, match="is recorded"):
        check(wrong, images)


@pytest.mark.parametrize("zoo", [SMALL, WILD])
def test_resuming_gives_the_same_bytes(
    made: Path, broken: Path, zoo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(made, zoo)
    cut = place(broken, zoo) / "00001.safetensors"
    cut.write_bytes(cut.read_bytes()[:1000])
    (place(broken, zoo) / MANIFEST).unlink()
    (place(broken, zoo) / f".00000.safetensors-x{TEMPORARY}").write_bytes(b"left by a kill")
    numbers = []
    monkeypatch.setattr(making, "make_shard", lambda job, s: numbers.append(s.number) or make_shard(job, s))
    assert main(["make", zoo, "--size", "smoke", "--root", str(broken)]) == 0
    assert numbers == [1], "what is whole is not made again"
    assert contents(broken, zoo) == before
    assert main(["make", zoo, "--size", "smoke", "--root", str(broken)]) == 0
    assert "complete already" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_change_nothing(made: Path, tmp_path: Path) -> None:
    make(Job(SMALL, "smoke", root=tmp_path, workers=2))
    assert contents(tmp_path, SMALL) == contents(made, SMALL)


def test_seeds_make_a_difference(made: Path, tmp_path: Path) -> None:
    place(tmp_path).mkdir(parents=True)
    job = Job(SMALL, "smoke", root=tmp_path, seed=1)
    make_shard(job, make_plan(SMALL, "smoke")[0])
    assert (place(tmp_path) / "00000.safetensors").read_bytes() != contents(made, SMALL)["00000.safetensors"]
    with pytest.raises(ValueError, match="other settings: seed 0, not 1"):
        make(replace(job, root=made))


def test_what_the_tracer_freezes_is_skipped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path, WILD).mkdir(parents=True)
    shard = plan.Shard(0, (0,))
    monkeypatch.setattr(making, "frozen_parts", lambda architecture: ["head.weight is frozen"])
    assert make_shard(Job(WILD, "smoke", root=tmp_path), shard) == (1, 0)
    notes = read_notes(place(tmp_path, WILD) / shard.file)
    assert [(s["run"], s["why"]) for s in notes["skipped"]] == [(0, ["head.weight is frozen"])]


def test_networks_that_are_not_finite_are_left_out_and_named(
    tmp_path: Path, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(tmp_path).mkdir(parents=True)
    draw = making.draw
    recipes = iter([{"lr": 1e30, "optimizer": "sgd"}])  # for the first run
    monkeypatch.setattr(making, "draw", lambda generator: replace(draw(generator), **next(recipes, {})))
    shard = make_plan(SMALL, "smoke")[0]
    runs, networks = make_shard(Job(SMALL, "smoke", root=tmp_path), shard)
    steps = plan.SMALL["smoke"].checkpoints
    assert (runs, networks) == (16, 16 * len(steps) - len(steps)), "and the others are not touched"
    left_out = read_notes(place(tmp_path) / shard.file)["left_out"]
    assert left_out == [{"run": 0, "step": step, "why": "not finite"} for step in steps]
    rewrite(broken, 0, lambda tensors: tensors["000/head.bias"][3].fill_(torch.nan))
    with pytest.warns(UserWarning, match=r"1 networks are not finite .*run 3 step 20"):
        assert sum(len(b) for found in load(SMALL, "smoke", broken).values() for b in found) == 32 * len(steps) - 1


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update(schema=0), "not of schema 1"),
        (lambda m: m.pop("settings"), r"lacks \['settings'\]"),
        (lambda m: m["shards"][0].pop("sha256"), r"lacks \['sha256'\]"),
        (lambda m: m.update(shards=[]), "lacks shards"),
        (lambda m: m.update(zoo="small-mnist"), "holds small-mnist-smoke"),
        (lambda m: m["settings"].update(version=0), "another version of this code: {'version': 0"),
        (lambda m: m["settings"]["size"].update(batch=1), "another version of this code"),
        (lambda m: m["shards"].pop(), "does not name each file"),
        (lambda m: m["shards"].append(m["shards"][0]), "does not name each file"),
        (lambda m: m["shards"][0].update(file="../x"), "outside its folder"),
        (lambda m: m["shards"][0].update(sha256="0" * 64), "but the manifest says 0000"),
        (lambda m: m["shards"][0]["buckets"][0].update(count=3), r"expected \(3,\)"),
        (lambda m: m["shards"][0]["buckets"][0]["architecture"]["layers"][0].update(kernel=5), "another architecture"),
        (lambda m: m["shards"][0]["buckets"][0]["architecture"].update(head="none"), "not an architecture"),
        (lambda m: m["shards"][0]["buckets"][0]["architecture"].update(dropout=1), "not an architecture"),
    ],
)
def test_a_manifest_that_lies(broken: Path, change: Any, message: str) -> None:
    edit_manifest(broken, change)
    with pytest.raises(ValueError, match=message):
        load(SMALL, "smoke", broken)


def test_files_that_are_not_whole(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place(broken) / "00000.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(ValueError, match=r"00000.safetensors has SHA-256"):
        load(SMALL, "smoke", broken)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"00000.safetensors is missing"):
        load(SMALL, "smoke", broken)
    (place(broken) / MANIFEST).write_text('{"schema": 1, "zoo"')
    with pytest.raises(ValueError, match="is not whole"):
        load(SMALL, "smoke", broken)
    (place(broken) / MANIFEST).unlink()
    with pytest.raises(DataMissingError, match="cnn_zoo make small-digits --size smoke"):
        load(SMALL, "smoke", broken)
    assert main(["info", SMALL, "--size", "smoke", "--root", str(broken)]) == 1
    assert "Make the zoo with" in capsys.readouterr().err


def test_contents_that_cannot_be(broken: Path) -> None:
    rewrite(broken, 1, lambda tensors: tensors["000/run"].fill_(999))
    with pytest.raises(ValueError, match=r"runs that are not its own: \[999\]"):
        load(SMALL, "smoke", broken)
    rewrite(broken, 1, lambda tensors: (tensors["000/run"].fill_(16), tensors["000/accuracy"].fill_(90.0)))
    with pytest.raises(ValueError, match="not between 0 and 1"):
        load(SMALL, "smoke", broken)
    for number in (0, 1):
        rewrite(broken, number, lambda tensors, first=16 * number: tensors["000/run"].fill_(first))
    rewrite(broken, 1, lambda tensors: tensors["000/accuracy"].fill_(0.5))
    with pytest.raises(ValueError, match="no networks in val, test"):
        load(SMALL, "smoke", broken)


def test_names_and_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no zoo 'big'"):
        load("big", "smoke", tmp_path)
    with pytest.raises(ValueError, match="no size 'huge'"):
        load(SMALL, "huge", tmp_path)
    with pytest.raises(DataMissingError, match=r"train_32x32.mat and test_32x32.mat, into .*svhn"):
        make(Job("small-svhn", "smoke", root=tmp_path))
    (tmp_path / "svhn").mkdir()
    (tmp_path / "svhn" / "train_32x32.mat").write_bytes(b"no")
    with pytest.raises(ValueError, match="not the released file"):
        images_of("small-svhn", "smoke", tmp_path)
    for zoo in ZOOS:
        for size in SIZES:
            shards = make_plan(zoo, size)
            runs = [run for shard in shards for run in shard.runs]
            assert len(runs) == len(set(runs)) == sum(plan.size_of(zoo, size).runs)
            assert {split_of(zoo, run) for run in runs} == set(splits_of(zoo)), "no split is empty"
            assert (
                zoo.startswith("wild")
                or size == "smoke"
                or {plan.conditions(s.number) for s in shards}
                == {(activation, fraction) for activation in plan.ACTIVATIONS for fraction in plan.FRACTIONS}
            )


def test_more_test_images_order_networks_better() -> None:
    accuracy = torch.linspace(0.1, 0.9, 200)
    few, many = ceiling(accuracy, 100), ceiling(accuracy, 10_000)
    assert 0.7 < few < many < 1
    assert ceiling(torch.full((200,), 0.5) + 1e-6 * torch.arange(200), 100) < 0.2  # the control: they are all the same


def test_info_and_picture(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [WILD, "--size", "smoke", "--root", str(made)]
    assert main(["info", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "2 files, all hashes verified" in printed and "accuracies as recorded" in printed
    assert "a perfect predictor has tau-b " in printed
    assert all(split in printed for split in splits_of(WILD))
    assert main(["picture", *arguments, "--out", str(tmp_path / "zoo.png")]) == 0
    assert (tmp_path / "zoo.png").stat().st_size > 10_000
