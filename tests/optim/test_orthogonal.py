"""Orthogonalisation: accuracy of every path, and the coefficients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from ngopt.optim import orthogonal
from ngopt.optim.config import OrthogonalConfig
from ngopt.optim.orthogonal import COEFFICIENTS, CUSHION, LOWER, STRETCH, native_bfloat16, orthogonalise, rounds_dtype

# Interval that singular values in [LOWER, 1] of the largest come to lie in, as the table in the module says.
INTERVAL = {2: (0.57, 1.43), 3: (0.56, 1.44), 4: (0.70, 1.30), 5: (0.78, 1.22), 6: (0.81, 1.19)}


def with_singular_values(values: Tensor, rows: int, cols: int) -> Tensor:
    """A random matrix with given singular values, [1, row, col] in float64."""
    generator = torch.Generator().manual_seed(rows + cols)
    u, _ = torch.linalg.qr(torch.randn(rows, len(values), generator=generator).double())
    v, _ = torch.linalg.qr(torch.randn(cols, len(values), generator=generator).double())
    return ((u * values.double()) @ v.mT)[None]


def minimax(low: float, high: float) -> tuple[np.ndarray, float]:
    """Best odd polynomial of degree five for the constant one on an interval, by linear programming."""
    x = np.unique(np.concatenate([np.geomspace(low, high, 2000), np.linspace(low, high, 2000)]))
    powers = np.stack([x, x**3, x**5, -np.ones_like(x)], axis=1)
    above = powers * [-1, -1, -1, 1]  # both sides of |1 - p(x)| <= error
    bounds = [(None, None)] * 3 + [(0, None)]
    solution = linprog([0, 0, 0, 1], np.vstack([powers, above]), np.repeat([1.0, -1.0], len(x)), bounds=bounds).x
    return solution[:3], solution[3]


@pytest.mark.parametrize("rounds", COEFFICIENTS)
def test_coefficients_are_the_minimax_fits(rounds: int) -> None:
    low, high = LOWER[rounds], STRETCH[0]
    for a, b, c in COEFFICIENTS[rounds]:
        fit, error = minimax(max(low, CUSHION * high), high)
        np.testing.assert_allclose((a, b, c), fit, rtol=5e-3)
        low, high = min(a * low + b * low**3 + c * low**5, 1 - error), (1 + error) * STRETCH[1]
    assert INTERVAL[rounds][0] < low and high / STRETCH[1] < INTERVAL[rounds][1]


@pytest.mark.parametrize("shape", [(40, 40), (24, 60), (60, 24), (70, 300), (300, 70)])
@pytest.mark.parametrize("rounds", COEFFICIENTS)
def test_singular_values_end_near_one(rounds: int, shape: tuple[int, int]) -> None:
    for dtype in (torch.float64, torch.float32):  # wide float32 matrices take the path on the Gram matrix
        # Singular values from the largest possible, counted in Schatten-8 norms, down to the lower end.
        values = torch.logspace(0, np.log10(LOWER[rounds] * 1.6), min(shape))
        matrix = with_singular_values(values, *shape)
        out = orthogonalise(matrix.to(dtype), OrthogonalConfig(rounds=rounds))
        found = torch.linalg.svdvals(out.double())
        low, high = INTERVAL[rounds]
        assert low < found.min() and found.max() < high
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        rotated = u.mT @ out.double() @ vh.mT  # diagonal: the singular vectors are kept
        assert (rotated - torch.diag_embed(rotated.diagonal(dim1=1, dim2=2))).abs().max() < 0.02


@pytest.mark.parametrize("spectrum", ["gaussian", "power law", "geometric"])
@pytest.mark.parametrize("shape", [(300, 310), (160, 1440)])
@pytest.mark.parametrize("rounds", COEFFICIENTS)
def test_bfloat16_never_blows_up(
    rounds: int, shape: tuple[int, int], spectrum: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orthogonal, "native_bfloat16", lambda _: True)
    size = min(shape)
    if spectrum == "gaussian":
        matrix = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).double()
    else:
        values = torch.arange(1, size + 1) ** -1.0 if spectrum == "power law" else torch.logspace(0, -6, size)
        matrix = with_singular_values(values, *shape)
    out = orthogonalise(matrix.float(), OrthogonalConfig(rounds=rounds)).double()
    exact = orthogonalise(matrix, OrthogonalConfig(rounds=rounds))
    assert torch.linalg.svdvals(out).max() < INTERVAL[rounds][1] + 0.01
    # Only small singular values are uncertain: along the largest ones the direction is right.
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    large = int((s > 0.1 * s[..., :1]).sum())
    along = [(u.mT @ x @ vh.mT).diagonal(dim1=1, dim2=2)[0, :large] for x in (out, exact)]
    assert (along[0] - along[1]).abs().max() < 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(exponent=st.integers(-40, 40), seed=st.integers(0, 100))
def test_scale_does_not_matter(dtype: torch.dtype, exponent: int, seed: int) -> None:
    matrix = torch.randn(1, 9, 14, generator=torch.Generator().manual_seed(seed)).to(dtype)
    config = OrthogonalConfig(rounds=4)
    out, scaled = orthogonalise(matrix, config), orthogonalise(matrix * 2.0**exponent, config)
    assert (out - scaled).abs().max() < 1e-3


@given(seed=st.integers(0, 10_000), rows=st.integers(2, 12), cols=st.integers(2, 12))
def test_permuting_rows_and_columns_permutes_the_result(seed: int, rows: int, cols: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(2, rows, cols, generator=generator).double()
    row, col = torch.randperm(rows, generator=generator), torch.randperm(cols, generator=generator)
    out = orthogonalise(matrix, OrthogonalConfig())
    permuted = orthogonalise(matrix[:, row][:, :, col], OrthogonalConfig())
    assert (permuted - out[:, row][:, :, col]).abs().max() < 1e-10


def test_a_batch_equals_its_members() -> None:
    matrices = torch.randn(3, 8, 20).double() * torch.tensor([1e-3, 1.0, 1e3]).view(3, 1, 1)
    together = orthogonalise(matrices, OrthogonalConfig())
    for k in range(3):
        assert (together[k] - orthogonalise(matrices[k : k + 1], OrthogonalConfig())[0]).abs().max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_and_rank_one_matrices(dtype: torch.dtype) -> None:
    assert not orthogonalise(torch.zeros(2, 5, 7, dtype=dtype), OrthogonalConfig()).any()
    u, v = torch.randn(5, 1).to(dtype), torch.randn(1, 7).to(dtype)
    out = orthogonalise((u @ v)[None], OrthogonalConfig())
    assert torch.linalg.svdvals(out)[0, 0].item() == pytest.approx(1.0, abs=0.42)
    assert torch.linalg.svdvals(out)[0, 1] < 1e-3


def test_number_type_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orthogonal, "native_bfloat16", lambda _: True)
    config = OrthogonalConfig(large=64)
    assert rounds_dtype(torch.zeros(1, 64, 100), config) == torch.bfloat16
    assert rounds_dtype(torch.zeros(1, 63, 100), config) == torch.float32
    assert rounds_dtype(torch.zeros(1, 64, 100).double(), config) == torch.float64
    assert rounds_dtype(torch.zeros(1, 64, 100), OrthogonalConfig(reduced_precision=False)) == torch.float32
    monkeypatch.setattr(orthogonal, "native_bfloat16", lambda _: False)
    assert rounds_dtype(torch.zeros(1, 64, 100), config) == torch.float32
    assert isinstance(native_bfloat16("cpu"), bool) and not native_bfloat16("meta")


@pytest.mark.parametrize("wrong", [{"rounds": 1}, {"rounds": 7}, {"large": 0}, {"degenerate": 0}])
def test_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OrthogonalConfig(**wrong)
