"""How each parameter is stepped, decided once from its block, its shape and the settings."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ngopt.encoder.structure import structure
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock
from ngopt.optim.config import UpdateConfig

ELEMENTWISE_ROLES = ("embedding", "table", "bias", "scale", "buffer")


@dataclass(frozen=True)
class ParamPlan:
    """How one parameter is stepped.

    Attributes:
        name: Its name.
        block: Where it lies on the graph; None if it does not.
        matrix_shape: ``[group, row, col, tap]`` as in `ParamBlock`.
        orthogonal: Lead with the orthogonalised momentum; otherwise with the Adam-like direction.
        scale: Factor on its step.
        plain: Whether the matrix view is a mere reshape of the tensor.
        transposed: Whether the tensor is the transpose of its one matrix.
    """

    name: str
    block: ParamBlock | None
    matrix_shape: tuple[int, int, int, int]
    orthogonal: bool
    scale: float
    plain: bool
    transposed: bool

    def to_matrix(self, tensor: Tensor) -> Tensor:
        """See a tensor shaped like the parameter as ``[group, row, col, tap]``."""
        if self.plain or self.block is None:
            return tensor.reshape(self.matrix_shape)
        return self.block.to_matrix(tensor)

    def from_matrix(self, matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Inverse of `to_matrix`."""
        if self.plain or self.block is None:
            return matrix.reshape(shape)
        return self.block.from_matrix(matrix)


def plan_param(
    name: str, shape: tuple[int, ...], block: ParamBlock | None, is_output: bool, config: UpdateConfig
) -> ParamPlan:
    """Decide how a parameter is stepped.

    Matrices take the orthogonalised direction, and a step of ``1 / sqrt(fan_in)``: with entries of root mean square one
    its spectral norm is then ``sqrt(max(1, row / fan_in))``, the scale at which features change by the same share
    whatever the width (Yang, Simon & Bernstein 2023, "A spectral condition for feature learning", arXiv:2310.17813).
    Vectors, embeddings, tables, and matrices with a side too small to orthogonalise take the Adam-like direction. A
    parameter on no graph is judged by its shape: the first axis is taken for the outputs.
    """
    if block is not None:
        matrix_shape, is_edge, role = block.matrix_shape, block.is_edge, block.role
    else:
        matrix_shape = (1, shape[0], shape[1], math.prod(shape[2:])) if len(shape) > 1 else (1, math.prod(shape), 1, 1)
        is_edge, role = len(shape) > 1, "weight"
    _, row, col, tap = matrix_shape
    is_matrix = is_edge and role not in ELEMENTWISE_ROLES
    scale = config.vector_scale
    if is_matrix:
        scale = (config.output_scale if is_output else 1.0) / math.sqrt(max(1, col * tap))
    return ParamPlan(
        name=name,
        block=block,
        matrix_shape=matrix_shape,
        orthogonal=is_matrix and min(row, col * tap) > config.orthogonal.degenerate,
        scale=scale,
        plain=block is None or block.perm == tuple(range(len(block.perm))),
        transposed=block is not None and block.unfold == block.shape == (col, row) and block.perm == (1, 0),
    )


_cache: dict[tuple[int, UpdateConfig], dict[str, ParamPlan]] = {}


def plan_graph(graph: NeuralGraph | None, config: UpdateConfig) -> dict[str, ParamPlan]:
    """Plans of all blocks of a graph; made once and kept as long as the graph lives."""
    if graph is None:
        return {}
    key = (id(graph), config)
    if key not in _cache:
        outputs = structure(graph).outputs
        _cache[key] = {b.name: plan_param(b.name, b.shape, b, b.name in outputs, config) for b in graph.blocks}
        weakref.finalize(graph, _cache.pop, key, None)
    return _cache[key]


@functools.lru_cache(maxsize=65536)
def plan_off_graph(name: str, shape: tuple[int, ...], config: UpdateConfig) -> ParamPlan:
    """Plan of a parameter on no graph."""
    return plan_param(name, shape, None, False, config)


def plan_all(
    graph: NeuralGraph | None,
    grads: Mapping[str, Tensor],
    config: UpdateConfig,
) -> dict[str, ParamPlan]:
    """Plans of all parameters that have a gradient."""
    on_graph = plan_graph(graph, config)
    return {name: on_graph.get(name) or plan_off_graph(name, tuple(g.shape), config) for name, g in grads.items()}


def in_state_dtype(grads: Mapping[str, Tensor | None], state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The gradients that there are, in the number type of the state."""
    return {name: g.to(state[name]["momentum"].dtype) for name, g in grads.items() if g is not None}


def option(value: float | Mapping[str, float], name: str) -> float:
    """An option's value for one parameter."""
    return value[name] if isinstance(value, Mapping) else value
