"""Which rank holds which part of each parameter, and which rank steps it. Pure: shapes in, owners out.

A parameter that is stepped entry by entry is stepped where its shards are. A matrix is stepped whole, by one owner,
since a rotation needs all of it. Whatever the mesh, all that counts is which box of a parameter each rank holds: ranks
that hold the same one (replicas) get the same from the one of them, or the owner, that computes it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ngopt.optim.rule.plan import ParamPlan

ENTRYWISE = 20.0  # operations of a step for each entry, besides rotations
TURN = 12.0  # operations of a turn, times the third power of a side: four products and a QR decomposition


@dataclass(frozen=True)
class Box:
    """A rectangular part of a tensor: where it starts, and its size."""

    start: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of entries."""
        return math.prod(self.size)

    @property
    def slices(self) -> tuple[slice, ...]:
        """To index the whole tensor with."""
        return tuple(slice(start, start + size) for start, size in zip(self.start, self.size, strict=True))

    @staticmethod
    def of(shape: Sequence[int]) -> Box:
        """All of a tensor."""
        return Box((0,) * len(shape), tuple(shape))


@dataclass(frozen=True)
class Held:
    """Which ranks hold what of one parameter.

    Attributes:
        shape: Of the whole parameter.
        itemsize: Bytes of an entry.
        boxes: Those that are not empty, with the ranks that hold each, in order.
    """

    shape: tuple[int, ...]
    itemsize: int
    boxes: Mapping[Box, tuple[int, ...]]

    @staticmethod
    def by_ranks(shape: Sequence[int], itemsize: int, boxes: Sequence[Box | None]) -> Held:
        """From the box of each rank; None where it has nothing of the parameter.

        Raises:
            ValueError: The boxes do not fill the parameter exactly.
        """
        holders: dict[Box, tuple[int, ...]] = {}
        for rank, box in enumerate(boxes):
            if box is not None and box.numel:
                holders[box] = (*holders.get(box, ()), rank)
        if sum(box.numel for box in holders) != math.prod(shape):
            raise ValueError("its shards are not boxes that make up the whole")
        return Held(tuple(shape), itemsize, holders)

    def source(self, box: Box, owner: int) -> int:
        """Which of its holders sends a box to an owner: itself, or the one beside it among the replicas."""
        holders = self.boxes[box]
        if owner in holders:
            return owner
        own = next((ranks for ranks in self.boxes.values() if owner in ranks), ())
        return holders[own.index(owner) % len(holders)] if own else holders[owner % len(holders)]


@dataclass(frozen=True)
class Piece:
    """What one rank steps: a whole matrix, or a box of a parameter that is stepped entry by entry."""

    name: str
    box: Box
    owner: int


@dataclass(frozen=True)
class Load:
    """What stepping a piece costs.

    Attributes:
        state: Bytes of state.
        flops: Floating-point operations of a step, averaged over steps.
    """

    state: float
    flops: float


def load_of(plan: ParamPlan, numel: int, bases_every: int) -> Load:
    """What a piece of ``numel`` entries costs; all of its parameter if that has sides. Later in a run, in float32."""
    if not plan.sides:
        return Load(8.0 * numel, ENTRYWISE * numel)
    entries, flops = math.prod(plan.padded), ENTRYWISE * math.prod(plan.padded)
    for side in plan.sides:
        count = plan.matrix_shape[0] * side.blocks
        flops += 3 * 2.0 * entries * side.size  # into the basis, out of it, and its factor
        turn = 2 * 2.0 * entries * side.size + TURN * count * side.size**3  # gradient and momentum follow
        flops += turn / bases_every
    return Load(4.0 * plan.floats, flops)


def assign(
    held: Mapping[str, Held], plans: Mapping[str, ParamPlan], ranks: int, bases_every: int
) -> tuple[list[Piece], list[Load]]:
    """Pieces with owners such that no rank has much more to hold and to do than others, and what each rank has.

    The largest piece first, to the rank that has the least, of those that may have it (Graham 1969, "Bounds on
    multiprocessing timing anomalies": at most a third above the best possible).
    """
    todo: list[tuple[Load, str, Box, tuple[int, ...] | None]] = []
    for name, own in held.items():
        if plans[name].sides:
            box = Box.of(own.shape)
            todo.append((load_of(plans[name], box.numel, bases_every), name, box, None))
        else:
            todo += [
                (load_of(plans[name], box.numel, bases_every), name, box, holders) for box, holders in own.boxes.items()
            ]
    state, flops = (math.fsum(getattr(load, key) for load, *_ in todo) or 1.0 for key in ("state", "flops"))
    share = [load.state / state + load.flops / flops for load, *_ in todo]
    loads, weight = [Load(0.0, 0.0)] * ranks, [0.0] * ranks
    owners: dict[int, int] = {}
    bound = [i for i, (*_, may) in enumerate(todo) if may is not None and len(may) == 1]
    free = [i for i, (*_, may) in enumerate(todo) if may is None or len(may) > 1]
    heap: list[tuple[float, int]] = []
    for i in (*bound, *sorted(free, key=lambda i: (-share[i], i))):
        load, _, _, may = todo[i]
        if may is None:
            if not heap:
                heap = [(weight[rank], rank) for rank in range(ranks)]
                heapq.heapify(heap)
            while heap[0][0] != weight[heap[0][1]]:  # grown since it was put here
                rank = heapq.heappop(heap)[1]
                heapq.heappush(heap, (weight[rank], rank))
            owner = heap[0][1]
        else:
            owner = min(may, key=lambda rank: (weight[rank], rank))
        owners[i] = owner
        weight[owner] += share[i]
        loads[owner] = Load(loads[owner].state + load.state, loads[owner].flops + load.flops)
    return [Piece(name, box, owners[i]) for i, (_, name, box, _) in enumerate(todo)], loads
