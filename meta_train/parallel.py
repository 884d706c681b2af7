"""Sharing the slots of an iteration among processes: `torchrun` on one machine or many, gloo on CPUs, NCCL on GPUs.

Slot ``k`` belongs to process ``k mod world``. After an iteration every process has what every slot gave, in the order
of the slots, and makes the same outer step from it: the number of processes changes nothing, to the bit. A PES slot
puts only its losses on the wire, because perturbations follow from seeds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Processes:
    """The processes that share a run; one, if not started by `torchrun`."""

    def __init__(self) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.world > 1 and not dist.is_initialized():
            local = int(os.environ.get("LOCAL_WORLD_SIZE", self.world))
            if torch.cuda.device_count() >= local:  # NCCL wants a GPU for each process
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
                dist.init_process_group("nccl")
            else:
                dist.init_process_group("gloo")

    def device(self) -> str:
        """Where this process computes by default."""
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}" if torch.cuda.is_available() else "cpu"

    @property
    def first(self) -> bool:
        """Whether this process writes logs and files that all share."""
        return self.rank == 0

    def owned(self, slots: int) -> list[int]:
        """Slots of this process."""
        return list(range(self.rank, slots, self.world))

    def gather(self, own: Mapping[int, Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Vectors of all slots.

        Args:
            own: Vectors of this process's slots.
            sizes: Length of each slot's vector.
        """
        if self.world == 1:
            return [own[slot] for slot in range(len(sizes))]
        device = self.device() if dist.get_backend() == "nccl" else "cpu"
        lengths = [sum(sizes[slot] for slot in range(rank, len(sizes), self.world)) for rank in range(self.world)]
        mine = torch.zeros(max(lengths), dtype=torch.float32, device=device)
        if own:
            mine[: lengths[self.rank]] = torch.cat([own[slot] for slot in sorted(own)])
        parts = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(parts, mine)
        found: dict[int, Tensor] = {}
        for rank, part in enumerate(parts):
            slots = range(rank, len(sizes), self.world)
            pieces = part.cpu()[: lengths[rank]].split([sizes[slot] for slot in slots])
            found.update(zip(slots, pieces, strict=True))
        return [found[slot] for slot in range(len(sizes))]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the group."""
        if self.world > 1:
            dist.destroy_process_group()
