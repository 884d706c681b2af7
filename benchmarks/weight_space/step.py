"""Pieces of one training step: its random numbers, its learning rate, and batches that do not fit into memory."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel

from benchmarks.weight_space.config import Config

T = TypeVar("T")


def number(*names: object) -> int:
    """A number to seed with, from anything: ``number(seed, "order", epoch)``; the same everywhere."""
    return int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:7], "big")


def generator(*names: object) -> Generator:
    """Random numbers for one purpose, on the CPU, so that they are the same for every device."""
    return Generator().manual_seed(number(*names))


def learning_rate(config: Config, step: int, total: int) -> float:
    """Linear warm-up to the peak; then half a cosine down to 0, or constant."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / max(1, total - config.warmup)))


def rate_groups(model: nn.Module, share: float) -> list[dict[str, Any]]:
    """Parameters of a model for an optimizer, with the ``share`` of the learning rate of each group.

    What an encoder adds up over many neurons and then takes sines of is moved far by small steps of each entry, so that
    it learns best at a fraction of the rate of the readout behind it.
    """
    encoder = getattr(model, "encoder", None)
    if share == 1.0 or not isinstance(encoder, nn.Module):
        return [{"params": list(model.parameters()), "share": 1.0}]
    inside = {id(p) for p in encoder.parameters()}
    return [
        {"params": [p for p in model.parameters() if (id(p) in inside) == within], "share": rate}
        for within, rate in ((False, 1.0), (True, share))
    ]


@torch.no_grad()
def follow(mean: AveragedModel, model: nn.Module, decay: float, bad: Tensor) -> None:
    """Let a mean of weights follow them: over all steps at first, with ``decay`` once there have been enough.

    Nothing here waits for a GPU.

    Args:
        mean: Changed in place, buffers too.
        model: Of now.
        decay: Of the mean.
        bad: 1 if there was no step, else 0, ``[]``.
    """
    count = mean.n_averaged.float()
    keep = torch.where(count == 0, 0.0, ((1 + count) / (10 + count)).clamp(max=decay))
    keep = torch.where(bad > 0, 1.0, keep)
    means, now = ([*m.parameters(), *m.buffers()] for m in (mean.module, model))
    whole = [(m, n) for m, n in zip(means, now, strict=True) if not m.is_floating_point()]
    real = [(m, n.detach()) for m, n in zip(means, now, strict=True) if m.is_floating_point()]
    for m, n in whole:
        m.copy_(n)
    torch._foreach_mul_([m for m, _ in real], keep)
    torch._foreach_add_([m for m, _ in real], torch._foreach_mul([n for _, n in real], 1 - keep))
    mean.n_averaged += (1 - bad).long()


@cache
def has_bf16(device: str) -> bool:
    """Whether a processor computes in bfloat16 by itself; where it is emulated, it is several times slower."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def in_parts(work: Callable[[list[slice]], T], count: int, part: int) -> tuple[T, int]:
    """Do ``work`` on slices of at most ``part``; when memory is short, start again with slices half as long.

    Args:
        work: Gets slices that cover ``range(count)``.
        count: Networks in the batch.
        part: Networks that fit into memory, as far as is known.

    Returns:
        What ``work`` returned, and the length of slices that fits.

    Raises:
        torch.OutOfMemoryError: One network alone does not fit.
    """
    while True:
        try:
            return work([slice(start, min(start + part, count)) for start in range(0, count, part)]), part
        except torch.OutOfMemoryError as error:
            if min(part, count) == 1:
                raise torch.OutOfMemoryError(
                    "There is not enough memory for a single network. Choose a narrower encoder (--option width=...), "
                    "or a device with more memory."
                ) from error
        # Outside of the except clause: the error holds on to the tensors of the failed attempt.
        part = -(-min(part, count) // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(f"Out of memory: going on with {part} of {count} networks at a time.", stacklevel=2)


def backward_in_parts(
    loss_of: Callable[[slice], Tensor],
    clear: Callable[[], None],
    seed: int,
    count: int,
    part: int,
    share: slice | None = None,
) -> tuple[Tensor, int]:
    """Gradients of the mean loss of a batch, or of a share's part in it, accumulated over parts.

    Args:
        loss_of: Mean loss of a slice of the batch.
        clear: Forgets all gradients.
        seed: Of dropout.
        count: Networks in the batch.
        part: See `in_parts`, as for what is returned.
        share: Of the batch; by default all of it.
    """
    share = share or slice(0, count)

    def work(slices: list[slice]) -> Tensor:
        clear()
        torch.manual_seed(seed)
        total = torch.zeros(())
        for where in slices:
            where = slice(share.start + where.start, share.start + where.stop)
            loss = loss_of(where) * ((where.stop - where.start) / count)
            loss.backward()
            total = total.to(loss.device) + loss.detach()  # not yet a number, for which one would wait for a GPU
        return total

    return in_parts(work, share.stop - share.start, part)
