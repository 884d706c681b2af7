"""Trace a module from the shell: ``python -m ngopt.graph package.module:factory --input 1,3,224,224``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

import torch

from ngopt.command import run_command
from ngopt.errors import NGOptError
from ngopt.graph.trace import trace


def main(argv: list[str] | None = None) -> int:
    """Print the summary of a module's neural graph, and draw it on request."""
    parser = argparse.ArgumentParser(
        prog="python -m ngopt.graph",
        description="Find the neural graph of a module, print its nodes, parameters and symmetries, and draw it.",
        epilog="example: python -m ngopt.graph torchvision.models:resnet18 --input 1,3,224,224 --draw resnet18.png",
    )
    parser.add_argument("factory", help="package.module:callable that returns the module (called without arguments)")
    parser.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="SHAPE[:int]",
        help="shape of a positional input, such as 1,3,224,224; append :int for token ids. Repeat for several inputs",
    )
    parser.add_argument("--draw", metavar="FILE", help="write a picture (png, svg, pdf)")
    parser.add_argument("--strict", action="store_true", help="fail on ops without a rule instead of freezing")
    parser.add_argument("--no-certify", action="store_true", help="skip the numerical check of the symmetries")
    options = parser.parse_args(argv)
    sys.path.insert(0, os.getcwd())
    module_name, _, factory = options.factory.partition(":")
    try:
        model = getattr(importlib.import_module(module_name), factory)()
    except (ImportError, AttributeError, ValueError) as error:
        parser.error(f"cannot get '{options.factory}': {error}. It must read package.module:callable")
    try:
        graph = trace(model, tuple(map(_example, options.input)), strict=options.strict, certify=not options.no_certify)
    except NGOptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(graph.summary())
    if options.draw:
        graph.draw(options.draw)
        print(f"\nwrote {options.draw}")
    return 0


def _example(text: str) -> torch.Tensor:
    sizes, _, kind = text.partition(":")
    shape = [int(size) for size in sizes.split(",")]
    return torch.zeros(shape, dtype=torch.long) if kind == "int" else torch.randn(shape)


if __name__ == "__main__":
    run_command(main)
