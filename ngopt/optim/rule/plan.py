"""How each parameter is stepped, decided once from its place on the graph, its shape and the settings.

A matrix can have eigenbases of several forms: one for all that its rows read, taps of a convolution included, which
trains in the fewest steps; one for its columns and one for its taps; or several for blocks of neurons. The first costs
the square of what rows read in memory. `choose` gives the best forms to the matrices that need least for it, until the
state holds as many numbers per parameter as the settings allow. The form of a parameter never changes: it can be read
off its state.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ngopt.encoder.structure import Structure, structure
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock
from ngopt.graph.per_graph import per_graph
from ngopt.optim.rule.config import UpdateConfig

ELEMENTWISE_ROLES = ("embedding", "table", "bias", "scale", "buffer")
RELATIVE_ROLES = ("embedding", "table")
LARGEST_HEAD = 2**14  # outputs of a matrix up to which it has bases; tokens, in practice, of which a batch sees a part
AXES = ("row", "col", "tap")  # of a matrix view [group, row, col, tap], after the first axis


@dataclass(frozen=True)
class Side:
    """An axis of a matrix view along which gradients are rotated into an eigenbasis.

    Attributes:
        axis: 1 for rows, 2 for columns, 3 for taps.
        length: Entries of the axis.
        blocks: It is split into so many blocks of equal size, each with a basis of its own.
        size: Entries of each block; those behind the end of the axis are zero.
        ordered: Neurons are sorted into blocks by the size of their initial weights, since their given order means
            nothing. False: by position, where the graph fixes that, or where there is one block only.
    """

    axis: int
    length: int
    blocks: int
    size: int
    ordered: bool = False

    @property
    def name(self) -> str:
        """``"row"``, ``"col"`` or ``"tap"``."""
        return AXES[self.axis - 1]


@dataclass(frozen=True)
class ParamPlan:
    """How one parameter is stepped.

    Attributes:
        name: Its name.
        block: Where it lies on the graph; None if it does not.
        matrix_shape: ``[group, row, col, tap]`` as it is stepped: as in `ParamBlock`, or with taps among the columns.
        role: As in `ParamBlock`; ``"weight"`` or ``"vector"`` for a parameter on no graph.
        sides: The axes with an eigenbasis; none for parameters that are stepped entry by entry, as by Adam.
        is_matrix: Whether its step has the scale of a matrix; see `ngopt.optim.rule.scale`.
        taps: Of a convolution; one for all else.
        depth: How deep its network is, as in `ngopt.encoder.structure`; None for a parameter on no graph.
        flattened: Whether that network flattens a picture or a sequence.
        plain: Whether the matrix view is a mere reshape of the tensor.
        form: A number that is the same for plans with the same matrix shape and sides, which can be stepped as one.
        groups: Of the whole parameter; ``matrix_shape`` has fewer where it is stepped in parts, by several ranks.
    """

    name: str
    block: ParamBlock | None
    matrix_shape: tuple[int, int, int, int]
    role: str
    sides: tuple[Side, ...]
    is_matrix: bool
    taps: int
    depth: int | None
    flattened: bool
    plain: bool
    form: int
    groups: int

    @property
    def entries(self) -> int:
        """Of the whole parameter."""
        return self.groups * math.prod(self.matrix_shape[1:])

    @property
    def fan_in(self) -> int:
        """Entries that each row reads."""
        return max(1, self.matrix_shape[2] * self.matrix_shape[3])

    @property
    def padded(self) -> tuple[int, ...]:
        """The matrix shape with axes padded to whole blocks."""
        padded = list(self.matrix_shape)
        for side in self.sides:
            padded[side.axis] = side.blocks * side.size
        return tuple(padded)

    @property
    def floats(self) -> float:
        """Size of its state in float32 numbers: averages, bases, and factors, which are bfloat16."""
        bases = sum(side.blocks * side.size**2 for side in self.sides)
        return 2 * math.prod(self.padded) + 1.5 * self.matrix_shape[0] * bases

    def of_groups(self, start: int, stop: int) -> ParamPlan:
        """The plan of some groups of a stack of matrices, which are stepped without the others."""
        block = self.block.of_groups(start, stop)[0] if self.block is not None else None
        shape = (stop - start, *self.matrix_shape[1:])
        return dataclasses.replace(self, block=block, matrix_shape=shape, form=_form(shape, self.sides))

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a state is one of this plan."""
        shape = (self.matrix_shape[0],)
        if sum(key.endswith("_basis") for key in state) != len(self.sides):
            return False
        return not self.sides or (
            tuple(state["momentum"].shape) == self.padded
            and all(
                f"{side.name}_basis" in state
                and tuple(state[f"{side.name}_basis"].shape) == (*shape, side.blocks, side.size, side.size)
                and (f"{side.name}_order" in state) == side.ordered
                for side in self.sides
            )
        )

    def view(self, tensor: Tensor) -> Tensor:
        """A tensor shaped like the parameter as it is stepped: ``[group, row, col, tap]`` with sides, else as it is."""
        if not self.sides:
            return tensor
        if self.plain or self.block is None:
            return tensor.reshape(self.matrix_shape)
        return self.block.to_matrix(tensor).reshape(self.matrix_shape)

    def unview(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Inverse of `view`."""
        if not self.sides or self.plain or self.block is None:
            return tensor.reshape(shape)
        return self.block.from_matrix(tensor.reshape(self.block.matrix_shape))


_forms: dict[tuple, int] = {}


def _form(matrix_shape: tuple[int, int, int, int], sides: tuple[Side, ...]) -> int:
    return _forms.setdefault((matrix_shape, sides), len(_forms))


def forms_of_param(
    name: str,
    shape: tuple[int, ...],
    block: ParamBlock | None,
    config: UpdateConfig,
    known: Structure | None = None,
) -> tuple[ParamPlan, ...]:
    """The ways in which a parameter can be stepped, the best first.

    Matrices take the direction of SOAP (`ngopt.optim.rule.direction`), and so do embeddings of few tokens, and tables
    of few positions. Larger ones, of which a batch sees only a part, take that of Adam, as do output heads of very many
    tokens, vectors, and matrices with one row or column. What is stepped entry by entry is stepped where its shards
    are. A parameter on no graph is judged by its shape: the first axis is taken for the outputs.

    Args:
        name: Of the parameter.
        shape: Of the parameter.
        block: Where it lies on the graph; None if it does not.
        config: Settings of the rule.
        known: The structure of its graph.
    """
    fixed, depth, flattened = (False, False), None, False
    if block is not None and known is not None:
        fixed = (block.name in known.outputs, block.name in known.inputs)
        depth, flattened = known.depth.get(block.name), block.name in known.flattened
    if block is not None:
        matrix_shape, role = block.matrix_shape, block.role
        is_matrix = block.is_edge and role not in ELEMENTWISE_ROLES
    else:
        rows, *reads = shape or (1,)
        is_matrix, role = bool(reads), "weight" if reads else "vector"
        matrix_shape = (1, rows, reads[0], math.prod(reads[1:])) if reads else (1, rows, 1, 1)
    group, row, col, tap = matrix_shape
    ways: list[tuple[tuple[int, int, int, int], int]] = []  # matrix view, and the most entries of a whole side
    vectors = role in RELATIVE_ROLES and col * tap <= config.largest_joint
    has_bases = vectors or (is_matrix and not (fixed[0] and row > LARGEST_HEAD))
    if has_bases and min(row, col * tap) > 1:
        ways = [(matrix_shape, config.largest_side), (matrix_shape, config.small_side)]
        if tap > 1 and col * tap <= config.largest_joint:
            ways.insert(0, ((group, row, col * tap, 1), config.largest_side))
    forms = [(form, _sides(form, (*fixed, True), small, config.largest_side)) for form, small in ways]
    plain = block is None or block.perm == tuple(range(len(block.perm)))
    return tuple(
        ParamPlan(
            name=name,
            block=block,
            matrix_shape=form,
            role=role,
            sides=sides,
            is_matrix=is_matrix,
            taps=tap,
            depth=depth,
            flattened=flattened,
            plain=plain,
            form=_form(form, sides),
            groups=group,
        )
        for form, sides in forms or [(matrix_shape, ())]
    )


def _sides(
    matrix_shape: tuple[int, int, int, int], fixed: tuple[bool, ...], small: int, large: int
) -> tuple[Side, ...]:
    """Axes with a basis: those with more than one entry.

    Args:
        matrix_shape: ``[group, row, col, tap]``.
        fixed: Whether each axis after the first has an order that means something.
        small: Sides of up to so many entries are whole; larger ones are cut to what the matrix has on all other sides,
        large: and to this.
    """
    sizes, sides = matrix_shape[1:], []
    for k, size in enumerate(sizes):
        if size > 1:
            others = math.prod(sizes) // size
            blocks = -(-size // (size if size <= small else min(large, max(small, others))))
            sides.append(Side(k + 1, size, blocks, -(-size // blocks), blocks > 1 and not fixed[k]))
    return tuple(sides)


def choose(forms: Mapping[str, tuple[ParamPlan, ...]], config: UpdateConfig) -> dict[str, ParamPlan]:
    """One form for each of some parameters, so that the state of all of them has its share of memory at most."""
    chosen = {name: own[-1] for name, own in forms.items()}
    entries = sum(math.prod(plan.matrix_shape) for plan in chosen.values())
    left = max(config.state_floats * entries, config.small_state) - sum(plan.floats for plan in chosen.values())
    better = [(plan.floats - own[-1].floats, -k, name) for name, own in forms.items() for k, plan in enumerate(own)]
    for _, k, name in sorted(better):
        plan = forms[name][-k]
        extra = plan.floats - chosen[name].floats
        if extra <= max(0.0, left):
            chosen[name], left = plan, left - extra
    return chosen


Forms = dict[str, tuple[ParamPlan, ...]]


@per_graph
def _on_graph(graph: NeuralGraph, config: UpdateConfig) -> tuple[Forms, dict[str, ParamPlan]]:
    """Forms, and a choice of forms, of all blocks of a graph; made once and kept as long as the graph lives."""
    known = structure(graph)
    forms = {block.name: forms_of_param(block.name, block.shape, block, config, known) for block in graph.blocks}
    return forms, choose(forms, config)


@functools.lru_cache(maxsize=65536)
def _off_graph(name: str, shape: tuple[int, ...], config: UpdateConfig) -> tuple[ParamPlan, ...]:
    """Forms of a parameter on no graph."""
    return forms_of_param(name, shape, None, config)


def forms_of(
    graph: NeuralGraph | None, name: str, shape: tuple[int, ...], config: UpdateConfig
) -> tuple[ParamPlan, ...]:
    """The ways in which a parameter can be stepped, the best first."""
    on_graph = _on_graph(graph, config)[0] if graph is not None else {}
    return on_graph.get(name) or _off_graph(name, shape, config)


def plan_graph(graph: NeuralGraph, config: UpdateConfig) -> dict[str, ParamPlan]:
    """Plans of all blocks of a graph."""
    return _on_graph(graph, config)[1]


def plan_new(
    graph: NeuralGraph | None,
    shapes: Mapping[str, tuple[int, ...]],
    state: Mapping[str, Mapping[str, Tensor]],
    config: UpdateConfig,
) -> dict[str, ParamPlan]:
    """Plans of parameters of which some have a state already, whose form stays.

    Args:
        graph: Of the network, or None.
        shapes: Of the parameters.
        state: Of some of them.
        config: Settings of the rule.
    """
    forms = {name: forms_of(graph, name, shape, config) for name, shape in shapes.items()}
    for name, own in state.items():
        forms[name] = tuple(plan for plan in forms[name] if own and plan.fits(own)) or forms[name]
    return choose(forms, config)


def plan_all(
    graph: NeuralGraph | None, state: Mapping[str, Mapping[str, Tensor]], shapes: Mapping[str, tuple[int, ...]], config
) -> dict[str, ParamPlan]:
    """Plans of parameters with a state, read off it.

    Raises:
        ValueError: A state is of no form that its parameter can have.
    """
    plans = {}
    for name, shape in shapes.items():
        found = next((p for p in forms_of(graph, name, shape, config) if p.fits(state[name])), None)
        if found is None:
            raise ValueError(f"The state of {name} {tuple(shape)} is that of another parameter, or of another graph.")
        plans[name] = found
    return plans


def option(value: float | Mapping[str, float], name: str) -> float:
    """An option's value for one parameter."""
    return value[name] if isinstance(value, Mapping) else value
