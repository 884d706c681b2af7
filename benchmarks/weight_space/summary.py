"""Two small tables of all suites: how the best-read run of each encoder does on each set, and README's few lines."""

from __future__ import annotations

from typing import Any

from benchmarks.weight_space.suites import METANETWORKS, MLPS, SIZES, SUITES
from benchmarks.weight_space.tables import MEASURES, Row, by_group, reads, spread

ABLATIONS = {"sign", "no-sign", "no-activations"}  # words of variants that leave something out or add it
NO_GRAPH = (*MLPS, "probe_mlp", "statistics")
LINES = {  # title -> encoders, as published or not; of several the best
    "NeuronFlow": (("neuron_flow",), False),
    "NG-GNN": (("ng_gnn",), False),
    "NG-T": (("ng_t",), False),
    "NG-GNN or NG-T, as published": (("ng_gnn", "ng_t"), True),
    "best baseline that knows no graph": (NO_GRAPH, False),
}
LOWER_IS_BETTER = ("mse",)
HEADLINE = {  # suite and set -> which networks, what is asked of their weights
    ("inr_classification", "mnist-dws"): ("that draw an MNIST digit", "which digit? accuracy, %"),
    ("inr_classification", "fashion-mnist-dws"): ("that draw a Fashion-MNIST item", "which item? accuracy, %"),
    ("cnn_generalization", "small-cifar10"): ("that classify CIFAR-10", "which is more accurate? Kendall's τ"),
    ("cnn_generalization", "wild"): ("of many architectures", "which is more accurate? Kendall's τ"),
}


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


def headline(files: dict[str, list[dict[str, Any]]]) -> str:
    """A line for each set that README names: the best reader on the graph against the best that knows none.

    Args:
        files: Result files by suite.
    """
    lines = []
    for (suite, dataset), words in HEADLINE.items():
        for title, rows in _sets({suite: files.get(suite, [])}).items():
            if title.startswith(f"{dataset} ("):
                alone = [row for row in rows if not row["probes"]]
                found = [_best(alone, encoders, faithful=False) for encoders in (METANETWORKS, NO_GRAPH)]
                cells = [_text(runs) if runs else "not run" for runs in found]
                lines.append(f"| {' | '.join([*words, *cells])} |")
    if not lines:
        return ""
    return "\n".join(["| networks | question | reader with the graph | without |", "|---|---|---|---|", *lines])


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


def _best(rows: list[Row], encoders: tuple[str, ...], faithful: bool) -> list[Row]:
    """Of one encoder the runs that have read most, of several the ones that do best; empty if there are none."""
    groups = [
        runs
        for (encoder, variant), runs in by_group(rows).items()
        if encoder in encoders and ("faithful" in variant.split()) == faithful and not ABLATIONS & set(variant.split())
    ]

    def score(runs: list[Row]) -> float:
        measure = MEASURES[runs[0]["config"]["suite"]][0].name
        return (-1 if measure in LOWER_IS_BETTER else 1) * sum(run["test"][measure] for run in runs) / len(runs)

    several = len(encoders) > 1
    return max(groups, key=score if several else lambda runs: (max(map(reads, runs)), score(runs)), default=[])


def _text(runs: list[Row]) -> str:
    measure = MEASURES[runs[0]["config"]["suite"]][0]
    return spread([run["test"][measure.name] for run in runs], measure.digits)


def _cell(rows: list[Row], encoders: tuple[str, ...], faithful: bool) -> str:
    """What the best of these did, and how much it has read."""
    runs = _best(rows, encoders, faithful)
    if not runs or runs[0]["encoder"] == "statistics":
        return _text(runs) if runs else ""
    count = max(map(reads, runs))
    return f"{_text(runs)} [{count / 1000:,.0f}k]" if count >= 1000 else f"{_text(runs)} [{count}]"
