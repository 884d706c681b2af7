"""Tables of results in Markdown: rows that see weights alone apart from rows with probes, and what was not run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from benchmarks.weight_space.config import IDENTITY, configure
from benchmarks.weight_space.suites import PUBLISHED, SUITES

Row = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """A column of a table."""

    name: str
    title: str
    digits: int
    split: str = "test"  # or another one to test on

    def of(self, row: Row) -> float | None:
        """What a row has of it."""
        return (row["test"] if self.split == "test" else row.get("shifted", {}).get(self.split, {})).get(self.name)

    def interval(self, row: Row) -> list[float] | None:
        """Where it lies in 95 % of bootstrap samples of the test networks; None if nobody has asked."""
        return row.get("intervals", {}).get(self.split, {}).get(self.name)


MEASURES = {  # the first one is drawn
    "inr_classification": (Measure("accuracy", "test accuracy (%)", 2),),
    "inr_editing": (
        Measure("mse", "test MSE (0 is exact)", 5),
        Measure("psnr", "PSNR (dB)", 2),
        Measure("mse_of_doing_nothing", "MSE of doing nothing", 5),
    ),
    "cnn_generalization": (
        Measure("tau", "test Kendall τ-b", 3),
        Measure("r2", "R²", 3),
        Measure("mae", "mean absolute error (points)", 2),
    ),
}
SHIFTED = {"cnn_generalization": ("tau", "τ-b", 3)}  # what is shown of other splits to test on

INTERVALS = "In brackets 95 % bootstrap intervals over training runs of the networks, mean ends over seeds. "

OTHERS = "† read other files of networks: made on another machine, which rounds differently, or with more fits. "


def suite_page(suite: str, files: Iterable[dict[str, Any]]) -> str:
    """All tables of a suite.

    Args:
        suite: Its name.
        files: Its result files; those of size smoke are left out.
    """
    files = [file for file in files if file["settings"]["size"] != "smoke"]
    there = {file["settings"]["dataset"] for file in files}
    parts = [part for file in files for part in _file_parts(suite, file)]
    missing = [
        f"{task} on {dataset}" if len(SUITES[suite].tasks) > 1 else dataset
        for dataset, tasks in SUITES[suite].plan.items()
        for task in tasks
        if dataset not in there
    ]
    return "\n\n".join(parts + ([f"Not run at all: {', '.join(missing)}."] if missing else []))


def by_group(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows that differ in their seeds alone, by encoder and variant."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["encoder"], row["variant"]), []).append(row)
    return groups


def not_run(suite: str, dataset: str, rows: Iterable[Row]) -> list[str]:
    """Encoders, as they come and as published, of which there is no row, in whatever variant."""
    done = {(row["encoder"], word) for row in rows for word in _kinds(row)}
    missing = []
    for encoder in SUITES[suite].encoders:
        if encoder == "mlp" and dataset == "wild":
            continue  # sees networks of the same shapes alone
        words = ["", *(["faithful"] if encoder in PUBLISHED else [])]
        if encoder in PUBLISHED and dataset == "wild":
            words.append("no-activations")
        missing += [f"{encoder} {word}".strip() for word in words if (encoder, word) not in done]
    return missing


def _kinds(row: Row) -> list[str]:
    """Which of the rows that a report must have a row is."""
    return [word for word in ("faithful", "no-activations") if word in row["variant"].split()] or [""]


def command_of(rows: list[Row]) -> str:
    """What to type to make all of these rows again."""
    config = configure(**rows[0]["config"])
    suite = SUITES[config.suite]
    words = suite.command(config.suite)
    words += [
        f"--{suite.noun if name == 'dataset' else name} {getattr(config, name)}"
        for name in IDENTITY[1:-1]
        if name != "task" or len(suite.tasks) > 1
    ]
    for name, value in config.changes().items():
        flag = name.replace("_", "-")
        if isinstance(value, dict):
            words.append("--option " + " ".join(f"{key}={v}" for key, v in value.items()))
        else:
            words.append(f"--{flag}" if value is True else f"--no-{flag}" if value is False else f"--{flag} {value}")
    return " ".join([*words, "--seed", *(str(row["seed"]) for row in rows)])


def _file_parts(suite: str, file: dict[str, Any]) -> list[str]:
    settings, parts = file["settings"], []
    tasks = {row["task"]: None for row in file["rows"]} | dict.fromkeys(SUITES[suite].plan.get(settings["dataset"], ()))
    for task in tasks:
        rows = [row for row in file["rows"] if row["task"] == task]
        where = f"{settings['dataset']}, size {settings['size']}"
        name = where if len(SUITES[suite].tasks) == 1 else f"{task}, {where}"
        for title, some in (
            ("weights alone", [row for row in rows if not row["probes"]]),
            ("with probes", [row for row in rows if row["probes"]]),
        ):
            if some:
                parts.append(f"**{name}, {title}**\n\n{_table(suite, some)}")
        if missing := not_run(suite, settings["dataset"], rows):
            parts.append(f"Not run ({name}): {', '.join(missing)}.")
    return parts


def _table(suite: str, rows: list[Row]) -> str:
    measures = [*MEASURES[suite], *_shifted(suite, rows)]
    head = ["encoder", *(m.title for m in measures), f"validation {measures[0].name}", "seeds", "parameters"]
    head += ["reads", "steps", "seconds", "networks/s", "command"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    most = max(row["networks"]["test"] for row in rows)
    most_reads = max(reads(row) for row in rows)
    latest = made(max(rows, key=lambda row: row["created"]))
    for (encoder, variant), runs in by_group(rows).items():
        read = runs[0]["networks"]["test"]
        cells = [
            f"{encoder} {variant}".strip()
            + ("" if made(runs[0]) == latest else " †")
            + (f" (can read {read:,} of {most:,} test networks)" if read < most else "")
            + undertrained(runs, most_reads),
            *(cell(m, runs) for m in measures),
            spread([run["val"][measures[0].name] for run in runs], measures[0].digits),
            str(len(runs)),
            f"{runs[0]['parameters']:,}" if runs[0]["parameters"] else "",
            f"{max(map(reads, runs)):,}",
            f"{steps:,}" if (steps := max(run.get("steps", 0) for run in runs)) else "",
            _seconds(runs),
            f"{mean(map(_speed, runs)):,.0f}",
            f"`{command_of(runs)}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    machines = {_machine(row) for row in rows}
    counts = max((row["networks"] for row in rows), key=lambda networks: networks["test"])
    torches = sorted({row["versions"]["torch"] for row in rows})
    return "\n".join(lines) + (
        f"\n\n{counts['train']:,} networks for training, {counts['val']:,} for validation, {counts['test']:,} for the "
        "test, which the best epoch by validation took once. Mean ± standard deviation over seeds; reads: training "
        "networks, each as often as it was read; seconds of training: of the processors, of the clock on a GPU. "
        f"{INTERVALS if any('intervals' in row for row in rows) else ''}"
        f"{OTHERS if any(made(row) != latest for row in rows) else ''}"
        f"{'; '.join(sorted(machines))}; torch {', '.join(torches)}."
    )


def reads(row: Row) -> int:
    """Training networks that a run has read, each as often as it has."""
    return row.get("reads") or row["config"]["epochs"] * row["networks"]["train"]


def made(row: Row) -> str | None:
    """Which making of the networks a row has read, see `benchmarks.common.manifests.digest`; None in older rows."""
    return row.get("networks_sha256")


def undertrained(runs: list[Row], most: int) -> str:
    """What to say of an encoder of others that was read fewer networks to than the best-read one of its table."""
    mine = max(map(reads, runs))
    if runs[0]["encoder"] not in PUBLISHED or mine >= most:
        return ""
    return f" (undertrained: {mine:,} of {most:,} reads)"


def _on_gpu(row: Row) -> bool:
    return row["config"]["device"] != "cpu"


def _seconds(runs: list[Row]) -> str:
    """Mean over the runs that have them: of training, on the processors' clocks if these did the work."""
    values = [run[name] for run in runs if (name := "seconds" if _on_gpu(run) else "cpu_seconds") in run]
    text = f"{mean(values):,.0f}" if values else ""
    return text + " (GPU)" if text and _on_gpu(runs[0]) else text


