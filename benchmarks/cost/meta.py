"""What meta-training costs: stacked inner loops against a plain one, and how runs scale.

``python -m benchmarks.cost.meta``. The plain loop trains one optimizee after the other with the same rule:
`ngopt.optim.update.update` and `torch.autograd.grad`, no `vmap`. It and the stacks take turns, so that whatever else
the machine does meets both alike; times are medians, and ratios are of one run. "Backpropagation" has the derivative of
the meta-loss with respect to the meta-parameters through all the steps. The share of the peak counts only the matrix
products of the optimizee's own forward and backward pass, against one big product in the same run.

Scaling is measured with `torchrun`: each process reports its seconds, and the slowest one counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cost.command import Cost
from benchmarks.cost.stopwatch import Stopwatch
from meta_train.config import RunConfig, parse_config
from meta_train.estimators.backprop import backprop
from meta_train.estimators.pes import pes_gradient
from meta_train.folder import RunFolder
from meta_train.inner import batch_at, make_step, start
from meta_train.parallel import Processes
from meta_train.rules import NeuralGraphRule, make_rule
from meta_train.slots import perturbations_of
from meta_train.tasks import Batch, Task
from meta_train.tasks.mlp import dense
from meta_train.trainer import Trainer
from meta_train.unroll import Objective, meta_losses, unroll
from ngopt.command import run_command
from ngopt.optim.update import update

BATCH, STEPS, CLASSES = 32, 10, 10
BEGIN, HORIZON = 0, 1000  # a fresh state has to begin at its first step, where its bases are made
WORKS = ("forward", "backpropagation")
PEAK_SIZE = 1536
GPUS, BANDWIDTH, LATENCY = 64, 10e9 / 8, 50e-6  # bytes and seconds of an assumed 10 Gbit/s network


@dataclasses.dataclass(frozen=True)
class Noise:
    """Random pictures: costs do not depend on what is in them."""

    size: int

    def batch(self, generator: torch.Generator, count: int, size: int) -> Batch:
        """See `meta_train.tasks.base.Data`."""
        pixels = torch.randn(count, size, 1, self.size, self.size, generator=generator)
        return pixels, torch.randint(CLASSES, (count, size), generator=generator)

    def example(self) -> Batch:
        """See `meta_train.tasks.base.Data`."""
        return (torch.randn(2, 1, self.size, self.size, generator=torch.Generator().manual_seed(0)),)


def _mlp(*widths: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *dense([64, *widths, CLASSES], "relu"))


def _cnn() -> nn.Module:
    convolutions = [nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "MLP 64-32-10": (lambda: _mlp(32), 8),
    "MLP 64-32-32-10": (lambda: _mlp(32, 32), 8),
    "CNN 8-16, 14 x 14": (_cnn, 14),
}


def make_task(name: str) -> Task:
    """A task of one of the networks."""
    build, size = NETWORKS[name]
    return Task(name, name, build, Noise(size), F.cross_entropy, BATCH)


def make_open_rule() -> NeuralGraphRule:
    """ngopt's rule with open gates, as when it is being trained."""
    rule, random = NeuralGraphRule(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in rule.parameters():
            value += 0.05 * torch.randn(value.shape, generator=random)
    return rule


def plain_loop(rule: NeuralGraphRule, task: Task, steps: int, work: str) -> Callable[[], Any]:
    """Train one optimizee, un-vmapped; with ``backpropagation``, and differentiate the meta-loss."""
    objective, through = Objective(), work == "backpropagation"
    weights = {name: x[0] for name, x in task.init(0, 1).items()}
    state = {name: rule.init_state(task.graph, name, x) for name, x in weights.items()}
    one = start(rule, task, count=1, horizon=HORIZON, seed=0)

    def loss_at(own: dict[str, Tensor], step: int) -> Tensor:
        return task.loss(own, tuple(x[0] for x in batch_at(task, dataclasses.replace(one, step=step))))

    def run() -> Any:
        own, memory, losses = {name: x.clone().requires_grad_() for name, x in weights.items()}, state, []
        for step in range(BEGIN, BEGIN + steps):
            loss = loss_at(own, step)
            grads = dict(zip(own, torch.autograd.grad(loss, list(own.values()), create_graph=through), strict=True))
            losses.append(loss)
            with torch.set_grad_enabled(through):
                added, memory = update(rule.inner, task.graph, own, grads, memory, step=step, total_steps=HORIZON)
                own = {name: x + added[name] for name, x in own.items()}
            if not through:
                own = {name: x.requires_grad_() for name, x in own.items()}
        losses.append(loss_at(own, BEGIN + steps))
        if not through:
            return own
        total = meta_losses(objective, torch.stack(losses[1:])[:, None], BEGIN, HORIZON).mean()
        return torch.autograd.grad(total, list(rule.parameters()), materialize_grads=True)

    return run


def stacked_loop(rule: NeuralGraphRule, task: Task, count: int, steps: int, work: str) -> Callable[[], Any]:
    """Train a stack as the estimators do: segments of all steps are computed twice when there is a derivative."""
    theta = {name: value.detach() for name, value in rule.named_parameters()}
    stack = dataclasses.replace(start(rule, task, count=count, horizon=HORIZON, seed=0), step=BEGIN)
    step = make_step(rule, task)
    if work == "backpropagation":
        return lambda: backprop(step, theta, task, stack, steps=steps, segment=steps, objective=Objective())

    def forward() -> Any:
        with torch.no_grad():
            return unroll(step, theta, task, stack, steps)

    return forward


def flops_of(task: Task) -> int:
    """Of the matrix products and convolutions of one step of one optimizee: forward and backward pass."""
    weights = {name: x[0].requires_grad_() for name, x in task.init(0, 1).items()}
    batch = tuple(x[0] for x in task.batch(torch.Generator().manual_seed(0), 1))
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(task.loss(weights, batch), list(weights.values()))
    return counter.get_total_flops()


def peak_loop(size: int) -> Callable[[], Any]:
    """One big product of float32 matrices."""
    a, b = torch.randn(2, size, size)
    return lambda: torch.mm(a, b)


def medians(works: dict[Any, Callable[[], Any]], watch: Stopwatch, rounds: int) -> dict[Any, float]:
    """Median seconds of each; all of them take turns, the first round warms up."""
    taken: dict[Any, list[float]] = {key: [] for key in works}
    for turn in range(rounds + 1):
        for key, run in works.items():
            begin = watch()
            run()
            if turn:
                taken[key].append(watch() - begin)
    return {key: statistics.median(values) for key, values in taken.items()}


def measure(name: str, counts: Sequence[int], steps: int, clock: str, rounds: int, size: int) -> list[dict[str, Any]]:
    """One row per size of the stack."""
    rule, task, watch = make_open_rule(), make_task(name), Stopwatch("cpu", clock)
    flops = flops_of(task)
    works: dict[Any, Callable[[], Any]] = {"peak": peak_loop(size)}
    for work in WORKS:
        works[work, 0] = plain_loop(rule, task, steps, work)
        works |= {(work, count): stacked_loop(rule, task, count, steps, work) for count in counts}
    seconds = medians(works, watch, rounds)
    peak, rows = 2 * size**3 / seconds["peak"], []
    for count in counts:
        row: dict[str, Any] = {"table": "inner", "network": name, "stack": count, "flops_per_step": flops}
        row["peak_gflops"] = round(peak / 1e9, 1)
        for work in WORKS:
            rate, plain = count * steps / seconds[work, count], steps / seconds[work, 0]
            row |= {f"{work}_per_s": round(rate, 1), f"{work}_plain_per_s": round(plain, 1)}
            row |= {f"{work}_ratio": round(rate / plain, 2), f"{work}_peak_share": round(rate * flops / peak, 4)}
        rows.append(row)
    return rows


def scaling_config(slots: int, count: int, steps: int) -> RunConfig:
    """Slots that do the same work in every iteration, half of each kind; text that Python brings along."""
    common = {"families": ["language"], "count": count, "horizon": [HORIZON] * 2, "steps": [steps] * 2, "offset": False}
    kinds = [{"estimator": "pes"}, {"estimator": "backprop", "segment": steps}]
    return parse_config(
        {"name": "scaling", "iterations": 10**6, "slots": [common | kinds[k * 2 // slots] for k in range(slots)]}
    )


def scaling_worker(folder: Path, values: dict[str, Any], iterations: int, clock: str) -> None:
    """A process of a scaling run: leave seconds per iteration in a file."""
    torch.set_num_threads(1)
    config, processes = parse_config(values), Processes()
    trainer = Trainer(config, make_rule(config.kind, config.rule), RunFolder(folder, config, processes), processes)
    watch, taken = Stopwatch("cpu", clock), []
    for _ in range(iterations + 2):  # two to build tasks and warm up
        begin = watch()
        trainer.iterate()
        taken.append(watch() - begin)
    found = {"seconds": statistics.median(taken[2:]), "dim": trainer.outer.size()}
    found["outer_seconds"], found["pes_seconds"] = _shared_work(trainer, watch)
    (folder / f"rank-{processes.rank}.json").write_text(json.dumps(found))
    processes.close()


def _shared_work(trainer: Trainer, watch: Stopwatch) -> tuple[float, float]:
    """What every process does whatever their number: the outer step, and the gradient of each PES slot."""
    (slot, *_), size = trainer.accumulated, trainer.outer.size()
    losses, mask = torch.randn(2 * trainer.config.slots[slot].count), torch.ones(size)

    def pes() -> None:
        epsilon = perturbations_of(trainer.config, slot, 0, mask)
        pes_gradient(trainer.accumulated[slot] + epsilon, losses, 1.0)

    found = medians({"outer": lambda: trainer.outer.step(torch.randn(size), 0), "pes": pes}, watch, 5)
    return found["outer"], found["pes"]


def scaling(processes: Sequence[int], config: RunConfig, iterations: int, clock: str) -> list[dict[str, Any]]:
    """One row per number of processes."""
    rows = []
    for count in processes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
            command += ["benchmarks.cost.meta", "--scaling-worker", folder, json.dumps(dataclasses.asdict(config))]
            command += ["--iterations", str(iterations), "--clock", clock]
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            found = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("rank-*.json"))]
        slowest = max(one["seconds"] for one in found)
        row = {"table": "scaling", "processes": count, "slots": len(config.slots), "count": config.slots[0].count}
        row |= {"steps": config.slots[0].steps[0], "dim": found[0]["dim"]}
        row |= {"iterations_per_s": round(1 / slowest, 4), "seconds": [round(one["seconds"], 4) for one in found]}
        row |= {f"{key}_ms": round(1e3 * found[0][f"{key}_seconds"], 3) for key in ("outer", "pes")}
        rows.append(row)
    return rows


def wire_bytes(estimator: str, count: int, dim: int) -> int:
    """Bytes that a slot puts on the wire in an iteration; see `meta_train.trainer`."""
    return 4 * (2 + (2 * count if estimator == "pes" else dim + count))


def arithmetic(row: dict[str, Any], gpus: int = GPUS) -> list[dict[str, Any]]:
    """One slot on each of many devices: what an iteration would take, from what one process measured."""
    piece = row["seconds"][0] / row["slots"]
    found = []
    for estimator in ("pes", "backprop"):
        sent = wire_bytes(estimator, row["count"], row["dim"])
        network = (gpus - 1) * (LATENCY + sent / BANDWIDTH)  # a ring, one neighbour after the other
        shared = 1e-3 * (row["outer_ms"] + (gpus * row["pes_ms"] if estimator == "pes" else 0.0))
        whole = piece + network + shared
        found.append(
            {"estimator": estimator, "gpus": gpus, "sent": sent, "piece_ms": 1e3 * piece, "network_ms": 1e3 * network,
             "shared_ms": 1e3 * shared, "efficiency": piece / whole, "break_even_ms": 1e3 * (network + shared)}
        )  # fmt: skip
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of all tables."""
    lines = [
        "| optimizees | stack | forward: steps / s | plain loop | ratio | of matmul peak | "
        "backpropagation: steps / s | plain loop | ratio | of matmul peak |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in (row for row in rows if row["table"] == "inner"):
        cells = [row["network"], str(row["stack"])]
        for work in WORKS:
            cells += [f"{row[f'{work}_per_s']:,.0f}", f"{row[f'{work}_plain_per_s']:,.0f}"]
            cells += [f"{row[f'{work}_ratio']:.1f}x", f"{row[f'{work}_peak_share']:.1%}"]
        lines.append("| " + " | ".join(cells) + " |")
    measured = [row for row in rows if row["table"] == "scaling"]
    if not measured:
        return "\n".join(lines) + "\n"
    lines += ["", "| processes | slots | iterations / s | x one process |", "|---:|---:|---:|---:|"]
    for row in measured:
        ratio = row["iterations_per_s"] / measured[0]["iterations_per_s"]
        lines.append(f"| {row['processes']} | {row['slots']} | {row['iterations_per_s']:.3f} | {ratio:.2f} |")
    lines += [
        "",
        f"| {GPUS} devices, one slot each | bytes sent by each | ms: piece of a run | network | outer step, gradients "
        "| efficiency | 50 % at a piece of |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in arithmetic(measured[0]):
        numbers = [f"{one['sent']:,}", *(f"{one[f'{key}_ms']:,.1f}" for key in ("piece", "network", "shared"))]
        cells = [one["estimator"], *numbers, f"{one['efficiency']:.0%}", f"{one['break_even_ms']:.0f} ms"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


COST = Cost("meta", table)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = COST.parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--stacks", nargs="+", type=int, default=[1, 16, 64], help="optimizees in a stack")
    parser.add_argument("--rounds", type=int, default=5, help="timed repeats")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", nargs="*", type=int, default=[1, 2], help="of the scaling table")
    parser.add_argument("--iterations", type=int, default=10, help="timed iterations of the scaling table")
    parser.add_argument("--scaling-worker", nargs=2, metavar=("FOLDER", "CONFIG"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.scaling_worker:
        folder, values = options.scaling_worker
        scaling_worker(Path(folder), json.loads(values), options.iterations, options.clock)
    else:
        COST.report(options, None if options.report else _measure_all(options, argv))


def _measure_all(options: argparse.Namespace, argv: list[str] | None) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    steps, size, slots, count = STEPS, PEAK_SIZE, 4, 16
    if options.smoke:
        options.networks, options.stacks, options.rounds, options.iterations = options.networks[:1], [1, 2], 1, 1
        steps, size, slots, count = 2, 64, 2, 1
    settings = {"batch": BATCH, "steps": steps, "rounds": options.rounds, "clock": options.clock}
    results = COST.new(argv, settings)
    for name in options.networks:
        results["rows"] += measure(name, options.stacks, steps, options.clock, options.rounds, size)
        COST.keep(options, results)
    if options.processes:
        config = scaling_config(slots, count, steps)
        results["rows"] += scaling(options.processes, config, options.iterations, options.clock)
        COST.keep(options, results)
    return results


if __name__ == "__main__":
    run_command(main)
