"""python -m benchmarks.inr_classification, from end to end in small, on real images and networks fitted to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ngopt
from benchmarks.common.results import read_results
from benchmarks.inr_classification import saving
from benchmarks.inr_data import Siren, coordinates, load
from benchmarks.inr_data.making import Job, make
from benchmarks.inr_data.siren import state
from benchmarks.weight_space.baselines import FlatMLP
from benchmarks.weight_space.cli import main
from benchmarks.weight_space.config import MLPS, ConfigError
from benchmarks.weight_space.folder import BEST, STATE, TrainingError
from benchmarks.weight_space.inrs import load_networks, make_problem
from benchmarks.weight_space.models import build_model
from benchmarks.weight_space.samples import Samples, Stack
from benchmarks.weight_space.suites import SUITES
from benchmarks.weight_space.tasks import Classification
from meta_train.data import DataMissingError
from ngopt.encoder import load_reader
from ngopt.files import read_json, write_json
from tests.benchmarks.weight_space_cases import killed_at, settings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
RESULTS = "results/inr_classification_digits_smoke.json"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first command puts the networks that it fits, and the others find them."""
    return tmp_path_factory.mktemp("data")


def run(root: Path, out: Path, *words: str) -> None:
    main("inr_classification", ["--dataset", "digits", "--smoke", "--data-root", str(root), "--out", str(out), *words])


def test_several_fits_of_each_image(tmp_path: Path) -> None:
    make(Job("digits", "smoke", augment=1, root=tmp_path))
    for fits, train in ((1, 48), (2, 96)):
        splits = make_problem(config := settings(fits=fits), load_networks(config, tmp_path)).splits
        assert (len(splits["train"]), len(splits["test"])) == (train, 16)
    with pytest.raises(ConfigError, match=r"--fits asks for 3 of each training image; digits-smoke has 2.*--augment 2"):
        make_problem(config := settings(fits=3), load_networks(config, tmp_path))


@pytest.mark.parametrize("encoder", SUITES["inr_classification"].encoders)
def test_command_from_end_to_end(encoder: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(root, tmp_path, "--encoder", encoder)
    (row,) = read_results(tmp_path / RESULTS)["rows"]
    assert (row["encoder"], row["variant"], row["seed"], row["probes"]) == (
        encoder,
        "",
        0,
        256 * (encoder == "probe_mlp"),
    )
    assert row["networks"] == {"train": 48, "val": 16, "test": 16}
    assert row["steps"] == 6 and len(row["history"]) == 2 and row["parameters"] > 0
    assert 0 <= row["test"]["accuracy"] <= 100
    assert row["command"].startswith("python -m benchmarks.inr_classification --dataset digits --smoke")
    folder = tmp_path / "inr_classification" / "digits-smoke" / f"{encoder}-seed0"
    assert (folder / BEST).is_file() and list(folder.glob("tensorboard/events.*"))
    assert f"{folder}: test accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "variant"),
    [
        ("--encoder ng_gnn --probes 4", "probes=4"),
        ("--encoder probe_mlp --probes 4 --option width=8", "probes=4 width=8"),
        ("--encoder neuron_flow --probes 4 --no-sign", "no-sign probes=4"),
        ("--encoder ng_t --precision bf16 --option layers=2 heads=2", "heads=2 layers=2"),
        ("--encoder ng_gnn --faithful", "faithful"),
        ("--encoder ng_t --faithful --option attention=16 layers=1", "faithful attention=16 layers=1"),
    ],
)
def test_options_from_end_to_end(words: str, variant: str, root: Path, tmp_path: Path) -> None:
    run(root, tmp_path, *words.split())
    (row,) = read_results(tmp_path / RESULTS)["rows"]
    assert (row["variant"], row["probes"], row["skipped_steps"]) == (variant, 4 * ("probes" in variant), 0)


def test_a_classifier_becomes_a_file(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path, "--encoder", "neuron_flow", "--option", "width=8", "dropout=0.1")
    folder = next((tmp_path / "inr_classification" / "digits-smoke").iterdir())
    path = saving.save(folder, tmp_path / "reader.safetensors")
    reader, sets = load_reader(path), load("digits", "smoke", root)
    graph = ngopt.trace(Siren(), (coordinates(8, 8),), scalings=True)
    right = reader.stack(graph, sets["test"].params).argmax(1) == sets["test"].labels
    (row,) = read_results(tmp_path / RESULTS)["rows"]
    assert 100 * float(right.float().mean()) == pytest.approx(row["test"]["accuracy"])
    module = Siren()
    module.load_state_dict(state(sets["test"].params, 3))
    found = reader(module, coordinates(28, 28))
    torch.testing.assert_close(found, reader.stack(graph, sets["test"].params)[3], rtol=1e-4, atol=1e-4)
    assert reader.card["made by"] == row["command"] and row["command"] in path.with_suffix(".md").read_text()
    with pytest.raises(ConfigError, match="that has ended"):
        saving.save(tmp_path, tmp_path / "none.safetensors")
    run(root, tmp_path, "--encoder", "mlp")
    with pytest.raises(ConfigError, match="mlp-seed0: a metanetwork without probes is needed"):
        saving.save(folder.parent / "mlp-seed0", tmp_path / "none.safetensors")


