"""What reading networks costs: networks per second and peak memory, forward and training step, of every encoder.

``python -m benchmarks.cost.encoder``. Compared are stacks of one architecture (`Metanetwork.forward`), mixtures as one
PyG batch (`Metanetwork.mixed`), and the same layers on the complete grid of nodes (`benchmarks.cost.encoder_pairs`).
NeuronFlow, which embeds no edges, reads stacks alone.
They take turns on the same networks with the same model, so that whatever else the machine does meets all of them
alike; times are medians. A second table shows how many networks per architecture make stacks faster than a PyG batch.

Memory on a CPU is by how much the resident set of the process grows, at its peak, above what it was before: what the
machine must have, with buffers and what the allocator wastes, which a count of tensors would miss. It is measured in a
process of its own, after one network of each architecture was read, with an allocator that gives memory back at once.
On CUDA it is what the allocator counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.cost.command import Cost
from benchmarks.cost.encoder_networks import Batch, cnns, inrs, mixture
from benchmarks.cost.encoder_pairs import PairReader
from benchmarks.cost.memory import environment, growth
from benchmarks.cost.stopwatch import Stopwatch
from ngopt.command import run_command
from ngopt.encoder import Metanetwork, metanetwork

STACKS, PYG, PAIRS = "stacks", "PyG batch", "all pairs"
ENCODERS = {"neuron_flow": "NeuronFlow", "ng_gnn": "NG-GNN", "ng_t": "NG-T"}
WITH_EDGES = ("ng_gnn", "ng_t")
CLASSES = 10
COPIES = (1, 2, 4, 8, 32, 128)  # networks per architecture
BATCHES: dict[str, Callable[[str], Batch]] = {
    "inrs": lambda device: inrs(128, device),
    "cnns": lambda device: cnns(128, device),
    "mixture": lambda device: mixture(32, 1, device),
    "smoke": lambda device: inrs(4, device),
}
Read = Callable[[], Tensor]  # -> [net, CLASSES]
Work = dict[str, Callable[[], object]]  # forward and step


def reader(path: str, model: Metanetwork, batch: Batch) -> Read:
    """One way to read a batch."""
    if path == STACKS:
        return lambda: torch.cat([model(graph, params) for graph, params in batch.stacks])
    if path == PYG:
        networks = batch.networks()
        return lambda: model.mixed(networks)
    ((graph, params),) = batch.stacks
    pairs = PairReader(model, graph).to(next(model.parameters()).device)
    return lambda: pairs(params)


def paths(batch: Batch, encoder: str) -> tuple[str, ...]:
    """The ways to read a batch; a grid has one architecture."""
    if encoder not in WITH_EDGES:
        return (STACKS,)
    return (STACKS, PYG, PAIRS) if len(batch.stacks) == 1 else (STACKS, PYG)


def work(read: Read, model: Metanetwork, networks: int) -> Work:
    """What is measured: a forward pass alone, and a training step with AdamW."""
    labels = torch.arange(networks, device=next(model.parameters()).device) % CLASSES
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def forward() -> None:
        with torch.no_grad():
            read()

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(read(), labels).backward()
        optimizer.step()

    return {"forward": forward, "step": step}


def build(encoder: str, ordered: bool, device: str) -> Metanetwork:
    """The encoder as it comes, but for the order of parameters."""
    options = {"ordered": ordered} if encoder in WITH_EDGES else {}
    return metanetwork((), encoder=encoder, outputs=CLASSES, **options).to(device)


def times(works: dict[str, Work], watch: Stopwatch, rounds: int) -> dict[tuple[str, str], float]:
    """Median seconds of each path and work; all of them take turns, the first round warms up."""
    taken: dict[tuple[str, str], list[float]] = {(path, what): [] for path in works for what in works[path]}
    for turn in range(rounds + 1):
        for path in list(works)[turn % len(works) :] + list(works)[: turn % len(works)]:
            for what, run in works[path].items():
                begin = watch()
                run()
                if turn:
                    taken[path, what].append(watch() - begin)
    return {key: statistics.median(values) for key, values in taken.items()}


def measure(name: str, device: str, clock: str, rounds: int, memory: bool) -> list[dict[str, Any]]:
    """One row per encoder, order and path, of one batch."""
    batch, watch = BATCHES[name](device), Stopwatch(device, clock)
    peaks = _peaks(name, device) if memory else {}
    rows = []
    for encoder, ordered in settings(batch):
        model = build(encoder, ordered, device)
        works = {path: work(reader(path, model, batch), model, len(batch)) for path in paths(batch, encoder)}
        found = times(works, watch, rounds)
        for path in works:
            row = {"table": "paths", "batch": batch.name, "device": device, "encoder": encoder, "ordered": ordered}
            row |= {"path": path, "networks": len(batch)}
            for what in ("forward", "step"):
                row[f"{what}_ms"] = round(1e3 * found[path, what], 3)
                row[f"{what}_networks_per_s"] = round(len(batch) / found[path, what], 1)
                row[f"{what}_peak_mib"] = peaks.get(f"{encoder} {ordered} {path} {what}")
            rows.append(row)
    return rows


def settings(batch: Batch) -> list[tuple[str, bool]]:
    """Encoders, and whether they take parameters in order, as by default, or at once, as published."""
    orders = (True, False) if len(batch.stacks) == 1 else (True,)
    return [(encoder, ordered) for ordered in orders for encoder in ENCODERS if ordered or encoder in WITH_EDGES]


def _peaks(name: str, device: str) -> dict[str, float]:
    return COST.apart("--memory-of", name, "--device", device, environment=environment())


def peak_memory(name: str, device: str) -> dict[str, float]:
    """Peak MiB of each encoder, order, path and work on one batch."""
    batch, found = BATCHES[name](device), {}
    for encoder, ordered in settings(batch):
        for path in paths(batch, encoder):
            model = build(encoder, ordered, device)
            for one in batch.alone():  # what is made once: layouts, codes, the libraries' own
                for run in work(reader(path, model, one), model, 1).values():
                    run()
            for what, run in work(reader(path, model, batch), model, len(batch)).items():
                found[f"{encoder} {ordered} {path} {what}"] = round(growth(run, device), 2)
    return found


def threshold(
    device: str, clock: str, rounds: int, architectures: int, copies: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """One row per encoder and number of networks per architecture: stacks, one after the other, against a PyG batch."""
    whole, watch = mixture(architectures, max(copies), device), Stopwatch(device, clock)
    for encoder in WITH_EDGES:
        model = build(encoder, True, device)
        for count in copies:
            batch = whole.first(count)
            networks = count * architectures
            works = {path: work(reader(path, model, batch), model, networks) for path in (STACKS, PYG)}
            found = times(works, watch, rounds)
            row = {"table": "threshold", "device": device, "encoder": encoder, "architectures": architectures}
            row["copies"] = count
            for what in ("forward", "step"):
                stacks, mixed = found[STACKS, what], found[PYG, what]
                row |= {f"{what}_stacks_ms": round(1e3 * stacks, 3), f"{what}_pyg_ms": round(1e3 * mixed, 3)}
                row[f"{what}_ratio"] = round(mixed / stacks, 3)
            yield row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of both tables."""
    lines = [
        "| networks | device | encoder | parameters | path | networks / s: forward | step | peak MiB: forward | step | "
        "x all pairs: forward speed | step speed | forward memory | step memory |",
        "|---|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    chosen = [row for row in rows if row["table"] == "paths"]
    grids = {_case(row): row for row in chosen if row["path"] == PAIRS}
    for row in chosen:
        grid = grids.get(_case(row))
        speed = [_ratio(row, grid, f"{what}_networks_per_s") for what in ("forward", "step")]
        memory = [_ratio(row, grid, f"{what}_peak_mib") for what in ("forward", "step")]
        order = "in order" if row["ordered"] else "at once"
        cells = [row["batch"], row["device"], ENCODERS[row["encoder"]], order, row["path"]]
        cells += [f"{row[f'{what}_networks_per_s']:,.0f}" for what in ("forward", "step")]
        cells += ["" if (x := row[f"{what}_peak_mib"]) is None else f"{x:,.0f}" for what in ("forward", "step")]
        lines.append("| " + " | ".join([*cells, *speed, *memory]) + " |")
    if not any(row["table"] == "threshold" for row in rows):
        return "\n".join(lines) + "\n"
    lines += [
        "",
        "| networks x architectures | device | encoder | forward ms: stacks | PyG batch | stacks faster by | "
        "step ms: stacks | PyG batch | stacks faster by |",
        "|---:|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in (row for row in rows if row["table"] == "threshold"):
        cells = [f"{row['copies']} x {row['architectures']}", row["device"], ENCODERS[row["encoder"]]]
        for what in ("forward", "step"):
            cells += [f"{row[f'{what}_{path}_ms']:,.0f}" for path in ("stacks", "pyg")]
            cells.append(f"{row[f'{what}_ratio']:.2f}x")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _case(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["batch"], row["device"], row["encoder"], row["ordered"]


def _ratio(row: dict[str, Any], grid: dict[str, Any] | None, key: str) -> str:
    return f"{row[key] / grid[key]:.2f}" if grid and grid[key] and row[key] is not None else ""


COST = Cost("encoder", table)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = COST.parser(__doc__)
    parser.add_argument("--batches", nargs="+", choices=list(BATCHES), default=["inrs", "cnns", "mixture"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=7, help="timed repeats of each path")
    parser.add_argument("--architectures", type=int, default=10, help="of the second table")
    parser.add_argument("--copies", nargs="*", type=int, default=list(COPIES), help="networks per architecture there")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--memory-of", choices=list(BATCHES), help=argparse.SUPPRESS)  # print its peaks
    options = parser.parse_args(argv)
    if options.memory_of:
        print(json.dumps(peak_memory(options.memory_of, options.device)))
    else:
        COST.report(options, None if options.report else _measure_all(options, argv))


def _measure_all(options: argparse.Namespace, argv: list[str] | None) -> dict[str, Any]:
    if options.smoke:
        options.batches, options.rounds, options.architectures, options.copies = ["smoke"], 1, 2, [1, 2]
    results = COST.new(argv, {"rounds": options.rounds, "clock": options.clock})
    for name in options.batches:
        results["rows"] += measure(name, options.device, options.clock, options.rounds, not options.no_memory)
        COST.keep(options, results)
    if options.copies:
        for row in threshold(options.device, options.clock, options.rounds, options.architectures, options.copies):
            results["rows"].append(row)
            COST.keep(options, results)
    return results


if __name__ == "__main__":
    run_command(main)
