"""``python -m tests.zoo [name ...]`` prints a Markdown table of the zoo: sizes, symmetries, and how much moves."""

from __future__ import annotations

import argparse

from tests.graph.checks import share_that_moves, traced_model
from tests.zoo import MODELS


def row(name: str) -> str:
    """One line of the table."""
    run = traced_model(name)
    sizes = sorted(run.sizes.elements(), reverse=True)
    groups = " · ".join(f"S_{degree}" + (f"^{copies}" if copies > 1 else "") for degree, copies in sizes)
    cells = [name, f"{run.graph.num_parameters:,}", f"{run.graph.num_nodes:,}", groups or "none"]
    return "| " + " | ".join([*cells, f"{share_that_moves(run):.0%}"]) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", help="models (default: all that are installed)")
    names = parser.parse_args().names or [name for name, model in MODELS.items() if model.available]
    if unknown := sorted(set(names) - set(MODELS)):
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(MODELS)}")
    print("| model | parameters | nodes | symmetric groups | parameters that move |")
    print("|---|---:|---:|---|---:|")
    for name in names:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
