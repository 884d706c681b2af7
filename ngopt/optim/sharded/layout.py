"""Which rank holds which part of each parameter, and which rank steps it. Pure: shapes in, owners out.

A parameter that is stepped entry by entry is stepped where its shards are. A matrix is stepped whole, by one owner,
since a rotation needs all of it; of a stack of matrices, as those of experts, several ranks can own some each. Whatever
the mesh, all that counts is which box of a parameter each rank holds: ranks that hold the same one (replicas) get the
same from the one of them, or the owner, that computes it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ngopt.optim.rule.plan import ParamPlan

ENTRYWISE = 20.0  # operations of a step for each entry, besides rotations
TURN = 12.0  # operations of a turn, times the third power of a side: four products and a QR decomposition
SMALL = 0.01  # stacks of matrices of at most so much of what a rank has are stepped by one rank
LITTLE = 0.1  # of what a rank has: so much more may one have that holds all of a piece, to step it where it lies


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

    def common(self, other: Box) -> Box:
        """What two boxes of a tensor have in common."""
        start = tuple(map(max, self.start, other.start))
        stops = (tuple(map(sum, zip(box.start, box.size, strict=True))) for box in (self, other))
        return Box(start, tuple(max(0, min(ends) - begin) for begin, *ends in zip(start, *stops, strict=True)))

    @staticmethod
    def of(shape: Sequence[int]) -> Box:
        """All of a tensor."""
        return Box((0,) * len(shape), tuple(shape))


@dataclass(frozen=True)
class Placement:
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
    def by_ranks(shape: Sequence[int], itemsize: int, boxes: Sequence[Box | None]) -> Placement:
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
        return Placement(tuple(shape), itemsize, holders)

    def parts(self, box: Box) -> Iterator[tuple[Box, Box]]:
        """What of a box is held together, and the box that is held of which it is a part."""
        if box in self.boxes:
            yield box, box
        else:
            yield from ((part, held) for held in self.boxes if (part := box.common(held)).numel)

    def all_of(self, box: Box) -> tuple[int, ...]:
        """The ranks that hold all of a box."""
        return next((ranks for held, ranks in self.boxes.items() if box.common(held) == box), ())

    def source(self, box: Box, owner: int) -> int:
        """Which of its holders sends a box to an owner: itself, or the one beside it among the replicas."""
        holders = self.boxes[box]
        if owner in holders:
            return owner
        own = next((ranks for ranks in self.boxes.values() if owner in ranks), ())
        return holders[own.index(owner) % len(holders)] if own else holders[owner % len(holders)]


@dataclass(frozen=True)
class OwnedBox:
    """What one rank steps: some matrices of a stack, or a box of a parameter that is stepped entry by entry.

    No rank has two pieces of one parameter.

    Attributes:
        name: Of the parameter.
        box: Which part of it.
        owner: The rank.
        plan: How the piece is stepped.
    """

    name: str
    box: Box
    owner: int
    plan: ParamPlan


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
    """What a piece costs later in a run, in float32; ``numel`` is its entries, which count where there are no sides."""
    if not plan.sides:
        return Load(8.0 * numel, ENTRYWISE * numel)
    entries, flops = math.prod(plan.padded), ENTRYWISE * math.prod(plan.padded)
    for side in plan.sides:
        count = plan.matrix_shape[0] * side.blocks
        flops += 3 * 2.0 * entries * side.size  # into the basis, out of it, and its factor
        turn = 2 * 2.0 * entries * side.size + TURN * count * side.size**3  # gradient and momentum follow
        flops += turn / bases_every
    return Load(4.0 * plan.floats, flops)


def divided(plan: ParamPlan, shape: tuple[int, ...], most: int) -> list[tuple[Box, ParamPlan]]:
    """A stack of matrices in at most ``most`` pieces of equally many, but for the last one."""
    groups = plan.matrix_shape[0]
    each = -(-groups // min(groups, most))
    if plan.block is None or each == groups:
        return [(Box.of(shape), plan)]
    found = []
    for start in range(0, groups, each):
        stop = min(start + each, groups)
        part, axis = plan.block.of_groups(start, stop)
        begin = [0] * len(shape)
        begin[axis] = start * shape[axis] // groups
        found.append((Box(tuple(begin), part.shape), plan.of_groups(start, stop)))
    return found


def assign(
    held: Mapping[str, Placement], plans: Mapping[str, ParamPlan], ranks: int, bases_every: int
) -> tuple[list[OwnedBox], list[Load]]:
    """Pieces with owners such that no rank has much more to hold and to do than others, and what each rank has.

    The largest piece first, to the rank that has the least, of those that may have it (Graham 1969, "Bounds on
    multiprocessing timing anomalies": at most a third above the best possible). A rank that holds all of a piece, as
    where experts are sharded one by one, is preferred if it has little more.
    """
    whole = [load_of(plans[name], math.prod(own.shape), bases_every) for name, own in held.items()]
    state, flops = (math.fsum(getattr(load, key) for load in whole) / ranks or 1.0 for key in ("state", "flops"))

    def weigh(load: Load) -> float:
        return (load.state / state + load.flops / flops) / 2  # of what a rank has on average

    todo: list[tuple[str, Box, ParamPlan, Load, tuple[int, ...] | None]] = []  # the last: who may own it; None: all
    for (name, own), load in zip(held.items(), whole, strict=True):
        plan = plans[name]
        pieces = divided(plan, own.shape, ranks if weigh(load) > SMALL else 1) if plan.sides else ()
        pieces = [(*piece, None) for piece in pieces] or [(box, plan, holders) for box, holders in own.boxes.items()]
        todo += [(name, box, part, load_of(part, box.numel, bases_every), may) for box, part, may in pieces]
    loads, weight = [Load(0.0, 0.0)] * ranks, [0.0] * ranks
    owners: dict[int, int] = {}
    owning: dict[str, set[int]] = {name: set() for name in held}
    share = [weigh(load) for *_, load, _ in todo]
    bound = [i for i, (*_, may) in enumerate(todo) if may is not None and len(may) == 1]
    free = [i for i, (*_, may) in enumerate(todo) if may is None or len(may) > 1]
    heap: list[tuple[float, int]] = []
    for i in (*bound, *sorted(free, key=lambda i: (-share[i], i))):
        name, box, _, load, may = todo[i]
        if may is None:
            if not heap:
                heap = [(weight[rank], rank) for rank in range(ranks)]
                heapq.heapify(heap)
            owner = _lightest(heap, weight, owning[name])
            near = [rank for rank in held[name].all_of(box) if rank not in owning[name]]
            if near and weight[best := min(near, key=lambda rank: weight[rank])] <= weight[owner] + LITTLE:
                owner = best
        else:
            owner = min(may, key=lambda rank: (weight[rank], rank))
        owners[i] = owner
        owning[name].add(owner)
        weight[owner] += share[i]
        loads[owner] = Load(loads[owner].state + load.state, loads[owner].flops + load.flops)
    return [OwnedBox(name, box, owners[i], plan) for i, (name, box, plan, *_) in enumerate(todo)], loads


def _lightest(heap: list[tuple[float, int]], weight: Sequence[float], without: Collection[int]) -> int:
    """The rank that has the least, but for some. The heap may hold older weights, which were less."""
    aside = []
    while (own := weight[rank := heap[0][1]]) != heap[0][0] or rank in without:
        heapq.heappop(heap)
        if rank in without:
            aside.append((own, rank))
        else:
            heapq.heappush(heap, (own, rank))
    for entry in aside:
        heapq.heappush(heap, entry)
    return rank