def _speed(row: Row) -> float:
    """Networks per second of training, on the same clock."""
    by_clock = row["networks_per_second"]
    return by_clock if _on_gpu(row) else row.get("networks_per_cpu_second", by_clock)


def _shifted(suite: str, rows: list[Row]) -> list[Measure]:
    """A column for each further split that a row was tested on."""
    if suite not in SHIFTED:
        return []
    name, title, digits = SHIFTED[suite]
    splits = dict.fromkeys(split for row in rows for split in row.get("shifted", {}))
    return [Measure(name, f"{title} on {split}", digits, split) for split in splits]


def cell(measure: Measure, runs: list[Row]) -> str:
    """Mean and standard deviation over seeds, and the mean ends of the intervals if there are any."""
    values = [value for run in runs if (value := measure.of(run)) is not None]
    ends = [interval for run in runs if (interval := measure.interval(run)) is not None]
    text = spread(values, measure.digits) if values else ""
    if not ends:
        return text
    low, high = (f"{mean(end):.{measure.digits}f}" for end in zip(*ends, strict=True))
    return f"{text} [{low}, {high}]"


def _machine(row: Row) -> str:
    machine = row["machine"]
    return machine["gpu"] if _on_gpu(row) else f"{machine['processor']}, {row['config']['threads']} thread(s)"


def spread(values: list[float], digits: int) -> str:
    """Mean, and standard deviation over seeds if there are several."""
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"
