"""Large parameters, stepped in place one by one: few passes over memory, and few copies of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ngopt.optim.basis import BASIS, EPS, floor_of
from ngopt.optim.config import UpdateConfig
from ngopt.optim.item import Item
from ngopt.optim.orthogonal import orthogonalise

CHUNK = 2**17  # entries that are mixed at a time on a CPU


def step_large_(item: Item, config: UpdateConfig) -> None:
    """Step one large parameter."""
    gates, scale, floor, unit = item.gates, item.plan.scale, floor_of(item.plan), 1.0
    if item.plan.orthogonal:
        nesterov = item.view(torch.lerp(item.gradient, item.state["momentum"], config.momentum))
        direction = orthogonalise(nesterov, config.orthogonal)
        unit = max(direction.shape[1:]) ** 0.5  # makes the root mean square one at full rank
    else:
        direction = _adam(item, config)
    if gates is None:
        floor = floor / unit  # in place of multiplying the direction with it
    else:
        direction, scale = mix_(item, direction, unit), scale * torch.exp(gates.tensor[BASIS])
    size = item.rate * scale / _rms(direction).clamp_min(floor)
    if item.decay != 1.0:
        item.weight.mul_(item.decay)
    direction = item.unview(direction)
    if direction.device.type == "cpu":
        item.weight.sub_(direction, alpha=size.item())
    else:  # without waiting for the number to arrive
        item.weight.sub_(direction.mul_(size))


def _adam(item: Item, config: UpdateConfig) -> Tensor:  # [group, first, second]
    """`ngopt.optim.basis.adam_direction`."""
    momentum, square = (item.view(item.state[key]) for key in ("momentum", "second_moment"))
    step = item.state["step"].item()  # in Python's precision
    direction = torch.empty_like(momentum, memory_format=torch.contiguous_format)
    mean_bias, square_bias = 1.0 - config.momentum**step, 1.0 - config.second_moment**step
    for rows in _chunks(momentum):
        root = torch.div(square[:, rows], square_bias).add_(EPS**2).sqrt_().mul_(mean_bias)
        torch.div(momentum[:, rows], root, out=direction[:, rows])
    return direction


def mix_(item: Item, lead: Tensor, unit: float) -> Tensor:  # [group, first, second]
    """`ngopt.optim.gates.combine` for a large parameter, written over ``lead``.

    Every gate is an outer sum, and the factored Adam direction the momentum times an outer product. On a CPU this is
    done some rows at a time, so that what is made on the way stays in the cache.
    """
    gates, orthogonal = item.gates, item.plan.orthogonal
    assert gates is not None
    momentum, gradient = item.view(item.state["momentum"]), item.view(item.gradient)
    chunks = _chunks(lead)
    # Outer sums and products go into buffers: left to themselves they come out transposed, and all else gets slow.
    gate, second = (torch.empty_like(lead[:, chunks[0]], memory_format=torch.contiguous_format) for _ in range(2))

    def outer(operation: Callable[..., Tensor], sides: tuple[Tensor, Tensor], rows: slice, out: Tensor) -> Tensor:
        one, other = (side[:, rows] if side.shape[1] > 1 else side for side in sides)
        return operation(one, other, out=out[:, : lead[:, rows].shape[1]])

    def second_direction(rows: slice) -> Tensor:
        return outer(torch.mul, roots, rows, second).mul_(momentum[:, rows]) if orthogonal else momentum[:, rows]

    if orthogonal:
        roots = item.sides(*(torch.rsqrt(item.state[key] + EPS**2) for key in ("row_square", "col_square")))
        norms = torch.stack([torch.linalg.vector_norm(second_direction(rows)) for rows in chunks])
        second_rms = torch.sqrt(norms.square().sum() / lead.numel() + EPS**2)
    else:
        second_rms = _rms(momentum)
    factors = [unit, 1.0 / second_rms, 1.0 / _rms(gradient)]
    sums = []
    for k, factor in enumerate(factors):
        row_gate = (gates.row[k] + (gates.tensor[k] + float(k == 0))) * factor
        sums.append(item.sides(row_gate, None if gates.col is None else gates.col[k] * factor))
    for rows in chunks:
        mixed = lead[:, rows].mul_(outer(torch.add, sums[0], rows, gate))
        for k, direction in enumerate((second_direction(rows), gradient[:, rows]), 1):
            mixed.addcmul_(direction, outer(torch.add, sums[k], rows, gate))
    return lead


def _chunks(x: Tensor) -> list[slice]:  # [group, first, second]
    """Rows to do at a time."""
    group, first, second = x.shape
    step = first if x.device.type != "cpu" else max(1, min(first, CHUNK // (group * second)))
    return [slice(i, i + step) for i in range(0, first, step)]


def _rms(x: Tensor) -> Tensor:  # -> []
    return torch.sqrt(torch.linalg.vector_norm(x).square() / x.numel() + EPS**2)
