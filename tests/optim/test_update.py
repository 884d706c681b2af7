"""The pure update function, and its in-place twin."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ngopt
from ngopt.encoder.structure import structure
from ngopt.optim.rule import reference
from ngopt.optim.rule.plan import plan_graph
from ngopt.optim.rule.reference import schedule as literal
from ngopt.optim.rule.scale import taps_factor
from ngopt.optim.rule.schedule import Schedule, is_refresh, steepness, warmup_and_decay
from ngopt.optim.update import UpdateConfig, UpdateRule, init_state, update, update_
from tests.optim.update_cases import (
    CASES,
    CLASSES,
    distance,
    flat,
    fresh_state,
    gradients,
    last,
    make,
    mlp,
    run,
    trained_rule,
    unsigned,
)

OPTIONS = dict(lr=0.7, total_steps=60, weight_decay=0.01)
GENTLY = {**OPTIONS, "lr": 0.05}  # training amplifies rounding, the more so the larger its steps


# ---- the untrained rule is the reference


def reference_run(model: nn.Module, x: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
    """Train with `ngopt.optim.rule.reference` alone; the model's matrices follow one another."""
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    matrices = {name: w.flatten(1) for name, w in weights.items() if w.dim() > 1}
    own = {name: (reference.Matrix if name in matrices else reference.Vector).like(matrices.get(name, w))
           for name, w in weights.items()}  # fmt: skip
    guard = reference.guard(list(matrices.values()))
    for _ in range(steps):
        for name, gradient in gradients(model, weights, x).items():
            weight, options = weights[name], {**OPTIONS, "guard": guard}
            if name in matrices:
                options |= {"taps": weight[0, 0].numel(), "depth": len(matrices)}
                options |= {"flattened": any(isinstance(layer, nn.Flatten) for layer in model)}
                weight, gradient = weight.flatten(1), gradient.flatten(1)
            weights[name] = weights[name] + own[name].step(weight, gradient, **options).view_as(weights[name])
    return weights


