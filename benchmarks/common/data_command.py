"""The command line of what makes data, in one shape: `make`, `info` and `picture` of a set, in one of some sizes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.devices import device_of

HOW = ("size", "seed", "device", "threads", "workers", "root")  # what every job to make data is told


def parser_of(
    package: str,
    description: str,
    what: tuple[str, Iterable[str]],
    sizes: Iterable[str],
    *,
    make: str = "make",
    add: Callable[[argparse.ArgumentParser, str], Any] = lambda parser, command: None,
) -> argparse.ArgumentParser:
    """With the options that all have.

    Args:
        package: Whose command it is.
        description: What is made.
        what: Name of the first argument, and its choices.
        sizes: Choices of ``--size``.
        make: Name of the command that makes data.
        add: Adds further options to a command, given its name.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=description)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in ((make, "make it, or what is missing of it"), ("info", "check it"), ("picture", "draw it")):
        command = commands.add_parser(name, help=text)
        command.add_argument(what[0], choices=what[1])
        command.add_argument("--size", choices=sizes, default="small")
        command.add_argument("--root", type=Path, help="data root; default: $NGOPT_DATA, or ~/.cache/ngopt/data")
        if name == make:
            command.add_argument("--seed", type=int, default=0)
            command.add_argument("--device", default="cpu", help="cpu, cuda, or auto: a GPU if there is one")
            command.add_argument("--threads", type=int, default=1, help="of each process; they decide about last bits")
            command.add_argument("--workers", type=int, default=1, help="processes; they decide about nothing")
        if name == "picture":
            command.add_argument("--out", type=Path, help="PNG to write; default: a name of its own in runs/")
        add(command, name)
    return parser


def job_of(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What a job is told: `HOW`, and some options by name."""
    values = {name: getattr(arguments, name) for name in (*names, *HOW)}
    return values | {"device": device_of(arguments.device)}


def run(
    parser: argparse.ArgumentParser,
    actions: Mapping[str, Callable[[argparse.Namespace], None]],
    argv: Sequence[str] | None,
) -> int:
    """Run one command; returns the exit status."""
    arguments = parser.parse_args(argv)
    try:
        actions[arguments.command](arguments)
    except (OSError, ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
