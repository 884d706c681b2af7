"""What may be passed to the constructor: numbers of any library, options of other optimizers, empty groups."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import nn

import ngopt
from ngopt.optim.attach.options import LEFTOVER, SLOW
from ngopt.optim.update import DEFAULT_LR
from tests.optim.ngoptimizer_cases import differing, make_mlp, train, weights

HARMLESS = {
    "betas": (0.9, 0.95),
    "eps": 1e-8,
    "amsgrad": True,
    "momentum": 0.9,
    "nesterov": True,
    "foreach": True,
    "fused": True,
    "decoupled_weight_decay": True,
}


@pytest.mark.parametrize("option", HARMLESS)
def test_options_of_other_optimizers_have_no_effect(option: str) -> None:
    model, twin = make_mlp(), make_mlp()
    with pytest.warns(UserWarning, match=f"^{option} has no effect") as caught:
        optimizer = ngopt.NGOptimizer(model, graph=False, **{option: HARMLESS[option]})
    assert len(caught) == 1
    train(model, optimizer, range(2))
    train(twin, ngopt.NGOptimizer(twin, graph=False), range(2))
    assert differing(weights(model), weights(twin)) == []
    assert option not in optimizer.defaults


def test_one_warning_names_all_of_them() -> None:
    with pytest.warns(UserWarning, match="amsgrad, betas, decoupled_weight_decay, eps, .* have no effect") as caught:
        ngopt.NGOptimizer(make_mlp(), graph=False, **HARMLESS)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="^betas, eps have no effect") as caught:
        ngopt.NGOptimizer([{"params": make_mlp().parameters(), "betas": (0.9, 0.99), "eps": 1e-6}], graph=False)
    assert len(caught) == 1


def test_options_that_are_off_are_not_worth_a_warning() -> None:
    """A factory that passes AdamW's defaults along asks for nothing."""
    off = dict(amsgrad=False, foreach=None, fused=False, capturable=False)
    ngopt.NGOptimizer(make_mlp(), graph=False, **off)
    ngopt.NGOptimizer([{"params": make_mlp().parameters(), **off}], graph=False)


@pytest.mark.parametrize(
    "given", [np.int64(30), np.int32(30), np.float32(30.0), np.float64(30.0), 30.0, torch.tensor(30).item()]
)
def test_whole_numbers_of_any_kind(given: object) -> None:
    optimizer = ngopt.NGOptimizer(make_mlp(), graph=False, total_steps=given)
    assert optimizer.param_groups[0]["total_steps"] == 30
    assert type(optimizer.param_groups[0]["total_steps"]) is int


@pytest.mark.parametrize("kind", [np.float32, np.float64, int, torch.tensor])
def test_numbers_of_any_kind_can_be_saved(kind: type) -> None:
    optimizer = ngopt.NGOptimizer(make_mlp(), lr=kind(1), weight_decay=kind(1), graph=False)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    other = ngopt.NGOptimizer(make_mlp(), graph=False)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert float(other.param_groups[0]["lr"]) == float(other.param_groups[0]["weight_decay"]) == 1.0


def test_no_parameters_at_all() -> None:
    with pytest.raises(TypeError, match=r"NGOptimizer\(None\): pass a model"):
        ngopt.NGOptimizer(None)
    with pytest.raises(ValueError, match="empty parameter list"):
        ngopt.NGOptimizer([], graph=False)
    with pytest.raises(ValueError, match="empty parameter list"):
        ngopt.NGOptimizer(nn.ReLU())


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("named", [False, True])
def test_empty_groups(position: int, named: bool) -> None:
    """Models without biases, or heads without parameters, leave a group of a recipe empty."""
    model, twin = make_mlp(), make_mlp()
    groups = [{"params": list(model.named_parameters() if named else model.parameters())}]
    groups.insert(position, {"params": [], "weight_decay": 0.3})
    optimizer = ngopt.NGOptimizer(groups, graph=False)
    other = ngopt.NGOptimizer(list(twin.named_parameters()), graph=False)
    train(model, optimizer, range(2))
    train(twin, other, range(2))
    assert differing(weights(model), weights(twin)) == []
    again = ngopt.NGOptimizer([{**group, "params": list(group["params"])} for group in groups], graph=False)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[position]["weight_decay"] == 0.3
    assert ngopt.NGOptimizer([{"params": []}], graph=False).step() is None


def test_a_small_lr_is_surely_meant_for_another_optimizer() -> None:
    for lr in (3e-4, 1e-3, LEFTOVER * DEFAULT_LR, torch.tensor(1e-3)):
        with pytest.warns(UserWarning, match=r"lr=.* looks like a value for another optimizer.*multiplies") as caught:
            optimizer = ngopt.NGOptimizer(make_mlp(), lr=lr, graph=False)
            optimizer.add_param_group({"params": nn.Parameter(torch.zeros(2)), "lr": 1e-5})
        assert len(caught) == 1


def test_a_small_lr_that_is_meant_is_not_warned_of() -> None:
    """Lowered by layer, by a warm-up from zero or by a scheduler, or set to zero."""
    first, _, second = make_mlp()
    groups = [{"params": first.parameters(), "lr": 1e-5}, {"params": second.parameters()}]
    optimizer = ngopt.NGOptimizer(groups, graph=False)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1e-6 * step)
    optimizer.param_groups[0]["lr"] = 1e-7
    ngopt.NGOptimizer(make_mlp(), lr=0.0, graph=False)
    ngopt.NGOptimizer(make_mlp(), lr=2.0 * LEFTOVER * DEFAULT_LR, graph=False)


