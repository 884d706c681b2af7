"""The sharded partitions of an optimizer, made ready by all ranks together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from torch import Tensor

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.sharding import is_sharded
from ngopt.optim.attach.match import Partition, block_digests
from ngopt.optim.sharded.look import Look
from ngopt.optim.sharded.spread import Spread
from ngopt.optim.sharded.state import States, prepare


class Joint:
    """A partition over several ranks, with the state that this rank needs for it.

    Args:
        spread: Who has what.
        state: By parameter; written.

    Attributes:
        lost: Names of parameters whose averages are lost, and start anew.
    """

    def __init__(self, spread: Spread, state: States) -> None:
        self.spread = spread
        self._initial, self.lost = prepare(spread, state)

    def look(self, grads: Mapping[str, Tensor]) -> Look:
        """What ranks must know of each other's gradients before anything is changed. All ranks call it."""
        return Look(self.spread, grads, self._initial)


def has_shards(partition: Partition) -> bool:
    """Whether a partition has sharded parameters that are trained."""
    return any(is_sharded(param) for _, param in partition.params.values())


def spread_out(partitions: Iterable[Partition], graph: NeuralGraph | None) -> list[Spread]:
    """The sharded ones of an optimizer's partitions. All ranks call it."""
    digest = ""
    if graph is not None:
        digest = hashlib.sha256(json.dumps(block_digests(graph), sort_keys=True).encode()).hexdigest()
    return [Spread(partition, digest) for partition in partitions if has_shards(partition)]
