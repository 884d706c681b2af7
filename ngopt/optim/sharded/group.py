"""The ranks that share parameters, and what they must agree on before they step together."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ngopt.graph.sharding import local
from ngopt.optim.attach.match import listing
from ngopt.optim.sharded.layout import Box, Placement
from ngopt.optim.sharded.shards import box_of, mesh_ranks

ALIKE = 1e-3  # relative difference between norms of replicas that training can have made


def group_of(params: Sequence[Any]) -> dist.ProcessGroup:
    """The process group of all ranks that any of the parameters lies on."""
    ranks = sorted({rank for param in params for rank in mesh_ranks(param)})
    world = dist.group.WORLD
    assert world is not None
    return world if len(ranks) == dist.get_world_size() else _new_group(tuple(ranks), id(world))


@functools.lru_cache(maxsize=64)
def _new_group(ranks: tuple[int, ...], world: int) -> dist.ProcessGroup:
    """Made once for each set of ranks, as long as the world is the same."""
    group = dist.new_group(list(ranks), use_local_synchronization=True)
    assert isinstance(group, dist.ProcessGroup)
    return group


@dataclass(frozen=True)
class Said:
    """What a rank says of itself before the first step.

    Attributes:
        graph: Digest of the graph that it captured; empty if it has none.
        params: Shape, number type and box of each sharded parameter, and the norm of what is in it.
        plain: Shapes of the parameters that it has whole.
    """

    graph: str
    params: dict[str, tuple[tuple[int, ...], str, Box, float]]
    plain: dict[str, tuple[tuple[int, ...]]]


def meet(
    params: Mapping[str, Any], plain: Mapping[str, Tensor], graph: str, group: dist.ProcessGroup
) -> tuple[dict[str, Placement], bool]:
    """What all ranks hold, and whether they all captured the same graph. All ranks of the group call it.

    Raises:
        RuntimeError: They do not have the same parameters, or replicas of one differ.
        TypeError: Shards of a parameter are not boxes.
    """
    mine = Said(
        graph=graph,
        params={
            name: (
                tuple(param.shape),
                str(param.dtype),
                box_of(param),
                float(torch.linalg.vector_norm(local(param.detach()), dtype=torch.float64)),
            )
            for name, param in params.items()
        },
        plain={name: (tuple(tensor.shape),) for name, tensor in plain.items()},
    )
    said: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(said, mine, group=group)
    for rank, other in enumerate(said):
        _compare(mine, other, dist.get_global_rank(group, rank))
    held = {}
    for name, param in params.items():
        try:
            held[name] = Placement.by_ranks(
                param.shape, param.element_size(), [other.params[name][2] for other in said]
            )
        except ValueError as error:
            raise TypeError(
                f"{name} is sharded as {param.placements} over {param.device_mesh}: {error}, not supported."
            ) from error
        for box, ranks in held[name].boxes.items():
            norms = [said[rank].params[name][3] for rank in ranks]
            if max(norms) - min(norms) > ALIKE * max(norms):
                where = [dist.get_global_rank(group, rank) for rank in ranks]
                raise RuntimeError(
                    f"{name}{list(box.start)} has other values on each of the ranks {where}, which hold replicas of it "
                    "(FSDP2 does not make them equal). Start them from the same seed or checkpoint; if they are "
                    "different parameters, give each its own name, or make them one DTensor."
                )
    return held, len({other.graph for other in said}) == 1


def _compare(mine: Said, other: Said, rank: int) -> None:
    for here, there in ((mine.params, other.params), (mine.plain, other.plain)):
        differing = [
            name
            for name in dict.fromkeys([*here, *there])
            if name not in here or name not in there or here[name][:2] != there[name][:2]
        ]
        if differing:
            raise RuntimeError(
                f"Ranks {dist.get_rank()} and {rank} share parameters, but {listing(differing)} differ in shape, "
                "number type or sharding, or are on one of them only. All ranks of a mesh must train the same ones."
            )
