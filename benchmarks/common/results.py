"""Results that can be made again: every file says which command, versions, machine and settings made it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import ngopt
from ngopt.errors import FileError
from ngopt.files import locked, parse_json, write_text

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
    with locked(path.parent, wait=True):
        results = read_results(path) if path.is_file() else new_results(command, settings)
        rows = [*(other for other in results["rows"] if any(other[name] != row[name] for name in key)), row]
        results["rows"] = rows if order is None else sorted(rows, key=order)
        write_results(path, results)


def read_results(path: Path) -> dict[str, Any]:
    """Read results.

    Raises:
        FileError: The file is damaged, or of another schema.
    """
    results = parse_json(path.read_bytes(), path)
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        found = results.get("schema") if isinstance(results, dict) else None
        raise FileError(f"{path} has schema {found!r}, expected {SCHEMA}. Make it again.")
    rows, settings = results.get("rows"), results.get("settings")
    if not isinstance(settings, dict) or not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise FileError(f"{path} does not have settings and rows as it should. Make it again.")
    return results
