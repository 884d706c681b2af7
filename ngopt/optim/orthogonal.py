r"""Orthogonalisation of a matrix by Newton-Schulz rounds: the polar factor, from matrix products alone.

Each round applies an odd polynomial of degree five to the singular values and leaves the singular vectors alone:

    A = X X^T,    X <- a X + (b A + c A A) X,    s <- a s + b s^3 + c s^5

In the words of the neural graph, a round is two hops of message passing with the momentum as signed adjacency. It
commutes with every permutation of rows and of columns, so orthogonalisation is equivariant by construction.

Three things make few rounds enough:

* **Coefficients per round.** Round k gets the polynomial that is closest to one, in the largest error, on the interval
  that the rounds before it leave of ``[lower, 1]``. Composing such greedy choices is optimal (Amsel et al. 2025, "The
  Polar Express", arXiv:2505.16932, theorem 3.1). The tables below are our own minimax fits; a test fits them again.
* **A tight start.** The iteration needs all singular values in ``[0, 1]``. Dividing by the Frobenius norm wastes most
  of that interval on a matrix of high rank; the Schatten-8 norm ``|A A|_F^(1/4)`` is an upper bound on the largest
  singular value, at most ``rank^(1/8)`` too large, and costs nothing because round one computes ``A A``.
* **The smaller side.** A tall ``X`` is multiplied from the right instead, so that ``A`` is as small as it can be. When
  the long side is far longer (a convolution), the rounds can run on the Gram matrix alone and touch ``X`` only once,
  at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ngopt.optim.config import OrthogonalConfig

Round = tuple[float, float, float]

# rounds -> coefficients (a, b, c) of each round. Two guards against rounding, because bfloat16 knows a singular value
# to about a hundredth of the largest: the polynomials rise steeply beyond their interval, so that its upper end is
# first stretched a little; and one fitted down to a tiny lower end would press others nearly as low, where rounding can
# flip their sign, so that no fit goes below a cushion (as in the Polar Express). Singular values in [LOWER, 1] end in:
# 2 rounds [.58, 1.42], 3 [.57, 1.43], 4 [.71, 1.29], 5 [.79, 1.21], 6 [.83, 1.17]
LOWER = {2: 0.03, 3: 0.0075, 4: 0.003, 5: 0.001, 6: 0.0003}
STRETCH = (1.04, 1.06)  # of the first interval, of all others
CUSHION = 0.04  # of the upper end
_FIRST, _MIDDLE = (6.7732, -17.3298, 11.6459), (3.8648, -3.2195, 0.7044)
COEFFICIENTS: dict[int, tuple[Round, ...]] = {
    2: (_FIRST, (2.9632, -2.1639, 0.4533)),
    3: (_FIRST, _MIDDLE, (2.9994, -2.2059, 0.4633)),
    4: (_FIRST, _MIDDLE, (3.8142, -3.1597, 0.6902), (2.5603, -1.7237, 0.3549)),
    5: (_FIRST, _MIDDLE, _MIDDLE, (3.6227, -2.9343, 0.6364), (2.3915, -1.6024, 0.3451)),
    6: (_FIRST, _MIDDLE, _MIDDLE, _MIDDLE, (3.4981, -2.7878, 0.6015), (2.2999, -1.5344, 0.3398)),
}
TINY = 1e-18  # a matrix of smaller norm counts as zero; keeps 0 / 0 out without breaking invariance to scale
GRAM_RATIO = 2.5  # long side / short side from which rounds on the Gram matrix are cheaper,
GRAM_FROM = 64  # if the short side is at least this,
GRAM_ROUNDS = 4  # and the rounds at most this: the Gram matrix squares the condition number, which float32 must hold


def orthogonalise(
    matrices: Tensor,  # [batch, row, col]
    config: OrthogonalConfig,
) -> Tensor:
    """Polar factor of each matrix, up to the accuracy of the rounds: ``U V^T`` of its ``U S V^T``.

    Args:
        matrices: A stack of matrices.
        config: Rounds and precision.

    Returns:
        A tensor of the same shape, dtype and device; zero for a zero matrix. Its root mean square is about
        ``1 / sqrt(max(row, col))`` where the matrix has full rank, whatever the matrix's scale.
    """
    norm = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True)
    x = matrices.to(rounds_dtype(matrices, config))
    x = x / norm.clamp_min(TINY).to(x.dtype)
    short, long = sorted(x.shape[-2:])
    # float64 is for exact comparisons, and the Gram matrix of a bfloat16 matrix is too coarse.
    worthwhile = short >= GRAM_FROM and long > GRAM_RATIO * short
    on_gram = worthwhile and x.dtype == torch.float32 and config.rounds <= GRAM_ROUNDS
    x = (_rounds_on_gram if on_gram else _rounds)(x, COEFFICIENTS[config.rounds])
    return x.to(matrices.dtype)


def _rounds(x: Tensor, coefficients: tuple[Round, ...]) -> Tensor:  # [batch, row, col]
    """The rounds of the module's docstring, each three matrix products. A tall x is multiplied from the right."""
    tall = x.shape[-2] > x.shape[-1]
    for k, (a, b, c) in enumerate(coefficients):
        gram = _gram(x, tall)  # [batch, short, short]
        square = torch.bmm(gram, gram)
        if k == 0:
            x, gram, square = _rescale(x, gram, square)
        terms = torch.add(gram, square, alpha=c / b)
        x = torch.baddbmm(x, *((x, terms) if tall else (terms, x)), beta=a, alpha=b)
    return x


