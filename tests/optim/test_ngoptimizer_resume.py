"""Save, load, continue: the same as never having stopped, bit for bit, at any step."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as dcp

import ngopt
from ngopt.errors import CheckpointError, GraphMismatchError
from ngopt.optim.attach import capture
from ngopt.optim.attach.match import block_digests
from tests.optim.ngoptimizer_cases import (
    CONSTRUCTIONS,
    batch,
    differing,
    graph_of,
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


END = 44
# Around the refreshes of the gates: every step for the first 30, then every tenth.
STOPS = [0, 1, 2, 9, 10, 28, 29, 30, 31, 35, 39, 40, 41]


def through_a_file(state: dict) -> dict:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def states(optimizer: torch.optim.Optimizer) -> list[dict]:
    return [optimizer.state[p] for group in optimizer.param_groups for p in group["params"] if p in optimizer.state]


def assert_same(model: nn.Module, twin: nn.Module, optimizer: ngopt.NGOptimizer, other: ngopt.NGOptimizer) -> None:
    assert differing(weights(model), weights(twin)) == []
    assert same(states(other), states(optimizer))
    for group, loaded in zip(optimizer.param_groups, other.param_groups, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in loaded.items() if k != "params"}


@pytest.mark.parametrize("way", CONSTRUCTIONS)
def test_every_stop(way: str) -> None:
    """One long run; at each stop a fresh model and optimizer take over a copy and go on to the next stop."""
    model = make_net()
    optimizer = CONSTRUCTIONS[way](model)
    at = 0
    for stop, following in zip(STOPS, [*STOPS[1:], END], strict=True):
        train(model, optimizer, range(at, stop))
        saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        twin = make_net(seed=9)
        # The horizon and the meta-parameters are those of the file, not of the new optimizer.
        other = CONSTRUCTIONS[way](twin) if way in ("graph", "no_graph", "groups") else ngopt.NGOptimizer(twin)
        twin.load_state_dict(saved["model"])
        other.load_state_dict(saved["optimizer"])
        train(model, optimizer, range(stop, following))
        train(twin, other, range(stop, following))
        assert_same(model, twin, optimizer, other)
        at = following


def test_the_comparison_can_fail() -> None:
    """Control: forgetting any one thing that is saved shows within a few steps."""
    model = make_net()
    optimizer = CONSTRUCTIONS["horizon"](model)
    train(model, optimizer, range(33))
    saved = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, optimizer, range(33, 36))

    def forget_rule(state: dict) -> None:
        del state["ngopt"], state["param_groups"][-1]["ngopt"]  # it is in both, for those that keep one of them

    def forget_step(state: dict) -> None:
        state["param_groups"][0]["step"] = 30

    def forget_horizon(state: dict) -> None:
        state["param_groups"][0]["total_steps"] = None

    def forget_state(state: dict) -> None:
        for entries in state["state"].values():
            for value in entries.values():
                value.zero_()

    for forget in (forget_rule, forget_step, forget_horizon, forget_state):
        state = copy.deepcopy(saved)
        forget(state["optimizer"])
        twin = make_net(seed=9)
        other = ngopt.NGOptimizer(twin)
        twin.load_state_dict(state["model"])
        other.load_state_dict(state["optimizer"])
        train(twin, other, range(33, 36))
        assert differing(weights(model), weights(twin)) != [], forget.__name__


def test_loading_does_not_share_memory_with_the_file() -> None:
    model = make_net()
    optimizer = CONSTRUCTIONS["model"](model)
    train(model, optimizer, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    untouched = copy.deepcopy(saved)
    other = CONSTRUCTIONS["model"](model)
    other.load_state_dict(saved)
    train(model, other, range(2))
    assert same(saved, untouched)


def test_half_precision_state_survives() -> None:
    """torch's own loading casts floating state to the parameter's dtype; ours must not."""
    model = make_net(dtype=torch.bfloat16)
    optimizer = CONSTRUCTIONS["model"](model)
    train(model, optimizer, range(4), dtype=torch.bfloat16)
    saved = through_a_file(copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()}))
    moments = [v for s in saved["optimizer"]["state"].values() for v in s.values() if v.dim() > 1]
    assert any(bool((value.bfloat16().float() != value).any()) for value in moments)  # a cast would show
    twin = make_net(seed=9, dtype=torch.bfloat16)
    other = ngopt.NGOptimizer(twin)
    twin.load_state_dict(saved["model"])
    seen: list[set] = []
    other.register_load_state_dict_post_hook(lambda o: seen.append({v.dtype for s in states(o) for v in s.values()}))
    other.load_state_dict(saved["optimizer"])
    assert seen == [{torch.float32, torch.bfloat16}]  # factors are bfloat16
    train(model, optimizer, range(4, 8), dtype=torch.bfloat16)
    train(twin, other, range(4, 8), dtype=torch.bfloat16)
    assert_same(model, twin, optimizer, other)


def test_state_dict_hooks_see_the_whole() -> None:
    optimizer = CONSTRUCTIONS["model"](make_net())
    keys = []
    optimizer.register_state_dict_post_hook(lambda _, state: keys.append(set(state)))
    optimizer.state_dict()
    optimizer.state_dict()
    assert keys == [{"state", "param_groups", "ngopt"}] * 2

    def keep_lr(_: object, state: dict) -> dict:
        return {**state, "param_groups": [{**group, "lr": 0.7} for group in state["param_groups"]]}

    optimizer.register_load_state_dict_pre_hook(keep_lr)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.7


def test_skipped_steps_are_saved() -> None:
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model, graph=False)
    model[0].weight.grad = torch.full_like(model[0].weight, float("nan"))
    with pytest.warns(UserWarning, match="skipped"):
        optimizer.step()
    other = ngopt.NGOptimizer(make_mlp(), graph=False)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    assert other.skipped_steps == 1


def test_a_state_from_a_wrapped_model_loads_into_the_bare_one() -> None:
    model = make_mlp()
    named = [(f"module.{name}", param) for name, param in model.named_parameters()]
    wrapped = ngopt.NGOptimizer(named, graph=False)
    train(model, wrapped, range(2))
    other = ngopt.NGOptimizer(make_mlp(), graph=False)
    other.load_state_dict(wrapped.state_dict())
    assert other.param_groups[0]["param_names"][0] == "0.weight"


# ---- a model that differs


def wider() -> nn.Module:
    model = make_mlp()
    model[0], model[2] = nn.Linear(5, 9), nn.Linear(9, 3)
    return model


def deeper() -> nn.Module:
    return nn.Sequential(*make_mlp(), nn.Linear(3, 3))


def renamed() -> nn.Module:
    model = make_mlp()
    return nn.Sequential(model[0], model[1], nn.Identity(), model[2])


def other_activation() -> nn.Module:
    model = make_mlp()
    model[1] = nn.Tanh()
    return model


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wider, r"0\.weight \(shape \(8, 5\) saved, \(9, 5\) here\)"),
        (deeper, r"only in this model: 3\.weight, 3\.bias"),
        (renamed, r"only in the saved state: 2\.weight, 2\.bias; only in this model: 3\.weight"),
    ],
)
def test_another_model(change: Callable[[], nn.Module], message: str, captured: bool) -> None:
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model)
    train(model, optimizer, range(2))
    changed = change()
    other = ngopt.NGOptimizer(changed)
    if captured:
        train(changed, other, range(1))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(GraphMismatchError, match=message):
        other.load_state_dict(optimizer.state_dict())
    assert same(other.state_dict(), before)


@pytest.mark.parametrize("captured", [False, True])
def test_another_graph_with_the_same_parameters(captured: bool) -> None:
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model)
    train(model, optimizer, range(2))
    changed = other_activation()
    other = ngopt.NGOptimizer(changed)
    state = optimizer.state_dict()
    if captured:
        changed(batch(0)[0])
        assert other.graph is not None  # traced now
        with pytest.warns(UserWarning, match=r"another graph.*0\.weight"):
            other.load_state_dict(state)
    else:
        other.load_state_dict(state)
        changed(batch(0)[0])
        with pytest.warns(UserWarning, match=r"another graph.*0\.weight"):
            assert other.graph is not None
    assert same(states(other), states(optimizer))  # all of it fits, whatever the activation


def test_a_fingerprint_names_the_layer_that_changed() -> None:
    def make(stride: int = 1) -> nn.Module:
        first = nn.Conv1d(1, 4, 3, padding=1, stride=stride)
        return nn.Sequential(first, nn.ReLU(), nn.Conv1d(4, 2, 1), nn.AdaptiveAvgPool1d(1))

    def fingerprint_of(model: nn.Module) -> dict[str, str]:
        return block_digests(ngopt.trace(model, torch.randn(2, 1, 8)))

    plain, strided = fingerprint_of(make()), fingerprint_of(make(stride=2))
    assert plain == fingerprint_of(make())
    assert [name for name in plain if plain[name] != strided[name]] == ["0.weight"]


def test_the_same_graph_in_another_mode() -> None:
    """A state saved from a graph that training captured fits one that an evaluation pass captured, and the reverse."""
    model = make_net()
    optimizer = ngopt.NGOptimizer(model)
    train(model, optimizer, range(2))
    other = ngopt.NGOptimizer(model)
    other.load_state_dict(optimizer.state_dict())
    with torch.no_grad():
        model.eval()(batch(0)[0])
    assert other.graph is not None


def test_a_state_of_another_version() -> None:
    optimizer = ngopt.NGOptimizer(make_mlp())
    state = optimizer.state_dict()
    state["ngopt"]["version"] = 99
    with pytest.raises(CheckpointError, match="version 99"):
        optimizer.load_state_dict(state)
    state = optimizer.state_dict()
    state["ngopt"]["config"] = state["ngopt"]["config"].replace("momentum", "mometum")
    with pytest.raises(CheckpointError, match="mometum"):
        optimizer.load_state_dict(state)


def test_another_number_of_groups() -> None:
    model = make_mlp()
    optimizer = ngopt.NGOptimizer([{"params": model[0].parameters()}, {"params": model[2].parameters()}], model=model)
    with pytest.raises(CheckpointError, match="different number of parameter groups"):
        ngopt.NGOptimizer(model).load_state_dict(optimizer.state_dict())


# ---- torch.distributed.checkpoint


def test_distributed_checkpoint_round_trip() -> None:
    """It keeps torch's two entries only; the meta-parameters travel in one of them."""
    model = make_net()
    optimizer = CONSTRUCTIONS["horizon"](model)
    train(model, optimizer, range(33))
    saved = copy.deepcopy(dcp.get_state_dict(model, optimizer))
    assert set(saved[1]) == {"state", "param_groups"}
    twin = make_net(seed=9)
    other = ngopt.NGOptimizer(twin, pretrained="ngopt-base-untrained")
    assert rules_differ(optimizer, other)  # control
    twin(batch(0)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        dcp.set_state_dict(twin, other, model_state_dict=saved[0], optim_state_dict=saved[1])
    assert not rules_differ(optimizer, other)
    assert all("ngopt" not in group for group in other.param_groups)
    train(model, optimizer, range(33, END))
    train(twin, other, range(33, END))
    assert_same(model, twin, optimizer, other)


def rules_differ(optimizer: ngopt.NGOptimizer, other: ngopt.NGOptimizer) -> bool:
    """Whether two optimizers have other settings or meta-parameters."""
    mine, theirs = optimizer.rule.state_dict(), other.rule.state_dict()
    same = mine.keys() == theirs.keys() and all(torch.equal(x, theirs[name]) for name, x in mine.items())
    return optimizer.rule.config != other.rule.config or not same


def test_its_way_to_make_state_does_no_harm() -> None:
    """`_init_optim_state` steps with zero gradients and zero lr where state is empty, before it loads."""
    model = make_net()
    optimizer = ngopt.NGOptimizer(model)
    model(batch(0)[0])
    optimizer.state.clear()
    before = weights(model)
    dcp._init_optim_state(optimizer)
    assert differing(before, weights(model)) == []
    assert set(optimizer.state) == {param for param in model.parameters() if param.requires_grad}
