"""SIRENs: one and many render alike, the gradient derived by hand is the gradient, and the recipe fits images."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

import ngopt
from benchmarks.inr_data import Params, Siren, coordinates, initial, render
from benchmarks.inr_data.fitting import Recipe, fit, psnr
from benchmarks.inr_data.gradient import SirenGradient, flops, sine_cosine
from benchmarks.inr_data.plan import originals
from benchmarks.inr_data.siren import initial_each, shapes, state
from meta_train.data import load as load_images


def digits(count: int) -> torch.Tensor:
    return originals(load_images("digits"), "train", torch.arange(count))[0]


def double(params: Params) -> Params:
    return {name: tensor.double() for name, tensor in params.items()}


@pytest.mark.parametrize("channels, layers", [(1, 3), (3, 3), (2, 4)])
def test_many_render_like_one_each(channels: int, layers: int) -> None:
    params = double(initial(3, channels, 5, hidden=8, layers=layers))
    rendered = render(params, 5, 7)
    assert rendered.shape == (3, channels, 5, 7)
    module = Siren(channels, hidden=8, layers=layers).double()
    for i in range(3):
        module.load_state_dict(state(params, i))
        one = module(coordinates(5, 7).double()).T.unflatten(1, (5, 7))
        torch.testing.assert_close(rendered[i], one, rtol=0, atol=1e-12)


def test_names_are_the_published_ones() -> None:
    names = [f"seq.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")]
    assert list(Siren().state_dict()) == names == list(initial(2, 1)) == list(shapes(1))
    assert {name: tuple(p.shape) for name, p in Siren(3).named_parameters()} == shapes(3)


def test_coordinates_are_in_reading_order() -> None:
    coords = coordinates(3, 2)
    assert coords.tolist() == [[-1, -1], [-1, 1], [0, -1], [0, 1], [1, -1], [1, 1]]


def test_start_is_that_of_sitzmann() -> None:
    params = initial(200, 1, 0)
    bounds = {"seq.0.weight": 1 / 2, "seq.0.bias": 2**-0.5, "seq.1.bias": 32**-0.5, "seq.2.bias": 32**-0.5}
    bounds |= {f"seq.{i}.weight": (6 / 32) ** 0.5 / 30 for i in (1, 2)}
    for name, bound in bounds.items():
        largest = params[name].abs().max()
        assert 0.95 * bound < largest <= bound, name
    assert all(torch.equal(a, b) for a, b in zip(params.values(), initial(200, 1, 0).values(), strict=True))
    assert not torch.equal(params["seq.0.weight"], initial(200, 1, 1)["seq.0.weight"])
    small = initial(200, 1, 0, small=True)
    assert all(not p.any() for name, p in small.items() if name.endswith("bias"))
    assert 0.95 * 3**0.5 / 30 < small["seq.0.weight"].abs().max() <= 3**0.5 / 30
    torch.testing.assert_close(small["seq.1.weight"], params["seq.1.weight"])


@pytest.mark.parametrize("channels, small", [(1, False), (3, True)])
def test_starts_of_many_seeds_are_those_of_each(channels: int, small: bool) -> None:
    found = initial_each([5, 2**55, 7], channels, small)
    for i, seed in enumerate([5, 2**55, 7]):
        alone = initial(1, channels, seed, small=small)
        assert all(torch.equal(found[name][i], alone[name][0]) for name in alone) and found.keys() == alone.keys()
    assert not torch.equal(found["seq.1.weight"][0], found["seq.1.weight"][2])


def test_it_can_be_traced() -> None:
    graph = ngopt.trace(Siren(), (coordinates(4, 4),))
    free = [group.size for group in graph.groups if not group.frozen]
    assert free == [32, 32]
    params = dict(Siren().named_parameters())
    assert functional_call(Siren(), params, (coordinates(4, 4),)).shape == (16, 1)


@pytest.mark.parametrize("channels, height, width", [(1, 6, 9), (3, 8, 5)])
def test_gradient_by_hand_is_the_gradient(channels: int, height: int, width: int) -> None:
    images = torch.rand(4, channels, height, width, dtype=torch.float64)
    params = double(initial(4, channels, 3, hidden=8))
    gradients = {name: torch.full_like(tensor, torch.nan) for name, tensor in params.items()}
    compute = SirenGradient(images, hidden=8)
    for _ in range(2):  # buffers that are used again hold nothing over
        loss = compute(params, gradients)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    expected = (render(leaves, height, width) - images).square().mean((1, 2, 3))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for name, right in zip(params, torch.autograd.grad(expected.sum(), list(leaves.values())), strict=True):
        torch.testing.assert_close(gradients[name], right, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("every", [2, 3])
def test_coarse_grids_are_all_pixels_in_turn(every: int) -> None:
    images = torch.rand(3, 2, 6, 12, dtype=torch.float64)
    params = double(initial(3, 2, 3, hidden=8))
    mean, whole = ({name: torch.zeros_like(tensor) for name, tensor in params.items()} for _ in range(2))
    loss = SirenGradient(images, 8)(params, whole)
    coarse, one, losses = SirenGradient(images, 8, every=every), dict(whole), []
    for call in range(every**2):
        one = {name: torch.empty_like(tensor) for name, tensor in params.items()}
        losses.append(coarse(params, one, call))
        mean = {name: mean[name] + one[name] / every**2 for name in params}
    torch.testing.assert_close(torch.stack(losses).mean(0), loss, rtol=1e-12, atol=0)
    for name in params:
        torch.testing.assert_close(mean[name], whole[name], rtol=1e-9, atol=1e-11, msg=name)
    assert not torch.allclose(one["seq.1.weight"], whole["seq.1.weight"]), "control: one grid is not all pixels"
    with pytest.raises(ValueError, match="do not divide images of 6 x 12"):
        SirenGradient(images, 8, every=4)


def test_sines_are_torch_sines() -> None:
    x = torch.linspace(-60, 60, 10_001)
    sine, cosine = torch.empty_like(x), torch.empty_like(x)
    sine_cosine(x, sine, cosine)
    torch.testing.assert_close(sine, x.double().sin().float(), rtol=0, atol=2e-7)
    torch.testing.assert_close(cosine, x.double().cos().float(), rtol=0, atol=2e-7)


def test_work_is_counted() -> None:
    # Hidden layer and output, each: forward, to the weights, to the inputs; two operations per multiplication.
    assert flops(1, 28, 28, 32) == 28 * 28 * 2 * 3 * (32 * 32 + 32)


def test_psnr() -> None:
    params = initial(3, 1, 0)
    images = render(params, 8, 8)
    noisy = images + torch.tensor([0.1, 0.01, 0.001]).view(3, 1, 1, 1)
    torch.testing.assert_close(psnr(params, noisy), torch.tensor([20.0, 40.0, 60.0]), rtol=0, atol=0.01)
    assert psnr(params, images).isfinite().all(), "an exact fit is good, not infinite"


def test_the_recipe_fits() -> None:
    images, start = digits(12), initial(12, 1, 0)
    params, quality = fit(images, start, Recipe())
    assert quality.min() > 40
    assert psnr(start, images).max() < 20, "control: the start is bad"
    torch.testing.assert_close(quality, psnr(params, images), rtol=1e-3, atol=0)
    assert psnr(params, images.flip(0)).median() < 20, "control: each has its own image"
    assert all(not tensor.equal(start[name]) for name, tensor in params.items())


def test_networks_do_not_touch_each_other() -> None:
    images, start = digits(11), initial(11, 1, 0)
    together, _ = fit(images, start, Recipe(steps=10))
    alone, _ = fit(images[9:10], {name: tensor[9:10] for name, tensor in start.items()}, Recipe(steps=10))
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor[0], together[name][9], rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_a_gpu_fits_as_well() -> None:
    images = digits(12).cuda()
    params, quality = fit(images, initial(12, 1, 0), Recipe())
    assert params["seq.0.weight"].is_cuda
    assert quality.min() > 40
