"""The contract of a `torch.optim.Optimizer`: one table of checks, each for every way to build an `NGOptimizer`."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import ngopt
from ngopt.errors import GraphMismatchError
from ngopt.optim.attach import capture
from ngopt.optim.update import DEFAULT_LR, UpdateRule
from tests.optim.ngoptimizer_cases import (
    BATCH,
    CLASSES,
    CONSTRUCTIONS,
    FEATURES,
    batch,
    differing,
    graph_of,
    lively_rule,
    make_mlp,
    make_net,
    same,
    train,
    weights,
)


@pytest.fixture(autouse=True)
def remembered_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes longer than all the rest of these tests, and most of them use the same two models."""
    monkeypatch.setattr(capture, "trace_quietly", graph_of)


build_every_way = pytest.mark.parametrize("way", CONSTRUCTIONS)


def backward(model: nn.Module, index: int = 0) -> torch.Tensor:
    x, y = batch(index, next(model.parameters()).dtype)
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return loss


# ---- the table


@build_every_way
def test_it_trains(way: str) -> None:
    model = make_net()
    optimizer = CONSTRUCTIONS[way](model)
    first = train(model, optimizer, [0])
    last = train(model, optimizer, [0] * 60)
    assert last < 0.7 * first
    assert (optimizer.graph is None) == (way == "no_graph")


@build_every_way
def test_state_is_made_in_the_constructor(way: str) -> None:
    model = make_net()
    optimizer = CONSTRUCTIONS[way](model)
    assert set(optimizer.state) == {param for param in model.parameters() if param.requires_grad}
    for param, state in optimizer.state.items():
        matrix = {
            key: value for key, value in state.items() if value.dim() > 0 and "_" not in key.replace("second_", "")
        }
        assert matrix.keys() - {"controls"} == {"momentum", "second_moment"}
        bases = sum(value.numel() for key, value in state.items() if key.endswith(("_factor", "_basis")))
        assert bases <= 2 * sum(size**2 for size in param.shape)


@build_every_way
def test_frozen_and_unused_parameters_stay(way: str) -> None:
    model = make_net()
    before = weights(model)
    optimizer = CONSTRUCTIONS[way](model)
    train(model, optimizer, range(3))
    same = before.keys() - differing(before, weights(model))
    assert {name for name in same if "norm" not in name} == {"frozen.weight", "frozen.bias", "unused"}
    assert model.tied.weight is model.square.weight


@build_every_way
def test_a_parameter_without_gradient_keeps_its_state(way: str) -> None:
    model = make_net()
    optimizer = CONSTRUCTIONS[way](model)
    train(model, optimizer, range(2))
    kept = copy.deepcopy(optimizer.state[model.head.weight])
    before = weights(model)
    backward(model)
    model.head.weight.grad = None
    optimizer.step()
    assert "head.weight" not in differing(before, weights(model))
    assert "head.bias" in differing(before, weights(model))
    for name, value in optimizer.state[model.head.weight].items():
        assert same(value, kept[name])


@build_every_way
def test_zero_lr_moves_nothing(way: str) -> None:
    model = make_net()
    optimizer = CONSTRUCTIONS[way](model)
    train(model, optimizer, range(2))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    backward(model)
    before = weights(model)
    optimizer.step()
    assert differing(before, weights(model)) == []
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    assert differing(before, weights(model)) != []


@build_every_way
@pytest.mark.parametrize("keyword", [False, True])
def test_closure(way: str, keyword: bool) -> None:
    model, twin = make_net(), make_net()
    optimizer, other = CONSTRUCTIONS[way](model), CONSTRUCTIONS[way](twin)
    for index in range(3):

        def closure(index: int = index) -> torch.Tensor:
            assert torch.is_grad_enabled()
            optimizer.zero_grad()
            return backward(model, index)

        with torch.no_grad():
            loss = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
        other.zero_grad()
        expected = backward(twin, index)
        assert other.step() is None
        assert torch.equal(loss, expected)
    assert differing(weights(model), weights(twin)) == []


@build_every_way
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("steps", [0, 3])
def test_copies_go_on_alike(way: str, how: str, steps: int) -> None:
    model = make_net()
    optimizer = CONSTRUCTIONS[way](model)
    train(model, optimizer, range(steps))
    if how == "deepcopy":
        twin, other = copy.deepcopy((model, optimizer))
    else:
        twin, other = pickle.loads(pickle.dumps((model, optimizer)))
    train(model, optimizer, range(steps, steps + 4))
    before = weights(twin)
    train(twin, other, range(steps, steps + 4))
    assert differing(weights(model), weights(twin)) == []
    assert differing(before, weights(twin)) != []
    assert (other.graph is None) == (optimizer.graph is None)


