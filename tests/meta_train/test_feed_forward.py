"""The feed-forward rule: one step by hand, where its derivative flows, its files, its optimizer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from meta_train_cases import config_of, tiny, trainer_of
from torch import Tensor, nn

from meta_train.inner import make_step, start
from meta_train.rules import feed_forward
from meta_train.rules.feed_forward import DECAYS, FeedForwardOptimizer, FeedForwardRule, load_feed_forward
from meta_train.tasks import FAMILIES
from meta_train.tensor_files import write_tensors
from meta_train.unroll import unroll
from ngopt.errors import CheckpointError


def literal(rule: FeedForwardRule, w: float, g: float, momenta: list[float]) -> tuple[float, list[float]]:
    """The step of one parameter, number by number."""
    momenta = [beta * m + g for beta, m in zip((0.5, 0.9, 0.99, 0.999, 0.9999), momenta, strict=True)]
    x = []
    for value in (w, g, *momenta):
        if abs(value) >= math.exp(-10):
            x += [math.log(abs(value)) / 10, math.copysign(1.0, value)]
        else:
            x += [-1.0, math.exp(10) * value]
    first, second, last = (layer for layer in rule.mlp if isinstance(layer, nn.Linear))
    for layer in (first, second, last):
        rows, bias = layer.weight.tolist(), layer.bias.tolist()
        x = [sum(a * b for a, b in zip(row, x, strict=True)) + c for row, c in zip(rows, bias, strict=True)]
        x = x if layer is last else [max(0.0, value) for value in x]
    return 0.01 * x[0] * math.exp(0.01 * x[1]), momenta


def parameters() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Numbers of all sizes, some too small for a logarithm."""
    random = torch.Generator().manual_seed(0)
    draw = {name: torch.randn(shape, generator=random).double() for name, shape in (("w", (3, 2)), ("b", (2,)))}
    return draw, {name: x * torch.logspace(-7, 2, x.numel()).double().reshape(x.shape) for name, x in draw.items()}


def test_two_steps_by_hand() -> None:
    rule = FeedForwardRule(seed=1).double()
    weights, grads = parameters()
    grads["b"][0] = 0.0
    state = {name: rule.init_state(None, name, x) for name, x in weights.items()}
    by_hand = {name: [[0.0] * 5 for _ in range(x.numel())] for name, x in weights.items()}
    for _ in range(2):
        updates, state = rule.update(None, weights, grads, state)
        for name, w in weights.items():
            for k, (value, grad) in enumerate(zip(w.flatten().tolist(), grads[name].flatten().tolist(), strict=True)):
                expected, by_hand[name][k] = literal(rule, value, grad, by_hand[name][k])
                assert updates[name].flatten()[k].item() == pytest.approx(expected, rel=1e-9)
                assert state[name]["momenta"].reshape(5, -1)[:, k].tolist() == pytest.approx(by_hand[name][k])
        weights = {name: x + updates[name] for name, x in weights.items()}
    # control: it is not a function of the gradient's sign alone, nor blind to the value
    assert literal(rule, 1.0, 0.5, [0.0] * 5)[0] != literal(rule, 1.0, 0.6, [0.0] * 5)[0]
    assert literal(rule, 1.0, 0.5, [0.0] * 5)[0] != literal(rule, 1.1, 0.5, [0.0] * 5)[0]


