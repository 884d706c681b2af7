"""Make, check and draw sets of networks that are images.

python -m benchmarks.inr_data fit mnist --size small --init dws --workers 2
python -m benchmarks.inr_data info mnist --size small --init dws
python -m benchmarks.inr_data picture mnist --size small --init dws
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.devices import device_of
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
    arguments = _parse(argv)
    try:
        {"fit": _fit, "info": _info, "picture": _picture}[arguments.command](arguments)
    except (OSError, ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _fit(arguments: argparse.Namespace) -> None:
    names = ("dataset", "size", "init", "seed", "augment", "device", "threads", "workers", "root")
    values = {name: getattr(arguments, name) for name in names}
    report = make(Job(**values | {"device": device_of(arguments.device)}))
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


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inr_data", description="Images as networks.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("fit", "make a set, or what is missing of it"), ("info", "check it"), ("picture", "draw it")):
        command = commands.add_parser(name, help=text)
        command.add_argument("dataset", choices=DATASETS)
        command.add_argument("--size", choices=SIZES, default="small")
        command.add_argument("--init", choices=KINDS, default="ngopt", help="kind of networks: see inr_data/kinds.py")
        command.add_argument("--root", type=Path, help="data root; default: $NGOPT_DATA, or ~/.cache/ngopt/data")
        if name == "fit":
            command.add_argument("--seed", type=int, default=0)
            command.add_argument("--augment", type=int, default=0, help="extra fits of each training image")
            command.add_argument("--device", default="cpu", help="cpu, cuda, or auto: a GPU if there is one")
            command.add_argument("--threads", type=int, default=1, help="of each process; they decide about last bits")
            command.add_argument("--workers", type=int, default=1, help="processes; they decide about nothing")
        if name == "picture":
            command.add_argument("--out", type=Path, help="PNG to write; default: runs/inr-DATASET-SIZE.png")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
