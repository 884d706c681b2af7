"""The optimizers to compare with, each from the package that its authors or users take it from, each with warm-up.

`torch.optim.Muon` takes matrices only, so a convolution kernel is given to it as the matrix ``O x (I k k)`` that the
kernel is when the convolution is written as a matrix product. The matrix shares the kernel's memory; the update itself
is torch's. Biases, norm scales, embeddings and the output layer go to AdamW, as Muon's authors advise.

ScheduleFree trains at one point and is evaluated at another, an average: `Rival.evaluating` goes there and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.schedules import SCHEDULES, WARMUP, warmup_linear

__all__ = ["RIVALS", "WARMUP", "Rival", "make_rival", "warmup_linear"]


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

    @property
    def averages(self) -> bool:
        """Whether evaluation is at other weights than training, which statistics of activations do not fit."""
        return any(hasattr(optimizer, "eval") for optimizer in self.optimizers)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The parameters that are to be evaluated: an average for ScheduleFree, for others those that are there."""
        own = [optimizer for optimizer in self.optimizers if hasattr(optimizer, "eval")]
        for optimizer in own:
            optimizer.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for optimizer in own:
                optimizer.train()  # type: ignore[attr-defined]


def torch_schedules(
    optimizers: list[torch.optim.Optimizer], schedule: Callable[[int], float]
) -> list[torch.optim.lr_scheduler.LambdaLR]:
    """One scheduler per optimizer."""
    return [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) for optimizer in optimizers]


def sgd(model: nn.Module, total_steps: int, *, lr: float, momentum: float = 0.9, schedule: str = "linear") -> Rival:
    """SGD with Nesterov momentum."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, nesterov=True, foreach=True)
    return Rival([optimizer], SCHEDULES[schedule](total_steps))


def adam(model: nn.Module, total_steps: int, *, lr: float, beta2: float = 0.999, schedule: str = "linear") -> Rival:
    """Adam (foreach), without weight decay."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, beta2), foreach=True)
    return Rival([optimizer], SCHEDULES[schedule](total_steps))


def adamw(
    model: nn.Module,
    total_steps: int,
    *,
    lr: float,
    weight_decay: float = 0.0,
    beta2: float = 0.999,
    schedule: str = "linear",
) -> Rival:
    """AdamW (foreach) on all parameters."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, betas=(0.9, beta2), weight_decay=weight_decay, foreach=True
    )
    return Rival([optimizer], SCHEDULES[schedule](total_steps))


def muon(
    model: nn.Module,
    total_steps: int,
    *,
    lr: float,
    adam_lr: float,
    momentum: float = 0.95,
    schedule: str = "linear",
) -> Rival:
    """Muon on hidden matrices and kernels, AdamW (foreach) on the rest, both without weight decay.

    Args:
        model: The output layer is the last `nn.Linear` in it.
        total_steps: Length of the run.
        lr: Of Muon, with torch's default adjustment :math:`\\sqrt{\\max(1, rows/columns)}`.
        adam_lr: Of AdamW, which has vectors, `nn.Embedding` and the output layer.
        momentum: Of Muon, in Nesterov's form.
        schedule: Of `SCHEDULES`, for both.
    """
    outer = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    outer += [module for module in model.modules() if isinstance(module, nn.Embedding)]
    not_hidden = {id(param) for module in outer for param in module.parameters()}
    hidden = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in not_hidden]
    others = [p for p in model.parameters() if p.ndim < 2 or id(p) in not_hidden]
    matrices = [(p, p.detach().view(len(p), -1)) for p in hidden]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon([matrix for _, matrix in matrices], lr=lr, momentum=momentum, weight_decay=0.0),
        torch.optim.AdamW(others, lr=adam_lr, weight_decay=0.0, foreach=True),
    ]
    return Rival(optimizers, SCHEDULES[schedule](total_steps), matrices)


def schedule_free(model: nn.Module, total_steps: int, *, lr: float) -> Rival:
    """ScheduleFree AdamW of the package ``schedulefree``, with its own warm-up and, as it is meant, no schedule."""
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(model.parameters(), lr=lr, warmup_steps=WARMUP, foreach=True)
    optimizer.train()
    return Rival([optimizer], lambda t: 1.0)


def soap(model: nn.Module, total_steps: int, *, lr: float, schedule: str = "linear") -> Rival:
    """SOAP of the package ``pytorch_optimizer``, without weight decay; its first step only collects statistics."""
    from pytorch_optimizer import SOAP

    return Rival([SOAP(model.parameters(), lr=lr, weight_decay=0.0)], SCHEDULES[schedule](total_steps))


def prodigy(model: nn.Module, total_steps: int, *, lr: float = 1.0, schedule: str = "linear") -> Rival:
    """Prodigy of the package ``pytorch_optimizer``, without weight decay: AdamW that finds its learning rate itself.

    Bias correction and the safeguard against warm-up are on, as its authors advise for schedules like these.

    Args:
        model: To train.
        total_steps: Length of the run.
        lr: Factor on the step size that it finds; 1 is how it is meant.
        schedule: Of `SCHEDULES`.
    """
    from pytorch_optimizer import Prodigy

    optimizer = Prodigy(model.parameters(), lr=lr, bias_correction=True, safeguard_warmup=True, foreach=True)
    return Rival([optimizer], SCHEDULES[schedule](total_steps))


RIVALS: dict[str, Callable[..., Rival]] = {
    "SGD": sgd,
    "Adam": adam,
    "AdamW": adamw,
    "Muon": muon,
    "ScheduleFree": schedule_free,
    "SOAP": soap,
    "Prodigy": prodigy,
}


def make_rival(name: str, model: nn.Module, total_steps: int, settings: dict[str, Any]) -> Rival:
    """Build a rival by name with the settings of a grid row."""
    return RIVALS[name](model, total_steps, **settings)