@build_every_way
def test_nonfinite_gradients_skip_the_step(way: str) -> None:
    model, twin = make_net(), make_net()
    optimizer, other = CONSTRUCTIONS[way](model), CONSTRUCTIONS[way](twin)
    for index in range(6):
        train(model, optimizer, [index])
        train(twin, other, [index])
        backward(model)
        bad = model.wide.weight if index % 2 else model.head.bias
        bad.grad.view(-1)[1] = [float("nan"), float("inf"), -float("inf")][index % 3]
        before, buffers = weights(model), copy.deepcopy(list(optimizer.state.values()))
        if index == 0:
            with pytest.warns(UserWarning, match="skipped.*head.bias"):
                optimizer.step()
        else:
            optimizer.step()
        assert differing(before, weights(model)) == []
        assert same(list(optimizer.state.values()), buffers)
        model.load_state_dict({**model.state_dict(), **{n: b for n, b in twin.state_dict().items() if "norm.r" in n}})
    assert optimizer.skipped_steps == 6
    assert optimizer.param_groups[0]["step"] == 6
    model.load_state_dict({**model.state_dict(), "norm.num_batches_tracked": twin.norm.num_batches_tracked})
    assert differing(weights(model), weights(twin)) == []


@build_every_way
def test_scaling_the_loss_changes_nothing(way: str) -> None:
    model, twin = make_net(dtype=torch.float64), make_net(dtype=torch.float64)
    optimizer, other = CONSTRUCTIONS[way](model), CONSTRUCTIONS[way](twin)
    train(model, optimizer, range(12), dtype=torch.float64)
    train(twin, other, range(12), scale=2.0**12, dtype=torch.float64)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value, rtol=1e-7, atol=1e-8)


@build_every_way
def test_maximize_is_descent_on_the_negative(way: str) -> None:
    model, twin = make_net(), make_net()
    optimizer, other = CONSTRUCTIONS[way](model), CONSTRUCTIONS[way](twin)
    for group in optimizer.param_groups:
        group["maximize"] = True
    train(model, optimizer, range(4), scale=-1.0)
    train(twin, other, range(4))
    assert differing(weights(model), weights(twin)) == []


@build_every_way
def test_hooks_schedulers_and_zero_grad(way: str) -> None:
    model = make_net()
    optimizer = CONSTRUCTIONS[way](model)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    start = [group["lr"] for group in optimizer.param_groups]
    train(model, optimizer, [0])
    scheduler.step()
    assert seen == ["before", "after"]
    assert [group["lr"] for group in optimizer.param_groups] == [lr / 2 for lr in start]
    optimizer.zero_grad(set_to_none=False)
    assert all(bool((p.grad == 0).all()) for p in optimizer.state if p.grad is not None)
    optimizer.zero_grad()
    assert all(p.grad is None for p in optimizer.state)


@build_every_way
def test_clipping_and_accumulation(way: str) -> None:
    """Two halves of a batch, accumulated and clipped, are the whole batch: the step does not see the scale."""
    model, twin = make_mlp(dtype=torch.float64), make_mlp(dtype=torch.float64)
    optimizer, other = CONSTRUCTIONS[way](model), CONSTRUCTIONS[way](twin)
    for index in range(5):
        x, y = batch(index, torch.float64)
        optimizer.zero_grad()
        for part in (slice(0, BATCH // 2), slice(BATCH // 2, BATCH)):
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
        other.zero_grad()
        nn.functional.cross_entropy(twin(x), y).backward()
        norm = nn.utils.clip_grad_norm_(twin.parameters(), 2.0**-6, error_if_nonfinite=True)
        for param in twin.parameters():  # the same clip every time: a changing one is a changing loss
            param.grad.mul_((norm + 1e-6) / 2.0**-6)
        other.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value, rtol=1e-7, atol=1e-9)


@build_every_way
def test_dense_layouts(way: str) -> None:
    """Transposed, channels-last and expanded storage train like contiguous storage."""
    model, twin = make_net(dtype=torch.float64), make_net(dtype=torch.float64)
    for param in (twin.wide.weight, twin.conv.weight):
        param.data = (
            param.data.permute(*reversed(range(param.dim()))).contiguous().permute(*reversed(range(param.dim())))
        )
    assert not twin.wide.weight.is_contiguous()
    optimizer, other = CONSTRUCTIONS[way](model), CONSTRUCTIONS[way](twin)
    train(model, optimizer, range(4), dtype=torch.float64)
    train(twin, other, range(4), dtype=torch.float64)
    assert not twin.wide.weight.is_contiguous()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value, rtol=1e-4, atol=1e-5)


