"""Picks, draws and distances: what depends on positions is frozen, and no more than that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.graph.checks import traced, wrong_generators

HIDDEN, OUT = (16, 1), 6


class Net(nn.Module):
    """One hidden layer; what is done with it is given."""

    def __init__(self, use: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(5, 16), nn.Linear(16, OUT)
        self.centres = nn.Parameter(torch.ones(7, 16))
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        """Of [batch, 5]."""
        return self.use(self, torch.relu(self.hidden(x)), x)


def sizes(use: Callable[[Net, Tensor, Tensor], Tensor]) -> Counter[tuple[int, int]]:
    """The symmetric groups, all of which are right; warnings are errors."""
    generator = torch.Generator().manual_seed(0)
    run = traced(Net(use), torch.randn(8, 5, generator=generator, dtype=torch.float64), certify=False)
    assert wrong_generators(run) == []
    return run.sizes


def mask(x: Tensor, shape: torch.Size) -> Tensor:
    """Truth values that depend on the input, one in a row."""
    return torch.zeros(shape, dtype=torch.bool).scatter(-1, (x[:, :1] > 0).long(), torch.ones(shape, dtype=torch.bool))


def all_axes(net: Net, h: Tensor, x: Tensor) -> Tensor:
    y = net.head(h)
    return y[mask(x, y.shape)]


def last_axes(net: Net, h: Tensor, x: Tensor) -> Tensor:
    y = net.head(h)
    return torch.stack([y, y * y])[:, mask(x, y.shape)]


def one_axis(net: Net, h: Tensor, x: Tensor) -> Tensor:
    return net.head(h[x[:, 0] > 0])


def apart(net: Net, h: Tensor, x: Tensor) -> Tensor:
    y = torch.stack([h, h * h], 1)
    return net.head(y[x[:, 0] > 0, :, :][:, torch.tensor([0])])


def written(net: Net, h: Tensor, x: Tensor) -> Tensor:
    y = net.head(h)
    chosen = mask(x, y.shape)
    return y.index_put((chosen,), y[chosen] * 2.0)


def written_rows(net: Net, h: Tensor, x: Tensor) -> Tensor:
    chosen = x[:, 0] > 0
    return net.head(h.index_put((chosen,), h[chosen] * 2.0))


@pytest.mark.parametrize("use", [all_axes, last_axes, one_axis, apart, written, written_rows])
def test_masks_that_depend_on_inputs(use: Callable[[Net, Tensor, Tensor], Tensor]):
    assert sizes(use)[HIDDEN] == 1


def test_a_mask_over_hidden_neurons_freezes_them():
    assert sizes(lambda net, h, _: net.head(h)[:, 0] + h[h > 0.1].cumsum(0)[-1])[HIDDEN] == 0


def test_distances():
    found = sizes(lambda net, h, _: torch.cdist(h, net.centres).sum(1))
    assert found[HIDDEN] == 1
    assert found[7, 1] == 1


def test_fourier_transforms_leave_other_axes():
    def filtered(net: Net, h: Tensor, _: Tensor) -> Tensor:
        return net.head(torch.fft.irfft(torch.fft.rfft(h, dim=0) * net.centres[:5], n=len(h), dim=0))

    assert sizes(filtered)[HIDDEN] == 1
    assert sizes(lambda net, h, _: net.head(torch.fft.fft(h).real))[HIDDEN] == 0


def test_complex_numbers_are_pointwise():
    assert sizes(lambda net, h, _: net.head(torch.polar(h, 0.1 * h).real + torch.complex(h, h).imag))[HIDDEN] == 1


def draw_multinomial(p: Tensor) -> Tensor:
    return torch.multinomial(p, 2).to(p.dtype)


def drawn(draw: Callable[[Tensor], Tensor], p: Tensor) -> Tensor:
    """The same random numbers in every pass, so that passes can be compared."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return draw(p)


DRAWS = [torch.bernoulli, torch.poisson, draw_multinomial, torch._standard_gamma, torch._sample_dirichlet]


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_from_outputs_leave_what_is_before(draw: Callable[[Tensor], Tensor]):
    assert sizes(lambda net, h, _: drawn(draw, torch.sigmoid(net.head(h))))[HIDDEN] == 1


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_from_hidden_neurons_freeze_them(draw: Callable[[Tensor], Tensor]):
    assert sizes(lambda net, h, _: net.head(h) + drawn(draw, torch.sigmoid(h)).mean(1, keepdim=True))[HIDDEN] == 0


def test_factors_of_matrices():
    def solved(net: Net, h: Tensor, _: Tensor) -> Tensor:
        y = net.head(h)
        return torch.linalg.solve_triangular(torch.eye(OUT, dtype=h.dtype) + torch.tril(y.T @ y), y.T, upper=False)

    assert sizes(solved)[HIDDEN] == 1
