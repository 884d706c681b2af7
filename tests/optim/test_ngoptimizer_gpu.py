"""The optimizer on a GPU: the steps that it makes on a CPU, and no waiting for the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import ngopt
from tests.optim.ngoptimizer_cases import batch, lively_rule, make_net, weights

pytestmark = pytest.mark.gpu


def losses(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, dtype: torch.dtype = torch.float32
) -> list[float]:
    """Losses of some steps."""
    found = []
    device = next(model.parameters()).device
    for index in range(steps):
        x, y = (part.to(device) for part in batch(index, dtype))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("lively", [False, True])
def test_the_same_steps_as_on_a_cpu(lively: bool) -> None:
    found = []
    for device in ("cpu", "cuda"):
        model = make_net(dtype=torch.float64).to(device)
        rule = lively_rule(dtype=torch.float64) if lively else None
        optimizer = ngopt.NGOptimizer(model, total_steps=60, weight_decay=0.01, rule=rule)
        found.append(losses(model, optimizer, 40, torch.float64))
        assert optimizer.graph is not None and optimizer.graph.certified
        assert all(
            value.device.type == ("cpu" if key == "step" else device)
            for state in optimizer.state.values()
            for key, value in state.items()
        )
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-5, atol=1e-7)


def waits(call: Callable[[], object]) -> list[str]:
    """Where the host waits for the device."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return [f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message)]


@pytest.mark.parametrize("lively", [False, True])
def test_a_step_does_not_wait_for_the_gpu(lively: bool) -> None:
    model = make_net().cuda()
    rule = lively_rule() if lively else None
    optimizer = ngopt.NGOptimizer(model, total_steps=100, weight_decay=0.01, rule=rule)
    losses(model, optimizer, 21)
    for step in range(22):  # with bases that turn, and controls that are computed, and without
        found = waits(optimizer.step)
        assert found == [], step
    assert waits(lambda: torch.ones(3, device="cuda").sum().item()), "control: a wait is seen"


@pytest.fixture(params=["aot_eager", "inductor"])
def backend(request: pytest.FixtureRequest) -> str:
    """One that needs nothing, and the usual one where this machine can build kernels."""
    try:
        torch.compile(torch.sin, backend=request.param)(torch.ones(3, device="cuda"))
    except Exception as error:  # no C compiler, no headers of Python
        pytest.skip(f"{request.param} does not run here: {error}"[:200])
    return request.param


def test_a_compiled_model_has_its_graph(backend: str) -> None:
    model = make_net().cuda()
    optimizer = ngopt.NGOptimizer(model, total_steps=40)
    compiled = torch.compile(model, backend=backend)
    assert isinstance(compiled, nn.Module)
    found = losses(compiled, optimizer, 40)
    assert optimizer.graph is not None and not optimizer._attachment._off_graph
    assert sum(found[-5:]) < sum(found[:5])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype: torch.dtype) -> None:
    model = make_net().cuda()
    optimizer = ngopt.NGOptimizer(model, total_steps=60)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40, enabled=dtype == torch.float16)
    found = []
    for index in range(60):
        x, y = (part.cuda() for part in batch(index))
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=dtype):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append(loss.item())
    assert optimizer.graph is not None
    assert all(bool(value.isfinite().all()) for value in model.parameters())
    assert sum(found[-5:]) < sum(found[:5])


def spoil(model: nn.Module, value: float) -> None:
    """Gradients as they are, but for one entry."""
    param = model.get_parameter("head.weight")
    assert param.grad is not None
    param.grad[0, 0] = value


def test_nan_is_skipped() -> None:
    model = make_net().cuda()
    optimizer = ngopt.NGOptimizer(model, total_steps=40)
    losses(model, optimizer, 5)
    before = weights(model)
    spoil(model, torch.nan)
    with pytest.warns(UserWarning, match="A step was skipped"):
        optimizer.step()
    assert optimizer.skipped_steps == 1
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())


@pytest.mark.filterwarnings("ignore:A step was skipped")
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_nan_is_skipped_by_the_device(weight_decay: float) -> None:
    """After the first steps the host learns of it a step later; weights and state are as if nothing had been."""
    found = []
    for values in ((), (torch.nan, torch.inf)):
        model = make_net(dtype=torch.float64).cuda()
        optimizer = ngopt.NGOptimizer(model, total_steps=60, weight_decay=weight_decay)
        for step in range(24):
            losses(model, optimizer, 1, torch.float64)
            for value in values if step >= 12 else ():
                spoil(model, value)
                assert waits(optimizer.step) == []
        assert optimizer.skipped_steps == 12 * len(values)
        assert optimizer.param_groups[0]["step"] == 24
        found.append([*weights(model).values(), *(x for own in optimizer.state.values() for x in own.values())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)


def test_from_a_gpu_to_a_cpu_and_back() -> None:
    first = make_net(dtype=torch.float64).cuda()
    optimizer = ngopt.NGOptimizer(first, total_steps=40)
    losses(first, optimizer, 8, torch.float64)
    second = make_net(seed=1, dtype=torch.float64)
    second.load_state_dict(first.state_dict())
    other = ngopt.NGOptimizer(second, total_steps=40)
    other.load_state_dict(optimizer.state_dict())
    one, two = losses(first, optimizer, 8, torch.float64), losses(second, other, 8, torch.float64)
    torch.testing.assert_close(torch.tensor(one), torch.tensor(two), rtol=1e-6, atol=1e-8)
    second.cuda()
    other.load_state_dict(other.state_dict())
    losses(second, other, 3, torch.float64)


class Halves(nn.Module):
    """A model whose halves lie on different devices."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 16).cuda(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 3]."""
        return self.second(torch.tanh(self.first(x.cuda())).cpu())


def test_a_model_on_two_devices() -> None:
    model = Halves()
    optimizer = ngopt.NGOptimizer(model, total_steps=40, rule=lively_rule())
    found = []
    for index in range(40):
        x, y = batch(index)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert optimizer.graph is not None
    assert sum(found[-5:]) < sum(found[:5])


def test_a_model_that_moves_after_the_optimizer_was_built() -> None:
    model = make_net()
    optimizer = ngopt.NGOptimizer(model, total_steps=40)
    model.cuda()
    losses(model, optimizer, 3)
    state = [value for own in optimizer.state.values() for key, value in own.items() if key != "step"]
    assert state and all(value.is_cuda for value in state)
