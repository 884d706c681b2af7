"""Sharded training over NCCL: as many GPUs as there are, two at most. One GPU alone still takes NCCL's way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import ngopt
from tests.optim.sharded_networks import batch, make

pytestmark = pytest.mark.gpu


def train(model: nn.Module) -> list[torch.Tensor]:
    """Whole weights after some steps."""
    optimizer = ngopt.NGOptimizer(model, total_steps=20)
    for index in range(10):
        x, y = (tensor.cuda() for tensor in batch("gpt", index))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert optimizer.graph is not None
    return [p.full_tensor() if hasattr(p, "full_tensor") else p.detach() for p in model.parameters()]


def work(rank: int, ranks: int, folder: str) -> None:
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", rank=rank, world_size=ranks, store=dist.FileStore(f"{folder}/store", ranks))
    mesh = init_device_mesh("cuda", (ranks,))
    model = make("gpt").cuda()
    alone = train(make("gpt").cuda())
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    error = max(((p - q).norm() / q.norm()).item() for p, q in zip(train(model), alone, strict=True))
    Path(folder, f"{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


def test_weights_are_those_of_one_gpu(tmp_path: Path) -> None:
    if not dist.is_nccl_available():
        pytest.skip("torch without NCCL")
    ranks = min(2, torch.cuda.device_count())
    torch.multiprocessing.spawn(work, (ranks, str(tmp_path)), ranks)
    assert max(float(Path(tmp_path, f"{rank}.txt").read_text()) for rank in range(ranks)) < 1e-5
