"""Plugged in where other optimizers go: the generic cases of torch's own suite, timm's factory, a wrapper of others."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

import ngopt
from tests.optim.ngoptimizer_cases import batch, differing, make_mlp, same, train, weights


def build(params: Iterable, **options: object) -> ngopt.NGOptimizer:
    return ngopt.NGOptimizer(params, graph=False, **options)


def test_state_dicts_of_equal_runs_are_equal() -> None:
    """As `test_state_dict_deterministic`: a copy by way of a state dict stays equal, entry for entry and in order."""
    model, twin = make_mlp(), make_mlp()
    optimizer = build(model.parameters())
    train(model, optimizer, range(5))
    twin.load_state_dict(model.state_dict())
    other = build(twin.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for index in range(5, 8):
        train(model, optimizer, [index])
        train(twin, other, [index])
        one, two = optimizer.state_dict(), other.state_dict()
        assert same(one, two)
        assert list(one["state"]) == list(two["state"]) == sorted(one["state"])
    assert differing(weights(model), weights(twin)) == []
    other.param_groups.extend(other.param_groups)  # a group that is listed twice looks the same the second time
    assert same(optimizer.state_dict()["param_groups"][-1], other.state_dict()["param_groups"][-1])


@pytest.mark.parametrize("saved_names", [False, True])
@pytest.mark.parametrize("own_names", [False, True])
def test_states_with_and_without_names(saved_names: bool, own_names: bool) -> None:
    """As `test_can_load_from_to_named_state_dict`: whichever of the two has names, they are there afterwards."""
    model, twin = make_mlp(), make_mlp()
    optimizer = build(model.named_parameters() if saved_names else model.parameters())
    train(model, optimizer, range(3))
    twin.load_state_dict(model.state_dict())
    other = build(twin.named_parameters() if own_names else twin.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert same(optimizer.state_dict()["state"], other.state_dict()["state"])
    names = other.state_dict()["param_groups"][0]["param_names"]
    assert (names == [name for name, _ in model.named_parameters()]) == (saved_names or own_names)
    train(model, optimizer, range(3, 5))
    train(twin, other, range(3, 5))
    assert differing(weights(model), weights(twin)) == []


def test_parameters_without_gradients_are_left_alone() -> None:
    """As `test_step_is_noop_when_params_have_no_grad`."""
    model = make_mlp()
    optimizer = build(model.parameters(), weight_decay=0.1)
    before = weights(model)
    optimizer.step()
    assert differing(before, weights(model)) == []


def test_a_parameter_twice() -> None:
    """As `test_duplicate_params_in_one_param_group` and `..._across_param_groups`: torch's own warning and error."""
    param = nn.Parameter(torch.randn(5, 5))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        build([param, param])
    with pytest.raises(ValueError, match="more than one parameter group"):
        build([{"params": [param]}, {"params": [param]}])


def test_lr_as_a_tensor_is_read_when_it_is_used() -> None:
    """As `test_tensor_lr`: schedulers fill it in place."""
    model, twin = make_mlp(), make_mlp()
    lr = torch.tensor(1.0)
    optimizer, other = build(model.parameters(), lr=lr), build(twin.parameters(), lr=1.0)
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5) for o in (optimizer, other)]
    for index in range(3):
        train(model, optimizer, [index])
        train(twin, other, [index])
        for scheduler in schedulers:
            scheduler.step()
    assert differing(weights(model), weights(twin)) == []
    assert isinstance(optimizer.param_groups[0]["lr"], Tensor)


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_timm(layer_decay: float | None) -> None:
    """Registered as a user would, made by the factory with its groups, decay by layer included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports
        timm_optim = pytest.importorskip("timm.optim._optim_factory")
    registry = timm_optim.OptimizerRegistry()
    registry.register(timm_optim.OptimInfo(name="ngopt", opt_class=ngopt.NGOptimizer, has_betas=True))
    model = make_mlp()
    groups = timm_optim.param_groups_weight_decay(model, 0.01)
    if layer_decay is not None:
        groups = timm_optim.param_groups_layer_decay(model, 0.01, layer_decay=layer_decay)
    with pytest.warns(UserWarning, match="eps has no effect"):
        optimizer = registry.get_optimizer_class("ngopt")(groups, lr=0.5, eps=1e-8, graph=False)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.01}
    assert all(("lr_scale" in group) == (layer_decay is not None) for group in optimizer.param_groups)
    first = train(model, optimizer, [0])
    assert train(model, optimizer, [0] * 30) < 0.7 * first


def test_wrapped_by_lookahead() -> None:
    """pytorch_optimizer's wrapper keeps slow weights beside, in the state of the optimizer that it wraps or its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrappers = pytest.importorskip("pytorch_optimizer")
    model = make_mlp()
    inner = ngopt.NGOptimizer(model, graph=False)
    optimizer = wrappers.Lookahead(inner, k=3)
    first = train(model, optimizer, [0])
    assert train(model, optimizer, [0] * 40) < 0.7 * first
    assert inner.param_groups[0]["step"] == 41
    nn.functional.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    optimizer.step()
    inner.load_state_dict(copy.deepcopy(inner.state_dict()))


class Around(torch.optim.Optimizer):
    """As sharpness-aware minimisation is written: the optimizer inside is made of the groups of the one outside."""

    def __init__(
        self, params: Iterable, base: type[torch.optim.Optimizer], rho: float = 0.05, **options: object
    ) -> None:
        super().__init__(params, dict(rho=rho, adaptive=True, alpha=0.5, foreach=None, **options))
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """Up the gradient by a step of length ``rho``, and from there down from where it was."""
        closure = torch.enable_grad()(closure)
        closure()
        params = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        up = [p.grad * (self.param_groups[0]["rho"] / norm) for p in params]
        for p, step in zip(params, up, strict=True):
            p.add_(step)
        loss = closure()
        for p, step in zip(params, up, strict=True):
            p.sub_(step)
        self.base.step()
        return loss


def test_options_of_an_optimizer_around_are_its_own() -> None:
    """Some have the name of an option elsewhere; one that is meant for the optimizer inside is still spoken of."""
    model = make_mlp()
    optimizer = Around(model.parameters(), ngopt.NGOptimizer)
    assert optimizer.param_groups[0]["rho"] == 0.05
    x, y = batch(0)

    def closure() -> Tensor:
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    assert optimizer.base.graph is not None
    copy.deepcopy((model, optimizer.base))[1].add_param_group({"params": nn.Parameter(torch.zeros(2)), "rho": 0.1})
    other = make_mlp()
    with pytest.warns(UserWarning, match="^momentum has no effect"):
        around = Around(other.parameters(), ngopt.NGOptimizer, momentum=0.9)
    with pytest.warns(UserWarning, match="^alpha, momentum, rho have no effect"):  # control: groups of nobody
        ngopt.NGOptimizer([dict(around.param_groups[0])], graph=False)
