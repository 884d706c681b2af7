"""Settings: presets, refusals, and the command line that is made from them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from benchmarks.weight_space.cli import make_parser, read_configs
from benchmarks.weight_space.config import ConfigError, configure
from benchmarks.weight_space.suites import SUITES
from tests.benchmarks.weight_space_cases import settings

EDIT = {"suite": "inr_editing", "task": "dilation"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 1.0}, "no settings learning_rate"),
        ({"encoder": "resnet"}, "encoder must be one of neuron_flow"),
        ({"lr": -1.0}, "lr must be at least"),
        ({"lr": float("nan")}, "lr must be at least"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"epochs": 2.5}, "epochs must be int"),
        ({"sign": 1}, "sign must be bool"),
        ({"drop": 1.0}, "drop must be at least 0.0 and at most 0.99"),
        ({"device": "tpu"}, "device must be cpu"),
        ({"size": "huge"}, "size one of"),
        ({"task": "dilation"}, "no task 'dilation'"),
        ({"faithful": True}, "mlp has no faithful form"),
        ({"probes": 4}, "sees weights alone"),
        ({"encoder": "probe_mlp", "probes": 0}, "give it probes"),
        ({"encoder": "ng_t", "copies": 2}, "editing only"),
        ({"options": {"probes": 3}}, "take them out of options"),
        ({**EDIT, "augment": True}, "targets of editing"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**values)


def test_missing_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="no default: task, dataset"):
        configure(suite="inr_classification", size="small", encoder="mlp")


def test_presets() -> None:
    base = {"dataset": "mnist", "encoder": "ng_gnn"}
    published = configure(suite="inr_classification", task="classify", size="full", faithful=True, **base)
    assert (published.epochs, published.warmup, published.clip, published.batch_size) == (200, 1000, 10.0, 128)
    assert (published.amsgrad, published.schedule, published.augment) == (True, "constant", True)
    edit = configure(**EDIT, size="full", **base, faithful=True)
    assert (edit.epochs, edit.warmup, edit.clip, edit.augment, edit.amsgrad) == (200, 10_000, 1.0, False, True)
    ours = configure(**EDIT, size="full", **base)
    assert (ours.epochs, ours.batch_size, ours.schedule, ours.amsgrad) == (60, 512, "cosine", False)
    assert configure(**EDIT, size="full", **base, epochs=7).epochs == 7
    augmented, plain = settings(encoder="mlp_aug"), settings()
    assert (augmented.permute, augmented.flip) == (True, True) != (plain.permute, plain.flip)


def test_variant_says_what_was_changed_and_nothing_else() -> None:
    base = {"suite": "inr_classification", "task": "classify", "dataset": "mnist", "size": "small", "encoder": "ng_t"}
    assert configure(**base, threads=2, seed=3).variant() == ""
    assert configure(**base, faithful=True).variant() == "faithful"
    config = configure(**base, sign=False, probes=64, lr=0.01, augment=False, options={"width": 8})
    assert config.variant() == "no-sign probes=64 width=8 lr=0.01 no-augment"
    assert config.slug() == "ng_t-no-sign-probes64-width8-lr0.01-no-augment-seed0"
    assert config.encoder_options() == {"probes": 64, "width": 8}
    assert configure(**base).encoder_options() == {"sign": True}
    flow = configure(**(base | {"encoder": "neuron_flow"}), sign=False)
    assert (flow.variant(), flow.ema, flow.encoder_lr) == ("no-sign", 0.998, 0.05)
    assert flow.encoder_options() == {"sign": False}
    assert configure(**base, precision="bf16", compile=True).variant() == ""  # the same up to rounding


def test_options_come_on_top_of_those_of_the_preset() -> None:
    """Also from a command line that names none, or another one."""
    words = "--dataset small-mnist --encoder neuron_flow"
    preset = SUITES["cnn_generalization"].own["neuron_flow"]["options"]
    assert preset["statistics"] and preset["width"] != 48
    for more, options, variant in (
        ("", preset, ""),
        (" --option width=48", preset | {"width": 48}, "width=48"),
        (" --option bank=2", preset | {"bank": 2}, "bank=2"),
        (" --option statistics=false", preset | {"statistics": False}, "statistics=False"),
    ):
        parsed = vars(make_parser("cnn_generalization").parse_args((words + more).replace("dataset", "zoo").split()))
        (config,) = read_configs("cnn_generalization", parsed)
        assert (config.options, config.variant()) == (options, variant)
        assert configure(**asdict(config)) == config  # as it is read from a row


def test_settings_survive_json() -> None:
    config = settings(encoder="mlp_aug", options={"width": 8})
    assert configure(**json.loads(json.dumps(asdict(config)))) == config


def test_command_line() -> None:
    words = "--task erosion --dataset cifar10 --encoder ng_gnn --size medium --no-sign --probes 4 --copies 3"
    words += " --option width=16 name=wide --seed 1 2 --lr 0.01 --amsgrad"
    configs = read_configs("inr_editing", vars(make_parser("inr_editing").parse_args(words.split())))
    assert [config.seed for config in configs] == [1, 2]
    first = configs[0]
    assert first == configure(
        suite="inr_editing",
        task="erosion",
        dataset="cifar10",
        encoder="ng_gnn",
        size="medium",
        sign=False,
        probes=4,
        copies=3,
        options={"width": 16, "name": "wide"},
        seed=1,
        lr=0.01,
        amsgrad=True,
    )


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        make_parser("inr_classification").parse_args(["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    for flag in ("--probes", "--weight-decay", "--translate", "--checkpoint-steps", "--smoke", "--data-root"):
        assert flag in text
    assert "--task" not in text  # there is but one
    assert "by size, smoke 2" in text
