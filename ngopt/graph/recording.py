"""A forward pass as a list of ATen ops, and how to run that list again on other tensors.

The recorder watches real tensors go by and costs some ten microseconds per op, so that a pass of any length can be
recorded; what else there is to do with a recording starts once its loops are short (`ngopt.graph.loops`).
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, _higher_order_ops
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type
from torch.utils.weak import WeakTensorKeyDictionary


class Ref(NamedTuple):
    """Stands for a tensor in what is kept of a call."""

    number: int


class Form(NamedTuple):
    """Arguments without what they hold."""

    lengths: tuple[int, ...]  # of the arguments that are lists; -1 for those that are not
    keywords: tuple[str, ...]  # names of the last ones

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], Form]:
        """Arguments of an op, which are plain or lists of plain ones, as a list of leaves and their form."""
        leaves, lengths = [], []
        for value in (*args, *kwargs.values()):
            is_list = isinstance(value, list | tuple)
            leaves += value if is_list else [value]
            lengths.append(len(value) if is_list else -1)
        return leaves, cls(tuple(lengths), tuple(kwargs))

    def arguments(self, leaves: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The inverse of `of`."""
        values, at = [], 0
        for length in self.lengths:
            values.append(leaves[at] if length < 0 else list(leaves[at : at + length]))
            at += 1 if length < 0 else length
        plain = len(values) - len(self.keywords)
        return values[:plain], dict(zip(self.keywords, values[plain:], strict=True))


@dataclass(frozen=True)
class Step:
    """One call of an op.

    Attributes:
        op: What was called.
        leaves: Its arguments, lists flattened, with a `Ref` for each tensor.
        form: How to make arguments of them.
        outputs: The numbers of what it returned, flattened; None for what is no tensor. An op that writes in place
            returns the number that it was given.
        shapes: Shapes and number types of the outputs.
        path: Of the module that called it.
    """

    op: Any
    leaves: tuple[Any, ...]
    form: Form
    outputs: tuple[int | None, ...]
    shapes: tuple[Any, ...]
    path: str

    @property
    def refs(self) -> list[int]:
        """Numbers of the tensors that it was given."""
        return [leaf.number for leaf in self.leaves if type(leaf) is Ref]

    @property
    def made(self) -> list[int]:
        """Numbers of the tensors that it returned."""
        return [number for number in self.outputs if number is not None]


@dataclass(frozen=True)
class Recording:
    """What a module did, and the tensors that it did it with.

    Attributes:
        names: Of parameters and buffers, which have the first numbers.
        tensors: Number -> parameter, buffer, input or constant.
        inputs: Numbers of the inputs; all that follow are constants.
        steps: In order.
        outputs: Numbers of what the module returned.
        given: Parameter -> root mean square of what its module was given first; see `ngopt.graph.elements`.
    """

    names: tuple[str, ...]
    tensors: dict[int, Tensor]
    inputs: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    given: Mapping[str, float]

    def replay(self, tensors: Sequence[Tensor], entering: Callable[[str], None]) -> list[Tensor]:
        """Outputs for other tensors, in the order of `tensors`; ``entering(path)`` is called before every step."""
        env: dict[int, Any] = dict(zip(self.tensors, tensors, strict=True))
        last = {number: -1 for number in self.outputs}
        for index in range(len(self.steps) - 1, -1, -1):
            for number in (*self.steps[index].refs, *self.steps[index].made):
                last.setdefault(number, index)
        for index, step in enumerate(self.steps):
            entering(step.path)
            leaves = [env[leaf.number] if type(leaf) is Ref else leaf for leaf in step.leaves]
            args, kwargs = step.form.arguments(leaves)
            results = pytree.tree_leaves(step.op(*args, **kwargs))
            env.update((n, result) for n, result in zip(step.outputs, results, strict=True) if n is not None)
            for number in (*step.refs, *step.made):
                if last[number] == index:
                    env.pop(number, None)
        return [env[number] for number in self.outputs]


def record(module: nn.Module, state: dict[str, Tensor], inputs: Sequence[Tensor], run: Callable[[], Any]) -> Recording:
    """Record ``run()``, which calls the module and returns the tensors that it returned.

    Args:
        module: A copy that may be given hooks.
        state: Its parameters and buffers by name.
        inputs: All tensors in its inputs.
        run: The call.
    """
    recorder = _Recorder()
    for tensor in state.values():
        recorder.number(tensor)
    numbers = tuple(recorder.number(tensor) for tensor in inputs)
    with recorder.noting_paths(module), recorder:
        outputs = run()
    returned = tuple(recorder.number(tensor) for tensor in outputs)
    return Recording(tuple(state), recorder.tensors, numbers, tuple(recorder.steps), returned, recorder.given)


