"""Augmentations: exact where they claim to be, each with a control that shows that the comparison can fail."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks.inr_data.siren import Params, coordinates, render
from benchmarks.weight_space import augment as a
from benchmarks.weight_space.config import Config
from benchmarks.weight_space.step import generator
from benchmarks.weight_space.targets import TARGETS
from tests.benchmarks.weight_space_cases import networks, settings

EXACT, WRONG = 1e-11, 1e-3


def show(params: Params, coords: Tensor) -> Tensor:  # [net, pixel, 2]; [net, pixel, channel]
    """What the networks show at points of their own, written out."""
    x = coords
    for index, (weight, bias) in enumerate(a.layers(params)):
        x = torch.einsum("npi,noi->npo", x, params[weight]) + params[bias][:, None]
        x = torch.sin(30.0 * x) if index < 2 else x + 0.5
    return x


@pytest.fixture
def params() -> Params:
    return networks(5, 3, torch.float64)


@pytest.fixture
def grid() -> Tensor:
    return coordinates(6, 5).double().expand(5, -1, -1)


def test_moving_the_weights_moves_the_picture(params: Params, grid: Tensor) -> None:
    matrix, shift = a.motion(a.draw_motion(5, generator(0)).double(), settings())
    moved = a.move(params, matrix, shift)
    expected = show(params, torch.einsum("nij,npj->npi", matrix, grid) + shift[:, None])
    assert (show(moved, grid) - expected).abs().max() < EXACT
    transposed = show(a.move(params, matrix.mT, shift), grid)
    assert (transposed - expected).abs().max() > WRONG
    unshifted = show(a.move(params, matrix, 0 * shift), grid)
    assert (unshifted - expected).abs().max() > WRONG


def test_motions_stay_within_their_strengths(params: Params) -> None:
    uniform = a.draw_motion(4000, generator(0)).double()
    matrix, shift = a.motion(uniform, settings(rotate=45.0, scale=0.2, translate=0.25))
    size = torch.linalg.det(matrix).sqrt()
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
    assert 0.8 <= size.min() < 0.81 and 1.19 < size.max() <= 1.2
    assert math.radians(44) < angle.abs().max() <= math.radians(45)
    assert 0.24 < shift.abs().max() <= 0.25
    assert torch.allclose(matrix @ matrix.mT, size[:, None, None] ** 2 * torch.eye(2, dtype=torch.float64))
    still, stay = a.motion(uniform, settings(rotate=0.0, scale=0.0, translate=0.0))
    assert torch.equal(still, torch.eye(2, dtype=torch.float64).expand_as(still)) and not stay.any()


def test_permutations_keep_the_picture(params: Params, grid: Tensor) -> None:
    orders = a.random_orders(params, generator(0))
    permuted = a.permute(params, orders)
    assert (show(permuted, grid) - show(params, grid)).abs().max() < EXACT
    assert not torch.equal(permuted["seq.1.weight"], params["seq.1.weight"])
    assert not torch.equal(orders[0][0], orders[0][1])  # each network has its own
    half = permuted | {"seq.2.weight": params["seq.2.weight"]}
    assert (show(half, grid) - show(params, grid)).abs().max() > WRONG


def test_sign_flips_keep_the_picture(params: Params, grid: Tensor) -> None:
    signs = a.random_signs(params, generator(0))
    flipped = a.flip(params, signs)
    assert (show(flipped, grid) - show(params, grid)).abs().max() < EXACT
    assert not torch.equal(flipped["seq.1.weight"], params["seq.1.weight"])
    assert {-1.0, 1.0} == set(signs[0].flatten().tolist())
    half = flipped | {"seq.1.bias": params["seq.1.bias"]}
    assert (show(half, grid) - show(params, grid)).abs().max() > WRONG


def test_noise_is_random_and_of_the_size_of_each_tensor() -> None:
    params = {
        "seq.0.weight": torch.randn(3, 40, 50) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1),
        "b": torch.ones(3, 1),
    }
    change = a.add_noise(params, 0.1, generator(0))["seq.0.weight"] - params["seq.0.weight"]
    ratio = change.flatten(1).std(1) / params["seq.0.weight"].flatten(1).std(1)
    assert torch.allclose(ratio, torch.full((3,), 0.1), rtol=0.05)
    assert change.mean().abs() < 0.05 * change.std()  # the published code adds the same number everywhere
    assert torch.equal(a.add_noise(params, 0.1, generator(0))["b"], params["b"])  # one number has no spread


def test_dropping_sets_a_share_to_zero() -> None:
    params = {"w": torch.ones(4, 100, 50)}
    dropped = a.drop(params, 0.01, generator(0))["w"]
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    assert 0.005 < (dropped == 0).float().mean() < 0.015


def augment(params: Params, config: Config, random: torch.Generator) -> Params:
    """All of it, of networks whose targets are labels."""
    params, _ = a.moved(params, torch.zeros(5), config, a.draw(config, 5, random))
    return a.disturbed(params, config, random)


@pytest.mark.parametrize("channels", [1, 3])
def test_symmetries_move_networks_and_their_pictures_alike(channels: int) -> None:
    params = networks(8, channels, torch.float64)
    pictures, which = render(params, 6, 6), torch.arange(8)
    config = settings(augment=False, symmetry="square")
    moved, targets = a.moved(params, pictures, config, (which,))
    assert (render(moved, 6, 6) - targets).abs().max() < EXACT
    assert (
        len({tuple(picture.flatten().tolist()) for picture in a.turned(pictures[:1].expand(8, -1, -1, -1), which)}) == 8
    )
    assert torch.equal(a.turned(pictures, torch.full((8,), 4)), pictures.flip(3)), "the mirror is left to right"
    assert (render(moved, 6, 6) - a.turned(pictures, which.roll(1))).abs().max() > WRONG
    torch.testing.assert_close(a.turned(TARGETS["dilation"](pictures), which), TARGETS["dilation"](targets))
    labels = torch.arange(8)
    assert a.moved(params, labels, config, (which,))[1] is labels
    drawn = torch.cat(a.draw(settings(augment=False, symmetry="mirror"), 200, generator(0)))
    assert set(drawn.tolist()) == {0, 4}
    with pytest.raises(ValueError, match="6 x 5 cannot be turned: leave out --symmetry"):
        a.turned(pictures[..., :5], which)


def test_all_together(params: Params, grid: Tensor) -> None:
    config = settings(encoder="mlp_aug")
    first, again, other = (augment(params, config, generator(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in params)
    assert not torch.equal(first["seq.0.weight"], other["seq.0.weight"])
    assert {name: p.shape for name, p in first.items()} == {name: p.shape for name, p in params.items()}
    off = settings(augment=False)
    assert all(augment(params, off, generator(0))[name] is params[name] for name in params)
    symmetric = augment(params, settings(encoder="mlp_aug", augment=False), generator(0))
    assert (show(symmetric, grid) - show(params, grid)).abs().max() < EXACT
