"""What sharded steps of a large model cost each rank, from its graph and its sharding alone.

``python -m benchmarks.cost --plan llama-8b --ranks 64 --mesh 8x8``. Shards, owners and messages are those of
`ngopt.optim.sharded`, so that bytes are exact; `tests/benchmarks/test_cost_plan.py` compares them with measured ones.

* "plain gather": every rank gathers all gradients, keeps all state and makes all of the step.
* "owner ranks": each matrix at one owner, those of a stack at several, as `NGOptimizer` does.
* "one-sided", "blocked": the same, with a basis for the smaller side only, or with all long sides cut into blocks.

All is of a later step (bases turn in every tenth one), averaged, of the rank that has most. Parameters, gradients and
state are in float32. Peak memory is what stays (weights, gradients, state) and what a step holds beside it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.cost.plan_models import FACTORS, MODELS, Network, network
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.eigenbasis import is_turn
from ngopt.optim.sharded.flows import to_holders, to_owners, wire_bytes
from ngopt.optim.sharded.layout import Box, OwnedBox, Placement, assign, load_of
from ngopt.optim.sharded.transport import BUCKET

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Throughput:
    """Of one rank, assumed.

    Attributes:
        tokens: In each of its steps.
        training: Operations per second of the model's own forward and backward pass.
        stepping: Of the optimizer's matrix products.
        network: Bytes per second.
    """

    tokens: int = 16384
    training: float = 4e14
    stepping: float = 5e13
    network: float = 5e10


@dataclass(frozen=True)
class Cost:
    """Of the rank that has most of each.

    Attributes:
        state: Bytes.
        whole: Bytes of the state of all ranks together, each piece once.
        peak: Bytes.
        moved: Bytes that it sends, or gets, in a step.
        flops: In a step.
        share: Of a training step.
    """

    state: float
    whole: float
    peak: float
    moved: float
    flops: float
    share: float


def held_by(
    shapes: Mapping[str, tuple[int, ...]], replicas: int, shards: int, itemsize: int = FLOAT
) -> dict[str, Placement]:
    """What FSDP2 gives each rank of a mesh of replicas and shards: parts of the first axis, as torch.chunk cuts it."""
    held = {}
    for name, shape in shapes.items():
        size = -(-shape[0] // shards)
        boxes = []
        for shard in range(shards):
            start = min(shard * size, shape[0])
            rows = min(size, shape[0] - start)
            boxes.append(Box((start, *[0] * (len(shape) - 1)), (rows, *shape[1:])))
        held[name] = Placement.by_ranks(shape, itemsize, boxes * replicas)
    return held


def bytes_of_a_step(
    held: Mapping[str, Placement], pieces: Sequence[OwnedBox], ranks: int, every: int
) -> tuple[list[float], list[float]]:
    """What each rank sends, and what it gets, averaged over the steps in which bases turn and all others."""
    turning: dict[float, list[OwnedBox]] = {}
    for piece in pieces:
        steps = sum(any(is_turn(t, side, every) for side in piece.plan.sides) for t in range(every, 2 * every))
        turning.setdefault(steps / every, []).append(piece)
    sent, got = ([float(n) for n in side] for side in wire_bytes([*to_owners(held, pieces)], ranks))
    parts = [(1.0, list(to_holders(held, pieces)))]
    parts += [(share, list(to_owners(held, own))) for share, own in turning.items() if share]
    for share, flows in parts:
        for total, more in zip((sent, got), wire_bytes(flows, ranks), strict=True):
            for rank in range(ranks):
                total[rank] += share * more[rank]
    return sent, got


def costs(net: Network, replicas: int, shards: int, throughput: Throughput, config: UpdateConfig) -> dict[str, Cost]:
    """Every way to share the work, by name."""
    ranks, shapes = replicas * shards, net.shapes
    held = held_by(shapes, replicas, shards)
    here = 2 * FLOAT * max(sum(-(-s[0] // shards) * math.prod(s[1:]) for s in shapes.values()), 1)  # weights, gradients
    training = 6.0 * net.active * throughput.tokens / throughput.training

    def cost(state: float, whole: float, beside: float, moved: float, flops: float) -> Cost:
        seconds = flops / throughput.stepping + moved / throughput.network
        return Cost(state, whole, here + state + beside, moved, flops, seconds / (training + seconds))

    plans = net.plans("default", config)
    loads = [load_of(plan, math.prod(shapes[name]), config.bases_every) for name, plan in plans.items()]
    state, flops = sum(load.state for load in loads), sum(load.flops for load in loads)
    gathered = FLOAT * net.entries
    found = {"plain gather": cost(state, state, gathered, gathered * (shards - 1) / shards, flops)}
    for factors in FACTORS:
        plans = net.plans(factors, config)
        pieces, of_ranks = assign(held, plans, ranks, config.bases_every)
        owned, largest = [0.0] * ranks, 0.0
        for piece in pieces:
            owned[piece.owner] += FLOAT * piece.box.numel
            largest = max(largest, FLOAT * piece.box.numel)
        beside = 2 * max(owned) + 2 * BUCKET + 3 * largest  # gradients in, changes out, messages, what one matrix takes
        moved = max(map(max, bytes_of_a_step(held, pieces, ranks, config.bases_every)))
        name = "owner ranks" if factors == "default" else f"owner ranks, {factors}"
        most = (max(load.state for load in of_ranks), sum(load.state for load in of_ranks))
        found[name] = cost(*most, beside, moved, max(load.flops for load in of_ranks))
    return found


def table(rows: Sequence[tuple[str, int, str, Cost]]) -> str:
    """Markdown: model, ranks, way, cost."""
    lines = [
        "| model | ranks | how | state GB | state x ranks / whole | peak GB | moved MB / step | Gflop / step | "
        "share of a training step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model, ranks, way, own in rows:
        cells = [model, str(ranks), way, f"{own.state / 1e9:.2f}", f"{own.state * ranks / own.whole:.2f}"]
        cells += [
            f"{own.peak / 1e9:.1f}",
            f"{own.moved / 1e6:.0f}",
            f"{own.flops / 1e9:.0f}",
            f"{100 * own.share:.1f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def parse_mesh(text: str, ranks: int) -> tuple[int, int]:
    """``"64"`` or ``"8x8"``: replicas and shards.

    Raises:
        ValueError: It is not of that form, or has another number of ranks.
    """
    sizes = [int(part) for part in text.split("x")] if all(part.isdecimal() for part in text.split("x")) else []
    if len(sizes) not in (1, 2) or math.prod(sizes) != ranks:
        raise ValueError(f"--mesh {text} must be SHARDS, or REPLICASxSHARDS, and have {ranks} ranks.")
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command line."""
    parser.add_argument("--plan", nargs="+", choices=list(MODELS), metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--ranks", nargs="+", type=int, default=[8], help="numbers of ranks; 8 if left out")
    parser.add_argument("--mesh", help="SHARDS, or REPLICASxSHARDS; all ranks are shards if left out")
    given = Throughput()
    parser.add_argument("--tokens", type=int, default=given.tokens, help="of a rank in a step")
    parser.add_argument("--training", type=float, default=given.training, help="operations per second of the model")
    parser.add_argument("--stepping", type=float, default=given.stepping, help="of the optimizer")
    parser.add_argument("--network", type=float, default=given.network, help="bytes per second of a rank")


def run(options: argparse.Namespace) -> str:
    """The table that the options ask for."""
    throughput = Throughput(options.tokens, options.training, options.stepping, options.network)
    config, rows = UpdateConfig(), []
    for model in options.plan:
        net = network(MODELS[model], config)
        for ranks in options.ranks:
            mesh = parse_mesh(options.mesh or str(ranks), ranks)
            found = costs(net, *mesh, throughput, config)
            label = f"{model} ({net.entries / 1e9:.2f}B)"
            rows += [(label, ranks, way, own) for way, own in found.items()]
    return table(rows)