# ---- what differs from one construction to another


def test_constructions_agree() -> None:
    """However the graph arrives, the steps are the same; controls: without it, and untrained, they are not."""
    results = {}
    for way in ("model", "inputs", "graph", "no_graph", "untrained"):
        model = make_net()
        train(model, CONSTRUCTIONS[way](model), range(5))
        results[way] = weights(model)
    assert differing(results["model"], results["inputs"]) == []
    assert differing(results["model"], results["graph"]) == []
    assert differing(results["model"], results["no_graph"]) != []
    assert differing(results["model"], results["untrained"]) != []


def test_parameters_off_the_graph_are_named_once() -> None:
    model = make_mlp()
    extra = nn.Parameter(torch.ones(3, 4))
    with pytest.warns(UserWarning, match="extra: not on the neural graph") as caught:
        optimizer = ngopt.NGOptimizer(
            [*model.named_parameters(), ("extra", extra)], model=model, example_inputs=batch(0)[0]
        )
        for _ in range(2):
            backward(model)
            extra.grad = torch.randn(3, 4)
            optimizer.step()
    assert len(caught) == 1
    assert not torch.equal(extra, torch.ones(3, 4))


def test_neither_model_nor_graph_warns() -> None:
    with pytest.warns(UserWarning, match="per-tensor rule"):
        ngopt.NGOptimizer(make_mlp().parameters())


def test_step_before_any_forward_warns_once_and_trains() -> None:
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    before = weights(model)
    with pytest.warns(UserWarning, match="No forward pass") as caught:
        for _ in range(3):
            optimizer.step()
    assert len(caught) == 1
    assert set(differing(before, weights(model))) == before.keys()
    train(model, optimizer, range(2))
    assert optimizer.graph is not None
    assert optimizer.param_groups[0]["step"] == 5


def test_warnings_point_to_the_line_of_the_program() -> None:
    """Not into ngopt or torch, through which they come in several ways."""
    model, beside = make_mlp(), nn.Parameter(torch.ones(()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ngopt.NGOptimizer(model, lr=1e-3, betas=(0.9, 0.99))
        ngopt.NGOptimizer([{"params": model.parameters(), "betas": (0.9, 0.99)}])
        ngopt.NGOptimizer([nn.Parameter(torch.ones(2))])
        optimizer = ngopt.NGOptimizer([*model.parameters(), beside])
        (beside * model(batch(0)[0]).sum()).backward()
        optimizer.step()
        beside.grad.fill_(float("nan"))
        optimizer.step()
    assert len(caught) == 6
    assert {warning.filename for warning in caught} == {__file__}


def test_graph_of_another_model() -> None:
    other = nn.Sequential(nn.Linear(FEATURES, 9), nn.ReLU(), nn.Linear(9, CLASSES))
    graph = ngopt.trace(other, (batch(0)[0],))
    with pytest.raises(GraphMismatchError, match=r"0\.weight: parameter \(8, 5\), graph \(9, 5\)"):
        ngopt.NGOptimizer(make_mlp().named_parameters(), graph=graph)
    with pytest.raises(GraphMismatchError, match="No parameter is on the graph"):
        ngopt.NGOptimizer(make_net().named_parameters(), graph=graph)
    with pytest.raises(GraphMismatchError, match="named_parameters"):
        ngopt.NGOptimizer(other.parameters(), graph=graph)


def test_groups_have_options_of_their_own() -> None:
    model = make_mlp()
    first, second = model[0], model[2]
    optimizer = ngopt.NGOptimizer(
        [{"params": first.parameters(), "lr": 0.0}, {"params": second.parameters()}], model=model
    )
    before = weights(model)
    train(model, optimizer, range(2))
    assert differing(before, weights(model)) == ["2.weight", "2.bias"]


def test_add_param_group_puts_a_layer_on_the_graph() -> None:
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model[0].parameters(), model=model, example_inputs=batch(0)[0], total_steps=50)
    before = weights(model)
    train(model, optimizer, range(2))
    assert differing(before, weights(model)) == ["0.weight", "0.bias"]
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.3 * DEFAULT_LR})
    assert optimizer.param_groups[1]["param_names"] == ["2.weight", "2.bias"]
    assert optimizer.param_groups[1]["step"] == 2
    assert optimizer.state[model[2].weight].keys() == optimizer.state[model[0].weight].keys()
    train(model, optimizer, range(2))
    assert len(differing(before, weights(model))) == 4
    with pytest.raises(ValueError, match="total_steps must be the same"):
        optimizer.add_param_group({"params": nn.Parameter(torch.zeros(2)), "total_steps": 7})