def test_the_published_size_and_seeds() -> None:
    assert sum(x.numel() for x in FeedForwardRule().parameters()) == 1602
    a, b, c = (FeedForwardRule(seed).mlp[0].weight for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_derivative_flows_through_the_sum_alone() -> None:
    rule = FeedForwardRule()
    weights = {"w": torch.randn(4, requires_grad=True)}
    grads = {"w": 2 * weights["w"]}
    updates, state = rule.update(None, weights, grads, {"w": rule.init_state(None, "w", weights["w"])})
    (through,) = torch.autograd.grad((weights["w"] + updates["w"]).sum(), weights["w"], retain_graph=True)
    assert torch.equal(through, torch.ones(4)) and not state["w"]["momenta"].requires_grad
    assert torch.autograd.grad(updates["w"].sum(), rule.mlp[0].weight)[0].any()  # control: it does reach the rule


def test_graph_step_and_horizon_change_nothing_and_no_gradient_no_step() -> None:
    rule = FeedForwardRule()
    weights, grads = ({name: x.float() for name, x in xs.items()} for xs in parameters())
    state = {name: rule.init_state(None, name, x) for name, x in weights.items()}
    once, _ = rule.update(None, weights, grads, state, step=0, total_steps=10)
    again, _ = rule.update(object(), weights, grads, state, step=7, total_steps=999)  # type: ignore[arg-type]
    assert all(torch.equal(once[name], again[name]) for name in weights)
    updates, after = rule.update(None, weights, {"w": grads["w"], "b": None}, state)
    assert updates.keys() == {"w"} and after["b"] is state["b"]
    assert torch.allclose(updates["w"], once["w"]) and not torch.equal(after["w"]["momenta"], state["w"]["momenta"])


def test_the_optimizer_makes_the_steps_of_the_rule() -> None:
    rule, task = FeedForwardRule(seed=2), tiny(torch.Generator().manual_seed(0))
    stack = start(rule, task, count=2, horizon=3, seed=5)
    theta = {name: value.detach() for name, value in rule.named_parameters()}
    with torch.no_grad():
        expected, _ = unroll(make_step(rule, task), theta, task, stack, 3)
    from meta_train.inner import batch_at

    module = task.build()
    module.load_state_dict({name: x[0] for name, x in stack.weights.items()})
    optimizer = FeedForwardOptimizer(module.parameters(), rule)
    for k in range(3):
        at = batch_at(task, type(stack)(stack.weights, stack.state, k, 3, 5))
        optimizer.zero_grad()
        task.criterion(module(at[0][0]), at[1][0]).backward()
        optimizer.step()
    for name, value in module.named_parameters():
        assert torch.allclose(value, expected.weights[name][0], atol=1e-6)
        assert not torch.allclose(value, stack.weights[name][0], atol=1e-6)  # control
        assert optimizer.state[value]["momenta"].shape == (len(DECAYS), *value.shape)


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, path = FeedForwardRule(seed=3), tmp_path / "ff.safetensors"
    rule.save({name: value.detach() + 1.0 for name, value in rule.named_parameters()}, path, {"cpu_hours": 2})
    loaded = load_feed_forward(path)
    assert torch.equal(loaded.mlp[4].bias, rule.mlp[4].bias + 1.0)
    assert "**cpu hours**: 2" in path.with_suffix(".md").read_text()
    monkeypatch.setattr(feed_forward, "SHIPPED", tmp_path / "none.safetensors")
    assert not feed_forward.available()
    foreign = tmp_path / "foreign.safetensors"
    write_tensors(foreign, {"x": torch.ones(1)}, {})
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-40])
    for bad in (tmp_path / "none.safetensors", foreign, cut):
        with pytest.raises(CheckpointError, match=bad.name):
            load_feed_forward(bad)


def test_meta_training_improves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "tiny", tiny)
    slot = {"families": ["tiny"], "count": 2, "horizon": [15, 15], "steps": [15, 15], "train": ["all"], "segment": 15}
    config = config_of(
        kind="feed_forward", iterations=8, slots=[slot | {"offset": False, "damping": 1.0}],
        outer={"lr": 0.02, "warmup": 0, "ema": 0.0}, evaluation={"families": ["tiny"], "horizons": [15]},
    )  # fmt: skip
    trainer = trainer_of(config, tmp_path)
    assert trainer.evaluate()[0]["score"] == 0.0  # control: untrained
    while not trainer.done:
        trainer.iterate()
    assert trainer.evaluate()[0]["score"] < -0.05
