"""What goes from which rank to which: shards to the owners of pieces, and what these computed back to the holders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ngopt.optim.sharded.layout import Box, OwnedBox, Placement

ALIGNED = 16  # bytes at which every part of a message begins, so that any number type can be read in place


@dataclass(frozen=True)
class Flow:
    """A box of a parameter on its way between two ranks.

    Attributes:
        name: Of the parameter.
        box: Which part of it.
        source: The rank that has it.
        target: The rank that gets it.
        itemsize: Bytes of an entry.
    """

    name: str
    box: Box
    source: int
    target: int
    itemsize: int

    @property
    def stays(self) -> bool:
        """Whether it is where it goes to."""
        return self.source == self.target

    @property
    def bytes(self) -> int:
        """Length of the message, with what aligns the next one."""
        return -(-self.box.numel * self.itemsize // ALIGNED) * ALIGNED


def to_owners(held: Mapping[str, Placement], pieces: Sequence[OwnedBox]) -> Iterator[Flow]:
    """Every box to the owner of the piece that it is in, from one rank that holds it."""
    for piece in pieces:
        own = held[piece.name]
        for part, box in own.parts(piece.box):
            yield Flow(piece.name, part, own.source(box, piece.owner), piece.owner, own.itemsize)


def to_holders(held: Mapping[str, Placement], pieces: Sequence[OwnedBox]) -> Iterator[Flow]:
    """Every box from the owner of its piece to all ranks that hold it."""
    for piece in pieces:
        own = held[piece.name]
        for part, box in own.parts(piece.box):
            for holder in own.boxes[box]:
                yield Flow(piece.name, part, piece.owner, holder, own.itemsize)


def to_reader(own: Placement, name: str, pieces: Sequence[OwnedBox], reader: int) -> Iterator[Flow]:
    """All of a parameter to one rank: from the owners of its pieces; if it is not stepped, from those that hold it."""
    for piece in pieces:
        yield Flow(name, piece.box, piece.owner, reader, own.itemsize)
    for box in own.boxes if not pieces else ():
        yield Flow(name, box, own.source(box, reader), reader, own.itemsize)


def wire_bytes(flows: Sequence[Flow], ranks: int) -> tuple[list[int], list[int]]:
    """Bytes that each rank sends to others, and that it gets from them."""
    sent, got = [0] * ranks, [0] * ranks
    for flow in flows:
        if not flow.stays:
            sent[flow.source] += flow.bytes
            got[flow.target] += flow.bytes
    return sent, got
