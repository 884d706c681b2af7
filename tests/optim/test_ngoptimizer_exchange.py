"""Parameters exchanged in ``param_groups``: what the groups hold is what is trained, whatever it was before."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import ngopt
from ngopt.optim.attach import capture
from tests.optim.ngoptimizer_cases import CONSTRUCTIONS, batch, differing, graph_of, make_mlp, make_net, train, weights


@pytest.fixture(autouse=True)
def remembered_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes longer than all the rest of these tests, and most of them use the same two models."""
    monkeypatch.setattr(capture, "trace_quietly", graph_of)


def exchange(optimizer: ngopt.NGOptimizer, change: Callable[[torch.Tensor], torch.Tensor]) -> dict:
    """Other tensors in the place of all parameters; returns which for which."""
    swapped = {}
    for group in optimizer.param_groups:
        new = [change(param) for param in group["params"]]
        swapped.update(zip(group["params"], new, strict=True))
        group["params"] = new
    return swapped


def copied(param: torch.Tensor) -> torch.Tensor:
    return nn.Parameter(param.detach().clone(), requires_grad=param.requires_grad)


def put_into(model: nn.Module, swapped: dict) -> None:
    """The model's parameters are now those of the optimizer, tied ones included."""
    for module in model.modules():
        for name, param in list(module._parameters.items()):
            if param in swapped:
                module._parameters[name] = swapped[param]


@pytest.mark.parametrize("way", CONSTRUCTIONS)
@pytest.mark.parametrize("after", [0, 3])
def test_a_framework_moves_the_model(way: str, after: int) -> None:
    """As accelerate and XLA do: new parameters in the model and in the groups. Training goes on as if nothing was."""
    model, twin = make_net(), make_net()
    optimizer, other = CONSTRUCTIONS[way](model), CONSTRUCTIONS[way](twin)
    train(model, optimizer, range(after))
    train(twin, other, range(after))
    put_into(model, exchange(optimizer, copied))
    train(model, optimizer, range(after, after + 3))
    train(twin, other, range(after, after + 3))
    assert differing(weights(model), weights(twin)) == []
    assert {id(p) for p in optimizer.state} <= {id(p) for p in model.parameters()}
    assert (optimizer.graph is None) == (way == "no_graph")


@pytest.mark.parametrize("after", [0, 2])
def test_float32_masters_of_half_precision_weights(after: int) -> None:
    """The groups hold float32 copies, the model runs in bfloat16, and the user copies gradients and weights across."""
    model, twin = make_mlp(dtype=torch.bfloat16), make_mlp()
    twin.load_state_dict(model.state_dict())
    optimizer, other = CONSTRUCTIONS["model"](model), CONSTRUCTIONS["model"](twin)
    train(model, optimizer, range(after), dtype=torch.bfloat16)
    masters = exchange(optimizer, lambda p: nn.Parameter(p.detach().float()))
    for index in range(4):
        x, y = batch(index, torch.bfloat16)
        nn.functional.cross_entropy(model(x).float(), y).backward()
        for param, master in masters.items():
            master.grad, param.grad = param.grad.float(), None
        before = {name: p.detach().clone() for name, p in zip(weights(model), masters.values(), strict=True)}
        optimizer.step()
        assert len(differing(before, dict(zip(before, masters.values(), strict=True)))) == len(before)
        for param, master in masters.items():
            param.data.copy_(master)
    assert optimizer.graph is not None
    assert set(optimizer.state) == set(masters.values())
    assert {s["momentum"].dtype for s in optimizer.state.values()} == {torch.float32}
    if not after:  # all of it was done on the masters, so that it is the float32 run but for rounding of the gradients
        train(twin, other, range(4))
        for master, param in zip(masters.values(), twin.parameters(), strict=True):
            torch.testing.assert_close(master, param, rtol=0.1, atol=0.05)


def test_one_flat_master_for_a_whole_group() -> None:
    """No parameter of the graph any more: it is trained all the same, and one warning says how."""
    model = make_mlp()
    optimizer = CONSTRUCTIONS["model"](model)
    train(model, optimizer, range(2))
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in model.parameters()]))
    optimizer.param_groups[0]["params"] = [flat]
    before = flat.detach().clone()
    with pytest.warns(UserWarning, match="not on the neural graph; these take the per-tensor rule") as caught:
        for _ in range(2):
            flat.grad = torch.linspace(-1, 1, flat.numel())
            optimizer.step()
    assert len(caught) == 1
    assert bool((flat != before).all())
    assert set(optimizer.state) == {flat}
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def test_densification() -> None:
    """Points are added and pruned: the parameter changes its length, and the user drops its state or not."""
    points = nn.Parameter(torch.randn(6, 3))
    colours = nn.Parameter(torch.randn(6, 4))
    optimizer = ngopt.NGOptimizer(
        [{"params": [points], "name": "points"}, {"params": [colours], "name": "colours"}], graph=False
    )
    for round in range(4):
        for group in optimizer.param_groups:
            (old,) = group["params"]
            old.grad = torch.randn_like(old)
        before = [group["params"][0].detach().clone() for group in optimizer.param_groups]
        optimizer.step()
        for group, value in zip(optimizer.param_groups, before, strict=True):
            (old,) = group["params"]
            assert bool((old != value).all())
            assert optimizer.state[old]["momentum"].numel() == old.numel()
            longer = torch.cat([old.detach(), old.detach()[:2]]) if round % 2 == 0 else old.detach()[3:]
            if round < 2:
                del optimizer.state[old]
            group["params"][0] = nn.Parameter(longer)
    assert len(optimizer.state) <= 2
    optimizer.state_dict()


