"""Steps that are made before it is known whether they should be, as on a GPU: here on the CPU, with the same code."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import ngopt
from ngopt.optim import stepping
from ngopt.optim.fast import inplace
from ngopt.optim.skips import Skips
from tests.optim.ngoptimizer_cases import Net, graph_of, lively_rule, make_net, same, train, weights

FIRST = 11  # steps after which no basis comes from an eigendecomposition
LATER = 11  # steps in which every basis turns once


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Lets CPUs be late; the gates of all steps that were."""
    gates: list[Tensor] = []
    plain = Skips.later

    def later(self: Skips, grads: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
        gates.append(plain(self, grads, optimizer))
        return gates[-1]

    monkeypatch.setattr(stepping, "LATE", ("cpu",))
    monkeypatch.setattr(Skips, "later", later)
    return gates


def make(lively: bool = False, dtype: torch.dtype = torch.float32, **options: float) -> tuple[Net, ngopt.NGOptimizer]:
    model = make_net(dtype=dtype)
    rule = lively_rule(dtype=dtype) if lively else None
    named = list(model.named_parameters())
    return model, ngopt.NGOptimizer(named, graph=graph_of(model), total_steps=60, rule=rule, **options)


def spoil(model: Net, value: float) -> None:
    """Gradients as they are, but for one entry."""
    assert model.head.weight.grad is not None
    model.head.weight.grad[0, 0] = value


def seen(model: nn.Module, optimizer: ngopt.NGOptimizer) -> object:
    """All that a step could change; copied."""
    optimizer.skipped_steps  # noqa: B018  waits for the last step
    state = {str(index): own for index, own in enumerate(optimizer.state.values())}
    return copy.deepcopy([weights(model), state, [group["step"] for group in optimizer.param_groups]])


@pytest.mark.parametrize("lively", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_an_open_gate_changes_nothing(
    lively: bool, weight_decay: float, late: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.float64 if weight_decay else torch.float32
    model, optimizer = make(lively, dtype, weight_decay=weight_decay)
    train(model, optimizer, range(FIRST + LATER), dtype=dtype)
    assert len(late) == FIRST + LATER - 10, "all but the first ten steps"
    monkeypatch.setattr(stepping, "LATE", ())
    other, twin = make(lively, dtype, weight_decay=weight_decay)
    train(other, twin, range(FIRST + LATER), dtype=dtype)
    if weight_decay:  # (1 - r d) w - r c, or w - r (c + d w): rounded in another way
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-9)
    else:
        assert same(seen(model, optimizer), seen(other, twin))


@pytest.mark.filterwarnings("ignore:A step was skipped")
@pytest.mark.parametrize("lively", [False, True])
def test_steps_with_a_closed_gate_were_never_made(lively: bool, late: list[Tensor]) -> None:
    model, optimizer = make(lively, weight_decay=0.1)
    other, twin = make(lively, weight_decay=0.1)
    for step in range(FIRST + LATER):
        train(model, optimizer, [step])
        train(other, twin, [step])
        if step >= FIRST:  # at every place between two turns of a basis
            spoil(model, float("nan") if step % 2 else float("inf"))
            optimizer.step()
    assert optimizer.skipped_steps == LATER
    assert sum(not bool(gate) for gate in late) == LATER
    assert same(seen(model, optimizer), seen(other, twin))


def test_it_is_noticed_that_writes_ignore_the_gate(late: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """A control of the test above."""
    model, optimizer = make()
    train(model, optimizer, range(FIRST))
    before = seen(model, optimizer)
    monkeypatch.setattr(inplace, "write_", lambda target, value, gate: target.copy_(value))
    spoil(model, float("nan"))
    optimizer.step()
    with pytest.warns(UserWarning, match="A step was skipped"):
        assert optimizer.skipped_steps == 1
    assert not same(before, seen(model, optimizer))


@pytest.mark.filterwarnings("ignore:A step was skipped", "ignore:param.12. not on the neural graph")
def test_whoever_looks_sees_books_that_are_right(late: list[Tensor]) -> None:
    model, optimizer = make()
    train(model, optimizer, range(FIRST))
    before = copy.deepcopy(optimizer.state_dict())
    for look in ("save", "copy", "add", "ask", "summary"):
        twin_model, twin = copy.deepcopy((model, optimizer))
        train(twin_model, twin, [FIRST])
        made = copy.deepcopy(twin.state_dict())
        spoil(twin_model, float("nan"))
        twin.step()
        if look == "copy":
            twin = copy.deepcopy(twin)
        elif look == "add":
            twin.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
        elif look == "ask":
            assert twin.skipped_steps == 1
        elif look == "summary":
            assert f"{FIRST + 1} steps made of 60, 1 skipped" in twin.summary()
        found = twin.state_dict()
        assert found["ngopt"]["skipped_steps"] == 1
        assert all(group["step"] == FIRST + 1 for group in found["param_groups"])
        if look != "add":
            assert same(found["state"], made["state"])
    assert same(before["state"], optimizer.state_dict()["state"])


def test_the_first_steps_are_decided_at_once(late: list[Tensor]) -> None:
    model, optimizer = make()
    train(model, optimizer, range(3))
    spoil(model, float("nan"))
    with pytest.warns(UserWarning, match="NaN or infinity in the gradient of head.weight"):
        optimizer.step()
    assert not late


def test_an_option_that_is_refused_counts_as_no_step(late: list[Tensor]) -> None:
    model, optimizer = make()
    train(model, optimizer, range(FIRST))
    optimizer.param_groups[0]["lr"] = float("nan")
    spoil(model, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        optimizer.step()
    assert optimizer.skipped_steps == 0 and optimizer.param_groups[0]["step"] == FIRST


def test_the_gradient_that_was_wrong_is_named_a_step_later(late: list[Tensor]) -> None:
    model, optimizer = make()
    train(model, optimizer, range(FIRST))
    spoil(model, float("nan"))
    optimizer.step()
    with pytest.warns(UserWarning, match="NaN or infinity in the gradient of head.weight"):
        train(model, optimizer, [FIRST])
    assert optimizer.param_groups[0]["step"] == FIRST + 1
