"""The update in place: what `ngopt.optim.update.update` computes, in few passes over memory and few kernels.

Small parameters are packed into one vector per kind, so that a hundred biases cost what one does. Large matrices are
stepped one by one, so that no more than a few copies of a single matrix ever exist besides the state.
"""

# pyright: reportPrivateImportUsage=false
# (torch's own optimizers are built on torch._foreach_*, and there is no public name for it)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ngopt.encoder.features import row_and_column_sums
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.basis import BASIS, EPS, adam_direction, directions, floor_of, rms
from ngopt.optim.config import DEFAULT_LR, UpdateConfig
from ngopt.optim.gates import Gates, combine
from ngopt.optim.orthogonal import orthogonalise
from ngopt.optim.packing import Pack, pack
from ngopt.optim.plan import ParamPlan, in_state_dtype, option, plan_all
from ngopt.optim.rule import ParamState, UpdateRule
from ngopt.optim.schedule import is_refresh, warmup_and_decay

SMALL = 2**16  # parameters of at most so many entries are packed
CHUNK = 2**17  # entries of a large matrix that are mixed at a time on a CPU


@dataclass(slots=True)
class Item:
    """One parameter in one step."""

    plan: ParamPlan
    weight: Tensor
    gradient: Tensor  # in the number type of the state
    state: ParamState
    rate: float  # learning rate times schedule
    decay: float  # what weight decay leaves of the weight
    gates: Gates | None  # None: all zero

    def view(self, tensor: Tensor) -> Tensor:  # [group, row, col * tap]
        """A tensor shaped like the parameter, as a stack of matrices in the number type of the state."""
        return self.plan.to_matrix(tensor).flatten(2).to(self.gradient.dtype)


@torch.no_grad()
def update_(
    rule: UpdateRule,
    graph: NeuralGraph | None,
    weights: Mapping[str, Tensor],
    grads: Mapping[str, Tensor | None],
    state: Mapping[str, ParamState],
    *,
    step: int,
    lr: float | Mapping[str, float] = DEFAULT_LR,
    weight_decay: float | Mapping[str, float] = 0.0,
    total_steps: int | None = None,
    scheduled: bool = True,
) -> None:
    """One step, written into ``weights`` and ``state``. Arguments as in `ngopt.optim.update.update`."""
    config, neutral = rule.config, rule.neutral
    gradients = in_state_dtype(grads, state)
    plans = plan_all(graph, gradients, config)
    factor = 1.0
    if scheduled:
        factor = warmup_and_decay(step, total_steps, config.warmup_steps) * float(rule.schedule(step, total_steps))
    items = []
    for name, plan in plans.items():
        rate = option(lr, name) * factor
        gates = None if neutral else Gates.cached(state[name])
        decay = 1.0 - rate * option(weight_decay, name)
        items.append(Item(plan, weights[name], gradients[name], state[name], rate, decay, gates))
    if not items:
        return
    accumulate_(items, config)
    if graph is not None and not neutral and is_refresh(step, config):
        for name, new in rule.gates(graph, plans, weights, gradients, state, step, total_steps).items():
            for key, value in new.entries(like=state[name]["momentum"]).items():
                state[name][key].copy_(value)  # where `Item.gates` looks

    packs: dict[tuple, list[Item]] = {}
    for item in items:
        if item.weight.numel() <= SMALL:
            key = (item.plan.orthogonal, item.gradient.dtype, item.gradient.device)
            packs.setdefault(key, []).append(item)
        elif item.plan.orthogonal:
            step_matrix_(item, config)
        else:
            step_other_(item, config)
    for small in packs.values():
        step_packed_(small, config)


def accumulate_(items: Sequence[Item], config: UpdateConfig) -> None:
    """`ngopt.optim.basis.accumulate` of all parameters."""
    torch._foreach_add_([item.state["step"] for item in items], 1.0)
    gradients = [item.gradient for item in items]
    torch._foreach_lerp_([item.state["momentum"] for item in items], gradients, 1.0 - config.momentum)
    others = [item for item in items if not item.plan.orthogonal]
    if others:
        squares, gradients = [item.state["second_moment"] for item in others], [item.gradient for item in others]
        torch._foreach_mul_(squares, config.second_moment)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - config.second_moment)
    old, new, counts = [], [], []
    for item in items:
        if item.plan.orthogonal:
            square, (_, row, col, tap) = item.plan.to_matrix(item.gradient).square(), item.plan.matrix_shape
            old += [item.state["row_square"], item.state["col_square"]]
            new += row_and_column_sums(square)
            counts += [float(col * tap), float(row * tap)]
    if new:
        torch._foreach_div_(new, counts)
        torch._foreach_lerp_(old, new, 1.0 - config.second_moment)


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
    weight = packed.join([item.weight for item in items], lead.dtype)
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
    for k, direction in enumerate((momentum, gradient, weight), 1):
        mixed.addcmul_(direction, gate[k].div_(packed.rms(direction, EPS)[packed.of]))
    return mixed, tensors[:, BASIS]


