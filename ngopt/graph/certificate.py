"""The certificate: discovered symmetries, checked by numbers.

Parameters and learned buffers are drawn at random in float64 (initial values that are equal or zero would hide errors),
permuted, and the outputs compared. Random elements of the whole group are enough if all is right; if not, bisection
finds the sibling sets that are wrong.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator

from ngopt.errors import TraceError
from ngopt.graph.capture import evaluating, output_tensors
from ngopt.graph.isolation import detached, isolated
from ngopt.graph.labelling import is_learned
from ngopt.graph.quantisation import WRITTEN_OUT, drawn_setting, is_setting
from ngopt.graph.recording import SeesAllOps, look_through
from ngopt.graph.sharding import plain
from ngopt.graph.symmetry import Generator, Symmetries

TOLERANCE = 1e-7  # relative to the outputs' spread; right ones measure below 1e-9, wrong ones above 1e-3
ROUNDING = 1e-10  # of a size: what differs by less differs by rounding alone


class _NoDowncast(SeesAllOps):
    """Conversions to shorter floats become conversions to float64, so that nothing is rounded.

    Ops that take no float64 are written out.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if isinstance(func, HigherOrderOperator):
            return look_through(self, func, args, kwargs)
        if kwargs.get("dtype") in (torch.float32, torch.float16, torch.bfloat16):
            kwargs["dtype"] = torch.float64
        run: Any = WRITTEN_OUT.get(func, func)
        return run(*args, **kwargs)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What is made without a number type gets this one, whatever the user's default is."""
    given = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(given)


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Everything that asks for float32 gets float64."""
    with default_dtype(torch.float64), _NoDowncast():
        yield


def _as_double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def random_state(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Random float64 parameters and learned buffers of sensible scale, tied ones equal; other buffers as they are."""
    drawn: dict[int, Tensor] = {}
    state = {}
    for name, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        if isinstance(tensor, nn.Parameter) or is_learned(name, tensor):
            if id(tensor) not in drawn:
                drawn[id(tensor)] = _draw(name, tensor, seed + len(drawn))
            state[name] = drawn[id(tensor)]
        else:
            value = plain(tensor.detach())
            state[name] = value.double() if value.is_floating_point() else value
    return state


def _draw(name: str, tensor: Tensor, seed: int) -> Tensor:
    rng = torch.Generator(tensor.device).manual_seed(seed)
    # large tensors repeat a prime number of draws: as good for telling entries apart, and much faster
    count = min(tensor.numel(), 65537)
    normal = torch.randn(count, generator=rng, dtype=torch.float64, device=tensor.device)
    normal = normal.repeat(-(-tensor.numel() // max(count, 1)))[: tensor.numel()].reshape(tensor.shape)
    if is_setting(name, tensor):
        return drawn_setting(name, normal)
    if tensor.ndim >= 2:
        return normal.div_(max(1.0, (tensor.numel() / max(tensor.shape)) ** 0.5))
    if name.endswith("running_var"):
        return 0.5 + normal.abs()
    return 0.4 * normal if "bias" in name or "mean" in name else 1 + 0.4 * normal


def evaluate(
    module: nn.Module, state: Mapping[str, Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Tensor]:
    """Outputs of the module in float64 and evaluation mode, with the given state; what it draws, it draws alike.

    It is a new copy of the module that runs, so that nothing is left of one pass in the next.

    Raises:
        TraceError: The forward pass writes to its parameters.
    """
    copied = isolated(module, state, _as_double)
    inputs, _ = detached((tuple(args), dict(kwargs)), _as_double)
    versions = [tensor._version for tensor in state.values()]
    with evaluating(copied), double_precision():
        random.seed(0)  # `evaluating` restores all three
        np.random.seed(0)
        torch.manual_seed(0)
        outputs = copied(*inputs[0], **inputs[1])
    written = [name for (name, x), version in zip(state.items(), versions, strict=True) if x._version != version]
    if any(name in dict(copied.named_parameters(remove_duplicate=False)) for name in written):
        raise TraceError(f"its forward pass writes to its parameters {written[:3]}")
    return [t for t in output_tensors(outputs) if t.is_floating_point()]


def relative_error(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Largest difference between outputs, relative to their spread; infinite where one of them is not finite.

    Outputs that are all equal but for rounding (all inputs alike) have no spread; then it is relative to their size.
    """
    worst = 0.0
    for x, y in zip(before, after, strict=True):
        if x.numel():
            size, spread = x.abs().max().item(), x.std(correction=0).item()
            spread = (spread if spread > ROUNDING * size else size) or 1.0
            error = (x - y).abs().max().item() / spread
            worst = max(worst, error if error == error else float("inf"))
    return worst


def failing_sets(
    module: nn.Module, symmetries: Symmetries, args: Sequence[Any], kwargs: Mapping[str, Any], seed: int = 0
) -> list[int]:
    """Indices of the sibling sets that do not leave the function unchanged.

    Raises:
        ValueError: The inputs hold NaN, so that nothing can be compared.
    """
    if any(bool(x.isnan().any()) for x in detached((tuple(args), dict(kwargs)))[1] if x.is_floating_point()):
        raise ValueError("the example inputs hold NaN")
    state = random_state(module, seed)
    started = time.perf_counter()
    before = evaluate(module, state, args, kwargs)
    seconds = time.perf_counter() - started
    trials = 8 if seconds < 0.1 else 2 if seconds < 1 else 1  # small sets that are wrong in pairs can hide in one trial

    def holds(sets: list[int]) -> bool:
        return all(_holds(symmetries.random(seed + trial, sets)) for trial in range(trials))

    def _holds(generator: Generator) -> bool:
        generator.apply_(state)  # on top of those that held before: memory for one state only
        if relative_error(before, evaluate(module, state, args, kwargs)) < TOLERANCE:
            return True
        state.clear()
        state.update(random_state(module, seed))
        return False

    return _search(list(range(len(symmetries.structure.sibling_sets))), holds)


def _search(sets: list[int], holds: Callable[[list[int]], bool]) -> list[int]:
    """Those that do not hold, by bisection. Not a closure: one that calls itself is a circle, and keeps all weights."""
    if not sets or holds(sets):
        return []
    if len(sets) == 1:
        return sets
    half = len(sets) // 2
    return _search(sets[:half], holds) + _search(sets[half:], holds) or sets  # each half holds alone: give up both
