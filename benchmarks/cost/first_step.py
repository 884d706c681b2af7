"""Memory of the first steps, tracing included, as multiples of the model's. ``python -m benchmarks.cost.first_step``.

The bar: at most AdamW's own peak and 1.5 models more. A process for each optimizer; float32 on the CPU.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import ngopt
from benchmarks.cost.command import Cost
from benchmarks.cost.memory import environment, in_use, peak_of
from benchmarks.gpu_parts import GPT
from ngopt.command import run_command

OPTIMIZERS = ("AdamW", "NGOptimizer")
SIZES = {"smoke": (64, 4, 2, 500, 16), "small": (512, 8, 12, 8000, 64), "gpt2": (768, 12, 12, 50257, 64)}
PHASES = ("first backward", "trace", "first step", "later backward", "later step")
BAR = 1.5


def measure(size: str, name: str) -> dict[str, Any]:
    """Peak of each phase, in this process."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    _train(GPT(*SIZES["smoke"]), name, SIZES["smoke"])  # what libraries keep is not counted
    model = GPT(*SIZES[size])
    unit = sum(p.numel() for p in model.parameters()) * 4 / 2**20
    base = in_use() - unit
    peaks = _train(model, name, SIZES[size])
    row = {"size": size, "parameters": sum(p.numel() for p in model.parameters()), "optimizer": name}
    return row | {phase: round((peak - base) / unit, 2) for phase, peak in peaks.items()}


def _train(model: nn.Module, name: str, sizes: tuple[int, ...]) -> dict[str, float]:
    """Two steps; peak MiB of each phase."""
    *_, vocabulary, length = sizes
    optimizer = torch.optim.AdamW(model.parameters()) if name == "AdamW" else ngopt.NGOptimizer(model)

    def backward() -> None:
        optimizer.zero_grad()
        model(torch.randint(vocabulary, (2, length))).square().mean().backward()

    peaks = {"first backward": peak_of(backward)}
    if isinstance(optimizer, ngopt.NGOptimizer):
        attachment = optimizer._attachment  # a step starts with this
        peaks["trace"] = peak_of(lambda: attachment.listen(optimizer, stepping=True))
        assert optimizer.graph is not None
    peaks["first step"] = peak_of(optimizer.step)
    return peaks | {"later backward": peak_of(backward), "later step": peak_of(optimizer.step)}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: peaks in multiples of the model, and how far NGOptimizer is from the bar."""
    lines = [f"| model | optimizer | {' | '.join(PHASES)} | peak | bar |", "|---|---|" + "---|" * (len(PHASES) + 2)]
    for row in rows:
        peak = max(row[phase] for phase in PHASES if phase in row)
        adamw = next(r for r in rows if r["size"] == row["size"] and r["optimizer"] == "AdamW")
        bar = "" if row is adamw else f"{max(adamw[phase] for phase in PHASES if phase in adamw) + BAR:.2f}"
        cells = [f"{row[phase]:.2f}" if phase in row else "" for phase in PHASES]
        name = f"GPT, {row['parameters'] / 1e6:.0f}M"
        lines.append(f"| {name} | {row['optimizer']} | {' | '.join(cells)} | {peak:.2f} | {bar} |")
    return "\n".join(lines)


COST = Cost("first_step", table)


def measured(size: str, name: str) -> dict[str, Any]:
    """`measure` in a process of its own: what others freed is in use again before anything is seen to grow."""
    return COST.apart("--one", size, name, environment=environment())


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = COST.parser(__doc__, clock=False, smoke=False)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["small"])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # what this process is to measure
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(measure(*options.one)))
    elif options.report:
        COST.report(options)
    else:
        results = COST.new(argv, {"bar": BAR})
        for size in options.sizes:
            results["rows"] += [measured(size, name) for name in OPTIMIZERS]
            COST.keep(options, results)
        COST.report(options, results)


if __name__ == "__main__":
    run_command(main)
