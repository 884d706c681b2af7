"""What a step costs: time, its split, state and peak memory, beside AdamW and Muon. ``python -m benchmarks.cost.step``.

All optimizers of a model take turns, step by step, on the same weights, so that whatever else the machine does meets
all of them alike; times are medians. "NGOptimizer, gates open" has random heads in place of untrained ones, which shows
what message passing and gates cost once they are learned: untrained ones are known to be zero and skipped.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_optimizer
import torch
from torch import nn

import ngopt
from benchmarks.cost.command import Cost
from benchmarks.cost.memory import resident
from benchmarks.cost.step_models import WORKLOADS, Workload
from benchmarks.cost.stopwatch import Stopwatch
from ngopt.command import run_command
from ngopt.optim.fast import inplace
from ngopt.optim.rule import update_rule
from ngopt.optim.update import UpdateRule

ADAMW, MUON, SOAP = "AdamW (foreach)", "Muon + AdamW", "SOAP"
NGOPT, OPEN = "NGOptimizer", "NGOptimizer, controls learned"
START = 100  # steps that NGOptimizer believes to have made: past the dense start, at a refresh
PARTS = ("averages and bases", "direction", "node statistics", "message passing", "rest")
# Where the parts are: (object, name of the function in it).
PLACES: dict[str, tuple[tuple[Any, str], ...]] = {
    "averages and bases": ((inplace, "_accumulate_"),),
    "direction": ((inplace, "_direct_"), (inplace, "_changes")),
    "node statistics": ((update_rule, "node_features"), (update_rule, "tensor_features")),
    "message passing": ((update_rule.NeuronMP, "forward"),),
}


def make_optimizer(name: str, workload: Workload, graph: ngopt.NeuralGraph | None) -> Callable[[], Any] | None:
    """A function that makes one step; None where the optimizer does not apply."""
    model = workload.model
    if name == ADAMW:
        return torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=True).step
    if name == MUON:
        if not hasattr(torch.optim, "Muon") or any(p.dim() > 2 for p in model.parameters()):
            return None  # torch's takes matrices only
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        matrices = [p for p in model.parameters() if p.dim() == 2 and id(p) not in tables]
        others = [p for p in model.parameters() if p.dim() < 2 or id(p) in tables]
        both = torch.optim.Muon(matrices, lr=1e-5), torch.optim.AdamW(others, lr=1e-5, foreach=True)
        return lambda: [optimizer.step() for optimizer in both]
    if name == SOAP:
        return pytorch_optimizer.SOAP(model.parameters(), lr=1e-5).step
    meta = UpdateRule()
    if name == OPEN:
        with torch.no_grad():
            for param in meta.heads.parameters():
                param.add_(0.05 * torch.randn(param.shape, generator=torch.Generator().manual_seed(0)))
    device = next(model.parameters()).device
    optimizer = ngopt.NGOptimizer(model.named_parameters(), graph=graph, rule=meta.to(device))
    for group in optimizer.param_groups:
        group.update(step=START, lr=1e-5)
    return optimizer.step


def trace(workload: Workload) -> ngopt.NeuralGraph:
    """The model's graph, without certificate: time is what is measured here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ngopt.trace(workload.model, workload.example, certify=False)


