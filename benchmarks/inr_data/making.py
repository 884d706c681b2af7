"""Make a set of networks: fit shard after shard, in some processes, and write the manifest when all are there.

A shard depends on the settings and on nothing else, so after a kill the same command goes on where it was, and ends
with the same bytes. What differs from run to run (seconds, speed) goes to ``fit.json``, not to the manifest.
"""

from __future__ import annotations

import functools
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.common.manifests import refuse_other_settings
from benchmarks.common.shards import is_done, write_shard
from benchmarks.common.workers import in_workers
from benchmarks.inr_data.fitting import fit
from benchmarks.inr_data.gradient import flops
from benchmarks.inr_data.kinds import KINDS, Kind
from benchmarks.inr_data.manifest import FIT, new_manifest, read_manifest, write_manifest
from benchmarks.inr_data.plan import SHARD, Shard, architecture, folder, make_plan, originals
from benchmarks.inr_data.siren import HIDDEN, OMEGA, Params, initial_each
from meta_train.data import Dataset
from meta_train.data import load as load_images
from ngopt.files import locked, write_text

ATTEMPTS = 4  # at a network below the floor


@dataclass(frozen=True)
class Job:
    """What to make. All but ``root``, ``size``, ``augment`` and ``workers`` decides about the bytes of a shard."""

    dataset: str
    size: str = "small"
    seed: int = 0
    augment: int = 0
    device: str = "cpu"
    threads: int = 1  # of each process
    workers: int = 1  # processes
    root: Path | None = None
    init: str = "ngopt"  # of `KINDS`
    shard: int = SHARD

    @property
    def kind(self) -> Kind:
        """How its networks are made."""
        return KINDS[self.init]

    @property
    def place(self) -> Path:
        """Where they are put."""
        return folder(self.dataset, self.size, self.root, self.init)

    def settings(self) -> dict[str, Any]:
        """What decides about the bytes of a shard, as JSON has it."""
        settings = {name: getattr(self, name) for name in ("dataset", "init", "seed", "device", "threads")}
        floor = self.kind.floor_of(self.dataset)
        settings |= {"floor": floor, "attempts": ATTEMPTS, "recipe": asdict(self.kind.recipe)}
        return json.loads(json.dumps(settings))


def make(job: Job) -> dict[str, Any]:
    """Fit what is missing of a set, and write its manifest.

    Returns:
        What was done: networks fitted, seconds, networks per second, and the share of the peak of matrix products.

    Raises:
        ValueError: Bad settings, or the folder holds a set that was made with others.
        FolderInUseError: Another process makes the same set.
        RuntimeError: A worker failed.
    """
    if job.augment < 0 or job.threads < 1 or job.workers < 1:
        raise ValueError("--augment must not be negative; --threads and --workers must be at least 1.")
    if job.workers > 1 and job.device != "cpu":
        raise ValueError("Several workers are for the CPU; a GPU fits thousands at once in one process.")
    with locked(job.place):
        return _make(job, job.place)


def _make(job: Job, place: Path) -> dict[str, Any]:
    torch.set_num_threads(job.threads)
    data = _images(job.dataset, job.root)
    plan = make_plan(data, job.size, job.seed, job.augment, job.shard)
    refuse_other_settings(place, job.settings(), read_manifest)
    todo = [shard for shard in plan if not is_done(place / shard.file, _settings(job, shard))]
    peak, begin, done = matmul_flops(job.device), time.monotonic(), 0
    total = sum(len(shard.images) for shard in plan)
    have = total - sum(len(shard.images) for shard in todo)
    with tqdm(total=total, initial=have, desc=place.name, unit="INR") as bar:
        for count in in_workers(functools.partial(fit_shard, job), todo, workers=job.workers, threads=job.threads):
            done += count
            bar.update(count)
    seconds = time.monotonic() - begin
    manifest = new_manifest(place, plan, job.size, job.augment, job.settings(), architecture(data))
    if not done:
        write_manifest(place, manifest)
        return {"fitted": 0}
    height, width = data.train_images.shape[1:3]
    work = (
        flops(data.channels, height, width, HIDDEN) * job.kind.recipe.steps / job.kind.recipe.every**2 * done / seconds
    )
    report = {
        "fitted": done,
        "seconds": round(seconds, 2),
        "inrs_per_second": round(done / seconds, 2),
        "workers": job.workers,
        "matmul_peak_gflops": round(peak / 1e9, 1),  # of one process
        "share_of_peak": round(work / (peak * job.workers), 3),
    }
    write_text(place / FIT, json.dumps(report, indent=2) + "\n")
    write_manifest(place, manifest)  # last: with it the set is complete
    return report


def fit_shard(job: Job, shard: Shard) -> int:
    """Fit the networks of one file, some of them again, and write it; returns how many."""
    data = _images(job.dataset, job.root)
    index = torch.tensor(shard.images)
    images, labels = originals(data, shard.split, index)
    params, psnr, attempt = fit_until_good(images.to(job.device), shard, job)
    tensors = params | {"label": labels, "image_index": index, "psnr": psnr, "attempt": attempt}
    write_shard(job.place / shard.file, tensors, _settings(job, shard))
    return len(shard.images)


def fit_until_good(
    images: Tensor,  # [net, channel, height, width]
    shard: Shard,
    job: Job,
) -> tuple[Params, Tensor, Tensor]:
    """Fit networks; those below the floor, or not finite, again from other starts. The best of each is kept.

    Returns:
        Parameters, [net] PSNR in dB (minus infinity: not finite), and [net] which attempt they are from.
    """
    best: Params = {}
    psnr = torch.full((len(images),), -math.inf)
    attempts = torch.zeros(len(images), dtype=torch.int64)
    for attempt in range(ATTEMPTS):
        again = (psnr < job.kind.floor_of(job.dataset)).nonzero().flatten()
        if not len(again):
            break
        seeds = [shard.seed(job.seed, i, attempt) for i in again.tolist()]
        start = initial_each(seeds, images.shape[1], job.kind.small)
        found, quality = fit(images[again.to(images.device)], start, job.kind.recipe, OMEGA)
        found, quality = {name: tensor.cpu() for name, tensor in found.items()}, quality.cpu()
        finite = torch.stack([tensor.flatten(1).isfinite().all(1) for tensor in found.values()]).all(0)
        quality = torch.where(finite & quality.isfinite(), quality, -math.inf)
        best = best or {name: tensor.clone() for name, tensor in found.items()}
        better = quality > psnr[again]
        for name, tensor in found.items():
            best[name][again[better]] = tensor[better]
        psnr[again[better]], attempts[again[better]] = quality[better], attempt
    return best, psnr, attempts


def matmul_flops(device: str, size: int = 1024, rounds: int = 10) -> float:
    """Floating point operations per second in the fastest of some large matrix products."""
    a, seconds = torch.ones(size, size, device=device), []
    for _ in range(rounds + 1):  # the first one warms up
        begin = time.perf_counter()
        float((a @ a)[0, 0])  # waits for a GPU
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds[1:])


@functools.cache
def _images(dataset: str, root: Path | None) -> Dataset:
    return load_images(dataset, root)


def _settings(job: Job, shard: Shard) -> dict[str, Any]:
    return {**job.settings(), "split": shard.split, "copy": shard.copy, "images": list(shard.images)}
