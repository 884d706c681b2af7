"""How each parameter is stepped, decided once from its place on the graph, its shape and the settings."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ngopt.encoder.structure import structure
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock
from ngopt.optim.rule.config import UpdateConfig

ELEMENTWISE_ROLES = ("embedding", "table", "bias", "scale", "buffer")
RELATIVE_ROLES = ("embedding", "table")
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
        matrix_shape: ``[group, row, col, tap]`` as in `ParamBlock`.
        role: As in `ParamBlock`; ``"weight"`` or ``"vector"`` for a parameter on no graph.
        sides: The axes with an eigenbasis; none for parameters that are stepped entry by entry, as by Adam.
        is_matrix: Whether its step has the scale of a matrix, ``1 / sqrt(fan_in)``.
        plain: Whether the matrix view is a mere reshape of the tensor.
        form: A number that is the same for plans with the same matrix shape and sides, which can be stepped as one.
    """

    name: str
    block: ParamBlock | None
    matrix_shape: tuple[int, int, int, int]
    role: str
    sides: tuple[Side, ...]
    is_matrix: bool
    plain: bool
    form: int

    @property
    def fan_in(self) -> int:
        """Entries that each row reads."""
        return max(1, self.matrix_shape[2] * self.matrix_shape[3])

    def scale(self, config: UpdateConfig, initial_rms: Tensor | float) -> Tensor | float:
        """Factor on its step.

        With entries of root mean square one, a step of ``1 / sqrt(fan_in)`` has the spectral norm
        ``sqrt(max(1, row / fan_in))``, at which features change by the same share whatever the width (Yang, Simon &
        Bernstein 2023, "A spectral condition for feature learning", arXiv:2310.17813). Embeddings and tables step
        relative to the size that they begin with.
        """
        if self.is_matrix:
            return 1.0 / math.sqrt(self.fan_in)
        if self.role not in RELATIVE_ROLES:
            return config.vector_scale
        least, most = config.vector_scale, max(1.0, config.vector_scale)
        return initial_rms.clamp(least, most) if isinstance(initial_rms, Tensor) else min(most, max(least, initial_rms))

    def view(self, tensor: Tensor) -> Tensor:
        """A tensor shaped like the parameter as it is stepped: ``[group, row, col, tap]`` with sides, else as it is."""
        if not self.sides:
            return tensor
        if self.plain or self.block is None:
            return tensor.reshape(self.matrix_shape)
        return self.block.to_matrix(tensor)

    def unview(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Inverse of `view`."""
        if not self.sides or self.plain or self.block is None:
            return tensor.reshape(shape)
        return self.block.from_matrix(tensor)


_forms: dict[tuple, int] = {}


def plan_param(
    name: str,
    shape: tuple[int, ...],
    block: ParamBlock | None,
    config: UpdateConfig,
    fixed: tuple[bool, bool] = (False, False),
) -> ParamPlan:
    """Decide how a parameter is stepped.

    Matrices take the direction of SOAP (`ngopt.optim.rule.direction`). Vectors, embeddings, tables, and matrices with
    one row or column take that of Adam. A parameter on no graph is judged by its shape: the first axis is taken for
    the outputs.

    Args:
        name: Of the parameter.
        shape: Of the parameter.
        block: Where it lies on the graph; None if it does not.
        config: Settings of the rule.
        fixed: Whether rows, and whether columns, are neurons with an identity of their own.
    """
    if block is not None:
        matrix_shape, role = block.matrix_shape, block.role
        is_matrix = block.is_edge and role not in ELEMENTWISE_ROLES
    else:
        rows, *reads = shape or (1,)
        is_matrix, role = bool(reads), "weight" if reads else "vector"
        matrix_shape = (1, rows, reads[0], math.prod(reads[1:])) if reads else (1, rows, 1, 1)
    sides = _sides(matrix_shape, (*fixed, True), config) if is_matrix else ()
    return ParamPlan(
        name=name,
        block=block,
        matrix_shape=matrix_shape,
        role=role,
        sides=sides,
        is_matrix=is_matrix,
        plain=block is None or block.perm == tuple(range(len(block.perm))),
        form=_forms.setdefault((matrix_shape, sides), len(_forms)),
    )


def _sides(matrix_shape: tuple[int, int, int, int], fixed: tuple[bool, ...], config: UpdateConfig) -> tuple[Side, ...]:
    """Axes with a basis: those with more than one entry. A matrix with one row, or that reads one number, has none."""
    _, row, col, tap = matrix_shape
    if min(row, col * tap) < 2:
        return ()
    sizes, sides = (row, col, tap), []
    for k, size in enumerate(sizes):
        if size > 1:
            others = math.prod(sizes) // size
            most = min(config.largest_side, max(config.small_side, others))
            blocks = -(-size // most)
            sides.append(Side(k + 1, size, blocks, -(-size // blocks), blocks > 1 and not fixed[k]))
    return tuple(sides)


_cache: dict[tuple[int, UpdateConfig], dict[str, ParamPlan]] = {}


def plan_graph(graph: NeuralGraph | None, config: UpdateConfig) -> dict[str, ParamPlan]:
    """Plans of all blocks of a graph; made once and kept as long as the graph lives."""
    if graph is None:
        return {}
    key = (id(graph), config)
    if key not in _cache:
        known = structure(graph)
        _cache[key] = {
            b.name: plan_param(b.name, b.shape, b, config, (b.name in known.outputs, b.name in known.inputs))
            for b in graph.blocks
        }
        weakref.finalize(graph, _cache.pop, key, None)
    return _cache[key]


@functools.lru_cache(maxsize=65536)
def plan_off_graph(name: str, shape: tuple[int, ...], config: UpdateConfig) -> ParamPlan:
    """Plan of a parameter on no graph."""
    return plan_param(name, shape, None, config)


def plan_of(graph: NeuralGraph | None, name: str, shape: tuple[int, ...], config: UpdateConfig) -> ParamPlan:
    """Plan of one parameter."""
    return plan_graph(graph, config).get(name) or plan_off_graph(name, shape, config)


def plan_all(graph: NeuralGraph | None, grads: Mapping[str, Tensor], config: UpdateConfig) -> dict[str, ParamPlan]:
    """Plans of all parameters that have a gradient."""
    on_graph = plan_graph(graph, config)
    return {name: on_graph.get(name) or plan_off_graph(name, tuple(g.shape), config) for name, g in grads.items()}


def option(value: float | Mapping[str, float], name: str) -> float:
    """An option's value for one parameter."""
    return value[name] if isinstance(value, Mapping) else value
