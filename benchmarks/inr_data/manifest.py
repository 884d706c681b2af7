"""The manifest of a set of networks: which files, with which hashes, made how, and which networks are not good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_bytes

from benchmarks.common.manifests import MANIFEST, read_checked
from benchmarks.common.results import machine, versions
from benchmarks.inr_data.plan import SPLITS, Shard
from meta_train.data.formats import sha256
from ngopt.files import write_json
from ngopt.tensor_files import reading

SCHEMA = 1
FIT = "fit.json"
REQUIRED = {"schema", "dataset", "size", "augment", "settings", "architecture", "versions", "machine", "shards"}
SHARD_REQUIRED = {"file", "split", "copy", "sha256", "count", "psnr_min", "psnr_mean", "below_floor"}


def new_manifest(
    place: Path, plan: list[Shard], size: str, augment: int, settings: dict[str, Any], architecture: dict[str, Any]
) -> dict[str, Any]:
    """Describe the shards that lie in a folder. Nothing in it changes from run to run on one machine."""
    return {
        "schema": SCHEMA,
        "dataset": settings["dataset"],
        "size": size,
        "augment": augment,
        "settings": settings,
        "architecture": architecture,
        "versions": versions(),
        "machine": machine(),
        "shards": [_describe(place, shard, settings["floor"]) for shard in plan],
    }


def _describe(place: Path, shard: Shard, floor: float) -> dict[str, Any]:
    data = (place / shard.file).read_bytes()
    psnr = load_bytes(data)["psnr"].double()
    finite = psnr[psnr.isfinite()]
    return {
        "file": shard.file,
        "split": shard.split,
        "copy": shard.copy,
        "sha256": sha256(data),
        "count": len(psnr),
        "psnr_min": round(float(finite.min()), 4) if len(finite) else None,
        "psnr_mean": round(float(finite.mean()), 4) if len(finite) else None,
        "below_floor": [  # after all attempts; PSNR null: not finite
            {"position": i, "image": shard.images[i], "psnr": round(float(psnr[i]), 4) if psnr[i].isfinite() else None}
            for i in torch.nonzero(psnr < floor).flatten().tolist()
        ],
    }


def write_manifest(place: Path, manifest: dict[str, Any]) -> None:
    """Write it: the last file of a set."""
    write_json(place / MANIFEST, manifest)


def read_manifest(place: Path) -> dict[str, Any]:
    """Read the manifest in a folder.

    Raises:
        FileNotFoundError: There is none.
        FileError: It is cut off, of another schema, or lacks entries.
    """
    manifest = read_checked(place, SCHEMA, REQUIRED, SHARD_REQUIRED, "Remove it and run the fit again.")
    with reading(place / MANIFEST):
        for shard in manifest["shards"]:
            if shard["split"] not in SPLITS or Path(shard["file"]).name != shard["file"]:
                raise ValueError(
                    f"{place / MANIFEST} names a file {shard['file']!r} of split {shard['split']!r}. "
                    "Make the set again."
                )
    return manifest
