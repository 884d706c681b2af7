"""Tables of results in Markdown: rows that see weights alone apart from rows with probes, and what was not run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from benchmarks.weight_space.config import ENCODERS, IDENTITY, PUBLISHED, configure

Row = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """A column of a table."""

    name: str
    title: str
    digits: int


MEASURES = {  # the first one is drawn
    "inr_classification": (Measure("accuracy", "test accuracy (%)", 2),),
    "inr_editing": (
        Measure("mse", "test MSE (0 is exact)", 5),
        Measure("psnr", "PSNR (dB)", 2),
        Measure("mse_of_doing_nothing", "MSE of doing nothing", 5),
    ),
}
PLAN = {  # data sets and tasks that a complete report has
    "inr_classification": {name: ("classify",) for name in ("mnist", "fashion-mnist", "cifar10")},
    "inr_editing": {"mnist": ("dilation", "erosion"), "cifar10": ("contrast",)},
}
EXPECTED = [(encoder, faithful) for encoder in ENCODERS for faithful in (False, True)[: 1 + (encoder in PUBLISHED)]]


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
        f"{task} on {dataset}" if task != "classify" else dataset
        for dataset, tasks in PLAN[suite].items()
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


def not_run(rows: Iterable[Row]) -> list[str]:
    """Encoders of which there is no row, in whatever variant."""
    done = {(row["encoder"], row["config"]["faithful"]) for row in rows}
    return [
        encoder + (" faithful" if faithful else "") for encoder, faithful in EXPECTED if (encoder, faithful) not in done
    ]


def command_of(rows: list[Row]) -> str:
    """What to type to make all of these rows again."""
    config = configure(**rows[0]["config"])
    words = ["python", "-m", f"benchmarks.{config.suite}"]
    words += [
        f"--{name} {getattr(config, name)}" for name in IDENTITY[1:-1] if name != "task" or config.task != "classify"
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
    tasks = {row["task"]: None for row in file["rows"]} | dict.fromkeys(PLAN[suite].get(settings["dataset"], ()))
    for task in tasks:
        rows = [row for row in file["rows"] if row["task"] == task]
        where = f"{settings['dataset']}, size {settings['size']}"
        name = where if task == "classify" else f"{task}, {where}"
        for title, some in (
            ("weights alone", [row for row in rows if not row["probes"]]),
            ("with probes", [row for row in rows if row["probes"]]),
        ):
            if some:
                parts.append(f"**{name}, {title}**\n\n{_table(suite, some)}")
        if missing := not_run(rows):
            parts.append(f"Not run ({name}): {', '.join(missing)}.")
    return parts


def _table(suite: str, rows: list[Row]) -> str:
    measures = MEASURES[suite]
    head = ["encoder", *(m.title for m in measures), f"validation {measures[0].name}", "seeds", "parameters"]
    head += ["networks/s", "command"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (encoder, variant), runs in by_group(rows).items():
        cells = [
            f"{encoder} {variant}".strip(),
            *(_spread([run["test"][m.name] for run in runs], m.digits) for m in measures),
            _spread([run["val"][measures[0].name] for run in runs], measures[0].digits),
            str(len(runs)),
            f"{runs[0]['parameters']:,}",
            f"{mean(run['networks_per_second'] for run in runs):.0f}",
            f"`{command_of(runs)}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    machines = {_machine(row) for row in rows}
    counts, torches = rows[0]["networks"], sorted({row["versions"]["torch"] for row in rows})
    return "\n".join(lines) + (
        f"\n\n{counts['train']:,} networks for training, {counts['val']:,} for validation, {counts['test']:,} for the "
        "test, which the best epoch by validation took once. Mean ± standard deviation over seeds; networks per second "
        f"of training. {'; '.join(sorted(machines))}; torch {', '.join(torches)}."
    )


def _machine(row: Row) -> str:
    machine = row["machine"]
    on_gpu = row["config"]["device"] != "cpu"
    return machine["gpu"] if on_gpu else f"{machine['processor']}, {row['config']['threads']} thread(s)"


def _spread(values: list[float], digits: int) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


TITLES = {
    "ng_gnn": "NG-GNN",
    "ng_t": "NG-T",
    "neuron_mp": "NeuronMP",
    "mlp": "MLP on flat weights",
    "mlp_aug": "MLP on flat weights, permuted and flipped in training",
}
VARIANTS = {"faithful": "as published", "no-sign": "without sign symmetry"}


def summary(files: dict[str, list[dict[str, Any]]]) -> str:
    """All suites in one small table: a line per encoder and variant, a column per task; the largest size of each.

    Args:
        files: Result files by suite, the larger sizes of a data set last.
    """
    columns: dict[str, list[Row]] = {}
    for suite, some in files.items():
        for file in (file for file in some if file["settings"]["size"] != "smoke"):
            for task in dict.fromkeys(row["task"] for row in file["rows"]):
                title = ("" if task == "classify" else f"{task}, ") + f"{file['settings']['dataset']}: "
                columns[title + MEASURES[suite][0].title] = [row for row in file["rows"] if row["task"] == task]
    parts = []
    for title, probes in (("Reading weights alone", False), ("Also running the networks on learned inputs", True)):
        lines = _summary_lines(
            {c: [row for row in rows if bool(row["probes"]) == probes] for c, rows in columns.items()}
        )
        if lines:
            head = f"| {title} | " + " | ".join(columns) + " |"
            parts.append("\n".join([head, "|---" * (1 + len(columns)) + "|", *lines]))
    return "\n\n".join(parts)


def _summary_lines(columns: dict[str, list[Row]]) -> list[str]:
    names = {key: None for rows in columns.values() for key in by_group(rows)}
    order = sorted(names, key=lambda key: (list(TITLES).index(key[0]), len(key[1])))
    lines = []
    for encoder, variant in order:
        words = [VARIANTS.get(word, word.replace("=", " ")) for word in variant.split()]
        cells = [", ".join([TITLES[encoder], *words])]
        for rows in columns.values():
            runs = by_group(rows).get((encoder, variant))
            measure = MEASURES[runs[0]["config"]["suite"]][0] if runs else None
            cells.append(
                _spread([run["test"][measure.name] for run in runs], measure.digits) if runs and measure else ""
            )
        lines.append("| " + " | ".join(cells) + " |")
    return lines
