"""A small table for each kind of networks: how the best-read run of each encoder does on each set."""

from __future__ import annotations

from typing import Any

from benchmarks.weight_space.suites import MLPS, SIZES, SUITES
from benchmarks.weight_space.tables import MEASURES, Row, by_group, reads, spread

ABLATIONS = {"sign", "no-sign", "no-activations"}  # words of variants that leave something out or add it
LINES = {  # title -> encoders, as published or not; of several the best
    "NeuronFlow": (("neuron_flow",), False),
    "NG-GNN": (("ng_gnn",), False),
    "NG-T": (("ng_t",), False),
    "NG-GNN or NG-T, as published": (("ng_gnn", "ng_t"), True),
    "best baseline that knows no graph": ((*MLPS, "probe_mlp", "statistics"), False),
}
LOWER_IS_BETTER = ("mse",)


def summary(files: dict[str, list[dict[str, Any]]]) -> str:
    """A table per kind of networks, read by their weights alone; in brackets, how many networks were read in training.

    Args:
        files: Result files by suite.
    """
    parts = []
    for many, networks in ((False, "Implicit networks"), (True, "Image classifiers")):
        found = _sets({suite: some for suite, some in files.items() if SUITES[suite].many == many})
        alone = {name: [row for row in rows if not row["probes"]] for name, rows in found.items()}
        cells = {
            name: [_cell(rows, encoders, faithful) for encoders, faithful in LINES.values()]
            for name, rows in alone.items()
            if rows
        }
        kept = [k for k in range(len(LINES)) if any(row[k] for row in cells.values())]
        if kept:
            head = [f"{networks}, weights alone", *(list(LINES)[k] for k in kept)]
            lines = [[name, *(row[k] for k in kept)] for name, row in cells.items()]
            table = [head, ["---"] * len(head), *lines]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in table))
    if parts:
        parts.append("In brackets: reads, training networks each as often as it was read.")
    return "\n\n".join(parts)


def _sets(files: dict[str, list[dict[str, Any]]]) -> dict[str, list[Row]]:
    """Rows of each task on each set in its largest size, which is not ``smoke``."""
    columns: dict[str, list[Row]] = {}
    for suite, some in files.items():
        largest: dict[str, dict[str, Any]] = {}
        for file in sorted(some, key=lambda file: SIZES.index(file["settings"]["size"])):
            largest |= {file["settings"]["dataset"]: file} if file["settings"]["size"] != "smoke" else {}
        for file in sorted(largest.values(), key=some.index):
            for task in dict.fromkeys(row["task"] for row in file["rows"]):
                words = [*([] if len(SUITES[suite].tasks) == 1 else [task]), file["settings"]["dataset"]]
                title = f"{', '.join(words)} ({file['settings']['size']}): {MEASURES[suite][0].title}"
                columns[title] = [row for row in file["rows"] if row["task"] == task]
    return columns


def _cell(rows: list[Row], encoders: tuple[str, ...], faithful: bool) -> str:
    """The group of runs of these encoders that has read most; of baselines the best."""
    groups = [
        runs
        for (encoder, variant), runs in by_group(rows).items()
        if encoder in encoders and ("faithful" in variant.split()) == faithful and not ABLATIONS & set(variant.split())
    ]
    if not groups:
        return ""
    measure = MEASURES[rows[0]["config"]["suite"]][0]
    sign = -1 if measure.name in LOWER_IS_BETTER else 1

    def score(runs: list[Row]) -> float:
        return sign * sum(run["test"][measure.name] for run in runs) / len(runs)

    several = len(encoders) > 1
    runs = max(groups, key=score if several else lambda runs: (max(map(reads, runs)), score(runs)))
    text = spread([run["test"][measure.name] for run in runs], measure.digits)
    if runs[0]["encoder"] == "statistics":
        return text
    count = max(map(reads, runs))
    return f"{text} [{count / 1000:,.0f}k]" if count >= 1000 else f"{text} [{count}]"
