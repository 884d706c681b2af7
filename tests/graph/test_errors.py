"""Bad input: a clear error or one clear warning, never a silently wrong graph."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ngopt
from tests.graph.checks import traced, wrong_generators
from tests.graph.test_negative import rule_for


@torch.library.custom_op("ngopt_tests::reverse_cumulate", mutates_args=())
def reverse_cumulate(x: Tensor) -> Tensor:
    """An op that nobody has a rule for; the order of the last axis counts."""
    return x.flip(-1).cumsum(-1)


@reverse_cumulate.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Custom(nn.Module):
    """Applies the op, twice."""

    def forward(self, x: Tensor) -> Tensor:
        return reverse_cumulate(reverse_cumulate(x))


def model() -> nn.Module:
    """One hidden layer goes through the unknown op, one does not."""
    outer = nn.Sequential(nn.Linear(5, 7), Custom())
    return nn.Sequential(outer, nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 3)).double()


X = torch.randn(2, 5, dtype=torch.float64)


def test_unknown_op_freezes_and_warns_once():
    with pytest.warns(ngopt.FrozenSymmetryWarning) as record:
        run = traced(model(), X)
    (message,) = [str(w.message) for w in record]
    assert "ngopt_tests.reverse_cumulate" in message
    assert "'0.1'" in message  # the module that ran it
    assert "@ngopt.graph.rule" in message
    assert run.sizes == Counter([(11, 1)])
    assert wrong_generators(run) == []


def test_the_warning_points_here():
    with pytest.warns(ngopt.FrozenSymmetryWarning) as record:
        ngopt.trace(model(), X)
    assert record[0].filename == __file__


def test_unknown_op_raises_if_strict():
    with pytest.raises(ngopt.UnsupportedOpError, match=r"reverse_cumulate.*'0\.1'.*@ngopt\.graph\.rule"):
        ngopt.trace(model(), X, strict=True)


def test_strict_is_silent_where_every_op_has_a_rule():
    graph = ngopt.trace(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), torch.randn(2, 5), strict=True)
    assert [s.degree for s in graph.symmetries or ()] == [7]


def test_a_rule_of_ones_own():
    def freeze_last(tracer: Any, x: Any) -> Any:
        return tracer.algebra.rigid(x, [-1])

    with rule_for(torch.ops.ngopt_tests.reverse_cumulate, freeze_last):
        run = traced(model(), X)
    assert run.sizes == Counter([(11, 1)])


@pytest.mark.parametrize("wrong", ["cumsum", torch.cumsum, None])
def test_rule_takes_ops(wrong: Any):
    with pytest.raises(TypeError, match=r"torch\.ops\.aten"):
        ngopt.graph.rule(wrong)


class Fails(nn.Module):
    """Raises by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        raise ZeroDivisionError("the model's own mistake")


def causes(error: BaseException) -> list[BaseException]:
    """The chain of explicit causes."""
    return [] if error.__cause__ is None else [error.__cause__, *causes(error.__cause__)]


def test_forward_that_fails_is_the_cause():
    with pytest.raises(ngopt.TraceError, match=r"Fails could not be run.*the model's own mistake") as error:
        ngopt.trace(Fails(), torch.randn(2, 5))
    assert any(isinstance(cause, ZeroDivisionError) for cause in causes(error.value))


@pytest.mark.parametrize("inputs", [torch.randn(2, 6), (), (torch.randn(2, 5), torch.randn(2, 5)), ("text",), None])
def test_inputs_that_do_not_fit(inputs: Any):
    with pytest.raises(ngopt.TraceError, match="example inputs") as error:
        ngopt.trace(nn.Sequential(nn.Linear(5, 3)), inputs)
    assert causes(error.value)


@pytest.mark.parametrize("thing", [lambda x: x, nn.Linear, "model", None])
def test_only_modules(thing: Any):
    with pytest.raises(ngopt.TraceError, match=r"torch\.nn\.Module"):
        ngopt.trace(thing, torch.randn(2, 5))


