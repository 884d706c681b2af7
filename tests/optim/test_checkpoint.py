"""Checkpoints: exact round trips, and an error that says what to do for everything that is not one."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ngopt
from meta_train.config import read_config
from ngopt.errors import CheckpointError
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.saving.checkpoint import SHIPPED, config_from_json, config_to_json, read_card, shipped
from ngopt.optim.update import UpdateRule
from ngopt.pretrained.__main__ import main
from ngopt.tensor_files import HEADER, content_checksum
from tests.optim.checkpoint_cases import as_version_2, header_of, seal_version_2
from tests.optim.ngoptimizer_cases import lively_rule


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return ngopt.save_pretrained(lively_rule(), tmp_path / "mine", card={"status": "random", "hours": 0.5})


def rewrite(path: Path, tensors: dict | None = None, reseal: bool = True, **header: object) -> None:
    """Write the file again with something changed; ``reseal`` makes the checksum fit."""
    tensors = load_file(path) if tensors is None else tensors
    changed = {**header_of(path), **header}
    if reseal:
        changed["sha256"] = content_checksum({k: v for k, v in changed.items() if k != "sha256"}, tensors)
    save_file(tensors, path, metadata={HEADER: json.dumps(changed)})


def test_round_trip(saved: Path) -> None:
    assert saved.name == "mine.safetensors"
    rule, loaded = lively_rule(), ngopt.load_pretrained(saved)
    assert loaded.config == rule.config
    assert loaded.state_dict().keys() == rule.state_dict().keys()
    for name, value in rule.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert read_card(saved) == {"status": "random", "hours": 0.5}
    assert sorted(os.listdir(saved.parent)) == ["mine.md", "mine.safetensors"]
    assert "**hours**: 0.5" in saved.with_suffix(".md").read_text()


def test_settings_round_trip(tmp_path: Path) -> None:
    config = UpdateConfig(momentum=0.8, embedding=5, gain_bound=1, largest_side=64)
    assert config_from_json(config_to_json(config)) == config
    path = ngopt.save_pretrained(UpdateRule(config), str(tmp_path / "small.safetensors"))
    assert ngopt.load_pretrained(str(path)).config == config


def test_the_shipped_checkpoints() -> None:
    """Small, each with a card that says how it was made."""
    assert "ngopt-base-untrained" in shipped()
    for name in shipped():
        assert (SHIPPED / f"{name}.safetensors").stat().st_size < 200_000
        card, untrained = read_card(name), name.endswith("untrained")
        assert card["status"] == ("untrained" if untrained else "meta-trained")
        assert untrained or read_config(Path(card["made_by"].split()[-1]).stem).name == name
        assert ngopt.load_pretrained(name).neutral == untrained


def test_the_untrained_checkpoint_is_the_hand_made_rule() -> None:
    rule, fresh = ngopt.load_pretrained("ngopt-base-untrained"), UpdateRule()
    assert rule.config == fresh.config and rule.neutral
    for name, value in fresh.state_dict().items():
        assert torch.equal(rule.state_dict()[name], value)


def test_writing_the_shipped_checkpoint_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--write-untrained", str(tmp_path)])
    for suffix in (".safetensors", ".md"):
        name = f"ngopt-base-untrained{suffix}"
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes()
    main(["ngopt-base-untrained"])
    assert "status: untrained" in capsys.readouterr().out
    main([])
    assert "ngopt-base-untrained" in capsys.readouterr().out


def test_the_command_runs() -> None:
    command = [sys.executable, "-W", "error", "-m", "ngopt.pretrained", "ngopt-base"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert f"status: {read_card('ngopt-base')['status']}" in done.stdout
    assert done.stderr == ""


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def make_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weights": [1.0]}))


def make_torch_save(path: Path) -> None:
    torch.save(lively_rule().state_dict(), path)


def foreign(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path)


def no_header(path: Path) -> None:
    save_file(load_file(path), path, metadata={HEADER: "{"})


def missing_checksum(path: Path) -> None:
    header = header_of(path)
    del header["sha256"]
    save_file(load_file(path), path, metadata={HEADER: json.dumps(header)})


def next_version(path: Path) -> None:
    rewrite(path, format_version=4)


def edited_card(path: Path) -> None:
    rewrite(path, reseal=False, card={"status": "excellent"})


def unknown_setting(path: Path) -> None:
    values = header_of(path)["config"]
    values["pain_bound"] = values.pop("gain_bound")
    rewrite(path, config=values)


def missing_setting(path: Path) -> None:
    values = header_of(path)["config"]
    del values["largest_side"]
    rewrite(path, config=values)


def wrong_type(path: Path) -> None:
    rewrite(path, config={**header_of(path)["config"], "embedding": "16"})


def out_of_range(path: Path) -> None:
    rewrite(path, config={**header_of(path)["config"], "momentum": 1.5})


def no_settings(path: Path) -> None:
    rewrite(path, config=None)


def other_shape(path: Path) -> None:
    tensors = load_file(path)
    name = sorted(tensors)[0]
    rewrite(path, {**tensors, name: torch.zeros(2, 2, 2)})


def other_dtype(path: Path) -> None:
    rewrite(path, {name: value.double() for name, value in load_file(path).items()})


def missing_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    rewrite(path, tensors)


def extra_tensor(path: Path) -> None:
    rewrite(path, {**load_file(path), "surplus": torch.zeros(1)})


def not_finite(path: Path) -> None:
    tensors = load_file(path)
    tensors[sorted(tensors)[0]].view(-1)[0] = float("nan")
    rewrite(path, tensors)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "not a readable safetensors file"),
        (flip, "checksum does not fit"),
        (empty, "not a readable safetensors file"),
        (make_pickle, "never reads"),
        (make_torch_save, "never reads"),
        (foreign, "no header of ngopt"),
        (no_header, "is not JSON"),
        (missing_checksum, "or no checksum"),
        (next_version, "format version 4; this ngopt reads version 3"),
        (edited_card, "checksum does not fit"),
        (unknown_setting, "pain_bound"),
        (wrong_type, "embedding must be int, not '16'"),
        (out_of_range, "momentum=1.5"),
        (missing_setting, r"largest_side.*missing or unknown"),
        (no_settings, "settings do not fit"),
        (other_shape, "another shape or dtype"),
        (other_dtype, "another shape or dtype"),
        (missing_tensor, "missing, unknown"),
        (extra_tensor, "surplus"),
        (not_finite, "NaN or infinity"),
    ],
)
def test_damaged_files(saved: Path, damage: Callable[[Path], None], message: str) -> None:
    ngopt.load_pretrained(saved)
    damage(saved)
    with pytest.raises(CheckpointError, match=message):
        ngopt.load_pretrained(saved)


def test_files_of_version_2_are_read_and_checked(saved: Path) -> None:
    header = as_version_2(saved)
    assert read_card(saved) == header["card"]
    assert all(torch.equal(x, lively_rule().state_dict()[name]) for name, x in load_file(saved).items())
    content = saved.read_bytes()
    for damage in (truncate, flip):
        damage(saved)
        with pytest.raises(CheckpointError, match="ngopt"):
            ngopt.load_pretrained(saved)
        saved.write_bytes(content)
    ngopt.load_pretrained(saved)
    seal_version_2(saved, load_file(saved), header | {"config": None})
    with pytest.raises(CheckpointError, match="settings do not fit"):
        ngopt.load_pretrained(saved)


def test_resealing_alone_is_no_damage(saved: Path) -> None:
    """Control for the table above: the file that the damages rewrite is good until they change it."""
    rewrite(saved)
    ngopt.load_pretrained(saved)


def test_a_pickle_is_not_run(saved: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (os._exit, (3,))

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        saved.write_bytes(pickle.dumps(Bomb(), protocol))
        with pytest.raises(CheckpointError):
            ngopt.load_pretrained(saved)


@pytest.mark.parametrize("name", ["ngopt-huge", "no/such/file.safetensors", "missing.safetensors", ""])
def test_unknown_names_list_what_there_is(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"Shipped: .*ngopt-base-untrained"):
        ngopt.load_pretrained(name)


def test_a_file_in_the_working_directory(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved.parent)
    assert read_card("mine.safetensors")["status"] == "random"


def test_refusing_to_write(tmp_path: Path) -> None:
    rule = lively_rule()
    with pytest.raises(CheckpointError, match="JSON"):
        ngopt.save_pretrained(rule, tmp_path / "a", card={"status": object()})
    with torch.no_grad():
        next(rule.parameters()).view(-1)[0] = float("inf")
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        ngopt.save_pretrained(rule, tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_a_crash_while_writing_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        ngopt.save_pretrained(lively_rule(seed=1), saved)
    assert saved.read_bytes() == before
    assert sorted(os.listdir(saved.parent)) == ["mine.md", "mine.safetensors"]


@pytest.mark.parametrize("size", [0x80, 0x4B50])
def test_a_header_as_long_as_a_pickle_begins(tmp_path: Path, size: int) -> None:
    """The first bytes of a safetensors file are the length of its header; some lengths look like a pickle's."""
    path = ngopt.save_pretrained(UpdateRule(), tmp_path / "mine", card={"pad": ""})
    long = int.from_bytes(path.read_bytes()[:8], "little")
    modulus = 0x100 if size == 0x80 else 0x10000
    pad = (size - long) % modulus
    path = ngopt.save_pretrained(UpdateRule(), tmp_path / "mine", card={"pad": "x" * pad})
    assert int.from_bytes(path.read_bytes()[:8], "little") % modulus == size, "the test does not test what it is for"
    assert ngopt.load_pretrained(path).config == UpdateRule().config
