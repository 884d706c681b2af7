"""Carry labels through a captured program, op by op."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ngopt.errors import UnsupportedOpError
from ngopt.graph.capture import Program
from ngopt.graph.conditional import Conditional, Legs, Retrace, grouped, paired, stacked
from ngopt.graph.labels import Algebra, Label, axis_marks, compress, varying
from ngopt.graph.neurons import ROLES, NeuronTable
from ngopt.graph.quantisation import is_setting
from ngopt.graph.rules import RULES  # noqa: F401  (importing the package registers the rules)
from ngopt.graph.rules.movement import move
from ngopt.graph.rules.pointwise import labels_in, pointwise, uniform
from ngopt.graph.rules.positional import positional
from ngopt.graph.rules.registry import Rule, find_rule

MAX_CONSTANT = 1 << 22  # entries of constants that are evaluated
LEARNED_BUFFERS = ("running_mean", "running_var", "_u", "_v", "weight_u", "weight_v")


@dataclass
class Labelling:
    """What a program says about the neurons of its tensors."""

    table: NeuronTable = field(default_factory=NeuronTable)
    tensors: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)  # name -> ids per axis, broadcastable to it
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    buffers: set[str] = field(default_factory=set)
    conditionals: dict[tuple[str, int], Conditional] = field(default_factory=dict)
    functions: list[tuple[np.ndarray, str]] = field(default_factory=list)  # ids that pass through a function
    directions: dict[tuple[str, int], str] = field(default_factory=dict)  # (tensor, axis) -> "in" | "out"
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    program: list[str] = field(default_factory=list)  # ops with their settings, for the fingerprint
    unsupported: dict[str, str] = field(default_factory=dict)  # op -> path of the module that ran it
    used: set[str] = field(default_factory=set)  # tensors that the program reads

    @property
    def steps(self) -> dict[str, int]:
        """Place of each tensor in the order in which the program first reads from it, or writes with it: 1, 2, ..."""
        return {name: k for k, name in enumerate(dict.fromkeys(name for name, _ in self.directions), start=1)}


def label_program(module: nn.Module, program: Program, *, strict: bool) -> Labelling:
    """Label every tensor of the program; see `ngopt.graph.labels`.

    Raises:
        UnsupportedOpError: with ``strict``, at the first op without a rule that neurons pass through.
    """
    conditionals: dict[tuple[str, int], Conditional] = {}
    while True:
        try:
            return Labeller(module, program, conditionals, strict).run()
        except Retrace as again:
            wish = again.conditional
            conditionals[wish.tensor, wish.axis] = wish


def is_learned(name: str, buffer: Tensor) -> bool:
    """Whether a buffer is learned (running statistics) rather than a constant (a table of positions)."""
    is_statistic = name.rsplit(".", 1)[-1] in LEARNED_BUFFERS or is_setting(name, buffer)
    return buffer.is_floating_point() and is_statistic


class Labeller:
    """One pass over the program; the tracer that rules see (`ngopt.graph.rules.Tracer`)."""

    def __init__(
        self, module: nn.Module, program: Program, conditionals: dict[tuple[str, int], Conditional], strict: bool
    ) -> None:
        self.result = Labelling(conditionals=dict(conditionals))
        self.algebra = Algebra(self.result.table)
        self.program = program
        self.strict = strict
        self.env: dict[fx.Node, Any] = {}
        self.node: fx.Node = next(iter(program.graph.nodes))
        self._constants: dict[str, Tensor] = {}
        self._raw: dict[str, Label] = {}
        self._scores: list[tuple[tuple[Label, set[int]], tuple[Label, set[int]]]] = []
        self._name_tensors(module)

    def run(self) -> Labelling:
        """Label the whole program."""
        for node in self.program.graph.nodes:
            self.node = node
            if self.node.op == "placeholder":
                self.env[self.node] = self._placeholder()
            elif self.node.op == "get_attr":
                self.env[self.node] = self._constant(self.program.constants[self.node.name])
            elif self.node.op == "call_function":
                self.env[self.node] = self._call()
        for output in self.program.outputs:  # what the module returns has an identity of its own
            for label in labels_in(self.env[output]):
                self.algebra.rigid(label)
        # what this pass did not compute with may be computed with in another (experts that no token chose)
        table = self.result.table
        for leg in table.legs:
            table.freeze(leg.start + np.flatnonzero(~table.touched[leg.start : leg.stop]))
        return self.result

    # -- tensors ---------------------------------------------------------------------------------------------------

    def _name_tensors(self, module: nn.Module) -> None:
        """Give every parameter and learned buffer its ids, tied ones once."""
        owner: dict[int, str] = {}
        self._canonical: dict[str, str] = {}
        for name, tensor in module.named_parameters(remove_duplicate=False):
            self._canonical[name] = owner.setdefault(id(tensor), name)
        for name, tensor in module.named_buffers(remove_duplicate=False):
            if is_learned(name, tensor):
                self._canonical[name] = owner.setdefault(id(tensor), name)
                self.result.buffers.add(self._canonical[name])
            else:
                self._constants[name] = tensor
        state = dict(module.named_parameters()) | dict(module.named_buffers())
        for name, canonical in self._canonical.items():
            if name == canonical:
                self._add_tensor(name, tuple(state[name].shape))
            else:
                self.result.aliases.setdefault(canonical, []).append(name)

    def _add_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        table, ids = self.result.table, []
        for axis, size in enumerate(shape):
            wish = self.result.conditionals.get((name, axis))
            groups = wish.groups if wish else 1
            leg = torch.from_numpy(table.new(groups * size, name, axis)).reshape(groups, size)
            field_shape = [size if a == axis else 1 for a in range(len(shape))]
            if wish:
                leg = leg.repeat_interleave(shape[wish.given] // groups, 0)
                field_shape[wish.given] = shape[wish.given]
                leg = leg if wish.given < axis else leg.T
            ids.append(leg.reshape(field_shape))
        if not shape:
            ids.append(torch.from_numpy(table.new(1, name, 0)).reshape(()))
        self.result.tensors[name], self.result.shapes[name] = tuple(ids), shape
        label = Label(shape, tuple(f for f in ids if f.numel() > 1))
        if any(key[0] == name for key in self.result.conditionals):
            self.algebra._settle(label.fields, ())
        self._raw[name] = label

    def _placeholder(self) -> Any:
        name = self.node.name
        if name in self.program.tensors:
            tensor = self.program.tensors[name]
            if tensor in self._canonical:
                if self.node.users:
                    self.result.used.add(self._canonical[tensor])
                return self._raw[self._canonical[tensor]]
            return self._constant(self._constants[tensor])
        if name in self.program.constants:
            return self._constant(self.program.constants[name])
        value = self.node.meta.get("val")
        if not isinstance(value, Tensor):
            return value
        shape = tuple(value.shape)
        return Label(shape, marks=axis_marks(shape), tags=frozenset({"activation"}))

    def _constant(self, value: Tensor) -> Label:
        """A constant: position codes along the axes on which it varies."""
        shape = tuple(value.shape)
        if (
            value.device.type == "meta"
            or value.numel() > MAX_CONSTANT
            or type(value) not in (Tensor, nn.Parameter, nn.Buffer)
        ):
            return Label(shape, marks=axis_marks(shape))
        value = value.detach().cpu()
        return Label(shape, marks=axis_marks(shape, varying(compress(value))), value=value)

    # -- calls -----------------------------------------------------------------------------------------------------

    def _call(self) -> Any:
        node = self.node
        args, kwargs = pytree.tree_map_only(fx.Node, lambda n: self.env.get(n), (node.args, node.kwargs))
        if node.target is operator.getitem:
            return args[0][args[1]]
        if not any(isinstance(v, Tensor) for v in pytree.tree_leaves(node.meta.get("val"))):
            return node.meta.get("val")  # assertions, sizes
        inputs = labels_in((args, kwargs))
        is_known = all(x.value is not None for x in inputs) and find_rule(node.target) is not uniform
        known = self._evaluate(args, kwargs) if is_known else None
        if known is not None:
            return known
        self._note_settings(args, kwargs)
        rule = self._rule()
        if rule is None:
            return self._give_up(inputs)
        return rule(self, *args, **kwargs)

    def _rule(self) -> Rule | None:
        op = self.node.target
        found = find_rule(op)
        if found is None and isinstance(op, torch._ops.OpOverload):
            if op.is_view:
                return move
            if torch.Tag.inplace_view in op.tags:
                return move
            if torch.Tag.pointwise in op.tags:
                return pointwise
        return found

    def _evaluate(self, args: Any, kwargs: Any) -> Any:
        """Run an op whose inputs are all known constants."""
        values = pytree.tree_leaves(self.node.meta["val"])
        if sum(v.numel() for v in values if isinstance(v, Tensor)) > MAX_CONSTANT:
            return None
        if torch.Tag.nondeterministic_seeded in getattr(self.node.target, "tags", ()):
            return None
        real_args, real_kwargs = pytree.tree_map_only(Label, lambda x: x.value, (args, kwargs))
        if "device" in real_kwargs:
            real_kwargs = real_kwargs | {"device": torch.device("cpu")}
        out = self.node.target(*real_args, **real_kwargs)  # type: ignore[operator]
        return pytree.tree_map_only(Tensor, self._constant, out)

    def _give_up(self, inputs: list[Label]) -> Any:
        """No rule: freeze what the op touches."""
        name = str(self.node.target)
        if any(x.fields for x in inputs):
            path = self.program.module_path.get(self.node.name, "")
            if self.strict:
                raise UnsupportedOpError(
                    f"no rule for op '{name}' (in module '{path or '<root>'}'). Add one with "
                    f"@ngopt.graph.rule(torch.ops.{name}), "
                    "or trace with strict=False to freeze the neurons that it touches."
                )
            self.result.unsupported.setdefault(name, path)
        return positional(self, *inputs)

    def _note_settings(self, args: Any, kwargs: Any) -> None:
        op = self.node.target
        if isinstance(op, torch._ops.OpOverload) and not op.is_view and op not in _SHAPES_ONLY:
            settings = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, int | float | bool | str)]
            self.result.program.append(f"{op.overloadpacket.__name__}{settings}")

    # -- what rules ask (see `ngopt.graph.rules.Tracer`) --------------------------------------------------------------

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs."""
        value = self.node.meta["val"]
        values = value if isinstance(value, list | tuple) else [value]
        return [tuple(v.shape) for v in values if isinstance(v, Tensor)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return self.shapes[0]

    def used(self, output: int) -> bool:
        """Whether an output is read."""
        return any(user.target is operator.getitem and user.args[1] == output for user in self.node.users)

    def record(self, label: Label, what: str) -> None:
        """Neurons pass through a function."""
        self.result.functions += [(f.numpy().ravel(), what) for f in label.fields]

    def roles(self, label: Label, axes: set[int], role: str) -> None:
        """Neurons play a role in attention."""
        for f in label.fields:
            if varying(f) & axes:
                self.result.table.set_role(f.numpy().ravel(), ROLES.index(role))

    def score(self, queries: tuple[Label, set[int]], keys: tuple[Label, set[int]]) -> str:
        """A product of two activations."""
        self._scores.append((queries, keys))
        return f"score {len(self._scores) - 1}"

    def attend(self, label: Label) -> bool:
        """A softmax follows on it."""
        numbers = [int(tag.split()[1]) for tag in label.tags if tag.startswith("score ")]
        for queries, keys in (self._scores[n] for n in numbers):
            self.roles(*queries, "query")
            self.roles(*keys, "key")
        return bool(numbers)

    def _legs(self, label: Label, axes: set[int] | None = None) -> Legs:
        """Fields that are whole axes of tensors: (field, tensor, axis)."""
        if "activation" in label.tags:
            return []
        starts = [leg.start for leg in self.result.table.legs]
        found = []
        for f in label.fields:
            if axes is None or varying(f) & axes:
                first = int(f.reshape(-1)[0])
                leg = self.result.table.legs[int(np.searchsorted(starts, first, side="right")) - 1]
                if leg.start <= first < leg.stop:
                    found.append((f, leg.tensor, leg.axis))
        return found

    def direction(self, label: Label, axes: set[int], way: str) -> None:
        """Parameter axes are read from or written to."""
        for _, tensor, axis in self._legs(label, axes):
            self.result.directions.setdefault((tensor, axis), way)

    def attribute(self, label: Label, **values: object) -> None:
        """Parameters are used so."""
        for _, tensor, _ in self._legs(label):
            self.result.attributes.setdefault(tensor, {k: str(v) for k, v in values.items()})

    def condition(self, label: Label, *, groups: int | None = None, picked: int | None = None) -> None:
        """Ask for conditional ids; see `ngopt.graph.conditional`."""
        legs = self._legs(label)
        if groups is not None:
            self._wish(grouped(label, legs, groups))
        else:
            self._wish(stacked(label, legs, self.result.shapes, picked))

    def condition_on_partner(self, labels: list[Label]) -> None:
        """The same, where a parameter meets ids that run over two of its axes at once."""
        self._wish(paired(labels, [self._legs(x) for x in labels], self.result.shapes))

    def _wish(self, wishes: Iterator[Conditional]) -> None:
        """Start again with conditional ids, unless these are conditional already or others are given them."""
        taken = self.result.conditionals
        for wish in wishes:
            if (wish.tensor, wish.axis) not in taken and (wish.tensor, wish.given) not in taken:
                raise Retrace(wish)


_SHAPES_ONLY = {
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.expand.default,
    torch.ops.aten.clone.default,
    torch.ops.aten.full.default,
    torch.ops.aten.arange.start_step,
    torch.ops.aten.cat.default,
    torch.ops.aten._to_copy.default,
    torch.ops.aten.full_like.default,
}
