"""Configs: every mistake is named before work begins; every config of the repository parses."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from meta_train_cases import VALUES, config_of

from meta_train.config import ConfigError, OuterConfig, SlotConfig, parse_config, read_config, shipped_configs
from meta_train.rules import make_rule
from meta_train.tasks import FAMILIES, TRAINING, VALIDATION

MISTAKES = {
    "unknown entry": ({"itterations": 3}, "unknown entries itterations"),
    "unknown entry in a table": ({"outer": {"learning_rate": 0.1}}, r"outer: unknown entries learning_rate.*Known: lr"),
    "unknown entry in a slot": ({"slots": [{}, {"sigmma": 1.0}]}, r"slots\[1\]: unknown entries sigmma"),
    "not a whole number": ({"iterations": 2.5}, "iterations = 2.5 must be of type int"),
    "true is no number": ({"iterations": True}, "iterations = True must be of type int"),
    "words": ({"outer": {"lr": "fast"}}, "outer: lr = 'fast' must be of type float"),
    "not a list": ({"slots": {"count": 3}}, "slots = .* must be a list"),
    "not a table": ({"outer": 3}, "outer = 3 must be a table"),
    "too many": ({"slots": [{"horizon": [1, 2, 3]}]}, r"slots\[0\]: horizon = .* must have 2 entries"),
    "wrong entry of a list": ({"slots": [{"families": ["mlp", 3]}]}, r"families\[1\] = 3 must be of type str"),
    "no slots": ({"slots": []}, "slots = .* at least one slot"),
    "estimator": ({"slots": [{"estimator": "reinforce"}]}, r"slots\[0\]: estimator = 'reinforce' .* backprop, pes"),
    "backward horizon": ({"slots": [{"horizon": [50, 10]}]}, r"horizon = .*\[shortest, longest\]"),
    "no steps": ({"slots": [{"steps": [0, 5]}]}, "steps = "),
    "damping": ({"slots": [{"damping": 1.5}]}, "damping = 1.5"),
    "sigma": ({"slots": [{"sigma": 0.0}]}, "sigma = 0.0"),
    "pieces of runs": ({"slots": [{"estimator": "spsa", "offset": False}]}, r"steps = .* whole runs with spsa"),
    "begun runs": ({"slots": [{"estimator": "spsa", "steps": [150, 150]}]}, "offset = True must be false with spsa"),
    "no gains": (
        {"kind": "feed_forward", "slots": [{"estimator": "spsa", "steps": [150, 150], "offset": False}]},
        "estimator = 'spsa' .* this rule says nothing about whole tensors",
    ),
    "not a number": ({"outer": {"lr": math.nan}}, "lr = nan"),
    "ema": ({"outer": {"ema": 1.0}}, "ema = 1.0"),
    "strengths": ({"evaluation": {"strengths": [0.0]}}, "strengths = "),
    "kind": ({"kind": "lstm"}, "kind = 'lstm' must be one of neural_graph, feed_forward"),
    "name": ({"name": "a/b"}, "name = 'a/b'"),
    "rule": ({"rule": {"momentum": 2.0}}, "rule: momentum=2.0"),
    "objective": ({"objective": {"late": 2.0}}, "objective: late=2.0"),
    "missing name": ({"name": None}, "missing entries name"),
}


def toml(values: dict[str, Any]) -> str:
    """Enough TOML for a flat table."""
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str) -> None:
    changes, message = MISTAKES[mistake]
    values = {key: value for key, value in {**VALUES, **changes}.items() if value is not None}
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config(values, "my.toml")
    assert "my.toml" in str(caught.value)
    assert parse_config(VALUES).name == "tiny-run"  # control


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read the config .*none\.toml: No such file"):
        read_config(tmp_path / "none.toml")
    path = tmp_path / "run.toml"
    path.write_text("iterations = = 3")
    with pytest.raises(ConfigError, match=r"run\.toml is not TOML"):
        read_config(path)
    path.write_text(toml({"name": "a", "iterations": 3, "colour": 1}))
    with pytest.raises(ConfigError, match=r"run\.toml: unknown entries colour"):
        read_config(path)
    path.write_text(toml({"name": "a", "iterations": 3}))  # control
    assert read_config(path).iterations == 3


def test_shipped_configs_go_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config("quick").name == "quick"
    Path("quick").write_text(toml({"name": "mine", "iterations": 3}))  # a file of that name comes first
    assert read_config("quick").name == "mine"
    with pytest.raises(ConfigError, match=r"Cannot read the config quik: .* one of base, .*quick"):
        read_config("quik")


@pytest.mark.parametrize("name", shipped_configs())
def test_configs_of_the_package(name: str) -> None:
    config = read_config(name)
    drawn = {family for slot in config.slots for family in slot.families}
    assert drawn <= set(TRAINING), "meta-training draws from training families alone"
    assert set(config.evaluation.families) <= FAMILIES.keys() and set(config.evaluation.families) & set(VALIDATION)
    parts = make_rule(config.kind, config.rule).parts()
    assert all(set(slot.train) <= parts.keys() for slot in config.slots)


@pytest.mark.parametrize("name", ["no_graph", "shuffled"])
def test_controls_of_the_graph_learn_as_base_does(name: str) -> None:
    base, control = read_config("base"), read_config(name)
    assert dataclasses.replace(control, name=base.name, rule=base.rule) == base
    assert control.rule != base.rule and control.name != base.name


def test_a_config_survives_json() -> None:
    config = config_of(rule={"momentum": 0.8, "largest_side": 64}, objective={"late": 0.25})
    assert parse_config(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert config != config_of()  # control


def test_whole_numbers_do_where_floats_are_meant() -> None:
    assert parse_config({"name": "a", "outer": {"lr": 1}}).outer == OuterConfig(lr=1.0)


def test_the_curriculum_is_linear() -> None:
    slot = SlotConfig(steps=(10, 30))
    assert [slot.steps_at(k, 11) for k in (0, 5, 10, 50)] == [10, 20, 30, 30]
    assert slot.steps_at(0, 1) == 10
