"""Many small parameters as one long vector, so that a hundred biases cost what one does."""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ngopt.optim.plan import ParamPlan


@dataclass(frozen=True)
class Pack:
    """Where the entries of several parameters lie when all are flattened and joined.

    Attributes:
        plans: The parameters' plans.
        sizes: Entries of each.
        counts: The same as a tensor, ``[tensor]``.
        of: Which parameter each entry belongs to, ``[entry]``.
        row: Which row it lies in, counted through all parameters, ``[entry]``.
        col: Which column, likewise.
    """

    plans: tuple[ParamPlan, ...]
    sizes: list[int]
    counts: Tensor
    of: Tensor
    row: Tensor
    col: Tensor

    def join(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:  # -> [entry]
        """Parameter-shaped tensors as one vector."""
        return torch.cat([tensor.flatten().to(dtype) for tensor in tensors])

    def rms(self, packed: Tensor, eps: float) -> Tensor:  # [entry] -> [tensor]
        """Root mean square of each parameter."""
        norms = torch.stack(torch._foreach_norm(packed.split(self.sizes)))
        return torch.sqrt(norms.square() / self.counts.to(norms.dtype) + eps**2)


_cache: dict[tuple, Pack] = {}
_CACHED = 32


def pack(plans: Sequence[ParamPlan], shapes: Sequence[tuple[int, ...]], device: torch.device) -> Pack:
    """The pack of some parameters; made once for a set of them, because an optimizer packs the same ones every step."""
    key = (device, *map(id, plans))
    if key not in _cache:
        if len(_cache) >= _CACHED:
            _cache.pop(next(iter(_cache)))
        _cache[key] = _build(tuple(plans), shapes, device)  # holds the plans, so that no id is used again
    return _cache[key]


def _build(plans: tuple[ParamPlan, ...], shapes: Sequence[tuple[int, ...]], device: torch.device) -> Pack:
    sizes, rows, cols, row_start, col_start = [], [], [], 0, 0
    for plan, shape in zip(plans, shapes, strict=True):
        group, row, col, tap = plan.matrix_shape
        row_index = row_start + torch.arange(group * row).reshape(group, row, 1, 1).expand(group, row, col, tap)
        col_index = col_start + torch.arange(group * col).reshape(group, 1, col, 1).expand(group, row, col, tap)
        rows.append(plan.from_matrix(row_index, shape).flatten())
        cols.append(plan.from_matrix(col_index, shape).flatten())
        sizes.append(group * row * col * tap)
        row_start, col_start = row_start + group * row, col_start + group * col
    of = torch.repeat_interleave(torch.tensor(sizes))
    index = [x.to(device) for x in (torch.tensor(sizes), of, torch.cat(rows), torch.cat(cols))]
    return Pack(plans, sizes, *index)
