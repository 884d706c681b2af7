"""Checkpoints of format version 2, which had a header and a checksum of their own kind. They are still read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ngopt.tensor_files import Tensors, add_tensors

VERSION = 2
ENTRY, CHECKSUM = "ngopt", "sha256"


def read_version_2(path: Path, most_bytes: int) -> tuple[Tensors, dict[str, Any]] | None:
    """Tensors and header; None where this is no file of version 2, or not what was written."""
    try:
        if path.stat().st_size > most_bytes:
            return None
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[ENTRY])
            if header["format_version"] != VERSION:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        written = header.pop(CHECKSUM)
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        return (tensors, header) if written == add_tensors(digest, tensors) else None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError):
        return None
