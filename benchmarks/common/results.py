"""Results that can be made again: every file says which command, versions, machine and settings made it."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import ngopt

SCHEMA = 1
RESULTS = Path(__file__).resolve().parents[1] / "results"
PACKAGES = ("numpy", "torch_geometric")


def new_results(command: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    """A results record without rows.

    Args:
        command: What to type to make it again.
        settings: All that the rows have in common.
    """
    return {
        "schema": SCHEMA,
        "command": " ".join(command),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
        "settings": settings,
        "rows": [],
    }


def versions() -> dict[str, str]:
    """Python's and the packages' that decide about numbers."""
    found = {"python": platform.python_version(), "ngopt": ngopt.__version__, "torch": torch.__version__}
    return found | {name: version(name) for name in PACKAGES}


def machine() -> dict[str, Any]:
    """Processor, cores, threads and accelerator; nothing that names the machine."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def write_text(path: Path, text: str) -> None:
    """Write a file so that whoever reads it, at any time, finds it whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp keeps files private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON, a line per row."""
    head = {key: value for key, value in results.items() if key != "rows"}
    rows = ",\n".join("    " + json.dumps(row) for row in results["rows"])
    text = json.dumps(head, indent=2).removesuffix("\n}") + ',\n  "rows": [\n' + rows + "\n  ]\n}\n"
    write_text(path, text)


def put_row(
    path: Path,
    row: dict[str, Any],
    key: Sequence[str],
    settings: dict[str, Any],
    command: Sequence[str],
    order: Callable[[dict[str, Any]], Any] | None = None,
) -> None:
    """Put a row into a file, in the place of the one that has the same key; others may do so at the same time.

    Args:
        path: Of the file; without it, a new one is made from ``settings`` and ``command``, see `new_results`.
        row: What to put there.
        key: Names of what makes two rows the same.
        settings: All that the rows have in common.
        command: What to type to make the file again.
        order: Key to sort all rows by; without it the new row comes last.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):
        results = read_results(path) if path.is_file() else new_results(command, settings)
        rows = [*(other for other in results["rows"] if any(other[name] != row[name] for name in key)), row]
        results["rows"] = rows if order is None else sorted(rows, key=order)
        write_results(path, results)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; it goes with the process, however that ends, and leaves no file behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_results(path: Path) -> dict[str, Any]:
    """Read results.

    Raises:
        ValueError: The file is of another schema.
    """
    results = json.loads(path.read_text(encoding="utf-8"))
    if results.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {results.get('schema')!r}, expected {SCHEMA}. Make it again.")
    return results
