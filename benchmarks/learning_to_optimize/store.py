"""Result files: one of runs and one of tuning per task and number of steps, one of costs per task."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.common.results import RESULTS, machine, put_row, read_results, versions

FOLDER = RESULTS / "learning_to_optimize"
PACKAGES = ("schedulefree", "pytorch_optimizer")
Row = dict[str, Any]


def runs_path(task: str, steps: int, folder: Path = FOLDER) -> Path:
    """Where the runs of a task are kept."""
    return folder / f"{task}_{steps}.json"


def tuning_path(task: str, steps: int, folder: Path = FOLDER) -> Path:
    """Where the grid of a task is kept."""
    return folder / f"{task}_{steps}_tuning.json"


def cost_path(task: str, folder: Path = FOLDER) -> Path:
    """Where the times of a task's optimizers are kept."""
    return folder / f"{task}_cost.json"


def rows_of(path: Path) -> list[Row]:
    """The rows of a file; none if it is not there."""
    return read_results(path)["rows"] if path.is_file() else []


def store(path: Path, row: Row, key: Sequence[str], settings: dict[str, Any], command: Sequence[str]) -> None:
    """Put a row into a file, in the place of the one that has the same key; others may do so at the same time."""
    put_row(path, stamped(row), key, settings, command)


def stamped(row: Row) -> Row:
    """A row with when and on what it was made."""
    return {**row, "created": datetime.now(timezone.utc).isoformat(timespec="seconds"), "on": origin()}


def origin() -> dict[str, Any]:
    """What decided about a row's numbers and times: rows of one file may come from several machines."""
    from importlib.metadata import version

    here = machine()
    packages = {name: version(name) for name in PACKAGES}
    return {
        "processor": here["processor"],
        "threads": here["threads"],
        "torch": versions()["torch"],
        "ngopt": versions()["ngopt"],
        **packages,
    }
