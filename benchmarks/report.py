"""The demo's table, and its place in the documentation: numbers there are what a command printed, never typed."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.common.pages import fill_pages
from benchmarks.common.results import RESULTS, read_results, write_results

ROOT = Path(__file__).resolve().parents[1]
PICTURE = Path("docs/images/demo.png")
PAGE = Path("docs/benchmarks.md")  # has the place: <!-- table: demo -->


def markdown_table(results: dict[str, Any]) -> str:
    """The table and the line below it that says where it is from."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in results["rows"]:
        rows.setdefault(row["optimizer"], []).append(row)
    base = mean(row["seconds"] for row in rows["AdamW"])
    lines = [
        "| optimizer | test accuracy (%) | mean loss | final loss | steps to AdamW's final loss | seconds | time |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in rows.items():
        accuracy = [row["accuracy"] for row in runs]
        spread = f" ± {stdev(accuracy):.1f}" if len(accuracy) > 1 else ""
        seconds = mean(row["seconds"] for row in runs)
        cells = [
            f"{name}, {_settings(results, name)}",
            f"{mean(accuracy):.1f}{spread}",
            f"{mean(row['mean_loss'] for row in runs):.3f}",
            f"{mean(row['final_loss'] for row in runs):.3f}",
            _steps([row["steps_to_adamw"] for row in runs]),
            f"{seconds:.1f}",
            f"{seconds / base:.2f}x",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _origin(results)])


def publish(out: Path, root: Path = ROOT) -> None:
    """Put table and picture of a finished demo into the documentation, and its results beside the code.

    Raises:
        FileNotFoundError: There was no demo.
    """
    if not (out / "results.json").is_file():
        raise FileNotFoundError(f"There is no {out / 'results.json'}. Run python -m benchmarks.demo first.")
    results = read_results(out / "results.json")
    link = PICTURE.relative_to(PAGE.parent).as_posix()
    fill_pages("demo", f"![Training loss and test accuracy]({link})\n\n{markdown_table(results)}", [root / PAGE])
    (root / PICTURE).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / "loss.png", root / PICTURE)
    folder = RESULTS if root == ROOT else root / "benchmarks" / "results"
    write_results(folder / f"demo_{results['settings']['dataset']}.json", results)


def _settings(results: dict[str, Any], name: str) -> str:
    tuned = results["settings"]["rivals"].get(name)
    return "tuned: " + ", ".join(f"{k} {v:g}" for k, v in tuned.items()) if tuned else "defaults"


def _steps(steps: list[int | None]) -> str:
    reached = [s for s in steps if s is not None]
    if not reached:
        return "not reached"
    return f"{mean(reached):.0f}" + (f" ({len(reached)} of {len(steps)} runs)" if len(reached) < len(steps) else "")


def _origin(results: dict[str, Any]) -> str:
    settings, machine = results["settings"], results["machine"]
    count = settings["seeds"]
    return (
        f"`{results['command']}`: {settings['dataset']}, {settings['steps']} steps of batch {settings['batch_size']}, "
        f"{'mean of ' + str(count) + ' seeds' if count > 1 else '1 seed'}; {machine['processor']}, "
        f"{machine['threads']} of {machine['cores']} cores, torch {results['versions']['torch']}. Rivals have warm-up, "
        f"linear decay, and the best settings of `benchmarks/results/{settings['rivals_from']}`."
    )
