"""One training step in several processes (`torchrun`): each reads its share of the batch, and all make the same step.

Gradients of the shares add up to the gradient of the batch, and validation is dealt out likewise, so that the number of
processes changes a run by rounding and by which numbers dropout draws. Sums are over gloo on CPUs, NCCL on GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from meta_train.parallel import Processes


class Team(Processes):
    """The processes of a run; one, if not started by `torchrun`."""

    def share(self, count: int) -> slice:
        """Which of ``count`` networks are this process's."""
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def add_gradients(self, parameters: Iterable[nn.Parameter], *numbers: float) -> list[float]:
        """Sum the gradients of all processes, in place, and ``numbers`` with them, which are returned."""
        parameters = [p for p in parameters if p.requires_grad]
        if self.world == 1:
            return list(numbers)
        for p in parameters:
            if p.grad is None:  # an empty share, or a parameter that these networks do not use
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        rest = torch.tensor(numbers, dtype=torch.float64, device=flat.device)
        dist.all_reduce(flat)
        dist.all_reduce(rest)
        for p, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = grad.view_as(p)
        return rest.tolist()

    def joined(self, values: dict[str, Tensor]) -> dict[str, Tensor]:  # [share] -> [net]
        """What each process measured of its share, of all networks in order."""
        if self.world == 1:
            return values
        parts: list[dict[str, Tensor]] = [{} for _ in range(self.world)]
        dist.all_gather_object(parts, {name: value.cpu() for name, value in values.items()})
        return {name: torch.cat([part[name] for part in parts if name in part]).to(v) for name, v in values.items()}
