"""The certificate: discovered symmetries, checked by numbers.

Parameters and learned buffers are drawn at random in float64 (initial values that are equal or zero would hide errors),
permuted, and the outputs compared. Random elements of the whole group are enough if all is right; if not, bisection
finds the sibling sets that are wrong.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ngopt.graph.capture import evaluating, output_tensors
from ngopt.graph.labelling import is_learned
from ngopt.graph.symmetry import Generator, Symmetries

TOLERANCE = 1e-7  # relative to the outputs' spread; right ones measure below 1e-9, wrong ones above 1e-3
ROUNDING = 1e-10  # of a size: what differs by less differs by rounding alone


class _NoDowncast(TorchDispatchMode):
    """Conversions to shorter floats become conversions to float64, so that nothing is rounded."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in (torch.float32, torch.float16, torch.bfloat16):
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Everything that asks for float32 gets float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _NoDowncast():
            yield
    finally:
        torch.set_default_dtype(default)


def as_double(tree: Any) -> Any:
    """Floating tensors of nested inputs in float64."""
    return pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, tree)


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
            state[name] = tensor.detach().double() if tensor.is_floating_point() else tensor.detach()
    return state


def _draw(name: str, tensor: Tensor, seed: int) -> Tensor:
    rng = torch.Generator(tensor.device).manual_seed(seed)
    # large tensors repeat a prime number of draws: as good for telling entries apart, and much faster
    count = min(tensor.numel(), 65537)
    normal = torch.randn(count, generator=rng, dtype=torch.float64, device=tensor.device)
    normal = normal.repeat(-(-tensor.numel() // max(count, 1)))[: tensor.numel()].reshape(tensor.shape)
    if tensor.ndim >= 2:
        return normal / max(1.0, (tensor.numel() / max(tensor.shape)) ** 0.5)
    if name.endswith("running_var"):
        return 0.5 + normal.abs()
    return 0.4 * normal if "bias" in name or "mean" in name else 1 + 0.4 * normal


def evaluate(
    module: nn.Module, state: Mapping[str, Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Tensor]:
    """Outputs of the module in float64 and evaluation mode, with the given state; what it draws, it draws alike."""
    with evaluating(module), torch.no_grad(), double_precision():
        random.seed(0)  # `evaluating` restores both
        torch.manual_seed(0)
        buffers = dict(module.named_buffers(remove_duplicate=False))  # copied: a forward pass may write to them
        places = _places(module)
        copies = {n: t.clone() if n in buffers else t for n, t in state.items() if n in places}
        outputs = torch.func.functional_call(
            module, copies, tuple(as_double(args)), dict(as_double(kwargs)), tie_weights=False
        )
    return [t for t in output_tensors(outputs) if t.is_floating_point()]


def _places(module: nn.Module) -> set[str]:
    """One name per slot of a submodule: `functional_call` does not restore what it fills under two names."""
    return {
        f"{path}.{name}" if path else name
        for path, child in module.named_modules()
        for name in (*child._parameters, *child._buffers)
    }


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
    """Indices of the sibling sets that do not leave the function unchanged."""
    state = random_state(module, seed)
    started = time.perf_counter()
    before = evaluate(module, state, args, kwargs)
    seconds = time.perf_counter() - started
    trials = 8 if seconds < 0.1 else 2 if seconds < 1 else 1  # small sets that are wrong in pairs can hide in one trial

    def holds(sets: list[int]) -> bool:
        return all(_holds(symmetries.random(seed + trial, sets)) for trial in range(trials))

    def _holds(generator: Generator) -> bool:
        return relative_error(before, evaluate(module, generator.apply(state), args, kwargs)) < TOLERANCE

    def search(sets: list[int]) -> list[int]:
        if not sets or holds(sets):
            return []
        if len(sets) == 1:
            return sets
        half = len(sets) // 2
        return search(sets[:half]) + search(sets[half:]) or sets  # each half holds alone: give up both

    return search(list(range(len(symmetries.structure.sibling_sets))))