@contextmanager
def timed_parts(watch: Stopwatch) -> Iterator[dict[str, float]]:
    """While inside, the time spent in each part is added up in the table that is returned."""
    spent: dict[str, float] = defaultdict(float)
    kept = [(owner, name, getattr(owner, name)) for places in PLACES.values() for owner, name in places]

    def wrap(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            begin = watch()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += watch() - begin

        return wrapped

    for part, places in PLACES.items():
        for owner, name in places:
            setattr(owner, name, wrap(part, getattr(owner, name)))
    try:
        yield spent
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


def measure(name: str, device: str, clock: str, rounds: int, quiet: bool) -> list[dict[str, Any]]:
    """One row per optimizer, of one model."""
    workload = WORKLOADS[name](device)
    model, watch = workload.model, Stopwatch(device, clock)
    params = sum(p.numel() for p in model.parameters())
    graph = trace(workload)
    steps = {key: step for key in (ADAMW, MUON, SOAP, NGOPT, OPEN) if (step := make_optimizer(key, workload, graph))}
    samples: dict[str, list[dict[str, float]]] = {key: [] for key in steps}
    for turn in range(rounds + 2):  # the first two warm up
        for key in list(steps)[turn % len(steps) :] + list(steps)[: turn % len(steps)]:
            begin = watch()
            model.zero_grad()
            workload.loss().backward()
            middle = watch()
            with timed_parts(watch) as spent:
                steps[key]()
            end = watch()
            sample = {
                "gradient": middle - begin,
                "step": end - middle,
                **{part: spent.get(part, 0.0) for part in PLACES},
            }
            sample["rest"] = sample["step"] - sum(sample[part] for part in PLACES)
            if turn >= 2:
                samples[key].append(sample)
        if not quiet:
            print(f"\r{name}: round {turn + 1} of {rounds + 2}", end="", file=sys.stderr, flush=True)
    if not quiet:
        print(file=sys.stderr)
    rows = []
    for key, taken in samples.items():
        times = {part: 1e3 * statistics.mean(s[part] for s in taken) for part in taken[0]}
        rows.append(
            {
                "model": name,
                "batch": workload.batch,
                "parameters": params,
                "device": device,
                "optimizer": key,
                "gradient_ms": round(times["gradient"], 4),
                "step_ms": round(times["step"], 4),
                "worst_step": round(max(s["step"] for s in taken) / statistics.median(s["step"] for s in taken), 2),
                "parts": {part: round(times[part], 4) for part in PARTS} if key in (NGOPT, OPEN) else None,
            }
        )
    base = rows[0]
    for row in rows:
        row["whole_ratio"] = round((row["gradient_ms"] + row["step_ms"]) / (base["gradient_ms"] + base["step_ms"]), 3)
        row["step_ratio"] = round(row["step_ms"] / base["step_ms"], 3)
    return rows


def peak_memory(name: str, optimizer: str | None, device: str) -> float:
    """Peak MiB of this process (or of its CUDA memory) over three training steps."""
    workload = WORKLOADS[name](device)
    graph = trace(workload) if optimizer in (NGOPT, OPEN) else None
    step = make_optimizer(optimizer, workload, graph) if optimizer else None
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        workload.model.zero_grad()
        workload.loss().backward()
        if step is not None:
            step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "linux":  # ru_maxrss would count the parent that this process was forked from
        return resident("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| model (batch) | device | optimizer | gradient ms | step ms | whole step, x AdamW | "
        "step, x AdamW's | worst step, x median | split: " + " / ".join(PARTS) + " | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        parts = " / ".join(f"{row['parts'][part]:.2f}" for part in PARTS) if row["parts"] else ""
        memory = f"{row['peak_mib']:.0f}" if row.get("peak_mib") else ""
        cells = [f"{row['model']} ({row['batch']})", row["device"], row["optimizer"]]
        cells += [f"{row[key]:.2f}" for key in ("gradient_ms", "step_ms", "whole_ratio", "step_ratio", "worst_step")]
        lines.append(f"| {' | '.join([*cells, parts, memory])} |")
    return "\n".join(lines) + "\n"


COST = Cost("step", table)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = COST.parser(__doc__)
    real = [name for name in WORKLOADS if name != "smoke"]
    parser.add_argument("--models", nargs="+", choices=list(WORKLOADS), default=real)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=30, help="timed steps of each optimizer")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)  # model, optimizer: print one number
    options = parser.parse_args(argv)
    if options.memory_of:
        name, optimizer = options.memory_of
        print(json.dumps(peak_memory(name, optimizer if optimizer != "none" else None, options.device)))
    else:
        COST.report(options, None if options.report else _measure_all(options, argv))


def _measure_all(options: argparse.Namespace, argv: list[str] | None) -> dict[str, Any]:
    if options.smoke:
        options.models, options.rounds, options.no_memory = ["smoke"], 12, True
    results = COST.new(argv, {"rounds": options.rounds, "clock": options.clock})
    for name in options.models:
        rows = measure(name, options.device, options.clock, options.rounds, quiet=not sys.stderr.isatty())
        for row in rows if not options.no_memory else ():
            row["peak_mib"] = COST.apart("--device", options.device, "--memory-of", name, row["optimizer"])
        results["rows"] += rows
        COST.keep(options, results)
    return results


if __name__ == "__main__":
    run_command(main)
