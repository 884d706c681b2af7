"""Symmetries of a traced module: sibling sets, and generators that act on state dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ngopt.errors import GraphMismatchError
from ngopt.graph.labelling import Labelling
from ngopt.graph.structure import Structure
from ngopt.graph.swaps import Swap


@dataclass(frozen=True)
class Symmetry:
    """``copies`` sets of ``degree`` interchangeable neurons (or blocks) each: the group ``S_degree ^ copies``."""

    name: str
    kind: str  # "neuron" or "block"
    degree: int
    copies: int


class Generator:
    """One permutation of neurons that leaves the module's function unchanged."""

    def __init__(self, symmetries: Symmetries, name: str, moves: Swap) -> None:
        self._symmetries = symmetries
        self.name = name
        self.moves = moves

    def __repr__(self) -> str:
        return f"Generator({self.name!r}, moves {len(self.moves)} neurons)"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters and buffers that change."""
        return tuple(self._symmetries.index_maps(self.moves))

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Permute a state dict, buffers and tied names included; the original is left alone.

        Works on anything keyed like it with the same shapes, for example gradients or momenta. Names that the graph
        does not know (constants) are passed through.

        Raises:
            GraphMismatchError: a tensor has another shape than the one traced.
        """
        permuted = dict(state)
        self.apply_(permuted)
        return permuted

    def apply_(self, state: dict[str, Tensor]) -> None:
        """As `apply`, in the dict itself, which takes no memory for a second state. The tensors are left alone."""
        self._symmetries.permute_(state, self.moves)


class Symmetries:
    """The permutation symmetries of one module. Iterates over `Symmetry`."""

    def __init__(self, labelling: Labelling, structure: Structure, names: Mapping[int, str] | None = None) -> None:
        self.labelling = labelling
        self.structure = structure
        self.names = dict(names or {})  # class -> name of its node group

    def __iter__(self) -> Iterator[Symmetry]:
        counts: dict[tuple[int, int], list] = {}
        for siblings in self.structure.sibling_sets:
            counts.setdefault((siblings.colour, len(siblings.members)), []).append(siblings)
        for (_, degree), sets in counts.items():
            kind = "block" if sets[0].is_block else "neuron"
            yield Symmetry(self.names.get(sets[0].members[0], "?"), kind, degree, len(sets))

    def generators(self) -> Iterator[Generator]:
        """Swaps of neighbours that generate the whole group."""
        for siblings in self.structure.sibling_sets:
            name = self.names.get(siblings.members[0], "?")
            for i, moves in enumerate(siblings.swaps):
                yield Generator(self, f"{name}[{i} {i + 1}]", moves)

    def random(self, seed: int = 0, sets: list[int] | None = None) -> Generator:
        """A random element of the group, or of the part that acts on the listed sibling sets.

        Every swap of neighbours takes part with probability one half, independently: two sets that may only move
        together do not do so by chance.
        """
        rng = np.random.default_rng(seed)
        moves: Swap = {}
        for i, siblings in enumerate(self.structure.sibling_sets):
            chosen = rng.integers(2, size=len(siblings.swaps))
            if sets is None or i in sets:
                for swap in (s for s, takes_part in zip(siblings.swaps, chosen, strict=True) if takes_part):
                    moves.update({c: moves.get(d, d) for c, d in swap.items()})
        return Generator(self, "random", {c: d for c, d in moves.items() if c != d})

    # -- acting on tensors ---------------------------------------------------------------------------------------------

    def index_maps(self, moves: Swap) -> dict[str, dict[int, Tensor]]:
        """For every tensor that moves: axis -> where each of the ids of that axis comes from."""
        table = self.structure.table
        moved_ids = np.flatnonzero(np.isin(self.structure.class_of, np.fromiter(moves, np.int64, len(moves))))
        starts = np.array([leg.start for leg in table.legs])
        stops = np.array([leg.stop for leg in table.legs])
        which = np.searchsorted(starts, moved_ids, side="right") - 1
        which = np.unique(which[(which >= 0) & (moved_ids < stops[which])])
        found: dict[str, dict[int, Tensor]] = {}
        for leg in (table.legs[i] for i in which):
            found.setdefault(leg.tensor, {})[leg.axis] = self._source(leg.start, leg.stop, moves)
        return found

    def _source(self, start: int, stop: int, moves: Swap) -> Tensor:
        """For one leg: which of its ids (counted from ``start``) comes to stand at each id."""
        s = self.structure
        classes = s.class_of[start:stop]
        target = np.array([moves.get(c, c) for c in classes.tolist()])
        here = np.lexsort((s.key[start:stop], classes))
        there = np.lexsort((s.key[start:stop], target))
        source = np.empty(stop - start, np.int64)
        source[here] = there
        return torch.from_numpy(source)

    def permute_(self, state: dict[str, Tensor], moves: Swap) -> None:
        """See `Generator.apply_`."""
        for name, axes in self.index_maps(moves).items():
            for alias in (name, *self.labelling.aliases.get(name, ())):
                if alias in state:
                    state[alias] = self._permute_tensor(alias, state[alias], name, axes)

    def _permute_tensor(self, alias: str, tensor: Tensor, name: str, axes: dict[int, Tensor]) -> Tensor:
        shape = self.labelling.shapes[name]
        if tuple(tensor.shape) != shape:
            raise GraphMismatchError(
                f"'{alias}' has shape {tuple(tensor.shape)}, but the graph was traced with {shape}: trace again"
            )
        plain = {a: m for a, m in axes.items() if (name, a) not in self.labelling.conditionals}
        for axis, source in plain.items():
            tensor = tensor.index_select(axis, source.to(tensor.device))
        for axis in set(axes) - set(plain):
            tensor = self._permute_conditional(tensor, name, axis, axes[axis], plain)
        return tensor if tensor.untyped_storage().data_ptr() else tensor.clone()

    def _permute_conditional(
        self, tensor: Tensor, name: str, axis: int, source: Tensor, plain: Mapping[int, Tensor]
    ) -> Tensor:
        """Ids of ``axis`` depend on the group of axis ``given``, which has been permuted already."""
        wish = self.labelling.conditionals[name, axis]
        size, given = tensor.shape[axis], tensor.shape[wish.given]
        # `source` says where each (group, index) comes from, whole groups included; only the index is still to do
        group = torch.arange(given) // (given // wish.groups)
        index = source.reshape(wish.groups, size)[group] % size  # [given, size]
        shape = [1] * tensor.ndim
        shape[wish.given], shape[axis] = given, size
        index = (index if wish.given < axis else index.T).reshape(shape)
        return tensor.gather(axis, index.expand(tensor.shape).to(tensor.device))