def test_two_processes_make_the_same_run(root: Path, tmp_path: Path) -> None:
    words = ("--encoder", "mlp", "--batch-size", "15", "--option", "width=16")
    run(root, tmp_path / "one", *words)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    where = ["--data-root", str(root), "--out", str(tmp_path / "two")]
    command = [*launch, "benchmarks.inr_classification", "--dataset", "digits", "--smoke", *where, *words]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    (one,), (two,) = (read_results(tmp_path / out / RESULTS)["rows"] for out in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["reads"] == two["reads"] == 96 and two["cpu_seconds"] > 0
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert one["test"] == pytest.approx(two["test"], rel=1e-4)
    assert one["history"][0]["train_loss"] != pytest.approx(one["history"][1]["train_loss"], rel=1e-3), "control"


def test_seeds_and_runs_that_have_ended(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(root, tmp_path, "--encoder", "mlp", "--seed", "0", "1")
    before = read_results(tmp_path / RESULTS)
    assert [row["seed"] for row in before["rows"]] == [0, 1]
    assert before["rows"][0]["history"] != before["rows"][1]["history"]
    monkeypatch.setattr("benchmarks.weight_space.train.Trainer.run", None)  # nothing is trained or tested again
    run(root, tmp_path, "--encoder", "mlp", "--seed", "0", "1")
    assert read_results(tmp_path / RESULTS) == before


def test_a_run_goes_on_after_a_kill(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--encoder", "mlp_aug", "--checkpoint-steps", "1", "--option", "dropout=0.3")
    run(root, tmp_path / "whole", *words)
    calls = killed_at(5, Classification, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "killed", *words)
    assert not (tmp_path / "killed" / RESULTS).exists()
    run(root, tmp_path / "killed", *words)
    assert len(calls) == 5 + 2  # of six steps
    whole, killed = (next((tmp_path / name).rglob(STATE)) for name in ("whole", "killed"))
    assert _tensors(whole) == _tensors(killed)


def test_other_settings_in_the_same_folder_are_refused(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path, "--encoder", "mlp")
    (config,) = tmp_path.rglob("config.json")
    write_json(config, read_json(config) | {"lr": 0.5})
    with pytest.raises(TrainingError, match=r"lr: 0.5 there, 0.001 asked for"):
        run(root, tmp_path, "--encoder", "mlp")


def test_many_networks_are_not_fitted_in_passing(tmp_path: Path) -> None:
    words = ["--dataset", "mnist", "--size", "full", "--encoder", "mlp", "--data-root", str(tmp_path)]
    with pytest.raises(DataMissingError, match="fit mnist --size full"):
        main("inr_classification", [*words, "--out", str(tmp_path)])


def test_bad_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in ((["--lr", "-1"], "lr must be at least"), (["--option", "width"], "not NAME=VALUE")):
        with pytest.raises(SystemExit):
            main("inr_classification", ["--smoke", "--out", str(tmp_path), *words])
        assert message in capsys.readouterr().err


def test_models_get_the_options_that_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def metanetwork(graphs: Any, **options: Any) -> FlatMLP:
        seen.update(options)
        return FlatMLP({"w": (3,)}, task="classify", outputs=10)

    monkeypatch.setattr(ngopt.encoder, "metanetwork", metanetwork, raising=False)
    config = settings(encoder="ng_gnn", probes=4, options={"width": 8})
    build_model(config, one_network(), Classification())
    expected = {"task": "classify", "outputs": 10, "encoder": "ng_gnn", "faithful": False, "module": None}
    assert seen == {**expected, "example": None, "sign": True, "probes": 4, "width": 8}


@pytest.mark.parametrize("encoder", MLPS)
def test_an_option_that_a_model_does_not_take(encoder: str) -> None:
    with pytest.raises(ConfigError, match=f"{encoder} does not take the options {{'heads': 3}}"):
        build_model(settings(encoder=encoder, options={"heads": 3}), one_network(), Classification())


def one_network() -> Samples:
    return Samples((Stack(None, {"w": torch.zeros(1, 3)}),), torch.zeros(1))


def _tensors(path: Path) -> dict[str, list]:
    from meta_train.tensor_files import read_tensors

    return {name: value.tolist() for name, value in read_tensors(path)[0].items()}
