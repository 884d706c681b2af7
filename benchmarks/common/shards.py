"""One shard: a safetensors file of many networks, that is either whole or not there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save
from torch import Tensor

from meta_train.data.formats import sha256
from ngopt.errors import FileError
from ngopt.files import CHECKSUM, checksum, parse_json, write_bytes

ENTRY = "ngopt_shard"  # one entry only: the order of several is not always the same


def write_shard(path: Path, tensors: dict[str, Tensor], settings: dict[str, Any], notes: Any = None) -> None:
    """Write a shard, with the settings that decide about its content and a hash of it in its header.

    Args:
        path: Of the file.
        tensors: Its content.
        settings: As JSON has them; see `is_done`.
        notes: What else there is to say about the content, as JSON has it; see `read_notes`.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"settings": settings, "content": _content(tensors)} | ({} if notes is None else {"notes": notes})
    header[CHECKSUM] = checksum(header)  # the notes too: they go into the manifest
    write_bytes(path, save(tensors, {ENTRY: json.dumps(header, sort_keys=True)}))


def is_done(path: Path, settings: dict[str, Any]) -> bool:
    """Whether a shard is there, whole, and made with the same settings."""
    try:
        with safe_open(path, "pt") as file:
            header = _header(file)
            if header.get("settings") != json.loads(json.dumps(settings)):
                return False
            return header.get("content") == _content({name: file.get_tensor(name) for name in file.keys()})
    except (OSError, SafetensorError, ValueError, RuntimeError):
        return False


def read_notes(path: Path) -> Any:
    """The notes of a shard that is known to be whole."""
    with safe_open(path, "pt") as file:
        return _header(file)["notes"]


def read_shard(path: Path, digest: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read a shard, and believe nothing about it.

    Args:
        path: The file.
        digest: Its SHA-256.
        shapes: Of all its tensors.

    Raises:
        FileNotFoundError: It is missing.
        FileError: Its bytes, its tensors or their shapes are not those that the manifest has.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Make the set again: only what is missing is made.")
    data = path.read_bytes()
    if (found := sha256(data)) != digest:
        raise FileError(
            f"{path} has SHA-256 {found}, but the manifest says {digest}. Remove this file and run the command that "
            "makes the set again."
        )
    try:
        tensors = load_bytes(data)
    except SafetensorError as error:
        raise FileError(f"{path} is not a safetensors file: {error}") from error
    if (has := {name: tuple(tensor.shape) for name, tensor in tensors.items()}) != shapes:
        wrong = sorted(name for name in shapes.keys() | has.keys() if shapes.get(name) != has.get(name))
        raise FileError(
            f"{path} holds networks of another architecture than the manifest says: "
            + ", ".join(f"{name} is {has.get(name)}, expected {shapes.get(name)}" for name in wrong)
        )
    return tensors


def _header(file: Any) -> dict[str, Any]:
    entries = list((file.metadata() or {}).values())  # under whatever name: older sets have another
    header = parse_json(entries[0], "The header of a shard") if len(entries) == 1 else {}
    if not isinstance(header, dict):
        raise FileError("The header of a shard is not a JSON object.")
    rest = {name: value for name, value in header.items() if name != CHECKSUM}
    if CHECKSUM in header and header[CHECKSUM] != checksum(rest):
        raise FileError("The header of a shard is not what was written.")
    return rest


def _content(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
