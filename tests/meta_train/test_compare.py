"""Comparing checkpoints: the interval says what it should, and stored runs are not made again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ngopt
from meta_train import compare
from meta_train.compare import Advantage, digest, main, read_rule
from ngopt.optim.update import UpdateConfig, UpdateRule


def test_an_advantage_that_all_tasks_share_is_one_and_noise_is_none() -> None:
    noise = np.random.default_rng(1).normal(size=(12, 3))
    low, high = Advantage(noise).interval
    assert low < 0.0 < high
    low, high = Advantage(0.1 * noise + 0.5).interval
    assert 0.3 < low < Advantage(0.1 * noise + 0.5).mean < high < 0.7


def test_seeds_of_one_task_do_not_count_as_tasks() -> None:
    """Forty runs of two tasks that disagree say little, forty tasks much more."""
    by_task = np.repeat(np.array([[1.0], [-0.5]]), 20, 1)
    assert Advantage(by_task).interval[0] < 0.0 < Advantage(by_task).mean
    assert Advantage(by_task.reshape(40, 1)).interval[0] > 0.0  # control: as if each run were a task


def test_a_digest_is_of_settings_and_weights(tmp_path: Path) -> None:
    first = UpdateRule(UpdateConfig(seed=1))
    with torch.no_grad():
        first.heads.read.bias[0] = 0.1
    for name, rule in (("a", first), ("b", UpdateRule(UpdateConfig(seed=1))), ("c", UpdateRule(UpdateConfig(seed=2)))):
        ngopt.save_pretrained(rule, tmp_path / f"{name}.safetensors", card={"name": name, "description": "a test"})
    digests = [digest(read_rule(str(tmp_path / f"{name}.safetensors"))) for name in "abc"]
    assert len(set(digests)) == 3 and digest(read_rule(str(tmp_path / "a.safetensors"))) == digests[0]


@pytest.mark.usefixtures("capsys")
def test_the_command_compares_and_keeps_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = UpdateRule()
    with torch.no_grad():
        rule.heads.read.bias[0] = -3.0  # steps a third as large: much too small for a short run
    ngopt.save_pretrained(rule, tmp_path / "small.safetensors", card={"name": "small", "description": "a test"})
    asked = ["ngopt-base-untrained", str(tmp_path / "small.safetensors"), "--families", "validation-table"]
    asked += ["--steps", "20", "--seeds", "2", "--out", str(tmp_path / "runs.json")]
    main(asked)
    first = capsys.readouterr().out
    assert "validation-table 4x24 iris" in first and "ngopt-base-untrained is better" in first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "final_losses", None)  # to be called would raise
        main(asked)
        assert capsys.readouterr().out == first
        with pytest.raises(TypeError):  # control: a run that is not stored
            main([*asked, "--steps", "21"])
    with pytest.raises(SystemExit):
        main(["no-such-checkpoint", *asked[1:]])
    assert "no-such-checkpoint" in capsys.readouterr().err
