"""Fetch, check and list data sets.

python -m meta_train.data fetch mnist fashion-mnist cifar10 moby-dick
python -m meta_train.data list
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from meta_train.data.catalogue import DATASETS, SPECS, TEXTS
from meta_train.data.loading import load, load_text
from meta_train.data.places import DataMissingError, data_root, locate
from ngopt.command import run_command

KNOWN = (*DATASETS, *TEXTS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m meta_train.data", description="Fetch and list data sets.")
    parser.add_argument("command", choices=("fetch", "list"))
    parser.add_argument("names", nargs="*", help=f"of {', '.join(KNOWN)}; default: all", metavar="NAME")
    parser.add_argument("--root", help="data root; default: $NGOPT_DATA, or ~/.cache/ngopt/data")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.names) - set(KNOWN):
        parser.error(f"no such data set: {', '.join(sorted(unknown))}; known are {', '.join(KNOWN)}")
    failed = False
    for name in arguments.names or KNOWN:
        if arguments.command == "list":
            spec = (SPECS | TEXTS).get(name)
            paths = locate(spec, data_root(arguments.root)) if spec else None
            print(f"{name:14} {paths[0].parent if paths else 'missing' if spec else 'part of scikit-learn'}")
            continue
        try:
            print(f"{name:14} {_summary(name, arguments.root)}, verified")
        except (DataMissingError, ValueError) as error:
            print(error, file=sys.stderr)
            failed = True
    return int(failed)


def _summary(name: str, root: str | None) -> str:
    if name in TEXTS:
        text = load_text(name, root)
        return f"{len(text)} characters, {len(set(text))} different"
    data = load(name, root)
    return f"train {tuple(data.train_images.shape)}, test {tuple(data.test_images.shape)}"


if __name__ == "__main__":
    run_command(main)
