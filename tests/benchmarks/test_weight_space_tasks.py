"""Targets against literal loops; what the tasks and baselines make of outputs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from benchmarks.inr_data.siren import render
from benchmarks.weight_space.baselines import FlatMLP
from benchmarks.weight_space.samples import NOT_FINITE, Samples, Stack, finite_samples
from benchmarks.weight_space.targets import CONTRAST, contrast, dilation, erosion
from benchmarks.weight_space.tasks import Classification, Editing
from tests.benchmarks.weight_space_cases import networks


def neighbourhoods(image: Tensor, choose) -> Tensor:  # [h, w]
    """``choose`` among the values of every 3 x 3 neighbourhood, as far as it is in the picture."""
    height, width = image.shape
    result = torch.empty_like(image)
    for row in range(height):
        for column in range(width):
            rows = range(max(0, row - 1), min(height, row + 2))
            columns = range(max(0, column - 1), min(width, column + 2))
            result[row, column] = choose(image[r, c].item() for r in rows for c in columns)
    return result


def test_dilation_and_erosion_are_what_loops_make() -> None:
    images = torch.rand(2, 3, 5, 4)
    for transform, choose in ((dilation, max), (erosion, min)):
        expected = torch.stack([torch.stack([neighbourhoods(c, choose) for c in image]) for image in images])
        assert torch.equal(transform(images), expected)
    assert not torch.equal(dilation(images), erosion(images))


def test_contrast_is_what_loops_make() -> None:
    images = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    result = contrast(images)
    for image, changed in zip(images, result, strict=True):
        pixels = [image[:, row, column].tolist() for row in range(4) for column in range(5)]
        grey = sum(0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in pixels) / 20
        for index in torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5)).tolist():
            value = image[tuple(index)].item()
            assert changed[tuple(index)].item() == pytest.approx(min(1.0, max(0.0, grey + CONTRAST * (value - grey))))
    grey_picture = torch.full((1, 1, 3, 3), 0.25)
    assert torch.allclose(contrast(grey_picture), grey_picture)


def test_networks_that_are_not_finite_are_left_out_and_named() -> None:
    params = networks(5)
    params["seq.1.bias"][1, 3] = torch.nan
    params["seq.2.weight"][4] = torch.inf
    samples = finite_samples(Stack(None, params), torch.arange(5))
    assert samples.left_out == {NOT_FINITE: (1, 4)}
    assert samples.targets.tolist() == [0, 2, 3]
    assert all(torch.equal(samples.stacks[0].params[name], p[[0, 2, 3]]) for name, p in params.items())
    with pytest.raises(ValueError, match="make the networks again"):
        finite_samples(Stack(None, {"w": torch.full((2, 3), torch.nan)}), torch.arange(2))


def test_classification() -> None:
    output = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [torch.nan, 0.0]])
    measures = Classification().measure(output, Samples((), torch.tensor([0, 1, 1, 0])))
    assert measures["accuracy"].tolist() == [100.0, 100.0, 0.0, 0.0]  # NaN is never right
    task, inrs = Classification(), SimpleNamespace(params=networks(3), labels=torch.tensor([3, 1, 2]))
    assert torch.equal(task.samples(inrs).targets, inrs.labels)  # type: ignore[arg-type]


def test_editing() -> None:
    params = networks(3)
    task = Editing("erosion", 6, 5, 30.0)
    images = torch.rand(3, 1, 6, 5)
    samples = task.samples(SimpleNamespace(params=params, images=lambda: images))  # type: ignore[arg-type]
    assert torch.equal(samples.targets, erosion(images))
    same = {name: p[:, None] for name, p in params.items()}
    measures = task.measure(same, samples)
    shown = render(params, 6, 5)
    expected = (shown - samples.targets).square().mean((1, 2, 3))
    assert torch.allclose(measures["mse"], expected)
    assert torch.allclose(measures["mse_of_doing_nothing"], expected)
    assert torch.allclose(measures["psnr"], -10 * expected.log10())
    assert torch.allclose(task.loss(same, samples.targets), expected.mean())
    assert task.measure(same, Samples(samples.stacks, shown))["mse"].max() < 1e-10  # the floor: the target itself


def test_copies_show_the_mean_of_their_pictures() -> None:
    one, two = networks(3), {name: -p for name, p in networks(3).items()}
    task = Editing("dilation", 6, 5, 30.0)
    both = {name: torch.stack([one[name], two[name]], dim=1) for name in one}
    expected = (render(one, 6, 5) + render(two, 6, 5)) / 2
    assert torch.allclose(task.pictures(both), expected, atol=1e-5)
    assert not torch.allclose(task.pictures({n: p[:, :1] for n, p in both.items()}), expected, atol=1e-2)


def flat_mlp(task: str) -> FlatMLP:
    params = networks()
    model = FlatMLP({name: tuple(p.shape[1:]) for name, p in params.items()}, task=task, outputs=10, width=16)
    model.fit_statistics(None, params)
    return model.eval()


def test_flat_mlp_normalises_and_classifies() -> None:
    params, model = networks(), flat_mlp("classify")
    assert model(None, params).shape == (5, 10)
    other = {name: 7 * p + 1 for name, p in params.items()}
    again = flat_mlp("classify")
    again.load_state_dict(model.state_dict())
    again.fit_statistics(None, other)
    assert torch.allclose(again(None, other), model(None, params), atol=1e-4)
    assert not torch.allclose(model(None, other), model(None, params), atol=1e-2)


def test_flat_mlp_knows_nothing_of_symmetry() -> None:
    """The control of every equivariance test: a model that sees flat weights must fail it."""
    from benchmarks.weight_space.augment import permute, random_orders
    from benchmarks.weight_space.step import generator

    params, model = networks(), flat_mlp("classify")
    permuted = permute(params, random_orders(params, generator(0)))
    assert torch.allclose(render(permuted, 4, 4), render(params, 4, 4), atol=1e-4)
    assert not torch.allclose(model(None, permuted), model(None, params), atol=1e-3)


def test_flat_mlp_starts_with_no_edit_and_can_learn_one() -> None:
    params, model = networks(), flat_mlp("edit")
    output = model(None, params)
    assert all(torch.equal(output[name], p[:, None]) for name, p in params.items())
    task = Editing("dilation", 5, 5, 30.0)
    task.loss(output, torch.rand(5, 1, 5, 5)).backward()
    assert model.body[-1].weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="see its docstring"):
        FlatMLP({}, task="sing", outputs=1)
