"""Ops of which every position is a case of its own: draws, factorisations, selections. All that they read is frozen.

Ops without a rule are treated alike, with a warning; these are known to have nothing better.
"""

from __future__ import annotations

from typing import Any

import torch

from ngopt.graph.labels import Label, axis_marks
from ngopt.graph.rules.pointwise import labels_in
from ngopt.graph.rules.registry import Tracer, known, rule


def positional(tracer: Tracer, *args: Any, **kwargs: Any) -> list[Label] | Label:
    """Freeze what is read; the outputs have an identity at every position."""
    inputs = labels_in((args, kwargs))
    for x in inputs:
        tracer.algebra.rigid(x)
    tags = frozenset().union(*(x.tags for x in inputs))
    out = [Label(shape, marks=axis_marks(shape), tags=tags) for shape in tracer.shapes]
    return out if isinstance(tracer.node.meta["val"], list | tuple) else out[0]


@rule(
    *known("bernoulli", "binomial", "multinomial", "normal", "poisson", "_sample_dirichlet", "_standard_gamma"),
    *known("cholesky_inverse", "cholesky_solve", "linalg_cholesky_ex", "linalg_eig", "linalg_inv_ex", "linalg_lu"),
    *known("_linalg_det", "_linalg_eigh", "_linalg_eigvals", "_linalg_slogdet", "_linalg_solve_ex", "_linalg_svd"),
    *known("linalg_ldl_factor_ex", "linalg_ldl_solve", "linalg_lu_factor_ex", "linalg_lu_solve", "linalg_matrix_exp"),
    *known("linalg_householder_product", "linalg_qr", "linalg_solve_triangular", "lu_unpack", "triangular_solve"),
    *known("bincount", "histc", "masked_scatter", "masked_select", "nonzero", "nonzero_static", "_pdist_forward"),
    *known("_unique", "_unique2", "unique_consecutive", "unique_dim", "repeat_interleave", "segment_reduce"),
)
def _(tracer: Tracer, *args: Any, **kwargs: Any) -> list[Label] | Label:
    """A draw is the position's own; a factor, or what is left of a selection, depends on the order."""
    return positional(tracer, *args, **kwargs)


@rule(torch.ops.aten._cdist_forward)
def cdist(tracer: Tracer, a: Label, b: Label, *args: Any) -> Label:
    """``out[.., m, n] = |a[.., m, :] - b[.., n, :]|``: differences, reduced over the last axis."""
    left = tracer.algebra.reshape(a, (*a.shape[:-1], 1, a.shape[-1]))
    right = tracer.algebra.reshape(b, (*b.shape[:-2], 1, *b.shape[-2:]))
    return tracer.algebra.reduce(tracer.algebra.combine(left, right), [len(tracer.shape)], keepdim=False)
