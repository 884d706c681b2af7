"""The folder of a run: its config, its state, its log. A kill at any moment leaves the last whole state.

A state is a folder that appears under its name only when every process has written its slots. Tensors are safetensors,
everything else JSON; random numbers need no state, because every draw is seeded by what it is for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from meta_train.config import RunConfig
from meta_train.parallel import Processes
from ngopt.errors import FileError, NGOptError
from ngopt.files import parse_json, read_json, write_json, write_text
from ngopt.tensor_files import read_tensors, reading, write_tensors

CONFIG, LOG, STATE = "config.json", "log.jsonl", "state-"
NEEDED = 64 << 20  # bytes that must be free before work begins


class RunFolderError(NGOptError, RuntimeError):
    """The folder cannot be used; the message says why and what to do."""


class RunFolder:
    """Where a run keeps what it has.

    Args:
        path: Made if it is not there.
        config: Of the run.
        processes: All of them see the same folder; the first one writes what they share.

    Raises:
        RunFolderError: It belongs to another config, or the disk is full.
    """

    def __init__(self, path: Path, config: RunConfig, processes: Processes) -> None:
        self.path, self.processes = path, processes
        values = json.loads(json.dumps(dataclasses.asdict(config)))
        if processes.first:
            path.mkdir(parents=True, exist_ok=True)
            if (free := shutil.disk_usage(path).free) < NEEDED:
                raise RunFolderError(f"Only {free >> 20} MiB are free at {path}; a run needs {NEEDED >> 20} MiB.")
            kept = path / CONFIG
            if kept.is_file() and (differing := _difference(_config(kept), values)):
                raise RunFolderError(
                    f"{path} belongs to another config: {differing}. Name another folder with --out, or remove it."
                )
            write_json(kept, values)
        processes.wait()

    def save(self, iteration: int, shared: tuple[dict[str, Tensor], dict[str, Any]], slots: dict[int, Any]) -> None:
        """Write a state: what all processes share, and this process's slots, each ``(tensors, header)``.

        Raises:
            RunFolderError: It cannot be written; the state before it stays.
        """
        name = f"{STATE}{iteration:06d}"
        part = self.path / f".{name}.part"
        try:
            part.mkdir(exist_ok=True)
            for slot, (tensors, header) in slots.items():
                write_tensors(part / f"slot-{slot}.safetensors", tensors, header)
            self.processes.wait()
            if self.processes.first:
                write_tensors(part / "shared.safetensors", *shared)
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
                os.replace(part, self.path / name)
                for old in self._states()[:-1]:
                    shutil.rmtree(old)
        except OSError as error:
            raise RunFolderError(
                f"Cannot write a state into {self.path}: {error.strerror}. The state before it is whole: make room and "
                "start the same command again."
            ) from error
        self.processes.wait()

    def load(self) -> tuple[tuple[dict[str, Tensor], dict[str, Any]], Path] | None:
        """What all processes share of the last state, and the state's folder; None before the first.

        Raises:
            RunFolderError: The state is damaged.
        """
        states = self._states()
        return (self.read(states[-1] / "shared.safetensors"), states[-1]) if states else None

    def read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and header of one file of a state."""
        with self.believing(path):
            return read_tensors(path)

    @contextmanager
    def believing(self, path: Path) -> Iterator[None]:
        """Whatever goes wrong inside, because of what a file of a state says, is an error that says what to do."""
        try:
            with reading(path):
                yield
        except (FileError, OSError) as error:
            raise RunFolderError(
                f"{path} is damaged ({error}). Remove the folder {path.parent}: the run then starts again from its "
                "beginning, and gives the same weights."
            ) from error

    def append_log(self, row: dict[str, Any]) -> None:
        """One more line of the log."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """All lines of the log; a line that a kill cut short is left out."""
        path = self.path / LOG
        rows = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
            try:
                row = parse_json(line, path)
            except FileError:
                continue
            if isinstance(row, dict) and isinstance(row.get("iteration"), int):
                rows.append(row)
        return rows

    def trim_log(self, iteration: int) -> None:
        """Forget what was logged after a state: it comes again."""
        kept = [row for row in self.read_log() if row["iteration"] <= iteration]
        write_text(self.path / LOG, "".join(json.dumps(row) + "\n" for row in kept))

    def _states(self) -> list[Path]:
        return sorted(path for path in self.path.glob(f"{STATE}*") if path.is_dir())


def _config(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except FileError as error:
        raise RunFolderError(
            f"{error} It says which config the folder belongs to. Remove the file if that is the one that you name, or "
            "name another folder with --out."
        ) from error


def _difference(old: Any, new: Any, where: str = "") -> str:
    """The first entry in which two configs differ, or nothing."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if found := _difference(old.get(key), new.get(key), f"{where}.{key}" if where else key):
                return found
        return ""
    return "" if old == new else f"{where} is {old!r} there and {new!r} here"
