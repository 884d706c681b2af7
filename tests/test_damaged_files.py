"""1,000 mutations of a file of each kind: every reader refuses what was changed, with an error of its own kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cnn_generalization import predictor
from benchmarks.cnn_generalization.predictor import PredictorError
from benchmarks.cnn_zoo.architecture import small_cnn
from benchmarks.cnn_zoo.manifest import SCHEMA, read_manifest
from benchmarks.common.manifests import MANIFEST
from benchmarks.common.shards import is_done, read_shard, write_shard
from benchmarks.weight_space.folder import CONFIG, STATE, TrainingError, claim
from meta_train.data.formats import sha256
from meta_train.folder import RunFolderError
from meta_train.rules import feed_forward
from meta_train.tensor_files import read_tensors, write_tensors
from ngopt.encoder import reader
from ngopt.errors import CheckpointError, FileError
from ngopt.files import read_json, write_json
from ngopt.optim.saving import checkpoint
from ngopt.optim.update import UpdateConfig, UpdateRule
from tests.benchmarks.weight_space_cases import settings
from tests.benchmarks.weight_space_cases import trainer as reader_of
from tests.meta_train import meta_train_cases
from tests.mutations import survey
from tests.optim.checkpoint_cases import as_version_2

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


def check(path: Path, read: Callable[[], Any], same: Callable[[Any], bool], errors: type[Exception]) -> None:
    """No foreign exception, nothing accepted that was changed; control: the file itself is read."""
    assert same(read())
    found = survey(path, read, same, errors=errors)
    assert found["wrong"] == found["foreign"] == 0 and found["refused"] > 700, found


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(x, b[name]) for name, x in a.items())


def test_manifests(tmp_path: Path) -> None:
    buckets = [{"architecture": small_cnn("relu", 8).to_json(), "count": 3}]
    shards = [{"file": f"{i}.safetensors", "sha256": "0" * 64, "buckets": buckets} for i in range(3)]
    manifest = {"schema": SCHEMA, "zoo": "small-digits", "size": "smoke", "settings": {"seed": 0}}
    manifest |= {"versions": {}, "machine": {}, "shards": [s | {"left_out": [], "skipped": []} for s in shards]}
    write_json(tmp_path / MANIFEST, manifest)
    expected = read_manifest(tmp_path)
    check(tmp_path / MANIFEST, lambda: read_manifest(tmp_path), lambda found: found == expected, FileError)


def test_shards(tmp_path: Path) -> None:
    """What is damaged is made again, and never loaded."""
    tensors = {"0/weight": torch.randn(4, 3), "0/accuracy": torch.rand(4)}
    path = tmp_path / "0.safetensors"
    write_shard(path, tensors, {"seed": 1}, {"left_out": []})
    content, shapes = path.read_bytes(), {name: tuple(x.shape) for name, x in tensors.items()}
    digest = sha256(content)
    check(path, lambda: read_shard(path, digest, shapes), lambda found: equal(found, tensors), FileError)

    def done() -> bytes | None:
        return path.read_bytes() if is_done(path, {"seed": 1}) else None

    found = survey(path, done, lambda data: data is None or data[:-64] == content[:-64])
    assert found["wrong"] < 30 and found["foreign"] == 0, found  # spaces in the header, and the like: see `read_shard`


def test_predictors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, header = read_tensors(predictor.SHIPPED)
    few = dict(list(tensors.items())[:3])
    model = torch.nn.Module()
    for name, value in few.items():
        model.register_buffer(name.replace(".", "_"), value.clone())
    monkeypatch.setattr(predictor, "_model", lambda *_: model)  # tracing takes seconds
    few = {name.replace(".", "_"): value for name, value in few.items()}
    write_tensors(path := tmp_path / "a.safetensors", few, header)

    def same(found: predictor.Predictor) -> bool:
        return equal(found.model.state_dict(), few) and found.card == header["card"]

    check(path, lambda: predictor.load(path), same, PredictorError)


def test_readers(tmp_path: Path) -> None:
    tensors, header = read_tensors(reader.SHIPPED / "mnist-inr.safetensors")
    few = {name: value for name, value in tensors.items() if value.numel() < 100}
    write_tensors(path := tmp_path / "a.safetensors", few, header)

    def same(found: reader.Reader) -> bool:
        return equal(dict(found._tensors), few) and found.card == header["card"]

    check(path, lambda: reader.load_reader(path), same, CheckpointError)


@pytest.mark.parametrize("older", [False, True])
def test_checkpoints(tmp_path: Path, older: bool) -> None:
    rule = UpdateRule(UpdateConfig(embedding=2, message=2))
    path = checkpoint.save_pretrained(rule, tmp_path / "a.safetensors", card={"status": "test"})
    if older:
        as_version_2(path)

    def same(found: UpdateRule) -> bool:
        return equal(dict(found.state_dict()), dict(rule.state_dict())) and found.config == rule.config

    check(path, lambda: checkpoint.load_pretrained(path), same, CheckpointError)


def test_shipped_files_have_a_checksum() -> None:
    """Or a flipped bit in one would never be noticed."""
    content = bytearray(predictor.SHIPPED.read_bytes())
    content[-5] ^= 1
    path = Path(predictor.SHIPPED)
    with pytest.raises(FileError, match="checksum"):
        _read_bytes(bytes(content), path.name)


def _read_bytes(content: bytes, name: str) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        return read_tensors(Path(folder) / name)


def test_feed_forward_rules(tmp_path: Path) -> None:
    rule = feed_forward.FeedForwardRule()
    theta = {name: x.detach().clone() for name, x in rule.named_parameters()}
    rule.save(theta, path := tmp_path / "a.safetensors", {"status": "test"})

    def same(found: feed_forward.FeedForwardRule) -> bool:
        return equal(dict(found.state_dict()), theta)

    check(path, lambda: feed_forward.load_feed_forward(path), same, CheckpointError)


def test_states_of_meta_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that processes share, those of slots, and the config."""
    meta_train_cases.register(lambda table, name, family: monkeypatch.setitem(table, name, family))
    config = meta_train_cases.config_of(slots=[meta_train_cases.PES | {"horizon": [8, 8]}])
    trainer = meta_train_cases.trainer_of(config, tmp_path)
    trainer.iterate()
    trainer.save()
    folder = trainer.folder
    for path in sorted(tmp_path.glob("state-*/*.safetensors")):
        tensors, header = read_tensors(path)

        def same(found: Any, tensors: Any = tensors, header: Any = header) -> bool:
            return equal(found[0], tensors) and found[1] == header

        check(path, lambda path=path: folder.read(path), same, RunFolderError)
    path, kept = tmp_path / "config.json", read_json(tmp_path / "config.json")

    def open_again() -> Any:
        meta_train_cases.RunFolder(tmp_path, config, folder.processes)
        return read_json(path)

    check(path, open_again, lambda found: found == kept, RunFolderError)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, header: header["progress"].update(iteration="1"),
        lambda tensors, header: header.pop("plans"),
        lambda tensors, header: header["plans"][0].pop("run"),
        lambda tensors, header: header.update(plans=3),
        lambda tensors, header: tensors.pop(min(name for name in tensors if name.startswith("theta"))),
        lambda tensors, header: tensors.update({n: x[..., None] for n, x in tensors.items() if n.startswith("best")}),
        lambda tensors, header: tensors.update({n: x[..., None] for n, x in tensors.items() if "exp_avg" in n}),
        lambda tensors, header: tensors.update({"optimizer/999.exp_avg": torch.zeros(1)}),
    ],
)
def test_states_of_other_contents(change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole files that do not hold what they should."""
    meta_train_cases.register(lambda table, name, family: monkeypatch.setitem(table, name, family))
    config = meta_train_cases.config_of(slots=[meta_train_cases.PES | {"horizon": [8, 8]}])
    trainer = meta_train_cases.trainer_of(config, tmp_path)
    trainer.iterate()
    trainer.save()
    (path,) = tmp_path.glob("state-*/shared.safetensors")
    tensors, header = read_tensors(path)
    write_tensors(path, tensors, header)
    meta_train_cases.trainer_of(config, tmp_path)  # control
    change(tensors, header)
    write_tensors(path, tensors, header)
    with pytest.raises(RunFolderError, match=r"is damaged.*Remove the folder"):
        meta_train_cases.trainer_of(config, tmp_path)


def test_states_of_readers(tmp_path: Path) -> None:
    trainer = reader_of(tmp_path)
    trainer.run()
    tensors, header = read_tensors(tmp_path / STATE)

    def load() -> Any:
        trainer._load()
        return read_tensors(tmp_path / STATE)

    check(tmp_path / STATE, load, lambda found: equal(found[0], tensors) and found[1] == header, TrainingError)
    for change in (lambda h: h.update(step="3"), lambda h: h.pop("part") and h.update(other=1), lambda h: h.clear()):
        changed = json.loads(json.dumps(header))
        change(changed)
        if not changed:
            tensors = {name: x for name, x in tensors.items() if not name.startswith("best")}
        write_tensors(tmp_path / STATE, tensors, changed)
        with pytest.raises(TrainingError, match=f"Remove .*{STATE}"):
            trainer._load()


def test_configs_of_readers(tmp_path: Path) -> None:
    claim(tmp_path, config := settings())
    kept = read_json(tmp_path / CONFIG)

    def again() -> Any:
        claim(tmp_path, config)
        return read_json(tmp_path / CONFIG)

    check(tmp_path / CONFIG, again, lambda found: found == kept, TrainingError)