def step_matrix_(item: Item, config: UpdateConfig) -> None:
    """Step one large matrix."""
    _, row, col, tap = item.plan.matrix_shape
    unit = max(row, col * tap) ** 0.5
    nesterov = torch.lerp(item.gradient, item.state["momentum"], config.momentum)
    direction, scale, floor = (
        orthogonalise(item.view(nesterov), config.orthogonal),
        item.plan.scale,
        floor_of(item.plan),
    )
    if item.gates is None:
        floor = floor / unit  # in place of multiplying the direction with it
    else:
        direction, scale = mix_(item, direction, unit), scale * torch.exp(item.gates.tensor[BASIS])
    _descend_(item, direction, item.rate * scale / _rms(direction).clamp_min(floor))


def mix_(item: Item, polar: Tensor, unit: float) -> Tensor:  # [group, row, col * tap]
    """`ngopt.optim.gates.combine` for a large matrix, written over ``polar``.

    Every gate is an outer sum, and the factored Adam direction the momentum times an outer product. Rows are done a few
    at a time, so that on a CPU what is made on the way stays in the cache.
    """
    (group, row, col, tap), gates = item.plan.matrix_shape, item.gates
    assert gates is not None and gates.col is not None

    def along_rows(x: Tensor) -> Tensor:
        return x.reshape(group, row, 1)

    def along_cols(x: Tensor) -> Tensor:
        return x.reshape(group, 1, col, 1).expand(group, 1, col, tap).reshape(group, 1, col * tap)

    momentum, gradient, weight = (item.view(x) for x in (item.state["momentum"], item.gradient, item.weight))
    row_root = along_rows(torch.rsqrt(item.state["row_square"] + EPS**2))
    col_root = along_cols(torch.rsqrt(item.state["col_square"] + EPS**2))
    # Outer sums and products go into buffers: left to themselves they come out transposed, and all else gets slow.
    step = row if polar.device.type != "cpu" else max(1, min(row, CHUNK // (group * col * tap)))
    buffers = [torch.empty_like(polar[:, :step], memory_format=torch.contiguous_format) for _ in range(2)]
    chunks = [(slice(i, i + step), *(b[:, : min(step, row - i)] for b in buffers)) for i in range(0, row, step)]

    norms = []
    for rows, gate, factored in chunks:
        torch.mul(row_root[:, rows], col_root, out=gate)
        norms.append(torch.linalg.vector_norm(torch.mul(gate, momentum[:, rows], out=factored)))
    factors = [unit, 1.0 / torch.sqrt(torch.stack(norms).square().sum() / polar.numel() + EPS**2)]
    factors += [1.0 / _rms(gradient), 1.0 / _rms(weight)]
    row_gates = [along_rows((gates.row[k] + (gates.tensor[k] + float(k == 0))) * f) for k, f in enumerate(factors)]
    col_gates = [along_cols(gates.col[k] * f) for k, f in enumerate(factors)]
    for rows, gate, factored in chunks:
        mixed = polar[:, rows].mul_(torch.add(row_gates[0][:, rows], col_gates[0], out=gate))
        torch.mul(row_root[:, rows], col_root, out=factored).mul_(momentum[:, rows])
        for k, direction in enumerate((factored, gradient[:, rows], weight[:, rows]), 1):
            mixed.addcmul_(direction, torch.add(row_gates[k][:, rows], col_gates[k], out=gate))
    return polar


def step_other_(item: Item, config: UpdateConfig) -> None:
    """Step one large parameter of any other kind (embeddings) by the pure functions."""
    if item.gates is None:
        momentum, square = (item.plan.to_matrix(item.state[key]) for key in ("momentum", "second_moment"))
        direction, gain = adam_direction(momentum, square, item.state["step"].to(momentum), config), 1.0
    else:
        weight = item.weight.to(item.gradient.dtype)
        basis = directions(item.plan, weight, item.gradient, item.state, config)
        direction, gain = combine(basis, item.gates), torch.exp(item.gates.tensor[BASIS])
    _descend_(item, direction, item.rate * item.plan.scale * gain / rms(direction).clamp_min(floor_of(item.plan)))


def _descend_(item: Item, direction: Tensor, size: Tensor) -> None:
    """Decay the weight and step against a direction, given in the matrix view."""
    if item.decay != 1.0:
        item.weight.mul_(item.decay)
    direction = item.plan.from_matrix(direction.reshape(item.plan.matrix_shape), tuple(item.weight.shape))
    if direction.device.type == "cpu":
        item.weight.sub_(direction, alpha=size.item())
    else:  # without waiting for the number to arrive
        item.weight.sub_(direction.mul_(size))


def _rms(x: Tensor) -> Tensor:  # -> []
    return torch.sqrt(torch.linalg.vector_norm(x).square() / x.numel() + EPS**2)