def test_weights_that_are_not_trained_are_read() -> None:
    """The encoder sees the whole network, also where the optimizer was given one layer of it."""
    after = []
    for seed in (0, 1):
        model = make_mlp()
        optimizer = ngopt.NGOptimizer(
            model[2].named_parameters(prefix="2"), model=model, example_inputs=batch(0)[0], rule=lively_rule()
        )
        model[0].load_state_dict(make_mlp(seed)[0].state_dict())
        for param in model[2].parameters():
            param.grad = torch.linspace(-1, 1, param.numel()).reshape(param.shape)
        optimizer.step()
        assert differing(weights(model[0]), weights(make_mlp(seed)[0])) == []
        after.append(weights(model[2]))
    assert set(differing(*after)) == {"weight", "bias"}


def test_unfreezing_later() -> None:
    model = make_net()
    optimizer = ngopt.NGOptimizer(model, rule=lively_rule())
    train(model, optimizer, range(3))
    model.frozen.requires_grad_(True)
    before = weights(model)
    train(model, optimizer, [3])
    assert {"frozen.weight", "frozen.bias"} <= set(differing(before, weights(model)))


def test_empty_and_scalar_parameters() -> None:
    model = make_mlp()
    model.register_parameter("empty", nn.Parameter(torch.zeros(0, 4)))
    model.register_parameter("scalar", nn.Parameter(torch.tensor(1.0)))
    optimizer = ngopt.NGOptimizer(model, graph=False)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert model.scalar < 1.0
    assert all(bool(torch.isfinite(param).all()) for param in model.parameters())
    ngopt.NGOptimizer(model, graph=False).load_state_dict(optimizer.state_dict())


def test_weight_decay_is_decoupled() -> None:
    """The difference that decay makes in one step is proportional to the weight, whatever the gradient is."""
    after = []
    for decay in (0.0, 0.5):
        model = make_mlp(dtype=torch.float64)
        train(model, ngopt.NGOptimizer(model, weight_decay=decay, schedule="user"), [0], dtype=torch.float64)
        after.append(model[0].weight.detach())
    ratio = (after[0] - after[1]) / make_mlp(dtype=torch.float64)[0].weight.detach()
    assert ratio.mean() > 0
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))


def test_horizon_and_schedule() -> None:
    """The built-in schedule ends near zero at the horizon; with schedule="user" the length of a step is up to lr."""

    def last_move(**options: object) -> float:
        model = make_mlp()
        optimizer = ngopt.NGOptimizer(model, rule=UpdateRule(), **options)
        train(model, optimizer, range(39))
        before = model[0].weight.detach().clone()
        train(model, optimizer, [39])
        return (model[0].weight - before).norm().item()

    ended, constant, user = last_move(total_steps=40), last_move(), last_move(schedule="user")
    assert ended < 0.2 * constant
    assert user > 0.5 * constant
    assert last_move(schedule="user", total_steps=40) == user


def test_half_precision_parameters_keep_float32_state() -> None:
    model = make_net(dtype=torch.bfloat16)
    optimizer = ngopt.NGOptimizer(model, rule=lively_rule())
    first = train(model, optimizer, [0], dtype=torch.bfloat16)
    last = train(model, optimizer, [0] * 40, dtype=torch.bfloat16)
    assert last < 0.7 * first
    assert {param.dtype for param in model.parameters()} == {torch.bfloat16}
    for state in optimizer.state.values():
        for key, value in state.items():
            assert value.dtype == (torch.bfloat16 if key.endswith("_factor") else torch.float32)


def test_mixed_dtypes() -> None:
    model = make_mlp()
    model[2].to(torch.float64)
    model[1] = nn.Sequential(nn.ReLU(), Cast(torch.float64))
    optimizer = ngopt.NGOptimizer(model, rule=lively_rule())
    first = train(model, optimizer, [0])
    assert train(model, optimizer, [0] * 40) < 0.7 * first
    assert optimizer.graph is not None
    assert model[2].weight.dtype == torch.float64


class Cast(nn.Module):
    """To another dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[...] -> [...]."""
        return x.to(self.dtype)


def test_autocast_and_grad_scaler() -> None:
    """float16 autocast with a scaler: an overflow skips the step, lowers the scale, and leaves no trace."""
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model, rule=lively_rule())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100)
    for index in range(6):
        x, y = batch(index)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        before = weights(model)
        if index == 3:
            model[0].weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        assert (differing(before, weights(model)) == []) == (index == 3)
    assert optimizer.graph is not None
    assert optimizer.skipped_steps == 0  # the scaler saw it first
    assert optimizer.param_groups[0]["step"] == 5
    assert scaler.get_scale() == 2.0**9


