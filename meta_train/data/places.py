"""Where the files of data sets lie, and what to do where they do not."""

from __future__ import annotations

import os
from pathlib import Path

from meta_train.data.catalogue import Spec
from ngopt.errors import NGOptError

ROOT_VARIABLE = "NGOPT_DATA"


class DataMissingError(NGOptError, FileNotFoundError):
    """Files of a data set are not there and could not be fetched; the message says what to put where."""


def data_root(root: str | os.PathLike | None = None) -> Path:
    """The folder of all data sets: as given, or ``$NGOPT_DATA``, or ``~/.cache/ngopt/data``."""
    return Path(root or os.environ.get(ROOT_VARIABLE) or "~/.cache/ngopt/data").expanduser()


def locate(spec: Spec, root: Path) -> list[Path] | None:
    """Where the files lie: all in one folder, each as it is or as ``.gz``. None if no folder has them all."""
    for folder in (spec.folder, *spec.aliases):
        candidates = [[root / folder / file.name, root / folder / f"{file.name}.gz"] for file in spec.files]
        found = [next((path for path in pair if path.is_file()), None) for pair in candidates]
        if all(found):
            return [path for path in found if path is not None]
    return None


def what_is_missing(spec: Spec, root: Path) -> str:
    """Exactly which files to put where."""
    lines = [
        f"The data set {spec.name} is not there. Put these files (uncompressed, or as .gz) into {root / spec.folder}:",
        *(f"  {file.name}  sha256 {file.sha256}  md5 {file.md5}" for file in spec.files),
        f"Another data root can be named in the environment variable {ROOT_VARIABLE}.",
    ]
    if spec.layout == "cifar-bin" and (root / "cifar-10-batches-py").is_dir():
        lines.append(
            f"{root / 'cifar-10-batches-py'} holds pickles, which can run code when they are read; they are not read. "
            "The 'binary version' of CIFAR-10 has the same images."
        )
    return "\n".join(lines)
