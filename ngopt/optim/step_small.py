"""Small parameters of one kind, stepped in place together: a hundred biases cost about what one does."""

# pyright: reportPrivateImportUsage=false
# (torch's own optimizers are built on torch._foreach_*, and there is no public name for it)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ngopt.optim.basis import BASIS, EPS, floor_of
from ngopt.optim.config import UpdateConfig
from ngopt.optim.item import Item
from ngopt.optim.orthogonal import orthogonalise
from ngopt.optim.packing import Pack, pack


def step_packed_(items: Sequence[Item], config: UpdateConfig) -> None:
    """Step small parameters of one kind at once."""
    like = items[0].gradient
    weights = [item.weight for item in items]
    packed = pack([item.plan for item in items], [tuple(w.shape) for w in weights], like.device)
    momentum = packed.join([item.state["momentum"] for item in items], like.dtype)
    if items[0].plan.orthogonal:
        mixed = _orthogonal_packed(items, packed, momentum, config)
    else:
        steps = torch.stack([item.state["step"] for item in items]).to(like)  # [tensor]
        square = packed.join([item.state["second_moment"] for item in items], like.dtype)
        mean = momentum / (1.0 - config.momentum**steps)[packed.of]
        mixed = mean / (square / (1.0 - config.second_moment**steps)[packed.of] + EPS**2).sqrt_()
    scale = torch.tensor([item.rate * item.plan.scale for item in items], dtype=like.dtype, device=like.device)
    if any(item.gates is not None for item in items):
        mixed, log_gain = _mix_packed(items, packed, mixed, momentum)
        scale = scale * torch.exp(log_gain)
    size = scale / packed.rms(mixed, EPS).clamp_min(floor_of(items[0].plan))  # [tensor]
    changes = mixed.mul_(size[packed.of]).split(packed.sizes)
    if any(item.decay != 1.0 for item in items):
        torch._foreach_mul_(weights, [item.decay for item in items])
    torch._foreach_sub_(weights, [change.view(w.shape).to(w.dtype) for change, w in zip(changes, weights, strict=True)])


def _orthogonal_packed(
    items: Sequence[Item], packed: Pack, momentum: Tensor, config: UpdateConfig
) -> Tensor:  # [entry] -> [entry]
    """Orthogonalised Nesterov momentum of small matrices; those of one shape together."""
    nesterov = torch.lerp(packed.join([item.gradient for item in items], momentum.dtype), momentum, config.momentum)
    views = [
        item.plan.to_matrix(x.view(item.weight.shape)).flatten(2)
        for item, x in zip(items, nesterov.split(packed.sizes), strict=True)
    ]
    batches: dict[tuple[int, ...], list[int]] = {}
    for index, view in enumerate(views):
        batches.setdefault(tuple(view.shape), []).append(index)
    polar: list[Tensor] = [momentum] * len(items)
    for (group, row, long), members in batches.items():
        stacked = views[members[0]] if len(members) == 1 else torch.cat([views[index] for index in members])
        unit = max(row, long) ** 0.5  # makes the root mean square one at full rank
        for index, part in zip(members, (orthogonalise(stacked, config.orthogonal) * unit).split(group), strict=True):
            plan, shape = items[index].plan, tuple(items[index].weight.shape)
            polar[index] = plan.from_matrix(part.reshape(plan.matrix_shape), shape).flatten()
    return torch.cat(polar)


def _mix_packed(
    items: Sequence[Item],
    packed: Pack,
    lead: Tensor,  # [entry]
    momentum: Tensor,  # [entry]
) -> tuple[Tensor, Tensor]:  # [entry], [tensor]
    """`ngopt.optim.gates.combine` of all small parameters, and the logarithms of their gains."""
    gradient = packed.join([item.gradient for item in items], lead.dtype)
    if items[0].plan.orthogonal:
        rows = torch.cat([item.state["row_square"].flatten() for item in items]).add_(EPS**2).rsqrt_()
        cols = torch.cat([item.state["col_square"].flatten() for item in items]).add_(EPS**2).rsqrt_()
        momentum = momentum * rows[packed.row] * cols[packed.col]
    tensor_gates, row_gates, col_gates = [], [], []
    for item in items:
        (group, row, col, _), gates = item.plan.matrix_shape, item.gates
        tensor_gates.append(lead.new_zeros(BASIS + 1) if gates is None else gates.tensor)
        row_gates.append(lead.new_zeros(BASIS, group * row) if gates is None else gates.row)
        cols = None if gates is None else gates.col
        col_gates.append(lead.new_zeros(BASIS, group * col) if cols is None else cols)
    tensors = torch.stack(tensor_gates)  # [tensor, BASIS + 1]
    gate = torch.cat(row_gates, 1)[:, packed.row].add_(torch.cat(col_gates, 1)[:, packed.col])  # [BASIS, entry]
    gate.add_(tensors.mT[:BASIS, packed.of])
    mixed = torch.addcmul(lead, lead, gate[0])
    for k, direction in enumerate((momentum, gradient), 1):
        mixed.addcmul_(direction, gate[k].div_(packed.rms(direction, EPS)[packed.of]))
    return mixed, tensors[:, BASIS]
