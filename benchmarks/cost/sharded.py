"""Bytes on the wire of sharded steps, measured on gloo processes beside what `benchmarks.cost.plan` says.

``python -m benchmarks.cost --sharded --ranks 2 4``. What counts is what the optimizer moves; FSDP2's own messages, the
same with every optimizer, do not.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import ngopt
from benchmarks.cost.plan import bytes_of_a_step
from benchmarks.models_language import LanguageModel, Sizes

MODELS = {
    "GPT": Sizes(64, 64, 3, 4, 4, 256, positions=16, packed=True, tied=True),
    "Llama": Sizes(64, 64, 3, 4, 2, 176),
    "mixture of experts": Sizes(64, 32, 2, 4, 2, 48, experts=4),
}


def measure(name: str, graph: ngopt.NeuralGraph | None = None) -> dict[str, Any]:
    """Bytes that this rank sends and gets in a step, averaged over ten steps of which the first ten are over."""
    torch.manual_seed(0)
    model = LanguageModel(MODELS[name])
    entries = sum(param.numel() for param in model.parameters())
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = ngopt.NGOptimizer(model, graph=graph)
    ids, before = torch.randint(64, (4, 16)), 0
    for step in range(20):
        optimizer.zero_grad()
        model(ids).square().mean().backward()
        optimizer.step()
        transport = optimizer.partitions_over_ranks[0].transport
        before = transport.sent_bytes + transport.got_bytes if step < 10 else before
    spread = optimizer.partitions_over_ranks[0]
    pieces = [piece for own in spread.pieces.values() for piece in own]
    planned = bytes_of_a_step(spread.held, pieces, spread.ranks, spread.config.bases_every)
    return {
        "model": name,
        "ranks": spread.ranks,
        "measured": (transport.sent_bytes + transport.got_bytes - before) / 10,
        "planned": sum(side[spread.rank] for side in planned),
        "plain gather": 2 * 4 * entries * (spread.ranks - 1) / spread.ranks,
    }


def _work(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=dist.FileStore(f"{folder}/store", ranks))
    Path(folder, f"{rank}.json").write_text(json.dumps([measure(name) for name in MODELS]))
    dist.destroy_process_group()


def run(ranks: Sequence[int]) -> str:
    """A table of the rank that moves most, for each number of processes."""
    lines = [
        "| model | ranks | measured kB / step | planned | plain gather | measured / gather |",
        "|---|---|---|---|---|---|",
    ]
    for count in ranks:
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(_work, (count, folder), count)
            found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(count)]
        for of_ranks in zip(*found, strict=True):
            most = max(of_ranks, key=lambda row: row["measured"])
            share = most["measured"] / most["plain gather"]
            sizes = [f"{most[key] / 1e3:.1f}" for key in ("measured", "planned", "plain gather")]
            lines.append(f"| {most['model']} | {count} | {' | '.join(sizes)} | {share:.2f} |")
    return "\n".join(lines) + "\n"
