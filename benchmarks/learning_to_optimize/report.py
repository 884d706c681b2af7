"""Tables and pictures, from the stored rows alone; numbers in documents are never typed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.common.pages import fill_pages
from benchmarks.learning_to_optimize.charts import draw_curves, draw_profile
from benchmarks.learning_to_optimize.store import FOLDER
from benchmarks.learning_to_optimize.suite import TaskRuns, read_suite
from benchmarks.learning_to_optimize.tables import Suites, bars_table, settings_table, speed_table, task_tables
from benchmarks.learning_to_optimize.tasks import GROUPS
from benchmarks.learning_to_optimize.tuning import TUNED_STEPS

NAME = "learning_to_optimize"


def report(folder: Path = FOLDER, images: Path = Path("docs/images"), pages: Iterable[Path] = ()) -> None:
    """Print tables, write pictures, fill in pages."""
    suites, pages = read_suite(folder), list(pages)
    for (kind, _, _), (name, some) in pictures(suites).items():
        (draw_profile if kind == "profile" else draw_curves)(some, images / name)
        print(f"Picture: {images / name}")
    for name, table in all_tables(suites).items():
        print(f"# {name}\n\n{table}\n")
        for path in fill_pages(name, table, pages):
            print(f"Table put into {path}")


def all_tables(suites: Suites) -> dict[str, str]:
    """What goes between the markers of a page, by the markers' name."""
    return {
        f"{NAME}_bars": bars_table(suites, TUNED_STEPS),
        f"{NAME}_speed": speed_table(suites),
        f"{NAME}_pictures": picture_links(suites),
        f"{NAME}_tasks": task_tables(suites),
        f"{NAME}_settings": settings_table(suites),
    }


def pictures(suites: Suites) -> dict[tuple[str, str, int], tuple[str, list[TaskRuns]]]:
    """File name and runs of every picture, by what it shows, group and number of steps."""
    found = {}
    for steps, suite in suites.items():
        for group in GROUPS:
            some = [runs for runs in suite if runs.settings["group"] == group]
            if some:
                found["curves", group, steps] = (f"{NAME}_{group}_{steps}.png", some)
            if group == "held-out" and any(runs.speed_ups(name) for runs in some for name in runs.names):
                found["profile", group, steps] = (f"{NAME}_profile_{steps}.png", some)
    return found


def picture_links(suites: Suites) -> str:
    """Links to the pictures, from a page beside their folder."""
    words = {"curves": "Training loss", "profile": "Performance profile"}
    links = [
        f"![{words[kind]}: {group}, {steps:,} steps](images/{name})"
        for (kind, group, steps), (name, _) in pictures(suites).items()
    ]
    return "\n\n".join(links)
