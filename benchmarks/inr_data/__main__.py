"""Make, check and draw sets of networks that are images.

python -m benchmarks.inr_data fit mnist --size small --init dws --workers 2
python -m benchmarks.inr_data info mnist --size small --init dws
python -m benchmarks.inr_data picture mnist --size small --init dws
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.data_command import job_of, parser_of, run
from benchmarks.inr_data.dataset import InrSet, load
from benchmarks.inr_data.kinds import KINDS
from benchmarks.inr_data.making import Job, make
from benchmarks.inr_data.manifest import read_manifest
from benchmarks.inr_data.plan import SIZES, SPLITS, folder, set_name
from benchmarks.inr_data.show import picture, table
from meta_train.data import DATASETS
from ngopt.command import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    what = ("dataset", DATASETS)
    parser = parser_of("benchmarks.inr_data", "Images as networks.", what, SIZES, make="fit", add=_add_options)
    return run(parser, {"fit": _fit, "info": _info, "picture": _picture}, argv)


def _fit(arguments: argparse.Namespace) -> None:
    report = make(Job(**job_of(arguments, "dataset", "init", "augment")))
    place = folder(arguments.dataset, arguments.size, arguments.root, arguments.init)
    if not report["fitted"]:
        print(f"{place} is complete already.")
        return
    print(
        f"{place}: {report['fitted']} networks in {report['seconds']} s, {report['inrs_per_second']} per second in "
        f"{report['workers']} process(es); their matrix products are {report['share_of_peak']:.0%} of the peak of "
        f"{report['matmul_peak_gflops']} GFLOP/s each"
    )


def _info(arguments: argparse.Namespace) -> None:
    place = folder(arguments.dataset, arguments.size, arguments.root, arguments.init)
    sets = _load(arguments)
    shards = read_manifest(place)["shards"]
    left_out = {split: sum(s["count"] for s in shards if s["split"] == split) - len(sets[split]) for split in SPLITS}
    print(
        f"{place}: {len(shards)} files, all hashes verified\n\n{table(sets, left_out, KINDS[arguments.init].published)}"
    )


def _picture(arguments: argparse.Namespace) -> None:
    path = arguments.out or Path("runs") / f"inr-{set_name(arguments.dataset, arguments.init)}-{arguments.size}.png"
    picture(_load(arguments)["test"], path)
    print(f"Originals, each above its network: {path}")


def _load(arguments: argparse.Namespace) -> dict[str, InrSet]:
    return load(arguments.dataset, arguments.size, arguments.root, init=arguments.init)


def _add_options(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument("--init", choices=KINDS, default="ngopt", help="kind of networks: see inr_data/kinds.py")
    if command == "fit":
        parser.add_argument("--augment", type=int, default=0, help="extra fits of each training image")


if __name__ == "__main__":
    run_command(main)
