"""From a run that has ended to one file that can be shipped: what the ``save`` commands of the suites share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.weight_space.config import Config, configure
from benchmarks.weight_space.folder import BEST, CONFIG, read_config
from benchmarks.weight_space.session import ROW
from ngopt.tensor_files import Tensors, read_tensors


def config_of(run: Path, suite: str, error: type[ValueError]) -> Config:
    """The settings of a run.

    Raises:
        ValueError: An ``error``: it has not ended.
    """
    if not (run / ROW).is_file() or not (run / CONFIG).is_file():
        raise error(f"{run} has no {ROW}: name the directory of a run of {suite} that has ended.")
    return configure(**read_config(run))


def best_of(run: Path, most_bytes: int, error: type[ValueError]) -> tuple[Tensors, dict[str, Any]]:
    """The weights that are tested, and the header of their file.

    Raises:
        ValueError: An ``error``: they are too large.
    """
    tensors, header = read_tensors(run / BEST)
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    if size > most_bytes:
        raise error(f"{run} has {size:,} bytes of weights, more than {most_bytes:,}. Train a narrower encoder.")
    return tensors, header


def save_command(
    suite: str, save: Callable[[Path, Path], Path], error: type[ValueError], argv: Sequence[str] | None
) -> None:
    """Run ``python -m benchmarks.SUITE save RUN FILE``; ``error`` is what cannot be saved."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{suite} save", description=save.__doc__)
    parser.add_argument("run", type=Path, help="run directory of a run that has ended")
    parser.add_argument("file", type=Path, help="safetensors file to write")
    arguments = parser.parse_args(argv)
    try:
        path = save(arguments.run, arguments.file)
    except error as wrong:
        parser.error(str(wrong))
    print(f"{path}: {path.stat().st_size:,} bytes\n\n{path.with_suffix('.md').read_text(encoding='utf-8')}")
