"""The optimizers to compare with: torch's own AdamW and Muon, each with warm-up and linear decay.

`torch.optim.Muon` takes matrices only, so a convolution kernel is given to it as the matrix ``O x (I k k)`` that the
kernel is when the convolution is written as a matrix product. The matrix shares the kernel's memory; the update itself
is torch's. Biases, norm scales and the output layer go to AdamW, as Muon's authors advise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WARMUP = 50  # steps


def warmup_linear(total_steps: int, warmup: int = WARMUP) -> Callable[[int], float]:
    r"""Schedule factor at step t = 0, 1, ...: :math:`\min(1, (t+1)/warmup) \cdot (1 - t/total)`."""
    return lambda t: min(1.0, (t + 1) / warmup) * max(0.0, 1.0 - t / total_steps)


class Rival:
    """Optimizers that step together, with one schedule factor on all their learning rates.

    Args:
        optimizers: Of `torch.optim`.
        schedule: Factor on every learning rate at step t.
        matrices: ``(parameter, matrix)`` pairs: the matrix shares the parameter's memory and takes its gradient.
    """

    def __init__(
        self,
        optimizers: list[torch.optim.Optimizer],
        schedule: Callable[[int], float],
        matrices: list[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.optimizers = optimizers
        self._schedule = torch_schedules(optimizers, schedule)
        self._matrices = matrices or []
        self._params = [p for o in optimizers for group in o.param_groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Forget all gradients, those of the parameters behind the matrices too."""
        for tensor in [*self._params, *(p for p, _ in self._matrices)]:
            tensor.grad = None

    def step(self) -> None:
        """Make one step at the scheduled learning rate."""
        for param, matrix in self._matrices:
            matrix.grad = None if param.grad is None else param.grad.reshape(matrix.shape)
        for optimizer, scheduler in zip(self.optimizers, self._schedule, strict=True):
            optimizer.step()
            scheduler.step()


def torch_schedules(
    optimizers: list[torch.optim.Optimizer], schedule: Callable[[int], float]
) -> list[torch.optim.lr_scheduler.LambdaLR]:
    """One scheduler per optimizer."""
    return [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) for optimizer in optimizers]


def adamw(model: nn.Module, total_steps: int, *, lr: float, weight_decay: float = 0.0, beta2: float = 0.999) -> Rival:
    """AdamW (foreach) on all parameters."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, betas=(0.9, beta2), weight_decay=weight_decay, foreach=True
    )
    return Rival([optimizer], warmup_linear(total_steps))


def muon(model: nn.Module, total_steps: int, *, lr: float, adam_lr: float, momentum: float = 0.95) -> Rival:
    """Muon on hidden matrices and kernels, AdamW (foreach) on the rest, both without weight decay.

    Args:
        model: The output layer is the last `nn.Linear` in it.
        total_steps: Length of the run.
        lr: Of Muon, with torch's default adjustment :math:`\\sqrt{\\max(1, rows/columns)}`.
        adam_lr: Of AdamW.
        momentum: Of Muon, in Nesterov's form.
    """
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    in_head = {id(param) for head in heads for param in head.parameters()}
    hidden = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in in_head]
    others = [p for p in model.parameters() if p.ndim < 2 or id(p) in in_head]
    matrices = [(p, p.detach().view(len(p), -1)) for p in hidden]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon([matrix for _, matrix in matrices], lr=lr, momentum=momentum, weight_decay=0.0),
        torch.optim.AdamW(others, lr=adam_lr, weight_decay=0.0, foreach=True),
    ]
    return Rival(optimizers, warmup_linear(total_steps), matrices)


RIVALS: dict[str, Callable[..., Rival]] = {"AdamW": adamw, "Muon": muon}


def make_rival(name: str, model: nn.Module, total_steps: int, settings: dict[str, Any]) -> Rival:
    """Build a rival by name with the settings of a grid row."""
    return RIVALS[name](model, total_steps, **settings)
