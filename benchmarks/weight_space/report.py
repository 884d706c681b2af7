"""Tables and pictures of all stored rows, and their places in the documents; numbers there are never typed.

    python -m benchmarks.weight_space.report

A page gets the tables of a suite between its markers, which must be there:

    <!-- table: inr_classification -->
    <!-- end of table: inr_classification -->

Between those of ``weight_space`` goes a small table of all suites, between those of ``readers`` four lines for README.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.pages import PAGES, fill_pages
from benchmarks.common.results import RESULTS, read_results
from benchmarks.weight_space.charts import draw_results
from benchmarks.weight_space.rows import result_path, scatter_path
from benchmarks.weight_space.scatter import draw_scatter
from benchmarks.weight_space.suites import SIZES, SUITES
from benchmarks.weight_space.summary import headline, summary
from benchmarks.weight_space.tables import MEASURES, suite_page
from ngopt.command import run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Print tables, write pictures, fill in pages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weight_space.report", description="Tables, pictures.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--images", type=Path, default=Path("docs/images"), help="folder for pictures")
    parser.add_argument("--pages", type=Path, nargs="*", default=PAGES, help="Markdown files with markers to fill in")
    arguments = parser.parse_args(argv)
    files = {suite: result_files(suite, arguments.results) for suite in SUITES}
    tables = {suite: suite_page(suite, files[suite]) for suite in SUITES}
    tables |= {"weight_space": summary(files), "readers": headline(files)}
    for suite in SUITES:
        for path in draw_files(suite, files[suite], arguments.images, arguments.results):
            print(f"Picture: {path}")
    for name, table in tables.items():
        print(f"# {name}\n\n{table}\n")
        for path in fill_pages(name, table, arguments.pages):
            print(f"Tables put into {path}")


def result_files(suite: str, folder: Path) -> list[dict[str, Any]]:
    """All result files of a suite, by data set and size."""
    pattern = result_path(suite, "*", "*", folder)
    files = [read_results(path) for path in sorted(pattern.parent.glob(pattern.name))]
    known = SUITES[suite].datasets
    return sorted(files, key=lambda f: (known.index(f["settings"]["dataset"]), SIZES.index(f["settings"]["size"])))


def draw_files(suite: str, files: list[dict[str, Any]], images: Path, results: Path) -> list[Path]:
    """Draw each task of each file, and what single networks got where that was kept; returns the pictures."""
    paths = []
    for file in files:
        settings = file["settings"]
        for task in dict.fromkeys(row["task"] for row in file["rows"]):
            rows = [row for row in file["rows"] if row["task"] == task]
            words = [suite, *([] if len(SUITES[suite].tasks) == 1 else [task]), settings["dataset"], settings["size"]]
            paths.append(images / ("_".join(words) + ".png"))
            draw_results(rows, MEASURES[suite][0], paths[-1], ", ".join(words[1:]))
        single = scatter_path(result_path(suite, settings["dataset"], settings["size"], results))
        if single.is_file():
            words = [suite, settings["dataset"], settings["size"]]
            paths.append(images / ("_".join([*words, "scatter"]) + ".png"))
            draw_scatter(read_results(single)["rows"], paths[-1], ", ".join(words[1:]))
    return paths


if __name__ == "__main__":
    run_command(main)
