"""What the manifests of all kinds of networks have in common: settings, and files with a hash each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def digest(place: Path) -> str | None:
    """A hash of all files that the manifest in a folder names; None if there is no manifest, or it is not whole."""
    try:
        shards = json.loads((place / MANIFEST).read_text(encoding="utf-8"))["shards"]
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
