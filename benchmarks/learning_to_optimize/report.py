"""Tables and pictures, from the stored rows alone; numbers in documents are never typed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.common.pages import fill_pages
from benchmarks.learning_to_optimize.charts import draw_curves, draw_profile
from benchmarks.learning_to_optimize.optimizers import BASE
from benchmarks.learning_to_optimize.rates import rates_table
from benchmarks.learning_to_optimize.store import FOLDER
from benchmarks.learning_to_optimize.suite import TaskRuns, read_suite
from benchmarks.learning_to_optimize.summary import draw_summary, summary_table, time_table
from benchmarks.learning_to_optimize.tables import Suites, bars_table, settings_table, speed_table, task_tables
from benchmarks.learning_to_optimize.tasks import GROUPS, SUITES
from benchmarks.learning_to_optimize.tuning import TUNED_STEPS

NAME = "learning_to_optimize"
DRAW = {"curves": draw_curves, "profile": draw_profile, "summary": draw_summary}


def report(folder: Path = FOLDER, images: Path = Path("docs/images"), pages: Iterable[Path] = ()) -> None:
    """Print tables, write pictures, fill in pages."""
    suites, pages = read_suite(folder), list(pages)
    for (kind, _, _), (name, some) in pictures(suites).items():
        DRAW[kind](some, images / name)
        print(f"Picture: {images / name}")
    for name, table in all_tables(suites).items():
        print(f"# {name}\n\n{table}\n")
        for path in fill_pages(name, table, pages):
            print(f"Table put into {path}")


def all_tables(suites: Suites) -> dict[str, str]:
    """What goes between the markers of a page, by the markers' name."""
    return {
        f"{NAME}_summary": summary_table(suites.get(TUNED_STEPS, []), TUNED_STEPS),
        f"{NAME}_bars": bars_table(suites, TUNED_STEPS),
        f"{NAME}_speed": speed_table(suites),
        f"{NAME}_rates": rates_table(suites.get(TUNED_STEPS, [])),
        f"{NAME}_times": time_table(suites.get(TUNED_STEPS, [])),
        f"{NAME}_pictures": picture_links(suites),
        f"{NAME}_tasks": task_tables(suites),
        f"{NAME}_settings": settings_table(suites),
    }


def pictures(suites: Suites) -> dict[tuple[str, str, int], tuple[str, list[TaskRuns]]]:
    """File name and runs of every picture, by what it shows, group and number of steps."""
    found = {}
    for steps, suite in suites.items():
        if steps == TUNED_STEPS and any(runs.settings["group"] in SUITES and runs.speed_ups(BASE) for runs in suite):
            found["summary", "", steps] = (f"{NAME}_summary.png", suite)
        for group in GROUPS:
            some = [runs for runs in suite if runs.settings["group"] == group]
            if some:
                found["curves", group, steps] = (f"{NAME}_{group}_{steps}.png", some)
            if group in SUITES and any(runs.speed_ups(name) for runs in some for name in runs.names):
                found["profile", group, steps] = (f"{NAME}_profile_{group}_{steps}.png", some)
    return found


def picture_links(suites: Suites) -> str:
    """Links to the pictures, from a page beside their folder."""
    words = {"curves": "Training loss", "profile": "Performance profile"}
    links = [
        f"![{words[kind]}: {group}, {steps:,} steps](images/{name})"
        for (kind, group, steps), (name, _) in pictures(suites).items()
        if kind in words  # the summary stands where its table is
    ]
    return "\n\n".join(links)
