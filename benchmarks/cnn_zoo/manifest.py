"""The manifest of a zoo: which files, with which hashes, made how, and which networks were left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.cnn_zoo.architecture import Architecture
from benchmarks.cnn_zoo.plan import Shard
from benchmarks.common.manifests import MANIFEST, read_checked
from benchmarks.common.results import machine, versions
from benchmarks.common.shards import read_notes
from meta_train.data.formats import sha256
from ngopt.files import write_json
from ngopt.tensor_files import reading

SCHEMA = 1
REPORT = "report.json"
REQUIRED = {"schema", "zoo", "size", "settings", "versions", "machine", "shards"}
SHARD_REQUIRED = {"file", "sha256", "buckets", "left_out", "skipped"}


def write_manifest(place: Path, plan: list[Shard], zoo: str, size: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Describe the shards that lie in a folder: the last file of a zoo. It is the same after every run."""
    shards = []
    for shard in plan:
        path = place / shard.file
        shards.append({"file": shard.file, "sha256": sha256(path.read_bytes()), **read_notes(path)})
    manifest = {"schema": SCHEMA, "zoo": zoo, "size": size, "settings": settings}
    manifest |= {"versions": versions(), "machine": machine(), "shards": shards}
    write_json(place / MANIFEST, manifest)
    return manifest


def read_manifest(place: Path) -> dict[str, Any]:
    """Read the manifest in a folder.

    Raises:
        FileNotFoundError: There is none.
        FileError: It is cut off, of another schema, or lacks entries.
    """
    again = "Remove it and make the zoo again: only what is missing is trained."
    manifest = read_checked(place, SCHEMA, REQUIRED, SHARD_REQUIRED, again)
    path = place / MANIFEST
    with reading(place / MANIFEST):
        for shard in manifest["shards"]:
            if Path(shard["file"]).name != shard["file"]:
                raise ValueError(f"{path} names a file {shard['file']!r} outside its folder. {again}")
            for bucket in shard["buckets"]:
                if bucket.keys() != {"architecture", "count"}:
                    raise ValueError(f"{path} has a bucket with {sorted(bucket)}, not architecture and count. {again}")
                Architecture.from_json(bucket["architecture"])
    return manifest