def test_a_parameter_of_the_graph_that_changes_its_shape() -> None:
    """A head for more classes: off the graph with one warning, trained, and never an error out of the forward pass."""
    model = make_mlp()
    optimizer = CONSTRUCTIONS["model"](model)
    train(model, optimizer, range(2))
    wider = nn.Linear(8, 4)
    optimizer.param_groups[0]["params"][2:] = list(wider.parameters())
    model[2] = wider
    before = weights(model)
    with pytest.warns(UserWarning, match="2.weight, 2.bias: not on the neural graph") as caught:
        train(model, optimizer, range(3))
    assert len(caught) == 1
    assert len(differing(before, weights(model))) == 4
    assert optimizer.state[model[0].weight]["step"] == 5
    assert optimizer.state[wider.weight]["step"] == 3


@pytest.mark.parametrize("captured", [False, True])
def test_data_of_another_shape_or_dtype(captured: bool) -> None:
    """``param.data = ...`` keeps the parameter and changes all else."""
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model, graph=None if captured else False)
    train(model, optimizer, range(2))
    model[2].weight.data, model[2].bias.data = torch.randn(5, 8), torch.zeros(5)
    before = weights(model)
    if captured:
        with pytest.warns(UserWarning, match="not on the neural graph"):
            train(model, optimizer, range(2))
    else:
        train(model, optimizer, range(2))
    assert len(differing(before, weights(model))) == 4
    model.double()
    train(model, optimizer, range(2), dtype=torch.float64)
    assert {s["momentum"].dtype for s in optimizer.state.values()} == {torch.float64}


def test_reordered_pruned_and_moved_between_groups() -> None:
    """State stays with its parameter wherever it goes."""
    model, twin = make_mlp(), make_mlp()
    first, second = ([{"params": list(m[i].parameters())} for i in (0, 2)] for m in (model, twin))
    optimizer = ngopt.NGOptimizer(first, model=model)
    other = ngopt.NGOptimizer(second, model=twin)
    train(model, optimizer, range(2))
    train(twin, other, range(2))
    one, two = (group["params"] for group in optimizer.param_groups)
    optimizer.param_groups[0]["params"], optimizer.param_groups[1]["params"] = [two[1], one[1], two[0]], [one[0]]
    train(model, optimizer, range(2, 5))
    train(twin, other, range(2, 5))
    assert differing(weights(model), weights(twin)) == []
    assert optimizer.param_groups[0]["param_names"] == ["2.bias", "0.bias", "2.weight"]
    del optimizer.param_groups[1]["params"][0]
    train(model, optimizer, [5])
    assert one[0] not in optimizer.state
    assert len(optimizer.state_dict()["state"]) == 3


def test_modules_whose_parameters_have_the_same_names() -> None:
    """All of them are trained, and none is taken for another; with a graph, too."""
    model = make_mlp()
    for options in ({"graph": False}, {"model": model}):
        groups = [{"params": list(layer.named_parameters())} for layer in (model[0], model[2])]
        optimizer = ngopt.NGOptimizer(groups, **options)
        before = weights(model)
        train(model, optimizer, [0])
        assert len(differing(before, weights(model))) == 4
        other = ngopt.NGOptimizer(groups, **options)
        other.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("how", ["clear", "replace"])
def test_state_that_the_user_throws_away_is_made_again(how: str) -> None:
    from collections import defaultdict

    model, twin = make_mlp(), make_mlp()
    optimizer = ngopt.NGOptimizer(model)
    train(model, optimizer, range(2))
    if how == "clear":
        optimizer.state.clear()
    else:
        optimizer.state = defaultdict(dict)
        assert optimizer.state[model[0].weight] == {}  # looking at it makes an entry
    twin.load_state_dict(model.state_dict())
    train(model, optimizer, [2])
    assert {float(s["step"]) for s in optimizer.state.values()} == {1.0}
