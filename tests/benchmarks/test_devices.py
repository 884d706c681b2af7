"""``--device auto`` is a GPU where there is one, for every command that takes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.cnn_zoo import __main__ as cnn_zoo
from benchmarks.inr_data import __main__ as inr_data
from benchmarks.weight_space.cli import make_parser, read_configs
from benchmarks.weight_space.suites import SUITES


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("module", "words"), [(inr_data, ["fit", "digits"]), (cnn_zoo, ["make", "small-digits"])], ids=["inrs", "zoos"]
)
def test_makers_of_networks(module: Any, words: list[str], there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(module, "make", lambda job: seen.append(job.device) or {"fitted": 0, "networks": 0})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    for device in ([], ["--device", "auto"], ["--device", "cuda:1"]):
        assert module.main([*words, "--size", "smoke", *device]) == 0
    assert seen == ["cpu", "cuda" if there else "cpu", "cuda:1"]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("suite", SUITES)
def test_suites(suite: str, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    task = ["--task", SUITES[suite].tasks[0]] if len(SUITES[suite].tasks) > 1 else []
    (config,) = read_configs(suite, vars(make_parser(suite).parse_args([*task, "--smoke", "--device", "auto"])))
    assert config.device == ("cuda" if there else "cpu")
