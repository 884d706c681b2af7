"""What sharded steps cost: ``python -m benchmarks.cost --plan MODEL ...`` plans, ``--sharded`` measures.

The other costs have modules of their own: `benchmarks.cost.step`, ``trace``, ``encoder``, ``meta``.
"""

from __future__ import annotations

import argparse

from benchmarks.cost import plan, sharded
from ngopt.command import run_command


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    plan.add_arguments(parser)
    parser.add_argument("--sharded", action="store_true", help="measure bytes of small models on gloo processes")
    options = parser.parse_args(argv)
    if not options.plan and not options.sharded:
        parser.error("say what: --plan MODEL, or --sharded")
    if options.plan:
        print(plan.run(options))
    if options.sharded:
        print(sharded.run(options.ranks))


if __name__ == "__main__":
    run_command(main)
