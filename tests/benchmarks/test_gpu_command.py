"""What a first GPU will run: each part in small on the CPU, one that fails or hangs costs no other its rows."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.common.results import RESULTS
from benchmarks.gpu_parts import PARTS


def test_all_parts_fit_into_nine_minutes() -> None:
    assert sum(part.seconds for part in PARTS.values()) <= 540


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["step", "suite", "throughput"])
def test_each_part_runs_in_small(name: str) -> None:
    rows = list(PARTS[name].run(True))
    assert len(rows) >= 2 and all(row.get("finite", True) for row in rows)


def test_parts_that_are_done_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes: dict[str, Any] = {"tests": 1, "step": "late", "suite": 0, "throughput": 0}
    started: list[str] = []

    def run(command: list[str], timeout: float, **options: Any) -> SimpleNamespace:
        name = command[command.index("--inside") + 1]
        started.append(name)
        printed = 'a warning\n{"a": 1}\n{"a": 2.5}\n{"cut'
        if outcomes[name] == "late":
            raise subprocess.TimeoutExpired(command, timeout, output=printed.encode())
        return SimpleNamespace(returncode=outcomes[name], stdout=printed, stderr="first\nCUDA error: lost")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(gpu.run_part, "__defaults__", (run,))
    out = tmp_path / "gpu.json"
    assert gpu.main(["--dry", "--out", str(out)]) == 1
    assert started == list(PARTS)
    rows = {row["part"]: row for row in gpu.stored(out)}
    assert [rows[name]["status"] for name in PARTS] == ["failed", "out of time", "done", "done"]
    assert rows["step"]["rows"] == [{"a": 1}, {"a": 2.5}] and "CUDA error: lost" in rows["tests"]["error"]
    assert "| 2.5 |" in capsys.readouterr().out
    outcomes.update(tests=0, step=0)
    assert gpu.main(["--dry", "--out", str(out)]) == 0
    assert started[len(PARTS) :] == ["tests", "step"]


def test_what_a_cpu_measured_does_not_go_beside_a_gpu_s_rows(capsys: pytest.CaptureFixture[str]) -> None:
    path = RESULTS / "gpu.json"
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(SystemExit):
        gpu.main(["--dry"])
    assert "--dry needs --out" in capsys.readouterr().err
    assert (path.read_bytes() if path.exists() else None) == before
