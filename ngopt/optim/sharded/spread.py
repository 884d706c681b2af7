"""A partition of a step whose parameters are spread over ranks: what is here, who steps what, and how it gets there."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ngopt.graph.sharding import is_sharded
from ngopt.optim.attach.match import Partition
from ngopt.optim.rule.plan import plan_new
from ngopt.optim.sharded import flows
from ngopt.optim.sharded.group import group_of, meet
from ngopt.optim.sharded.layout import Box, OwnedBox, assign
from ngopt.optim.sharded.shards import box_of, comm_device
from ngopt.optim.sharded.transport import Bucket, Transport, joined


class Spread:
    """One device's partition of a network over the ranks that hold shards of it. All ranks of a mesh make it together.

    Args:
        partition: Parameters, graph and rule. Parameters that are not sharded are stepped by every rank for itself.
        graph: Digest of the graph, to be compared between ranks.

    Attributes:
        params: Sharded parameters that are trained, by name.
        plain: Those that are not sharded.
        frozen: Sharded ones that are only read.
        agreed: Whether all ranks captured the same graph.
        held: What each rank holds.
        plans: Of all that is trained, made for the whole shapes; the same on all ranks.
        pieces: What each rank steps, by name, in the order in which pieces of a stack lie in it.
        in_parts: Names of the parameters of which a rank may step a part only.
        loads: What that costs each rank.
        mine: What this rank steps.
        boxes: What this rank holds.
        readers: The rank that reads each parameter on the graph for the encoder, where no rank owns all of it.

    Raises:
        RuntimeError: Ranks do not have the same parameters.
        TypeError: Shards of a parameter are not boxes, or the rule's encoder cannot be shared.
    """

    def __init__(self, partition: Partition, graph: str) -> None:
        self.partition, self.config = partition, partition.rule.config
        self.params: dict[str, Any] = {name: p for name, (_, p) in partition.params.items() if is_sharded(p)}
        self.plain = {name: p for name, (_, p) in partition.params.items() if name not in self.params}
        self.frozen: dict[str, Any] = {
            name: p for name, p in partition.readable.items() if is_sharded(p) and name not in self.params
        }
        if not partition.rule.neutral and self.config.messages and self.config.encoder != "neuron_mp":
            raise TypeError(
                f"The rule's encoder, {self.config.encoder}, embeds every weight, and so cannot be used for sharded "
                "parameters. Use a rule with encoder='neuron_mp'."
            )
        everything = {**self.params, **self.frozen}
        group = group_of(list(everything.values()))
        self.transport = Transport(group, comm_device(list(everything.values()), dist.get_backend_config(group)))
        self.rank, self.ranks = self.transport.rank, self.transport.ranks
        self.held, self.agreed = meet(everything, self.plain, graph, group)
        shapes = {name: tuple(param.shape) for name, (_, param) in partition.params.items()}
        self.plans = plan_new(partition.graph, shapes, {}, self.config)
        trained = {name: self.held[name] for name in self.params}
        pieces, self.loads = assign(trained, self.plans, self.ranks, self.config.bases_every)
        self.pieces: dict[str, list[OwnedBox]] = {name: [] for name in everything}
        for piece in pieces:
            self.pieces[piece.name].append(piece)
        self.mine = {piece.name: piece for piece in pieces if piece.owner == self.rank}
        self.in_parts = frozenset(
            name for name in self.params if not self.plans[name].sides or len(self.pieces[name]) > 1
        )
        self.boxes = {name: box_of(param) for name, param in everything.items()}
        self.dtypes = {name: param.dtype for name, param in everything.items()}
        self.readers = self._choose_readers()
        self._route = functools.lru_cache(maxsize=64)(self._make_route)

    def _choose_readers(self) -> dict[str, int]:
        """Evenly among those that step or hold a part."""
        readers, load = {}, [0] * self.ranks
        blocks = [block.name for block in self.partition.graph.blocks] if self.partition.graph is not None else []
        for name in sorted(self.held.keys() & blocks, key=lambda name: (-max(self.held[name].shape, default=0), name)):
            if name in self.frozen:
                may = [rank for ranks in self.held[name].boxes.values() for rank in ranks]
            else:
                may = [piece.owner for piece in self.pieces[name]] if name in self.in_parts else []
            if may:
                readers[name] = min(may, key=lambda rank: (load[rank], rank))
                load[readers[name]] += max(self.held[name].shape, default=0)
        return readers

    def speaks_for(self, name: str) -> bool:
        """Whether this rank is the one that speaks for a sharded parameter that is trained: it steps its first part."""
        return bool(self.pieces[name]) and self.pieces[name][0].owner == self.rank

    def owners(self, name: str) -> list[int]:
        """Global ranks that step the pieces of a parameter."""
        return [dist.get_global_rank(self.transport.group, piece.owner) for piece in self.pieces[name]]

    # ---- messages

    def _make_route(self, kind: str, names: tuple[str, ...]) -> list[Bucket]:
        if kind == "readers":
            parts = ((self.held[name], name, self.pieces[name], self.readers[name]) for name in names)
            return self.transport.route(flow for own in parts for flow in flows.to_reader(*own))
        make = flows.to_owners if kind == "owners" else flows.to_holders
        return self.transport.route(make(self.held, [piece for name in names for piece in self.pieces[name]]))

    def to_owners(self, names: Sequence[str], tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """From what each rank holds of some parameters, the pieces that this rank steps."""
        have = {name: (self.boxes[name], tensors[name]) for name in names}
        for arrived in self.transport.move(self._route("owners", tuple(names)), self.dtypes, have):
            for name, boxes in arrived.items():
                yield name, joined(boxes, self.mine[name].box).to(self.partition.device)

    def to_holders(self, names: Sequence[str], tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """From the pieces that each rank steps, what this rank holds of the parameters."""
        have = {name: (self.mine[name].box, tensor) for name, tensor in tensors.items()}
        for arrived in self.transport.move(self._route("holders", tuple(names)), self.dtypes, have):
            for name, boxes in arrived.items():
                yield name, joined(boxes, self.boxes[name]).to(self.partition.device)

    def to_readers(self, names: Sequence[str], tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """From what each rank steps or holds, whole parameters that this rank reads; in the parameters' number type."""
        boxes = self.boxes | {name: piece.box for name, piece in self.mine.items()}
        have = {name: (boxes[name], tensor) for name, tensor in tensors.items()}
        for arrived in self.transport.move(self._route("readers", tuple(names)), self.dtypes, have):
            for name, boxes in arrived.items():
                yield name, joined(boxes, Box.of(self.held[name].shape)).to(self.partition.device)

    def total(self, x: Tensor, op: str = "SUM") -> Tensor:
        """Sum, or ``op``, over all ranks, the same bits on all of them."""
        moved = x.to(self.transport.device, copy=True)
        dist.all_reduce(moved, getattr(dist.ReduceOp, op), group=self.transport.group)
        return moved.to(x.device)

    def by_name(
        self,
        values: Mapping[str, Tensor | float],
        names: Iterable[str],
        op: str = "SUM",
    ) -> Tensor:  # float64 [name]
        """Sum, or ``op``, over all ranks of one number for each name; zero where a rank gives none."""
        row = [values.get(name, 0.0) for name in names]
        given = [x.detach().double().reshape(()) for x in row if isinstance(x, Tensor)]
        place = [i for i, x in enumerate(row) if isinstance(x, Tensor)]
        numbers = torch.tensor([0.0 if isinstance(x, Tensor) else x for x in row], dtype=torch.float64)
        numbers = numbers.to(self.partition.device)
        if given:
            numbers[place] = torch.stack([x.to(numbers.device) for x in given])
        return self.total(numbers, op)

    def squares(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums of squares of what is here, in float64; of replicas, the first one counts."""
        mine = [
            name for name, x in tensors.items() if x.numel() and self.held[name].boxes[self.boxes[name]][0] == self.rank
        ]
        norms = torch._foreach_norm([tensors[name] for name in mine], 2, dtype=torch.float64) if mine else []  # pyright: ignore[reportPrivateImportUsage]
        return {name: norm.square() for name, norm in zip(mine, norms, strict=True)}
