"""Make, check and draw zoos of trained networks.

python -m benchmarks.cnn_zoo make small-mnist --size small --workers 2
python -m benchmarks.cnn_zoo info small-mnist --size small
python -m benchmarks.cnn_zoo picture small-mnist --size small
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.cnn_zoo.dataset import load
from benchmarks.cnn_zoo.images import images_of
from benchmarks.cnn_zoo.making import Job, make
from benchmarks.cnn_zoo.manifest import read_manifest
from benchmarks.cnn_zoo.plan import SIZES, ZOOS, folder
from benchmarks.cnn_zoo.show import ceiling, check, picture, table
from benchmarks.common.data_command import job_of, parser_of, run
from ngopt.command import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = parser_of("benchmarks.cnn_zoo", "Zoos of trained networks.", ("zoo", ZOOS), SIZES)
    return run(parser, {"make": _make, "info": _info, "picture": _picture}, argv)


def _make(arguments: argparse.Namespace) -> None:
    report = make(Job(**job_of(arguments, "zoo")))
    place = folder(arguments.zoo, arguments.size, arguments.root)
    if not report["networks"]:
        print(f"{place} is complete already.")
        return
    print(
        f"{place}: {report['networks']} networks in {report['seconds']} s, {report['per_second']} per second in "
        f"{report['workers']} process(es)"
    )


def _info(arguments: argparse.Namespace) -> None:
    place = folder(arguments.zoo, arguments.size, arguments.root)
    zoo = load(arguments.zoo, arguments.size, arguments.root)
    shards = read_manifest(place)["shards"]
    left_out, skipped = ([bad for shard in shards for bad in shard[name]] for name in ("left_out", "skipped"))
    print(f"{place}: {len(shards)} files, all hashes verified\n\n{table(zoo)}\n")
    images = images_of(arguments.zoo, arguments.size, arguments.root)
    checked = check(zoo, images)
    print(f"{checked} networks tested again: accuracies as recorded")
    print(f"{len(left_out)} networks left out: {sorted({bad['why'] for bad in left_out})}; the manifest names them")
    print(f"{len(skipped)} architectures skipped, of runs {[bad['run'] for bad in skipped]}")
    count, accuracy = len(images.test_y), torch.cat([bucket.accuracy for bucket in zoo["test"]])
    print(f"Accuracies are of {count:,} images: a perfect predictor has tau-b {ceiling(accuracy, count):.3f} on test")


def _picture(arguments: argparse.Namespace) -> None:
    path = arguments.out or Path("runs") / f"zoo-{arguments.zoo}-{arguments.size}.png"
    zoo = load(arguments.zoo, arguments.size, arguments.root)
    picture(zoo, path, f"{arguments.zoo}, {arguments.size}")
    print(f"Accuracies per split, and learning curves of some runs: {path}")


if __name__ == "__main__":
    run_command(main)
