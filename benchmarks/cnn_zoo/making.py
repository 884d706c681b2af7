"""Make a zoo: train shard after shard, in some processes, and write the manifest when all are there.

A shard depends on the settings and on nothing else, so after a kill the same command goes on where it was, and ends
with the same bytes. What differs from run to run (seconds, speed) goes to ``report.json``, not to the manifest.
"""

from __future__ import annotations

import functools
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.cnn_zoo.architecture import small_cnn
from benchmarks.cnn_zoo.bucket import Bucket, joined, param_shapes
from benchmarks.cnn_zoo.images import Images, images_of
from benchmarks.cnn_zoo.manifest import REPORT, read_manifest, write_manifest
from benchmarks.cnn_zoo.plan import FRACTIONS, VERSION, Shard, conditions, folder, is_wild, make_plan, size_of, split_of
from benchmarks.cnn_zoo.recipe import draw, initial
from benchmarks.cnn_zoo.sampler import sample
from benchmarks.cnn_zoo.stack import TrainingStack, batches, evaluate
from benchmarks.cnn_zoo.wild import frozen_parts, train
from benchmarks.common.manifests import refuse_other_settings
from benchmarks.common.shards import is_done, write_shard
from benchmarks.common.workers import in_workers
from meta_train.seeds import derive, generator
from meta_train.tasks.drawing import choice
from ngopt.files import locked, write_text


@dataclass(frozen=True)
class Job:
    """What to make. ``root`` and ``workers`` decide about no byte."""

    zoo: str
    size: str = "small"
    seed: int = 0
    device: str = "cpu"
    threads: int = 1  # of each process
    workers: int = 1  # processes
    root: Path | None = None

    def settings(self) -> dict[str, Any]:
        """What decides about the bytes of a shard, as JSON has it."""
        settings = {name: getattr(self, name) for name in ("zoo", "seed", "device", "threads")}
        return json.loads(json.dumps(settings | {"version": VERSION, "size": asdict(size_of(self.zoo, self.size))}))


def make(job: Job) -> dict[str, Any]:
    """Train what is missing of a zoo, and write its manifest.

    Returns:
        What was done: networks, seconds, networks per second.

    Raises:
        ValueError: Bad settings, or the folder holds a zoo that was made with others.
        FolderInUseError: Another process makes the same zoo.
        RuntimeError: A worker failed.
    """
    if job.threads < 1 or job.workers < 1:
        raise ValueError("--threads and --workers must be at least 1.")
    place = folder(job.zoo, job.size, job.root)
    with locked(place):
        return _make(job, place)


def _make(job: Job, place: Path) -> dict[str, Any]:
    plan = make_plan(job.zoo, job.size)
    refuse_other_settings(place, job.settings(), read_manifest)
    torch.set_num_threads(job.threads)
    images_of(job.zoo, job.size, job.root)  # before workers start: one of them fetches, not all
    todo = [shard for shard in plan if not is_done(place / shard.file, _settings(job, shard))]
    networks, begin = 0, time.monotonic()
    total, missing = (sum(len(shard.runs) for shard in shards) for shards in (plan, todo))
    with tqdm(total=total, initial=total - missing, desc=place.name, unit="run") as bar:
        for runs, made in in_workers(
            functools.partial(make_shard, job), todo, workers=job.workers, threads=job.threads
        ):
            bar.update(runs)
            networks += made
    seconds = time.monotonic() - begin
    if not todo:
        write_manifest(place, plan, job.zoo, job.size, job.settings())
        return {"networks": 0}
    speed = round(networks / seconds, 2)
    report = {"networks": networks, "seconds": round(seconds, 2), "per_second": speed, "workers": job.workers}
    write_text(place / REPORT, json.dumps(report, indent=2) + "\n")
    write_manifest(place, plan, job.zoo, job.size, job.settings())  # last: with it the zoo is complete
    return report