def test_inputs_may_be_a_tensor_a_tuple_or_a_mapping():
    module, x = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), torch.randn(2, 5)
    graphs = [ngopt.trace(module, x), ngopt.trace(module, (x,)), ngopt.trace(module, {"input": x})]
    graphs.append(ngopt.trace(module, example_kwargs={"input": x}))
    assert len({graph.fingerprint() for graph in graphs}) == 1


def test_tracing_leaves_no_trace():
    """Modes, parameters, gradients, buffers and random state are as before."""
    module = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(), nn.Linear(7, 3)).train()
    module[2].eval()
    module(torch.randn(4, 5)).sum().backward()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    random_state = torch.get_rng_state()
    ngopt.trace(module, torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(random_state, torch.get_rng_state())
    assert [m.training for m in module] == [True, True, False, True]
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    assert all(
        torch.equal(p.grad, g) for p, g in zip(module.parameters(), gradients, strict=True) if p.grad is not None
    )
    assert all(p.dtype == torch.float32 and p.requires_grad for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_a_module_under_two_names_keeps_its_parameters():
    shared = nn.Linear(7, 7)
    weight, values = shared.weight, shared.weight.detach().clone()
    ngopt.trace(nn.Sequential(nn.Linear(5, 7), shared, nn.Tanh(), shared, nn.Linear(7, 3)), torch.randn(2, 5))
    assert shared.weight is weight
    assert torch.equal(shared.weight, values)


def test_inputs_are_left_alone():
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.mul_(2.0)) if x.sum() > -1e9 else x

    x = torch.ones(2, 5)
    ngopt.trace(Writes(), x)
    assert torch.equal(x, torch.ones(2, 5))


def test_generators_refuse_another_shape():
    graph = ngopt.trace(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), torch.randn(2, 5))
    generator = next(iter(graph.generators()))
    with pytest.raises(ngopt.GraphMismatchError, match=r"0\.weight.*trace.* again"):
        generator.apply({"0.weight": torch.randn(8, 5)})


def test_meta_modules_are_traced_without_a_certificate():
    with torch.device("meta"):
        module, x = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), torch.randn(2, 5)
    graph = ngopt.trace(module, x)
    assert not graph.certified
    assert [(s.degree, s.copies) for s in graph.symmetries or ()] == [(7, 1)]
    assert all(p.is_meta for p in module.parameters())


def test_inputs_that_are_not_numbers_say_nothing_about_rules():
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    with pytest.warns(UserWarning, match="could not be checked by numbers.*inputs hold NaN") as caught:
        graph = ngopt.trace(net, torch.full((2, 5), float("nan")))
    assert len(caught) == 1 and not graph.certified
    assert [(s.name, s.degree) for s in graph.symmetries] == [("0", 7)]
    mask = torch.zeros(2, 5).masked_fill(torch.eye(2, 5) > 0, -torch.inf)  # infinities may be meant, as in masks
    softmax = nn.Sequential(nn.Softmax(-1), *net)
    assert ngopt.trace(softmax, mask).certified  # control


def test_modules_without_parameters():
    graph = ngopt.trace(nn.ReLU(), torch.randn(2, 5))
    assert graph.blocks == ()
    assert graph.num_nodes == 0
    assert not list(graph.generators())


def test_no_warnings_on_plain_models():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ngopt.trace(nn.TransformerEncoderLayer(8, 2, 6, batch_first=True), torch.randn(2, 3, 8))


class Noisy(nn.Module):
    """Draws random numbers in evaluation mode, torch's and Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x + torch.randn_like(x))) * random.random())


def test_modules_that_draw_random_numbers_are_certified():
    python = random.getstate()
    graph = ngopt.trace(Noisy(), torch.randn(2, 5))
    assert [(s.degree, s.copies) for s in graph.symmetries] == [(7, 1)]
    assert random.getstate() == python