def run(optimizer: ngopt.NGOptimizer, rates: Iterable[float]) -> None:
    """Steps at rates that the program sets itself."""
    for rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
            for param in group["params"]:
                param.grad = torch.ones_like(param)
        optimizer.step()


def test_an_lr_of_another_optimizer_that_the_program_sets_is_warned_of_once() -> None:
    """Programs write ``lr`` into the groups, as an annealed rate say; it is said when they barely trained."""
    optimizer = ngopt.NGOptimizer(nn.Linear(2, 2), graph=False)
    run(optimizer, [1e-3 * (1.0 - 1e-3 * step) for step in range(SLOW - 1)])
    with pytest.warns(UserWarning, match=r"lr was 0.001 at most in the first 100 steps.*let it rise to 1") as caught:
        run(optimizer, [1e-3] * 2 * SLOW)
    assert len(caught) == 1


def test_an_lr_that_was_ever_large_enough_is_not_warned_of() -> None:
    optimizer = ngopt.NGOptimizer(nn.Linear(2, 2), graph=False, schedule="user")
    run(optimizer, [1.0 - step / SLOW for step in range(SLOW)])  # falls to nothing
    resumed = ngopt.NGOptimizer(nn.Linear(2, 2), graph=False)
    run(resumed, [1.0] * (SLOW // 2))
    again = ngopt.NGOptimizer(nn.Linear(2, 2), graph=False)
    again.load_state_dict(resumed.state_dict())
    run(again, [1e-3] * SLOW)
    run(ngopt.NGOptimizer(nn.Linear(2, 2), graph=False), [0.0] * SLOW)


def warmed_up(optimizer: ngopt.NGOptimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / steps))


@pytest.mark.parametrize("epoch", [1, 2 * SLOW])
def test_a_long_warm_up_is_not_warned_of(epoch: int) -> None:
    """It rises in every step or, where a scheduler makes it, in every epoch."""
    optimizer = ngopt.NGOptimizer(nn.Linear(2, 2), graph=False, schedule="user")
    scheduler = warmed_up(optimizer, 100 * SLOW // epoch)
    for step in range(3 * SLOW):
        run(optimizer, [optimizer.param_groups[0]["lr"]])
        if (step + 1) % epoch == 0:
            scheduler.step()


def test_a_long_warm_up_that_the_program_makes_is_not_warned_of() -> None:
    optimizer = ngopt.NGOptimizer(nn.Linear(2, 2), graph=False, schedule="user")
    run(optimizer, [step / (100 * SLOW) for step in range(3 * SLOW)])


def test_a_warm_up_to_an_lr_of_another_optimizer_is_warned_of_at_its_end() -> None:
    rates = [1e-3 * min(1.0, (step + 1) / (2 * SLOW)) for step in range(4 * SLOW)]
    optimizer = ngopt.NGOptimizer(nn.Linear(2, 2), graph=False, schedule="user")
    run(optimizer, rates[: 3 * SLOW - 2])
    with pytest.warns(UserWarning, match=r"lr was 0.001 at most in the first 299 steps.*stopped rising") as caught:
        run(optimizer, rates[3 * SLOW - 2 :])
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="looks like a value for another optimizer"):
        optimizer = ngopt.NGOptimizer(nn.Linear(2, 2), lr=1e-3, graph=False)
    warmed_up(optimizer, 10)  # the same rate is said once
    run(optimizer, rates)


def test_lr_is_a_multiplier_of_the_first_step() -> None:
    steps = []
    for factor in (1.0, 2.0):
        model = make_mlp(dtype=torch.float64)
        before = weights(model)
        train(model, ngopt.NGOptimizer(model, lr=factor * DEFAULT_LR, graph=False), [0], dtype=torch.float64)
        steps.append({name: value - before[name] for name, value in weights(model).items()})
    for name, step in steps[0].items():
        torch.testing.assert_close(steps[1][name], 2.0 * step)


@pytest.mark.parametrize("option", ["lr", "weight_decay"])
def test_an_option_that_turns_nan_cannot_reach_the_weights(option: str) -> None:
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model, graph=False)
    train(model, optimizer, [0])
    before = weights(model)
    optimizer.param_groups[0][option] = float("nan")
    with pytest.raises(ValueError, match=f"{option}=nan in param_groups is not finite"):
        train(model, optimizer, [1])
    assert differing(before, weights(model)) == []


@pytest.mark.parametrize("way", ["builtin", "user"])
def test_one_warning_past_the_horizon(way: str) -> None:
    """Weights that no longer move would look like a plateau. With a schedule of the user's own, nothing ends."""
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model, total_steps=3, schedule=way, graph=False)
    train(model, optimizer, range(3))
    before = weights(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, optimizer, range(3))
    assert [str(w.message).split(",")[0] for w in caught] == ["Step 4 is past total_steps=3"] * (way == "builtin")
    assert (differing(before, weights(model)) == []) == (way == "builtin")
