"""Result files: one per suite, data set and size; a row per task, encoder, variant and seed, safe for many writers."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.common.results import RESULTS, machine, new_results, read_results, versions, write_results
from benchmarks.weight_space.config import ENCODERS, Config

KEY = ("task", "encoder", "variant", "seed")


def result_path(suite: str, dataset: str, size: str, folder: Path = RESULTS) -> Path:
    """Where the rows of a suite on a data set are kept."""
    return folder / f"{suite}_{dataset}_{size}.json"


def make_row(config: Config, outcome: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    """One row: which run, what came out, and all that it takes to make it again."""
    return {
        **{name: getattr(config, name) for name in ("task", "encoder")},
        "variant": config.variant(),
        "seed": config.seed,
        "probes": config.probes,
        **outcome,
        "config": asdict(config),
        "command": " ".join(command),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
    }


def store(path: Path, row: dict[str, Any], suite: str, dataset: str, size: str) -> None:
    """Put a row into a result file, in the place of the one with the same key; others may do so at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):
        if path.is_file():
            results = read_results(path)
        else:
            settings = {"suite": suite, "dataset": dataset, "size": size}
            results = new_results(
                ["python", "-m", f"benchmarks.{suite}", "--dataset", dataset, "--size", size], settings
            )
        kept = [other for other in results["rows"] if key(other) != key(row)]
        results["rows"] = sorted([*kept, row], key=_order)
        write_results(path, results)


def key(row: dict[str, Any]) -> tuple:
    """What makes two rows the same run."""
    return tuple(row[name] for name in KEY)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; it goes with the process, however that ends, and leaves no file behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _order(row: dict[str, Any]) -> tuple:
    return row["task"], ENCODERS.index(row["encoder"]), row["variant"], row["seed"]