class SeesAllOps(TorchDispatchMode):
    """A mode that also sees ops that take functions; `look_through` calls those."""

    supports_higher_order_operators = True

    def __enter__(self) -> Any:
        """See `torch.utils._python_dispatch.TorchDispatchMode`."""
        if not hasattr(TorchDispatchMode, "supports_higher_order_operators"):  # torch 2.6: by a rule for each op
            for op in _higher_order_ops.values():
                if type(self) not in op.python_key_table:
                    op.py_impl(type(self))(functools.partial(_seen_by, op))
        return super().__enter__()


def _seen_by(op: HigherOrderOperator, mode: TorchDispatchMode, *args: Any, **kwargs: Any) -> Any:
    return look_through(mode, op, args, kwargs)


class _Recorder(SeesAllOps):
    """Notes all ops that are called while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.tensors: dict[int, Tensor] = {}
        self._numbers = WeakTensorKeyDictionary()
        self.given: dict[str, float] = {}
        self._count = 0
        self._path = [""]
        self._paused = False

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor; one that nobody has made is a constant."""
        known = self._numbers.get(tensor)
        if known is None:
            known = self._new(tensor)
            self.tensors[known] = tensor
        return known

    def _new(self, tensor: Tensor) -> int:
        self._numbers[tensor] = self._count
        self._count += 1
        return self._count - 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `torch.utils._python_dispatch.TorchDispatchMode`."""
        if self._paused:
            return func(*args, **(kwargs or {}))
        if any(is_traceable_wrapper_subclass_type(kind) for kind in types):
            return NotImplemented  # it is the plain tensors inside that are of interest
        if isinstance(func, HigherOrderOperator):
            return look_through(self, func, args, kwargs or {})
        leaves, form = Form.of(args, kwargs or {})
        leaves = tuple(Ref(self.number(leaf)) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        out = func(*args, **(kwargs or {}))
        results = [out] if isinstance(out, Tensor) else pytree.tree_leaves(out)
        if any(isinstance(result, Tensor) for result in results) or func._schema.is_mutable:
            outputs = tuple(self._output(result) if isinstance(result, Tensor) else None for result in results)
            shapes = tuple((tuple(x.shape), x.dtype) if isinstance(x, Tensor) else None for x in results)
            self.steps.append(Step(func, leaves, form, outputs, shapes, self._path[-1]))
        return out

    def _output(self, tensor: Tensor) -> int:
        known = self._numbers.get(tensor)
        return self._new(tensor) if known is None else known

    def _enter(self, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._path.append(path)
        names = [f"{path}.{name}".lstrip(".") for name in _matrices(module)]
        if any(name not in self.given for name in names):
            self._paused = True
            try:
                self.given |= dict.fromkeys(names, size) if (size := _size(args)) else {}
            finally:
                self._paused = False

    @contextlib.contextmanager
    def noting_paths(self, module: nn.Module) -> Iterator[None]:
        """Know which module is running."""

        def leave(*_: Any) -> None:
            self._path.pop()

        handles = []
        for path, inner in module.named_modules():
            if not isinstance(inner, torch.jit.ScriptModule):
                enter = functools.partial(self._enter, path)
                handles += [inner.register_forward_pre_hook(enter, prepend=True), inner.register_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _matrices(module: nn.Module) -> Iterator[str]:
    """Names of a module's own parameters with several axes, also of what parametrisations make weights of."""
    own = list(module._parameters.items())
    if (made := module._modules.get("parametrizations")) is not None:
        own += made.named_parameters("parametrizations")
    return (name for name, param in own if param is not None and param.ndim > 1)


def _size(args: tuple[Any, ...]) -> float | None:
    """Root mean square of the first tensor of numbers; None without one, and where it says nothing."""
    given = next((x for x in args if isinstance(x, Tensor) and x.is_floating_point() and not x.is_meta), None)
    if given is None or given.numel() == 0:
        return None
    size = float(torch.linalg.vector_norm(given, dtype=torch.float64)) / given.numel() ** 0.5
    return size if 0.0 < size < math.inf else None


def look_through(mode: TorchDispatchMode, func: HigherOrderOperator, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Call an op that takes functions (`torch.cond`, FlexAttention), such that the mode sees what those do."""
    kernel: Any = func.py_kernels[torch._C.DispatchKey.CompositeExplicitAutograd]
    with mode:
        return _branch(*args) if func.name() == "cond" else kernel(*args, **kwargs)


def _branch(is_true: Any, if_true: Callable[..., Any], if_false: Callable[..., Any], operands: Any = ()) -> Any:
    """`torch.cond`, whose own kernel refuses to be watched."""
    return (if_true if bool(is_true) else if_false)(*operands)