@pytest.mark.parametrize("widths", [(7, 12, 9, CLASSES), (20, 4, 30, 30, CLASSES)])
def test_untrained_rule_equals_the_reference(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = mlp(*widths).double()
    with torch.no_grad():
        model[0].weight.mul_(0.2)  # for a guard below one
        model[2].weight.mul_(0.2)
    equals_reference(model, torch.randn(12, widths[0]).double())


class Mean(nn.Module):
    """[batch, channel, height, width] -> [batch, channel]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


@pytest.mark.parametrize("end", [Mean, nn.Flatten])
@pytest.mark.parametrize("convolutions", [2, 6])
def test_untrained_rule_equals_the_reference_on_convolutions(convolutions: int, end: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layers = [part for _ in range(convolutions) for part in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(*layers, end(), nn.Linear(3 * (16 if end is nn.Flatten else 1), CLASSES)).double()
    with torch.no_grad():
        for layer in model[:-2:2]:
            layer.weight.mul_(0.7)
    equals_reference(model, torch.randn(12, 3, 4, 4).double())


def equals_reference(model: nn.Sequential, x: torch.Tensor) -> None:
    """Assert that the rule trains as the literal one does, within what rounding makes of it."""
    graph = ngopt.trace(model, x)
    start = dict(model.named_parameters())
    # The longer, the more rounding counts along directions without gradients: the first layer reads 7 numbers only.
    for steps, tolerance in ((1, 1e-8), (12, 1e-5), (25, 1e-2)):
        ours, state = last(run(model, x, graph, UpdateRule(), steps, **OPTIONS))
        assert state["0.weight"]["guard"] < 0.9
        for name, weight in reference_run(model, x, steps).items():
            assert (ours[name] - weight).norm() < tolerance * (weight - start[name]).norm(), name


def test_initial_heads_are_neutral_and_trained_ones_are_not() -> None:
    rule = UpdateRule()
    assert rule.neutral
    with torch.no_grad():
        rule.heads.direct.weight[0, 0] = 1e-3
    assert not rule.neutral


def test_rules_of_one_seed_are_equal_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, two = UpdateRule().state_dict(), UpdateRule().state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = UpdateRule(UpdateConfig(seed=1)).state_dict()
    assert not torch.equal(one["encoder.read.weight"], other["encoder.read.weight"])


# ---- in place equals out of place


@pytest.mark.parametrize("with_graph", [True, False])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_in_place_equals_pure(case: str, trained: bool, with_graph: bool) -> None:
    model, x, graph = make(case)
    graph = graph if with_graph else None
    rule = trained_rule() if trained else UpdateRule().double()
    pure = run(model, x, graph, rule, 33, **GENTLY)
    fast = run(model, x, graph, rule, 33, in_place=True, **GENTLY)
    for step, ((w1, s1), (w2, s2)) in enumerate(zip(pure, fast, strict=True)):
        tolerance = 1e-6 if step < 5 else 1e-4
        assert distance(w2, w1) < tolerance
        assert distance(unsigned(s2), unsigned(s1)) < 100 * tolerance


@pytest.mark.parametrize("limit", ["SMALL", "MOST"])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_in_place_equals_pure_for_large_parameters(
    case: str, trained: bool, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"ngopt.optim.fast.stack.{limit}", {"SMALL": 0, "MOST": 60}[limit])
    model, x, graph = make(case)
    rule = trained_rule() if trained else UpdateRule().double()
    w1, _ = last(run(model, x, graph, rule, 5, **GENTLY))
    w2, _ = last(run(model, x, graph, rule, 5, in_place=True, **GENTLY))
    assert distance(w2, w1) < 1e-6


# ---- invariances


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_permute_then_step_equals_step_then_permute(case: str, trained: bool) -> None:
    model, x, graph = make(case)
    rule = trained_rule() if trained else UpdateRule().double()
    start = {name: p.detach() for name, p in model.named_parameters()}
    after, _ = last(run(model, x, graph, rule, 3, lr=0.05))
    moved = 0
    for generator in list(graph.generators())[::3]:
        permuted, _ = last(run(model, x, graph, rule, 3, lr=0.05, weights=generator.apply(start)))
        assert distance(permuted, generator.apply(after)) < 1e-7
        moved += 1
    assert moved > 0


@settings(max_examples=8)
@given(exponent=st.integers(-12, 12))
def test_scale_of_the_loss_does_not_matter(exponent: int) -> None:
    model, x, graph = make("cnn")
    rule = trained_rule()
    w1, _ = last(run(model, x, graph, rule, 4, lr=0.25))
    w2, _ = last(run(model, x, graph, rule, 4, lr=0.25, loss_scale=1.7 * 2.0**exponent))
    assert distance(w2, w1) < 3e-6


def test_alone_or_beside_another_model_the_same_step() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = mlp(7, 12, 9, CLASSES), mlp(7, 5, CLASSES)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.left(x), self.right(x)

    torch.manual_seed(0)
    pair, x, rule = Pair().double(), torch.randn(12, 7).double(), trained_rule()
    both, alone = ngopt.trace(pair, x), ngopt.trace(pair.left, x)
    weights = {name: p.detach() for name, p in pair.named_parameters()}
    left = {name: p.detach() for name, p in pair.left.named_parameters()}
    grads = {name: torch.randn_like(w) for name, w in weights.items()}
    left_grads = {name: grads[f"left.{name}"] for name in left}
    with torch.no_grad():
        u2, _ = update(rule, both, weights, grads, fresh_state(weights, both, rule.config), step=3)
        u1, _ = update(rule, alone, left, left_grads, fresh_state(left, alone, rule.config), step=3)
    assert distance({name: u2[f"left.{name}"] for name in u1}, u1) < 1e-12


# ---- schedule and refresh


def test_schedule_rises_then_falls_to_zero() -> None:
    values = [warmup_and_decay(t, 100, 20) for t in range(120)]
    assert values[0] == pytest.approx(0.05)
    assert max(values) == values[19]
    assert all(v == 0 for v in values[100:])
    assert warmup_and_decay(10_000, None, 20) == 1.0
    assert warmup_and_decay(0, None, 0) == 1.0


def test_long_runs_fall_faster_at_first_and_all_reach_zero() -> None:
    assert [steepness(steps) for steps in (None, 1, 1000, 2250, 4000, 10**6)] == [1.0, 1.0, 1.0, 1.5, 2.0, 2.0]
    for steps, half in ((1000, 0.5), (4000, 0.25)):
        schedule = Schedule(UpdateConfig(), steps)
        values = [schedule.given(step) for step in range(steps + 2)]
        assert values[20:] == sorted(values[20:], reverse=True) and values[steps:] == [0.0, 0.0]
        assert abs(values[steps // 2] - half) < 1e-12
        assert all(abs(values[step] - literal(step, steps)) < 1e-12 for step in (0, 7, steps // 3, steps - 1))


def test_convolutions_of_shallow_networks_take_larger_steps() -> None:
    def factor(taps: int, depth: int | None, flattened: bool = False, power: float = 0.5) -> float:
        return taps_factor(taps, depth, flattened, power)

    assert factor(9, 4) == 3.0 == 2.0 * factor(9, 8) == pytest.approx(factor(9, 2, flattened=True) ** 2)
    assert factor(3, 2) == pytest.approx(3**0.5)
    assert factor(9, 12) == factor(9, 100) == 1.0  # deep
    assert factor(256, 2) == 5.0
    assert factor(1, 2) == factor(9, 2, power=0.0) == factor(9, None) == 1.0
    model, x, graph = make("cnn")
    start, rules = dict(model.named_parameters()), [UpdateRule(UpdateConfig(tap_power=p)).double() for p in (0.0, 0.5)]
    known = structure(graph)
    for in_place, horizon in itertools.product((False, True), (None, 1, 2)):
        plain, larger = (
            last(run(model, x, graph, rule, 1, in_place=in_place, total_steps=horizon))[0] for rule in rules
        )
        for name, w in start.items():
            taps = w[0, 0].numel() if w.dim() == 4 else 1
            expected = factor(taps, known.depth.get(name), name in known.flattened)
            assert (expected > 1) == (taps > 1)
            torch.testing.assert_close(larger[name] - w, expected * (plain[name] - w), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("end", ["mean", "flatten", "convolution"])
def test_graph_knows_what_flattens(end: str) -> None:
    ends = {
        "mean": [Mean(), nn.Linear(4, 3)],
        "flatten": [nn.Flatten(), nn.Linear(16, 3)],
        "convolution": [nn.Conv2d(4, 3, 2), nn.Flatten()],  # the same function as flatten, but its columns have taps
    }
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), *ends[end])
    known = structure(ngopt.trace(model, torch.randn(5, 1, 4, 4)))
    assert known.flattened == (frozenset(known.depth) if end == "flatten" else frozenset())


@given(step=st.integers(0, 5000), total=st.integers(1, 4000), scale=st.floats(-50, 50))
def test_learned_schedule_stays_in_its_bounds(step: int, total: int, scale: float) -> None:
    rule = UpdateRule()
    with torch.no_grad():
        rule.schedule.weight.copy_(scale * torch.arange(1.0, 7.0))
    bound = rule.config.schedule_bound
    assert -bound - 1e-6 <= rule.schedule(step, total).log().item() <= bound + 1e-6
    assert rule.schedule(step, None).item() == 1.0


def test_controls_are_computed_in_every_step_at_first_and_then_in_every_tenth() -> None:
    model, x, graph = make("mlp")
    rule = trained_rule()
    steps = [state["0.weight"]["controls"] for _, state in run(model, x, graph, rule, 62, lr=0.1)]
    changed = {t for t in range(1, 62) if not torch.equal(steps[t], steps[t - 1])}
    assert changed == {t for t in range(1, 62) if is_refresh(t, rule.config)} == {*range(1, 30), 30, 40, 50, 60}


@pytest.mark.parametrize("size", [0.0, 0.02])
def test_deep_network_does_not_blow_up_at_the_default_rate(size: float) -> None:
    torch.manual_seed(0)
    model, x = mlp(20, *[32] * 8, CLASSES).double(), torch.randn(64, 20).double()
    graph, rule = ngopt.trace(model, x), trained_rule(size=size, seed=6)
    labels = torch.arange(64) % CLASSES
    losses = []
    for weights, _ in run(model, x, graph, rule, 40, in_place=True, total_steps=40):
        outputs = torch.func.functional_call(model, weights, (x,))
        losses.append(nn.functional.cross_entropy(outputs, labels).item())
    assert max(losses) < 3.0  # ln 10 = 2.3 is chance
    assert losses[-1] < (1.5 if size == 0.0 else 2.3)


# ---- what may be missing


def test_parameters_without_gradient_keep_weights_and_state() -> None:
    model, x, graph = make("mlp")
    rule = trained_rule()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    grads = {**gradients(model, weights, x), "2.weight": None}
    del grads["0.bias"]
    state = fresh_state(weights, graph, rule.config)
    with torch.no_grad():
        updates, new = update(rule, graph, weights, grads, state, step=0)
    assert updates.keys() == weights.keys() - {"2.weight", "0.bias"}
    for name in ("2.weight", "0.bias"):
        assert all(torch.equal(new[name][key], state[name][key]) for key in state[name])
    before = {name: w.clone() for name, w in weights.items()}
    update_(rule, graph, weights, grads, state, step=0)
    assert torch.equal(weights["2.weight"], before["2.weight"]) and torch.equal(weights["0.bias"], before["0.bias"])
    assert distance({k: before[k] + u for k, u in updates.items()}, {k: weights[k] for k in updates}) < 1e-10


def test_no_gradients_at_all_is_no_step() -> None:
    model, _, graph = make("mlp")
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = fresh_state(weights, graph, UpdateConfig())
    update_(UpdateRule(), graph, weights, dict.fromkeys(weights), state, step=0)
    assert update(UpdateRule(), graph, weights, {}, state, step=0)[0] == {}


@pytest.mark.parametrize("in_place", [True, False])
def test_zero_gradients_and_dead_rows_give_finite_steps(in_place: bool) -> None:
    model, _, graph = make("cnn")
    rule = trained_rule()
    weights = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for name, w in weights.items():
        weights[name] = torch.where(torch.arange(len(w)) < 2, 0.0, 1.0).double().view(-1, *[1] * (w.dim() - 1)) + w
    for zero in (True, False):
        grads = {name: torch.zeros_like(w) if zero else w.clone() for name, w in weights.items()}
        state = fresh_state(weights, graph, rule.config)
        if in_place:
            update_(rule, graph, weights, grads, state, step=0)
            assert all(bool(w.isfinite().all()) for w in weights.values())
        else:
            updates, state = update(rule, graph, weights, grads, state, step=0)
            assert all(bool(u.isfinite().all()) for u in updates.values())
        assert all(bool(s.isfinite().all()) for s in flat(state).values())


# ---- meta-training


def outcome(rule: UpdateRule, case: str, steps: int) -> torch.Tensor:
    """Loss after a few steps, differentiable in the rule."""
    model, x, graph = make(case)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    state = fresh_state(weights, graph, rule.config)
    for step in range(steps):
        updates, state = update(rule, graph, weights, gradients(model, weights, x), state, step=step, total_steps=9)
        weights = {name: w + updates[name] for name, w in weights.items()}
    return nn.functional.cross_entropy(torch.func.functional_call(model, weights, (x,)), torch.arange(12) % CLASSES)


@pytest.mark.parametrize("case", CASES)
def test_gradients_reach_every_meta_parameter(case: str) -> None:
    rule = trained_rule()
    names, params = zip(*rule.named_parameters(), strict=True)
    for name, grad in zip(names, torch.autograd.grad(outcome(rule, case, 3), params), strict=True):
        assert bool(grad.isfinite().all()) and bool(grad.any()), name


def test_gradient_of_one_step_agrees_with_finite_differences() -> None:
    rule, size = trained_rule(), 1e-5
    params = list(rule.parameters())
    along = [torch.randn(p.shape, generator=torch.Generator().manual_seed(i)).double() for i, p in enumerate(params)]
    grads = torch.autograd.grad(outcome(rule, "cnn", 1), params)
    slope = sum((g * d).sum().item() for g, d in zip(grads, along, strict=True))
    ends = []
    for sign in (1, -2):  # to +size, then to -size
        with torch.no_grad():
            for p, d in zip(params, along, strict=True):
                p.add_(sign * size * d)
        ends.append(outcome(rule, "cnn", 1).item())
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * size), rel=1e-4)


def test_second_derivatives_are_finite_with_dead_rows() -> None:
    model, x, graph = make("mlp")
    rule = trained_rule()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights["0.bias"][:4] = -100.0  # dead units: rows of zeros in gradients
    leaves = {name: w.float().requires_grad_() for name, w in weights.items()}
    loss = nn.functional.cross_entropy(
        torch.func.functional_call(model, leaves, (x.float(),)), torch.arange(12) % CLASSES
    )
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), create_graph=True), strict=True))
    rule = rule.float()
    updates, _ = update(rule, graph, leaves, grads, fresh_state(leaves, graph, rule.config), step=0)
    after = {name: w + updates[name] for name, w in leaves.items()}
    outer = torch.func.functional_call(model, after, (x.float(),)).square().mean()
    for grad in torch.autograd.grad(outer, list(leaves.values())):
        assert bool(grad.isfinite().all())


# ---- number types and cost of state


def test_state_is_float32_for_half_precision_and_at_most_five_floats_per_parameter() -> None:
    torch.manual_seed(0)
    model, x = mlp(64, 128, 128, 33, CLASSES), torch.randn(12, 64)
    graph = ngopt.trace(model, x)
    numel = held = 0.0
    for name, plan in plan_graph(graph, UpdateConfig()).items():
        param = model.get_parameter(name).bfloat16()
        state = init_state(param, plan, UpdateConfig())
        for key, value in state.items():
            assert value.dtype == (
                torch.bfloat16 if "factor" in key else torch.int64 if "order" in key else torch.float32
            )
            held += value.numel() * value.element_size() / 4
        numel += param.numel()
    assert held <= 5 * numel


def test_half_precision_weights_are_stepped() -> None:
    torch.manual_seed(0)
    model, x = mlp(8, 16, CLASSES), torch.randn(12, 8)
    graph, rule = ngopt.trace(model, x), trained_rule().float()
    weights = {name: p.detach().bfloat16() for name, p in model.named_parameters()}
    grads = {name: torch.randn_like(w) for name, w in weights.items()}
    state = fresh_state(weights, graph, rule.config)
    with torch.no_grad():
        updates, _ = update(rule, graph, weights, grads, state, step=30, counts=dict.fromkeys(weights, 0))
    update_(rule, graph, weights, grads, state, step=30)
    for name, w in weights.items():
        assert w.dtype == updates[name].dtype == torch.bfloat16
        assert bool(w.isfinite().all()) and bool(updates[name].any())


@pytest.mark.parametrize(
    "wrong", [{"momentum": 1.0}, {"momentum": -0.1}, {"bases_every": 0}, {"gain_bound": float("nan")}, {"spike": 1.0}]
)
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        UpdateConfig(**wrong)
