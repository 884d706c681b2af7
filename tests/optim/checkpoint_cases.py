"""Checkpoints to look into, and as earlier versions wrote them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ngopt.tensor_files import HEADER, Tensors, add_tensors


def header_of(path: Path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[HEADER])


def as_version_2(path: Path) -> dict:
    """Write the file again as it was in format version 2; returns its header."""
    header = {k: v for k, v in header_of(path).items() if k != "sha256"} | {"format_version": 2}
    seal_version_2(path, load_file(path), header)
    return header


def seal_version_2(path: Path, tensors: Tensors, header: dict) -> None:
    digest = add_tensors(hashlib.sha256(json.dumps(header, sort_keys=True).encode()), tensors)
    save_file(tensors, path, metadata={"ngopt": json.dumps({**header, "sha256": digest}, sort_keys=True)})