def _rounds_on_gram(x: Tensor, coefficients: tuple[Round, ...]) -> Tensor:  # [batch, row, col]
    """The same in exact arithmetic: multiply the polynomials up in ``[short, short]``, apply their product once."""
    tall = x.shape[-2] > x.shape[-1]
    gram = _gram(x, tall)
    product = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device).expand_as(gram)
    for k, (a, b, c) in enumerate(coefficients):
        square = torch.bmm(gram, gram)
        if k == 0:
            x, gram, square = _rescale(x, gram, square)
        terms = torch.add(gram, square, alpha=c / b)  # the polynomial is P = a + b * terms
        product = torch.baddbmm(product, terms, product, beta=a, alpha=b)
        if k + 1 < len(coefficients):  # P gram P
            gram = torch.baddbmm(gram, terms, gram, beta=a, alpha=b)
            gram = torch.baddbmm(gram, gram, terms, beta=a, alpha=b)
    return torch.bmm(x, product) if tall else torch.bmm(product, x)


def _gram(x: Tensor, tall: bool) -> Tensor:  # [batch, row, col] -> [batch, short, short]
    """``X^T X`` of a tall matrix, ``X X^T`` of a wide one."""
    return torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)


def _rescale(x: Tensor, gram: Tensor, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Divide x by its Schatten-8 norm, just above the largest singular value, and the products of x accordingly.

    Of a matrix with Frobenius norm one it is at least ``short^(-3/8)``, so the floor only ever meets zero matrices.
    """
    norm = torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True)  # accumulates in float32 or better
    inverse = norm.clamp_min(1e-12).rsqrt().sqrt()
    inverse_square = inverse.square()
    return x * inverse, gram * inverse_square, square * inverse_square.square()


def rounds_dtype(matrix: Tensor, config: OrthogonalConfig) -> torch.dtype:
    """Number type of the rounds: bfloat16 for large float32 matrices where the machine multiplies it natively."""
    if config.reduced_precision and matrix.dtype == torch.float32 and min(matrix.shape[-2:]) >= config.large:
        if native_bfloat16(matrix.device.type):
            return torch.bfloat16
    return matrix.dtype


def native_bfloat16(device_type: str) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on this kind of device."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False