def make_shard(job: Job, shard: Shard) -> tuple[int, int]:
    """Train the runs of one file, and write it; returns how many runs, and how many networks were kept."""
    images = images_of(job.zoo, job.size, job.root)
    images = Images(*(getattr(images, name).to(job.device) for name in ("train_x", "train_y", "test_x", "test_y")))
    buckets, skipped = (_wild if is_wild(job.zoo) else _small)(job, shard, images)
    left_out = [
        {"run": int(bucket.run[i]), "step": int(bucket.step[i]), "why": "not finite"}
        for bucket in buckets
        for i in (~bucket.finite()).nonzero().flatten().tolist()
    ]
    buckets = [bucket.subset(bucket.finite()) for bucket in buckets]
    notes = {
        "buckets": [{"architecture": b.architecture.to_json(), "count": len(b)} for b in buckets],
        "left_out": left_out,
        "skipped": skipped,
    }
    tensors = {name: x for i, bucket in enumerate(buckets) for name, x in bucket.tensors(f"{i:03d}").items()}
    write_shard(folder(job.zoo, job.size, job.root) / shard.file, tensors, _settings(job, shard), notes)
    return len(shard.runs), sum(map(len, buckets))


def _small(job: Job, shard: Shard, images: Images) -> tuple[list[Bucket], list[Any]]:
    """All runs of the shard at once; they share activation, training images and their order."""
    size = size_of(job.zoo, job.size)
    activation, fraction = conditions(shard.number)
    architecture = small_cnn(activation, images.shape[1])
    recipes = [draw(_generator(job, "recipe", run)) for run in shard.runs]
    starts = [
        initial(recipe, param_shapes(architecture), _generator(job, "init", run))
        for recipe, run in zip(recipes, shard.runs, strict=True)
    ]
    start = {name: torch.stack([one[name] for one in starts]).to(job.device) for name in starts[0]}
    stack = TrainingStack(architecture, start, recipes, _generator(job, "dropout", shard.number))
    count = max(1, int(fraction * len(images.train_y)))
    drawn, kept = batches(count, size.batch, _generator(job, "order", shard.number)), []
    for step in range(1, size.checkpoints[-1] + 1):
        index = next(drawn).to(job.device)
        stack.step(images.train_x[index], images.train_y[index])
        if step in size.checkpoints:
            params = stack.params()
            accuracy, loss = evaluate(architecture, params, images.test_x, images.test_y)
            params = {name: tensor.cpu().clone() for name, tensor in params.items()}
            steps = torch.full((len(shard.runs),), step)
            kept.append(Bucket(architecture, params, accuracy, loss, torch.tensor(shard.runs), steps))
    return [joined(kept)], []


def _wild(job: Job, shard: Shard, images: Images) -> tuple[list[Bucket], list[Any]]:
    """One run after the other. Architectures that the tracer froze in part are skipped, and said which."""
    size, buckets, skipped = size_of(job.zoo, job.size), [], []
    for run in shard.runs:
        architecture = sample(_generator(job, "architecture", run), images.shape, split_of(job.zoo, run))
        if why := frozen_parts(architecture):
            skipped.append({"run": run, "architecture": architecture.to_json(), "why": why})
            continue
        random = _generator(job, "recipe", run)
        recipe, fraction = draw(random), choice(random, FRACTIONS)
        bucket = train(
            architecture,
            recipe,
            fraction,
            images,
            checkpoints=size.checkpoints,
            batch=size.batch,
            run=run,
            seed=derive(job.seed, job.zoo, "train", run),
        )
        buckets.append(bucket)
    return buckets, skipped


def _generator(job: Job, purpose: str, number: int) -> torch.Generator:
    return generator(job.seed, job.zoo, purpose, number)


def _settings(job: Job, shard: Shard) -> dict[str, Any]:
    return {**job.settings(), "number": shard.number, "runs": list(shard.runs)}
