"""What the manifests of all kinds of networks have in common: how they are read, and what they are trusted with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from meta_train.data import DataMissingError
from ngopt.errors import FileError
from ngopt.files import read_json

MANIFEST = "manifest.json"


def read_checked(
    place: Path, schema: int, required: AbstractSet[str], shard_required: AbstractSet[str], again: str
) -> dict[str, Any]:
    """Read the manifest in a folder, and see that nothing is missing from it.

    Args:
        place: The folder.
        schema: Of the manifest.
        required: Its entries.
        shard_required: The entries of each of its shards.
        again: What to do when it is of no use: ends every message.

    Raises:
        FileNotFoundError: There is none.
        FileError: It is damaged, of another schema, or lacks entries.
    """
    path = place / MANIFEST
    try:
        manifest = read_json(path)
    except FileError as error:
        raise FileError(f"{path} is not whole ({error}). {again}") from error
    if manifest.get("schema") != schema:
        raise FileError(f"{path} is not of schema {schema}. {again}")
    shards = manifest.get("shards", [])
    if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
        raise FileError(f"{path} has shards that are none. {again}")
    missing = required - manifest.keys()
    missing |= {name for shard in shards for name in shard_required - shard.keys()}
    if missing or not shards:
        raise FileError(f"{path} lacks {sorted(missing) or 'shards'}. {again}")
    return manifest


def not_made(place: Path, what: str, command: str, root: Path | None) -> DataMissingError:
    """The error for networks that nobody has made, with the command that makes them."""
    where = f" --root {root}" if root else ""
    return DataMissingError(f"There is no {place / MANIFEST}. Make the {what} with\n  python -m {command}{where}")


def digest(place: Path) -> str | None:
    """A hash of all files that the manifest in a folder names; None if there is no manifest, or it is not whole."""
    try:
        shards = read_json(place / MANIFEST)["shards"]
        files = [(shard["file"], shard["sha256"]) for shard in shards]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # whoever reads the networks says what is wrong
    return hashlib.sha256(repr(files).encode()).hexdigest()


def refuse_other_settings(place: Path, settings: dict[str, Any], read: Callable[[Path], dict[str, Any]]) -> None:
    """Let nobody mix networks of different making in one folder.

    Args:
        place: The folder.
        settings: What the networks are to be made with.
        read: Reads a manifest.

    Raises:
        ValueError: Those that are there were made with others.
    """
    try:
        found = read(place)["settings"]
    except (FileNotFoundError, ValueError):
        return  # none, or none of use: it is made anew
    if differ := [name for name, value in settings.items() if found.get(name) != value]:
        raise ValueError(
            f"{place} holds networks that were made with other settings: "
            + ", ".join(f"{name} {found.get(name)!r}, not {settings[name]!r}" for name in differ)
            + f". Give these, or another --root, or remove {place / MANIFEST} to make it anew."
        )
