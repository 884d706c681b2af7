"""The run directory: whose run it holds, and how far that has come."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from benchmarks.weight_space.config import Config
from ngopt.errors import FileError, NGOptError
from ngopt.files import read_json, write_json, write_text

CONFIG, STATE, BEST = "config.json", "state.safetensors", "best.safetensors"
NETWORKS = "networks.sha256"  # which networks a run reads: see `benchmarks.common.manifests.digest`


class TrainingError(NGOptError, RuntimeError):
    """Training cannot go on; the message says why and what to do."""


@dataclass
class Progress:
    """All numbers that a run has to remember; JSON."""

    step: int = 0
    part: int = 0  # networks that fit into memory at once
    skipped: int = 0  # steps without a finite gradient
    skipped_in_row: int = 0
    loss_sum: float = 0.0  # of this epoch
    loss_count: int = 0
    seconds: float = 0.0  # of training steps, validation left out
    cpu_seconds: float = 0.0  # the same on the clocks of all processes
    networks: int = 0  # read in these seconds
    best_epoch: int = -1
    best: dict[str, float] = field(default_factory=dict)  # validation measures of that epoch
    history: list[dict[str, float]] = field(default_factory=list)  # a row per epoch


def claim(folder: Path, config: Config, networks: str | None = None) -> None:
    """Make ``folder`` the run directory of these settings and networks.

    Args:
        folder: Of the run.
        config: Its settings.
        networks: The digest of what it reads, if that is known. Folders that have none are taken as they are.

    Raises:
        TrainingError: It holds a run with other settings, or on other networks.
    """
    mine = asdict(config)
    if networks is not None:
        if not (folder / CONFIG).is_file():
            write_text(folder / NETWORKS, networks + "\n")
        elif (folder / NETWORKS).is_file() and (folder / NETWORKS).read_text(encoding="utf-8").strip() != networks:
            raise TrainingError(
                f"{folder} holds a run on other networks: {config.dataset}-{config.size} has been made anew since. "
                "Move it away, or name --out."
            )
    if (folder / CONFIG).is_file():
        theirs = read_config(folder)
        defaults = {f.name: f.default for f in fields(Config)}  # of settings that there were not yet
        theirs = {name: value for name, value in defaults.items() if value is not MISSING} | theirs
        other = [key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]
        if other:
            differences = "; ".join(f"{key}: {theirs.get(key)!r} there, {mine.get(key)!r} asked for" for key in other)
            raise TrainingError(
                f"{folder} holds a run with other settings ({differences}). Move it away, or name --out."
            )
    write_json(folder / CONFIG, mine)


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder.

    Raises:
        TrainingError: The file is damaged.
    """
    try:
        return read_json(folder / CONFIG)
    except FileError as error:
        raise TrainingError(
            f"{error} It says which run {folder} holds. Remove it if that is the one that you ask for, or name --out."
        ) from error
