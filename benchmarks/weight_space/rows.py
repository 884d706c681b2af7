"""Result files: one per suite and set of networks and size; a row per task, encoder, variant and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.common.results import RESULTS, machine, put_row, versions
from benchmarks.weight_space.config import Config
from benchmarks.weight_space.suites import ENCODERS, SUITES

KEY = ("task", "encoder", "variant", "seed")
SCATTER = "scatter"  # what single networks got: in a row of its own, and a file of its own


def result_path(suite: str, dataset: str, size: str, folder: Path = RESULTS) -> Path:
    """Where the rows of a suite on a set of networks are kept."""
    return folder / f"{SUITES[suite].results}{dataset}_{size}.json"


def scatter_path(path: Path) -> Path:
    """Where that is kept which belongs to the rows of a file, and is drawn only."""
    return path.parent / SCATTER / path.name


def make_row(config: Config, outcome: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    """One row: which run, what came out, and all that it takes to make it again."""
    return {
        **_key(config),
        "probes": config.probes,
        **outcome,
        "config": asdict(config),
        "command": " ".join(command),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
    }


def store(path: Path, row: dict[str, Any], config: Config) -> None:
    """Put a row into a result file, in the place of the one with the same key; others may do so at the same time."""
    row = {name: value for name, value in row.items() if name != SCATTER}
    put_row(path, row, KEY, *_file(config), order=_order)


def store_scatter(path: Path, row: dict[str, Any], config: Config) -> None:
    """Put what there is to draw of single networks beside a result file: of seed 0, and of rows that have it."""
    if SCATTER in row and config.seed == 0:
        put_row(scatter_path(path), {**_key(config), SCATTER: row[SCATTER]}, KEY, *_file(config), order=_order)


def _key(config: Config) -> dict[str, Any]:
    return {"task": config.task, "encoder": config.encoder, "variant": config.variant(), "seed": config.seed}


def _file(config: Config) -> tuple[dict[str, Any], list[str]]:
    """Settings and command of a file."""
    settings = {"suite": config.suite, "dataset": config.dataset, "size": config.size}
    return settings, [
        *SUITES[config.suite].command(config.suite),
        f"--{SUITES[config.suite].noun}",
        config.dataset,
        "--size",
        config.size,
    ]


def _order(row: dict[str, Any]) -> tuple:
    return row["task"], ENCODERS.index(row["encoder"]), row["variant"], row["seed"]
