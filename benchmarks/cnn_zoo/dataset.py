"""Read a zoo: every file checked against the manifest, every network checked to be finite and in one split only."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cnn_zoo.architecture import Architecture
from benchmarks.cnn_zoo.bucket import Bucket, from_tensors, joined, shapes
from benchmarks.cnn_zoo.manifest import read_manifest
from benchmarks.cnn_zoo.plan import VERSION, folder, make_plan, size_of, split_of, splits_of
from benchmarks.common.manifests import MANIFEST, not_made
from benchmarks.common.shards import read_shard


def load(zoo: str, size: str, root: Path | None = None) -> dict[str, list[Bucket]]:
    """Load a zoo that was made by ``python -m benchmarks.cnn_zoo make``. Nothing is trained or fetched here.

    Args:
        zoo: One of `ZOOS`: ``small-mnist``, ..., ``wild``.
        size: ``smoke``, ``small``, ``medium`` or ``full``.
        root: Data root; see `meta_train.data.data_root`.

    Returns:
        Splits ``train``, ``val``, ``test`` and (wild zoo) ``wider``, ``deeper``, ``other-norm``. All checkpoints of a
        run are in one split, and all networks of a split with one architecture in one bucket.

    Raises:
        ValueError: An unknown name, files that are not what the manifest says, or a split without networks.
        DataMissingError: There is no such zoo; the message has the command that makes it.
    """
    place = folder(zoo, size, root)
    manifest = _manifest(place, zoo, size, root)
    parts: dict[str, dict[Architecture, list[Bucket]]] = {split: {} for split in splits_of(zoo)}
    for entry, shard in zip(manifest["shards"], make_plan(zoo, size), strict=True):
        for bucket in _buckets(place, entry, shard.runs):
            names = [split_of(zoo, run) for run in bucket.run.tolist()]
            for split in dict.fromkeys(names):
                some = bucket.subset(bucket.run.new_tensor([name == split for name in names]).bool())
                parts[split].setdefault(bucket.architecture, []).append(some)
    if empty := [split for split, found in parts.items() if not found]:
        raise ValueError(f"{place} has no networks in {', '.join(empty)}. Take a larger size, or make the zoo again.")
    return {split: [joined(buckets) for buckets in found.values()] for split, found in parts.items()}


def _manifest(place: Path, zoo: str, size: str, root: Path | None) -> dict[str, Any]:
    try:
        manifest = read_manifest(place)
    except FileNotFoundError:
        raise not_made(place, "zoo", f"benchmarks.cnn_zoo make {zoo} --size {size}", root) from None
    if (manifest["zoo"], manifest["size"]) != (zoo, size):
        raise ValueError(f"{place} holds {manifest['zoo']}-{manifest['size']}. Put it where its name says.")
    made = {name: manifest["settings"].get(name) for name in ("version", "size")}
    if made != (now := json.loads(json.dumps({"version": VERSION, "size": asdict(size_of(zoo, size))}))):
        raise ValueError(f"{place} was made by another version of this code: {made}, now {now}. Make the zoo again.")
    files = [entry["file"] for entry in manifest["shards"]]
    if files != [shard.file for shard in make_plan(zoo, size)]:
        raise ValueError(f"{place / MANIFEST} does not name each file of {zoo}-{size} once. Make the zoo again.")
    return manifest


def _buckets(place: Path, entry: dict[str, Any], runs: tuple[int, ...]) -> list[Bucket]:
    """The buckets of one file, without networks that should not be there."""
    path, expected = place / entry["file"], {}
    architectures = [Architecture.from_json(bucket["architecture"]) for bucket in entry["buckets"]]
    for i, architecture in enumerate(architectures):
        expected |= shapes(architecture, entry["buckets"][i]["count"], f"{i:03d}")
    tensors = read_shard(path, entry["sha256"], expected)
    buckets = [from_tensors(architecture, tensors, f"{i:03d}") for i, architecture in enumerate(architectures)]
    for bucket in buckets:
        if not set(bucket.run.tolist()) <= set(runs):
            raise ValueError(f"{path} holds runs that are not its own: {sorted(set(bucket.run.tolist()) - set(runs))}.")
        if not bucket.accuracy[bucket.finite()].ge(0).logical_and(bucket.accuracy[bucket.finite()] <= 1).all():
            raise ValueError(f"{path} has accuracies that are not between 0 and 1. Remove it and make the zoo again.")
        if not (fine := bucket.finite()).all():
            which = [f"run {int(r)} step {int(s)}" for r, s in zip(bucket.run[~fine], bucket.step[~fine], strict=True)]
            warnings.warn(f"{path}: {len(which)} networks are not finite and are left out: {which}.", stacklevel=3)
    return [bucket.subset(bucket.finite()) for bucket in buckets]
