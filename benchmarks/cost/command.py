"""What the commands of this folder share: where rows are kept, and the tables that pages have of them.

Rows go to ``benchmarks/results/NAME.json``, and their table into the pages that have a place for it. With ``--output``
they go elsewhere, and no page changes; ``--report`` measures nothing; ``--smoke`` keeps nothing unless told where.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.pages import fill_pages
from benchmarks.common.results import RESULTS, new_results, read_results, write_results

Rows = list[dict[str, Any]]


class Cost:
    """One cost: its name and its table.

    Args:
        module: Of this folder, that measures it.
        table: Markdown from rows.
    """

    def __init__(self, module: str, table: Callable[[Rows], str]) -> None:
        self.command = f"python -m benchmarks.cost.{module}"
        self.name, self.table = f"{module}_cost", table

    @property
    def path(self) -> Path:
        """Of the rows that are published."""
        return RESULTS / f"{self.name}.json"

    def parser(self, description: str | None, *, clock: bool = True, smoke: bool = True) -> argparse.ArgumentParser:
        """A command line with what all have.

        Args:
            description: The module's docstring; its first line is shown.
            clock: Whether the kind of time can be chosen.
            smoke: Whether there is a size of a few seconds.
        """
        parser = argparse.ArgumentParser(prog=self.command, description=(description or "").splitlines()[0])
        parser.add_argument("--output", type=Path, help=f"file for the rows; default: {self.path.name}, and the pages")
        parser.add_argument("--report", action="store_true", help="measure nothing; print the table of the rows there")
        if clock:
            parser.add_argument(
                "--clock", choices=["wall", "cpu"], default="wall",
                help="cpu: processor time; with one thread it is the wall time of an idle machine, even on a busy one",
            )  # fmt: skip
        if smoke:
            parser.add_argument("--smoke", action="store_true", help="little of everything, to see that it runs")
        return parser

    def apart(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
        """What this command prints last, as JSON, when it runs with other arguments in a process of its own.

        Args:
            arguments: Of the command.
            environment: Of the process; None: that of this one.
        """
        command = [sys.executable, *self.command.split()[1:], *arguments]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        return json.loads(done.stdout.splitlines()[-1])

    def new(self, argv: Sequence[str] | None, settings: dict[str, Any]) -> dict[str, Any]:
        """Results without rows."""
        return new_results([*self.command.split(), *(sys.argv[1:] if argv is None else argv)], settings)

    def keep(self, options: argparse.Namespace, results: dict[str, Any]) -> None:
        """Write the rows so far, so that a kill loses no more than one piece."""
        if options.output is not None or not getattr(options, "smoke", False):
            write_results(options.output or self.path, results)

    def report(self, options: argparse.Namespace, results: dict[str, Any] | None = None) -> None:
        """Print the table; that of published rows goes into the pages.

        Args:
            options: From `parser`.
            results: What was measured; None: what is kept.
        """
        if results is None:
            results = read_results(options.output or self.path)
        text = self.table(results["rows"])
        print(text)
        if options.output is None and not getattr(options, "smoke", False):
            fill_pages(self.name, text)
