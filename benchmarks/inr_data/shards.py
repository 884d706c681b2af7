"""One shard: a safetensors file of many networks, that is either whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save
from torch import Tensor

from meta_train.data.formats import sha256

ENTRY = "ngopt_inr"  # one entry only: the order of several is not always the same
TEMPORARY = ".tmp"


def write_shard(path: Path, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Write a shard, with the settings that decide about its content and a hash of it in its header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = json.dumps({"settings": settings, "content": _content(tensors)}, sort_keys=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save(tensors, {ENTRY: header}))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp keeps files private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def is_done(path: Path, settings: dict[str, Any]) -> bool:
    """Whether a shard is there, whole, and made with the same settings."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(ENTRY, "{}"))
            if header.get("settings") != json.loads(json.dumps(settings)):
                return False
            return header.get("content") == _content({name: file.get_tensor(name) for name in file.keys()})
    except (OSError, SafetensorError, ValueError):
        return False


def read_shard(path: Path, digest: str, shapes: dict[str, list[int]], count: int) -> dict[str, Tensor]:
    """Read a shard, and believe nothing about it.

    Args:
        path: The file.
        digest: Its SHA-256.
        shapes: Of the parameters of one network.
        count: How many networks it has.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: Its bytes, its tensors or their shapes are not those that the manifest has.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Run the fit again: it makes only what is missing.")
    data = path.read_bytes()
    if (found := sha256(data)) != digest:
        raise ValueError(
            f"{path} has SHA-256 {found}, but the manifest says {digest}. Remove this file and run the fit again."
        )
    try:
        tensors = load_bytes(data)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    expected = {name: (count, *shape) for name, shape in shapes.items()}
    expected |= {name: (count,) for name in ("label", "image_index", "psnr", "attempt")}
    if (has := {name: tuple(tensor.shape) for name, tensor in tensors.items()}) != expected:
        wrong = sorted(name for name in expected.keys() | has.keys() if expected.get(name) != has.get(name))
        raise ValueError(
            f"{path} holds networks of another architecture than the manifest says: "
            + ", ".join(f"{name} is {has.get(name)}, expected {expected.get(name)}" for name in wrong)
        )
    return tensors


def _content(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
