"""`benchmarks.cost.meta`: both loops do the same work; what is counted; the tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cost import command
from benchmarks.cost import meta as meta_cost
from benchmarks.cost.meta import (
    BATCH,
    NETWORKS,
    arithmetic,
    flops_of,
    main,
    make_open_rule,
    make_task,
    plain_loop,
    scaling_config,
    stacked_loop,
    table,
    wire_bytes,
)
from meta_train.config import parse_config
from meta_train.parallel import Processes
from meta_train.rules import make_rule
from meta_train.theta import flatten

MLP = next(iter(NETWORKS))


def test_a_stack_of_one_and_the_plain_loop_do_the_same_work() -> None:
    rule, task = make_open_rule(), make_task(MLP)
    # The stack draws its own initial weights; give it the plain loop's.
    weights = task.init(0, 1)
    object.__setattr__(task, "init", lambda seed, count: weights)
    ours, _ = stacked_loop(rule, task, 1, 3, "forward")()
    theirs = plain_loop(rule, task, 3, "forward")()
    for name, value in theirs.items():
        assert torch.allclose(ours.weights[name][0], value, atol=1e-5)
        assert not torch.allclose(weights[name][0], value, atol=1e-4)  # control
    gradient, _, _ = stacked_loop(rule, task, 1, 3, "backpropagation")()
    plain = flatten(dict(enumerate(plain_loop(rule, task, 3, "backpropagation")())))  # type: ignore[arg-type]
    assert float((gradient - plain).norm() / plain.norm()) < 1e-3
    cut = flatten(dict(enumerate(plain_loop(rule, task, 2, "backpropagation")())))  # type: ignore[arg-type]
    assert float((gradient - cut).norm() / plain.norm()) > 1e-2  # control


def test_flops_are_those_of_the_matrix_products() -> None:
    forward = 2 * BATCH * (64 * 32 + 32 * 10)
    assert flops_of(make_task(MLP)) == 2 * forward + 2 * BATCH * 32 * 10  # no derivative for the pictures


def test_what_goes_over_the_wire_is_what_the_trainer_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = scaling_config(2, 3, 1)
    sent: list[list[int]] = []

    def gather(self: Processes, own: dict[int, torch.Tensor], sizes: list[int]) -> list[torch.Tensor]:
        sent.append([4 * size for size in sizes])
        return [own[slot] for slot in range(len(sizes))]

    monkeypatch.setattr(Processes, "gather", gather)
    processes = Processes()
    folder = meta_cost.RunFolder(tmp_path, config, processes)
    trainer = meta_cost.Trainer(config, make_rule(config.kind, config.rule), folder, processes)
    trainer.iterate()
    dim = trainer.outer.size()
    assert sent == [[wire_bytes("pes", 3, dim), wire_bytes("backprop", 3, dim)]]
    assert wire_bytes("pes", 3, dim) == wire_bytes("pes", 3, 10 * dim) < wire_bytes("backprop", 3, dim)


def row(**changes: Any) -> dict[str, Any]:
    made = {"table": "scaling", "processes": 1, "slots": 2, "count": 4, "steps": 10, "dim": 1000}
    return made | {"iterations_per_s": 0.5, "seconds": [2.0], "outer_ms": 10.0, "pes_ms": 1.0} | changes


def test_arithmetic_for_many_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_cost, "BANDWIDTH", 1e6)
    monkeypatch.setattr(meta_cost, "LATENCY", 1e-3)
    pes, backprop = arithmetic(row(), gpus=11)
    assert pes["piece_ms"] == backprop["piece_ms"] == 1000.0
    assert pes["sent"] == 40 and pes["network_ms"] == pytest.approx(10 * (1 + 0.04))
    assert backprop["sent"] == 4 * 1006 and backprop["network_ms"] == pytest.approx(10 * (1 + 4.024))
    assert pes["shared_ms"] == pytest.approx(21.0) and backprop["shared_ms"] == pytest.approx(10.0)
    assert pes["efficiency"] == pytest.approx(1000 / (1000 + 10.4 + 21))
    text = table([row(), row(processes=2, iterations_per_s=0.9)])
    assert "| 2 | 2 | 0.900 | 1.80 |" in text


def test_slots_of_the_scaling_run_do_the_same_work() -> None:
    config = scaling_config(4, 2, 3)
    kinds = [slot.estimator for slot in config.slots]
    assert kinds[0::2] == kinds[1::2] == ["pes", "backprop"]  # of two processes, each has one of a kind
    assert len({(slot.families, slot.count, slot.horizon, slot.steps, slot.offset) for slot in config.slots}) == 1
    assert parse_config(json.loads(json.dumps(meta_cost.dataclasses.asdict(config)))) == config


def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, writes what it prints, and prints the same again; only published results go into the pages."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(meta_cost, "scaling", lambda processes, config, iterations, clock: [row()])
    page = tmp_path / "docs" / "benchmarks.md"
    page.parent.mkdir()
    page.write_text(fill_me := "<!-- table: meta_cost -->\n<!-- end of table: meta_cost -->\n")
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "cost.json"
    main(["--smoke", "--output", str(output), "--clock", "cpu"])
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    rows = json.loads(output.read_text())["rows"]
    assert printed == table(rows) + "\n" and page.read_text() == fill_me
    assert [row["stack"] for row in rows if row["table"] == "inner"] == [1, 2]
    assert all(row[f"{work}_ratio"] > 0 for row in rows if row["table"] == "inner" for work in meta_cost.WORKS)
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    output.rename(tmp_path / "meta_cost.json")
    main(["--report"])
    assert capsys.readouterr().out == printed and table(rows) in page.read_text()


@pytest.mark.slow
def test_scaling_starts_processes() -> None:
    (found,) = meta_cost.scaling([2], scaling_config(2, 1, 1), 1, "wall")
    assert found["processes"] == len(found["seconds"]) == 2 and found["iterations_per_s"] > 0
