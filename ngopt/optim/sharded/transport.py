"""Moves tensors along flows, all of a bucket in one all-to-all of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ngopt.optim.sharded.flows import Flow
from ngopt.optim.sharded.layout import Box

BUCKET = 2**26  # bytes that a rank sends or gets at once, about: what a step holds beside gradients and state
Arrived = dict[str, dict[Box, Tensor]]  # by name and box


@dataclass(frozen=True)
class Bucket:
    """What one rank has to do with the flows that are moved at once.

    Attributes:
        here: Those that stay on this rank.
        out: Those from here, by the rank that gets them.
        into: Those to here, by the rank that sends them.
        quiet: Whether nothing goes from any rank to another.
    """

    here: list[Flow]
    out: list[list[Flow]]
    into: list[list[Flow]]
    quiet: bool


class Transport:
    """Moves boxes between the ranks of a group.

    Args:
        group: The process group.
        device: Where its messages lie.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self.group, self.device = group, device
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        self.sent_bytes = self.got_bytes = 0  # to and from other ranks, since the start

    def route(self, flows: Iterable[Flow]) -> list[Bucket]:
        """What this rank has to do, bucket by bucket; the flows of one parameter are together.

        Args:
            flows: Of all ranks, in the order that all agree on.
        """
        return [self._own(bucket) for bucket in _buckets(flows, self.ranks)]

    def _own(self, flows: Sequence[Flow]) -> Bucket:
        out, into = ([[] for _ in range(self.ranks)] for _ in range(2))
        bucket = Bucket([], out, into, all(flow.stays for flow in flows))
        for flow in flows:
            if flow.stays:
                if flow.source == self.rank:
                    bucket.here.append(flow)
            elif flow.source == self.rank:
                bucket.out[flow.target].append(flow)
            elif flow.target == self.rank:
                bucket.into[flow.source].append(flow)
        return bucket

    def move(
        self,
        route: Iterable[Bucket],
        dtypes: Mapping[str, torch.dtype],
        tensors: Mapping[str, tuple[Box, Tensor]],  # what this rank has: which part, and its values
    ) -> Iterator[Arrived]:
        """What arrives at this rank, bucket by bucket. All ranks call it, with the same flows."""
        for bucket in route:
            arrived: Arrived = {}
            for flow in bucket.here:
                arrived.setdefault(flow.name, {})[flow.box] = _part(*tensors[flow.name], flow.box)
            if not bucket.quiet:
                self._exchange(bucket, dtypes, tensors, arrived)
            yield arrived

    def _exchange(
        self,
        bucket: Bucket,
        dtypes: Mapping[str, torch.dtype],
        tensors: Mapping[str, tuple[Box, Tensor]],
        arrived: Arrived,
    ) -> None:
        counts = [[sum(flow.bytes for flow in own) for own in side] for side in (bucket.out, bucket.into)]
        sent, got = (torch.empty(sum(own), dtype=torch.uint8, device=self.device) for own in counts)
        for flow, place in _places(bucket.out, sent, dtypes):
            place.copy_(_part(*tensors[flow.name], flow.box))
        dist.all_to_all_single(got, sent, counts[1], counts[0], group=self.group)
        self.sent_bytes += sum(counts[0])
        self.got_bytes += sum(counts[1])
        for flow, place in _places(bucket.into, got, dtypes):
            arrived.setdefault(flow.name, {})[flow.box] = place


def _part(have: Box, tensor: Tensor, box: Box) -> Tensor:
    """A box of what a rank has."""
    if have == box:
        return tensor
    starts = (start - own for start, own in zip(box.start, have.start, strict=True))
    return tensor[tuple(slice(start, start + size) for start, size in zip(starts, box.size, strict=True))]


def _places(
    by_rank: Sequence[Sequence[Flow]], buffer: Tensor, dtypes: Mapping[str, torch.dtype]
) -> Iterator[tuple[Flow, Tensor]]:
    """Where in a buffer each flow lies."""
    at = 0
    for flow in (flow for own in by_rank for flow in own):
        entries = buffer[at : at + flow.box.numel * flow.itemsize].view(dtypes[flow.name])
        yield flow, entries.view(flow.box.size)
        at += flow.bytes


def _buckets(flows: Iterable[Flow], ranks: int) -> Iterator[list[Flow]]:
    """As many flows at a time as keep every rank below `BUCKET`."""
    by_name: dict[str, list[Flow]] = {}
    for flow in flows:
        by_name.setdefault(flow.name, []).append(flow)
    bucket: list[Flow] = []
    loads = [0] * ranks
    for own in by_name.values():
        added: dict[int, int] = {}
        for flow in own:
            if not flow.stays:
                added[flow.source] = added.get(flow.source, 0) + flow.bytes
                added[flow.target] = added.get(flow.target, 0) + flow.bytes
        if bucket and any(loads[rank] + more > BUCKET for rank, more in added.items()):
            yield bucket
            bucket, loads = [], [0] * ranks
        bucket += own
        for rank, more in added.items():
            loads[rank] += more
    if bucket:
        yield bucket


def joined(boxes: Mapping[Box, Tensor], whole: Box) -> Tensor:
    """A box from all of its parts."""
    if len(boxes) == 1:
        return next(iter(boxes.values())).reshape(whole.size)
    found = next(iter(boxes.values())).new_empty(whole.size)
    for box, values in boxes.items():
        _part(whole, found, box).copy_(values)
    return found
