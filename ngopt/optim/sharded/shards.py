"""What this rank holds of a sharded parameter, as plain tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ngopt.graph.sharding import is_sharded, local
from ngopt.optim.sharded.layout import Box


def box_of(param: Any) -> Box:
    """Which part of a DTensor this rank holds."""
    # whoever has a DTensor has paid for this import
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    size, start = compute_local_shape_and_global_offset(param.shape, param.device_mesh, param.placements)
    return Box(tuple(start), tuple(size))


def local_gradient(param: Any) -> Tensor:
    """This rank's part of a parameter's gradient, brought to the parameter's own placements."""
    grad = param.grad
    if is_sharded(param) and tuple(grad.placements) != tuple(param.placements):  # sums that are still to be made
        grad = grad.redistribute(param.device_mesh, param.placements)
    return local(grad)


def as_dtensor(values: Tensor, like: Any) -> Tensor:
    """Values of this rank's part as a DTensor that is placed like another one."""
    return type(like).from_local(
        values, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def among(values: Tensor, ranks: Sequence[int], shape: Sequence[int]) -> Tensor:
    """This rank's part of a tensor whose first axis is divided among some global ranks, in that order, as a DTensor.

    It is there to be saved and loaded; its mesh has no process group, so that DTensor cannot gather it.
    """
    # whoever has a DTensor has paid for this import
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = DeviceMesh(values.device.type, torch.tensor(ranks), _init_backend=False)
    strides = torch.empty(tuple(shape), device="meta").stride()
    return DTensor.from_local(values, mesh, [Shard(0)], run_check=False, shape=torch.Size(shape), stride=strides)


def part_of(values: Tensor, param: Any) -> Tensor:
    """This rank's part of values that are shaped like a parameter, be they sharded like it, whole, or the part."""
    box = box_of(param)
    values = local(values)
    if tuple(values.shape) == tuple(param.shape) and tuple(values.shape) != box.size:
        return values[box.slices].clone()
    return values


def mesh_ranks(param: Any) -> tuple[int, ...]:
    """Global ranks of the mesh of a DTensor."""
    return tuple(int(rank) for rank in param.device_mesh.mesh.flatten())


def comm_device(params: list[Any], backend: str) -> torch.device:
    """Where messages between the ranks of these parameters lie: where they are, or on the device of their mesh.

    Args:
        params: Parameters, all on one device.
        backend: Of the process group, such as ``"cpu:gloo,cuda:nccl"``.
    """
    device = params[0].device
    served = {part.split(":")[0] for part in backend.split(",") if ":" in part}
    if not served or device.type in served:
        return device
    kind = params[0].device_mesh.device_type
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