def test_devices_get_a_share_each() -> None:
    """The parameters of each device go into one update, with the part of the graph that lies there."""
    from ngopt.optim.attach.match import partition_by_device

    model = make_mlp()
    graph = ngopt.trace(model, (batch(0)[0],))
    named = dict(model.named_parameters())
    moved = {name: nn.Parameter(p.to("meta")) if name.startswith("2") else p for name, p in named.items()}
    group = {"params": list(moved.values()), "param_names": list(moved)}
    partitions, off_graph = partition_by_device([group], graph, moved, lively_rule())
    assert off_graph == []
    assert [partition.device.type for partition in partitions] == ["cpu", "meta"]
    assert [sorted(partition.params) for partition in partitions] == [["0.bias", "0.weight"], ["2.bias", "2.weight"]]
    assert [sorted(block.name for block in partition.graph.blocks) for partition in partitions] == [
        ["0.bias", "0.weight"],
        ["2.bias", "2.weight"],
    ]
    assert {value.device.type for value in partitions[1].rule.heads.parameters()} == {"meta"}


def test_moving_the_model_after_building_the_optimizer() -> None:
    """As with torch's optimizers, a model may change dtype or device before the first step."""
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model, rule=lively_rule())
    model.double()
    train(model, optimizer, range(3), dtype=torch.float64)
    twin = make_mlp().double()
    train(twin, ngopt.NGOptimizer(twin, rule=lively_rule()), range(3), dtype=torch.float64)
    assert differing(weights(model), weights(twin)) == []


def test_nan_found_in_a_tensor_whose_norm_overflows() -> None:
    from ngopt.optim.finite import nonfinite

    big = torch.full((4,), 3e38)
    assert not torch.isfinite(big.norm())
    assert nonfinite({"big": big, "half": torch.full((9,), 6e4, dtype=torch.float16)}) == []
    assert nonfinite({"big": big, "bad": torch.tensor([1.0, float("nan")])}) == ["bad"]
    assert nonfinite({"empty": torch.zeros(0), "inf": torch.tensor([float("inf")], dtype=torch.bfloat16)}) == ["inf"]


# ---- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"capturable": True}, NotImplementedError, "capturable=True"),
        ({"differentiable": True}, NotImplementedError, "ngopt.optim.update.update"),
        ({"betta": 0.9}, TypeError, "no option betta"),
        ({"lr": "0.02"}, TypeError, "lr='0.02' is a str, but must be a number"),
        ({"lr": None}, TypeError, "lr=None is a NoneType"),
        ({"lr": True}, TypeError, "lr=True is a bool"),
        ({"lr": torch.ones(2)}, ValueError, r"lr must be one number, got a tensor of shape \(2,\)"),
        ({"lr": -1.0}, ValueError, "lr=-1.0"),
        ({"lr": float("nan")}, ValueError, "lr=nan"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay=-0.1"),
        ({"total_steps": 0}, ValueError, "total_steps=0"),
        ({"total_steps": 1.5}, ValueError, "total_steps=1.5"),
        ({"total_steps": True}, ValueError, "total_steps=True"),
        ({"total_steps": "9"}, ValueError, "total_steps='9'"),
        ({"total_steps": float("inf")}, ValueError, "total_steps=inf"),
        ({"schedule": "cosine"}, ValueError, "'builtin', 'user'"),
        ({"pretrained": "no-such"}, ngopt.errors.CheckpointError, "ngopt-base-untrained"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ngopt.NGOptimizer(make_mlp(), **options)


@pytest.mark.parametrize(
    ("param", "error", "message"),
    [
        (nn.Parameter(torch.zeros(2, dtype=torch.complex64)), TypeError, "view_as_real"),
        (torch.zeros(2, 2).to_sparse().requires_grad_(), TypeError, "sparse"),
        (torch.ones(2, requires_grad=True) * 2, ValueError, "non-leaf"),
        ("weight", TypeError, "can only optimize Tensors"),
    ],
)
def test_bad_parameters(param: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ngopt.NGOptimizer([param], graph=False)


def test_sparse_gradients() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = ngopt.NGOptimizer(table, graph=False)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=r"weight is sparse.*sparse=False"):
        optimizer.step()


@pytest.mark.parametrize("params", [[], [{"params": {torch.zeros(2)}}], torch.zeros(2), [{"params": []}, 3]])
def test_bad_collections(params: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        ngopt.NGOptimizer(params, graph=False)
