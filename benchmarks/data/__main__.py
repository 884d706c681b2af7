"""Fetch, check and list data sets.

python -m benchmarks.data fetch mnist fashion-mnist cifar10
python -m benchmarks.data list
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.data.catalogue import DATASETS, SPECS
from benchmarks.data.loading import DataMissingError, data_root, load, locate


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description="Fetch and list data sets.")
    parser.add_argument("command", choices=("fetch", "list"))
    parser.add_argument("names", nargs="*", help=f"of {', '.join(DATASETS)}; default: all", metavar="NAME")
    parser.add_argument("--root", help="data root; default: $NGOPT_DATA, or ~/.cache/ngopt/data")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.names) - set(DATASETS):
        parser.error(f"no such data set: {', '.join(sorted(unknown))}; known are {', '.join(DATASETS)}")
    failed = False
    for name in arguments.names or DATASETS:
        if arguments.command == "list":
            paths = locate(SPECS[name], data_root(arguments.root)) if name in SPECS else None
            print(f"{name:14} {paths[0].parent if paths else 'missing' if name in SPECS else 'part of scikit-learn'}")
            continue
        try:
            data = load(name, arguments.root)
        except (DataMissingError, ValueError) as error:
            print(error, file=sys.stderr)
            failed = True
        else:
            train, test = tuple(data.train_images.shape), tuple(data.test_images.shape)
            print(f"{name:14} train {train}, test {test}, verified")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
