"""`NGOptimizer`: the drop-in `torch.optim.Optimizer` around the pure update function of `ngopt.optim.update`.

The class keeps books (groups, names, state, counters) and decides nothing about the step itself. State is one dict of
tensors per parameter, plus ``step`` in every group; ``state_dict()`` adds one entry, ``"ngopt"``, with the
meta-parameters and what the state belongs to, all of it tensors, numbers and strings.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn.parameter import is_lazy

from ngopt.errors import CheckpointError
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.sharding import is_sharded
from ngopt.optim.attach import capture, options
from ngopt.optim.attach.exchange import Members, follow, members_of, unchanged
from ngopt.optim.attach.listener import Listener, named_parameters, unwrap
from ngopt.optim.attach.match import Share, block_digests, explain_difference, listing, share_out
from ngopt.optim.attach.names import generated, is_generated, unique
from ngopt.optim.attach.owner import listed, owners
from ngopt.optim.finite import nonfinite
from ngopt.optim.ranks import Ranks
from ngopt.optim.saving.checkpoint import DEFAULT_PRETRAINED, load_pretrained
from ngopt.optim.saving.state import ENTRY, SHARED, Extra, fit_state, layout_of, pack_extra, restore
from ngopt.optim.saving.validation import check_state_dict
from ngopt.optim.sharded.joint import Joint, has_shards, spread_out
from ngopt.optim.sharded.look import Look
from ngopt.optim.sharded.shards import local_gradient
from ngopt.optim.sharded.spread import Spread
from ngopt.optim.sharded.state import counted, forms, portable
from ngopt.optim.sharded.step import sharded_update_
from ngopt.optim.summary import ParamSummary, as_table, copies_of, ratios, summarise, write_scalars
from ngopt.optim.update import DEFAULT_LR, UpdateRule, init_state, update_

_PER_TENSOR = "they take the per-tensor rule. Pass the model itself, NGOptimizer(model), to use its graph."
_KEPT = ("_rule", "_graph", "_named", "_saved_graph", "_given_total_steps", "_warned", "skipped_steps")


class NGOptimizer(torch.optim.Optimizer):
    r"""A learned optimizer that sees the network as a graph of its neurons. Use it where you used ``AdamW``.

    .. math:: w \leftarrow w - 0.08 \cdot lr \cdot schedule(t) \cdot (u(graph, w, g, state) + weight\_decay \cdot w)

    Three ways to say which graph:

    * ``NGOptimizer(model)``, or ``NGOptimizer(model.parameters())``: captured from the first forward pass of your loop.
    * ``NGOptimizer(params, model=model, example_inputs=x)``: traced at once.
    * ``NGOptimizer(model.named_parameters(), graph=graph)``: a graph from `ngopt.trace`.

    Parameters on no graph take the per-tensor rule, with one warning.

    Args:
        params: A module; or parameters, ``(name, parameter)`` pairs, or group dicts, as for any `torch.optim`.
        lr: Multiple of the rule's own step size; the default, 1, needs no tuning, and 2 takes steps twice as large.
        model: The module that the parameters belong to, if ``params`` is not that module.
        example_inputs: One input, or a tuple of positional inputs, to trace ``model`` with at once.
        example_kwargs: Keyword inputs to trace with.
        graph: The neural graph. False: use none, without a warning (the per-tensor ablation).
        total_steps: Length of the run, for the built-in schedule. None: the built-in schedule never decays.
        schedule: ``"builtin"``, or ``"user"`` to leave ``lr`` to a `torch.optim.lr_scheduler`.
        weight_decay: Decoupled weight decay.
        maximize: Ascend instead of descend.
        rule: Meta-parameters to use, in place of ``pretrained``.
        pretrained: Name or path of a checkpoint; see `ngopt.load_pretrained`.
        messages: False: no messages between neurons, so that each tensor is judged by itself (the graph ablation).
        capturable: Not supported.
        differentiable: Not supported; `ngopt.optim.update.update` is the differentiable form.
        foreign: Options of other optimizers, such as ``betas``, ``eps`` or ``foreach``, so that factories can pass what
            they pass to all. They have no effect, and one warning says so.

    Attributes:
        graph: The neural graph, or None while it is not captured.
        rule: The meta-parameters.
        skipped_steps: Steps that were not made because a gradient was NaN or infinite.

    Raises:
        GraphMismatchError: Graph and parameters do not belong together.
        TypeError: Complex, sparse or sharded parameters, or an option that is unknown or of the wrong type.
        ValueError: An option is out of range.
        NotImplementedError: An option is not supported.

    Example:
        >>> optimizer = ngopt.NGOptimizer(model, total_steps=1000)
        >>> for x, y in batches:
        ...     optimizer.zero_grad()
        ...     loss_fn(model(x), y).backward()
        ...     optimizer.step()
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]],
        lr: float | Tensor = DEFAULT_LR,
        *,
        model: nn.Module | None = None,
        example_inputs: Any = None,
        example_kwargs: dict[str, Any] | None = None,
        graph: NeuralGraph | Literal[False] | None = None,
        total_steps: int | None = None,
        schedule: Literal["builtin", "user"] = "builtin",
        weight_decay: float = 0.0,
        maximize: bool = False,
        rule: UpdateRule | None = None,
        pretrained: str | os.PathLike = DEFAULT_PRETRAINED,
        messages: bool = True,
        capturable: bool = False,
        differentiable: bool = False,
        **foreign: Any,
    ) -> None:
        options.refuse_unsupported(dict(capturable=capturable, differentiable=differentiable))
        without_effect = options.check_foreign(foreign)
        if params is None:
            raise TypeError("NGOptimizer(None): pass a model, or parameters, or groups of parameters.")
        if isinstance(params, nn.Module):
            model, params = params, unwrap(params).named_parameters()
        given, tensors = listed(params)
        roots = [model] if model is not None else owners(tensors) if graph is None else []
        options.refuse_flattened([*tensors, *(param for root in roots for param in root.parameters())])
        self._rule = copy.deepcopy(rule if rule is not None else load_pretrained(pretrained)).requires_grad_(False)
        if not messages:
            self._rule.config = dataclasses.replace(self._rule.config, messages=False)
        self._graph: NeuralGraph | None = None
        self._named = named_parameters(roots)
        self._listener: Listener | None = None  # while the first forward pass is to be captured
        self._saved_graph: dict[str, str] = {}  # digests of the graph that a loaded state belongs to
        self._ranks = Ranks(model)  # which skip steps together
        self._members: Members = []  # what the groups held when they were last looked at
        self._shares: list[Share] | None = None  # made from all of the above; None: to be made again
        self._joint: list[Joint] | None = []  # the sharded ones of them; None: to be made by all ranks together
        self._roots = [weakref.ref(root) for root in roots]
        self._off_graph: list[str] = []  # names of parameters that are on no graph
        self._warned: set[str] = set()
        self._measured: dict[str, float] | None = None  # update-to-weight ratios of the last step; None: not wanted
        self.skipped_steps = 0
        defaults = dict(lr=lr, weight_decay=weight_decay, maximize=maximize)
        super().__init__(given, {**defaults, "total_steps": total_steps, "schedule": schedule, "step": 0})
        self._given_total_steps: int | None = self.param_groups[0]["total_steps"]
        for topic, message in (("foreign", without_effect), ("lr", options.explain_leftover(self.param_groups))):
            if message is not None:
                self._warn_once(topic, message)
        if isinstance(graph, NeuralGraph):
            self._adopt(graph, strict=True)
        elif graph is False:
            self._fit()
        elif not roots:
            self._warn_once("graph", f"The parameters belong to no module: {_PER_TENSOR}")
            self._fit()
        elif example_inputs is not None or example_kwargs is not None:
            if len(roots) > 1:
                raise ValueError("example_inputs are those of one module, and these parameters are of several.")
            inputs = () if example_inputs is None else example_inputs
            self._adopt(capture.trace_quietly(unwrap(roots[0]), inputs, example_kwargs), strict=True)
        else:
            self._fit()
            self._listener = Listener(roots, self._report, self._ranks.notice_forward)

    @property
    def graph(self) -> NeuralGraph | None:
        """The neural graph, or None while it is not captured."""
        self._listen()
        return self._graph

    @property
    def rule(self) -> UpdateRule:
        """The meta-parameters."""
        return self._rule

    @property
    def shares_over_ranks(self) -> list[Spread]:
        """Who has what of sharded parameters; empty where there are none. All ranks ask together."""
        return [joint.spread for joint in self._together()]

    # ---- the step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step.

        Args:
            closure: Computes the loss again, with gradients, and returns it.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: A gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step()
        return loss

    @_disable_dynamo  # not the closure: the model inside it may be compiled
    def _step(self) -> None:
        self._listen(stepping=True)
        grads = self._gradients()
        if not grads:
            options.refuse_sharded_later(self._named, [root for ref in self._roots if (root := ref()) is not None])
        looks = [joint.look(grads) for joint in self._together()]
        bad = [name for look in looks for name in look.bad] if looks else nonfinite(grads) if grads else []
        skip = not all(look.finite for look in looks) if looks else self._ranks.any(bool(bad), self, self._device())
        if skip:
            self.skipped_steps += 1
            self._warn_once(
                "nonfinite",
                f"A step was skipped: NaN or infinity in the gradient of {listing(bad) or 'another rank'}. Weights and "
                "state are as before; further skips are only counted, in optimizer.skipped_steps.",
            )
        elif grads or looks:
            before = None if self._measured is None else copies_of(self._shares or (), grads)
            self._update(grads, looks)
            if before is not None:
                self._measured = ratios(self._shares or (), before)

    def _device(self) -> torch.device:
        """Where ranks exchange what they found."""
        params = (param for group in self.param_groups for param in group["params"])
        return next((param.device for param in params), torch.device("cpu"))

    def _gradients(self) -> dict[str, Tensor]:
        """Gradients by name on the graph; makes state for parameters that get one for the first time."""
        self._follow()
        if (
            self._shares is None
            or not self.param_groups[0]["step"]
            or any(
                param.grad is not None and not self.state.get(param)
                for share in self._shares
                for _, param in share.params.values()
            )
        ):
            self._fit(also=[p for group in self.param_groups for p in group["params"] if p.grad is not None])
        grads = {}
        for share in self._shares or ():
            for key, (index, param) in share.params.items():
                if param.grad is not None:
                    options.check_gradient(key, param.grad)
                    grad = local_gradient(param)
                    grads[key] = -grad if self.param_groups[index]["maximize"] else grad
        return grads

    def _update(self, grads: dict[str, Tensor], looks: Iterable[Look]) -> None:
        """Write one step into weights and state."""
        first = self.param_groups[0]
        step, total_steps, scheduled = first["step"], first["total_steps"], first["schedule"] == "builtin"
        lrs, decays = (
            [self._number(group, option) for group in self.param_groups] for option in ("lr", "weight_decay")
        )
        if scheduled and total_steps is not None and step >= total_steps:
            self._warn_once(
                "horizon",
                f"Step {step + 1} is past total_steps={total_steps}, where the built-in schedule has fallen to zero: "
                "weights do not change any more. Give total_steps= the length of the whole run.",
            )
        when: dict[str, Any] = dict(step=step, total_steps=total_steps, scheduled=scheduled)
        sharded = {id(look.spread.share): look for look in looks}
        for share in self._shares or ():
            lr = {key: lrs[index] for key, (index, _) in share.params.items()}
            weight_decay = {key: decays[index] for key, (index, _) in share.params.items()}
            mine = {key: grads[key] for key in share.params if key in grads}
            if (look := sharded.get(id(share))) is not None:
                sharded_update_(look, self.state, lr=lr, weight_decay=weight_decay, **when)
            elif mine:
                state = {key: self.state[param] for key, (_, param) in share.params.items() if param in self.state}
                rest: dict[str, Any] = dict(lr=lr, weight_decay=weight_decay, **when)
                update_(share.rule, share.graph, share.readable, mine, state, cohorts=share.cohorts, **rest)
        for group in self.param_groups:
            group["step"] += 1

    @staticmethod
    def _number(group: dict[str, Any], option: str) -> float:
        value = float(group[option])
        if not math.isfinite(value):
            raise ValueError(f"{option}={value!r} in param_groups is not finite: this step would destroy the weights.")
        return value

    # ---- what it knows

    def summary(self) -> str:
        """A table of all parameters: matrix view, eigenbases, scale, gain, size of the last step, skips.

        Parameters that are on no graph are marked. The update-to-weight ratio is measured from the first call of `log`
        on. `ngopt.optim.summary.ParamSummary` says what the columns are.
        """
        first, graph = self.param_groups[0], self._graph
        place = "no neural graph yet" if self._listener is not None else "no neural graph"
        if graph is not None:
            place = f"{graph.num_nodes:,} nodes{'' if graph.certified else ' (not certified)'}"
        horizon = "" if first["total_steps"] is None else f" of {first['total_steps']:,}"
        skipped = f"{self.skipped_steps} skipped" if self.skipped_steps else "none skipped"
        return as_table(self._summaries(), f"NGOptimizer: {place}; {first['step']:,} steps made{horizon}, {skipped}")

    def log(self, writer: Any, step: int) -> None:
        """Write curves to TensorBoard: gain and update-to-weight ratio of each parameter, skips, off-graph count.

        The first call starts the measuring of update-to-weight ratios: from then on each step keeps a copy of the
        weights until it is made.

        Args:
            writer: A `torch.utils.tensorboard.SummaryWriter`, or anything with its ``add_scalar``.
            step: Where on the curves.
        """
        write_scalars(writer, step, self._summaries(), self.skipped_steps)
        self._measured = self._measured or {}

    def _summaries(self) -> list[ParamSummary]:
        self._follow()
        if self._shares is None:
            self._fit()
        return summarise(self._shares or (), self.state, self._measured or {})

    def __repr__(self) -> str:
        """One line per group, without its parameters."""
        lines = []
        for group in self.param_groups:
            entries = sum(param.numel() for param in group["params"] if not is_lazy(param))
            options = ", ".join(f"{name}={group[name]!r}" for name in ("lr", "weight_decay", "maximize"))
            lines.append(f"  {len(group['params'])} parameters, {entries:,} entries: {options}")
        shared = ", ".join(f"{name}={self.param_groups[0][name]!r}" for name in SHARED)
        return "\n".join([f"{type(self).__name__}({shared}", *lines, ")"])

    # ---- parameters and their graph

    @_disable_dynamo
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, named or not, with options of their own; their state is made at once.

        Args:
            param_group: ``{"params": ..., "lr": ..., "weight_decay": ..., "maximize": ...}``.
        """
        self._follow()
        if isinstance(param_group, dict) and not isinstance(param_group["params"], set):
            params = param_group["params"]
            params = self._with_names([params] if isinstance(params, Tensor) else list(params))
            shared = {option: self.param_groups[0][option] for option in SHARED if self.param_groups}
            param_group = options.checked_group({**self.defaults, **shared, **param_group, "params": params})
            param_group.setdefault("param_names", [])  # torch sets it where there is a parameter
            for name, param in params:
                options.check_parameter(name, param)
            for option, value in shared.items():
                if param_group[option] != value:
                    raise ValueError(
                        f"{option} must be the same in all groups: {value!r}, got {param_group[option]!r}."
                    )
            foreign = options.without_effect(options.WITHOUT_EFFECT & param_group.keys())
            if foreign is not None:
                self._warn_once("foreign", foreign)
        complete = bool(self.param_groups) and self._shares is not None
        super().add_param_group(param_group)
        self._members = members_of(self.param_groups)
        if complete:
            self._fit()

    def _with_names(self, params: list[Any]) -> list[tuple[str, Any]]:
        """Pairs with a name for every parameter: as given, or as in the model, or by number."""
        own_names = {id(tensor): name for name, tensor in self._named.items()}
        start = sum(len(group["params"]) for group in self.param_groups)
        return [
            entry if isinstance(entry, tuple) else (own_names.get(id(entry), generated(start + i)), entry)
            for i, entry in enumerate(params)
        ]

    def _follow(self) -> None:
        """Notice parameters that were exchanged in the groups."""
        if not unchanged(self._members, self.param_groups):
            self._named = follow(self._members, self.param_groups, self._named, self.state)
            self._members = members_of(self.param_groups)
            self._shares = None

    def _fit(self, also: Iterable[Tensor] = (), strict: bool = False) -> None:
        """Share parameters out again, and give each one that is trained, or is in ``also``, the state that it needs."""
        self._shares, self._off_graph = share_out(self.param_groups, self._graph, self._named, self._rule, strict)
        self._joint = None if any(map(has_shards, self._shares)) else []
        ids, config = {id(param) for param in also}, self._rule.config
        for share in self._shares:
            plans = share.plans(self.state)
            for key, (_, param) in share.params.items():
                if is_sharded(param):
                    self.state.setdefault(param, counted())  # the rest in `_together`
                elif param.requires_grad or param in self.state or id(param) in ids:
                    fresh = init_state(param, plans[key], config)
                    self.state[param] = fit_state(self.state.get(param, {}), fresh)
        if self._listener is None:
            self._warn_off_graph()

    def _together(self) -> list[Joint]:
        """The shares that are sharded, ready for a step. All ranks call it."""
        if self._shares is None and any(is_sharded(p) for group in self.param_groups for p in group["params"]):
            self._fit()
        if self._joint is None:
            spreads = spread_out(self._shares or (), self._graph)
            if not all(spread.agreed for spread in spreads):
                self._warn_once(
                    "graph",
                    "Ranks captured different graphs, as where the branches that a model takes depend on its inputs: "
                    "all parameters take the per-tensor rule. Pass the same example_inputs= on all ranks.",
                )
                self._graph = None
                self._fit()
                spreads = spread_out(self._shares or (), None)
            self._joint = [Joint(spread, self.state) for spread in spreads]
            if lost := [name for joint in self._joint for name in joint.lost]:
                self._warn_once(
                    "lost",
                    f"The averages of {listing(lost)} start anew: the loaded state came without them. States of "
                    "sharded parameters are saved and loaded with torch.distributed.checkpoint; pass example_inputs=, "
                    "so that the graph is known before they are loaded.",
                )
        return self._joint

    def _warn_off_graph(self) -> None:
        if self._graph is not None and self._off_graph:
            self._warn_once(
                "off graph", f"{listing(self._off_graph)}: not on the neural graph; these take the per-tensor rule."
            )

    def _adopt(self, graph: NeuralGraph, strict: bool = False) -> None:
        """Use a graph from now on. Unless ``strict``, this raises nothing: it happens inside a step."""
        self._follow()
        self._graph = graph
        self._compare_with_saved_graph()
        self._fit(strict=strict)

    def _compare_with_saved_graph(self) -> None:
        if self._saved_graph and self._graph is not None:
            difference = explain_difference(self._saved_graph, block_digests(self._graph), "digest")
            if difference:
                self._warn_once(
                    "saved graph",
                    f"The loaded state was saved on another graph ({difference}): state is kept where it fits, and "
                    "starts anew elsewhere. A model whose branches depend on its inputs can be the reason; if that is "
                    "not so, compare the models.",
                )

    def _listen(self, *, stepping: bool = False) -> None:
        """Trace what has run by now."""
        if self._listener is not None:
            if stepping and not self.param_groups[0]["step"]:
                self.state.clear()  # made anew by the first step, and not needed beside what tracing takes
                self._shares = None
            self._listener.settle(stepping=stepping)
            if not self._listener.listening:
                self._listener = None
                self._warn_off_graph()

    def _report(self, graph: NeuralGraph | None, error: Exception | None) -> None:
        """What the listener calls: with a graph, or with the reason why there is none."""
        if graph is not None:
            self._adopt(graph)
        elif error is not None:
            self._warn_once(
                "graph",
                f"The neural graph could not be captured ({type(error).__name__}: {error}); all parameters take the "
                "per-tensor rule. ngopt.trace(model, inputs) shows the error in full.",
            )
        else:
            self._warn_once(
                "graph",
                "step() came before any forward pass of the model, so there is no neural graph yet; all parameters "
                "take the per-tensor rule until there is. Pass example_inputs= to trace at once.",
            )

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            warnings.warn(message, UserWarning, stacklevel=3)

    # ---- saving, loading, copying

    @_disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """The state: torch's two entries, and ``"ngopt"``. All of it tensors, numbers and strings."""
        self._follow()
        graph = block_digests(self.graph) if self.graph is not None else self._saved_graph
        params = [param for group in self.param_groups for param in group["params"]]
        if self._listener is None:
            self._together()
        layout, spreads = layout_of(params, self.state), [joint.spread for joint in self._joint or ()]
        places = {param: place for place, param in enumerate(params)}
        for spread in spreads:
            layout |= {places[spread.params[name]]: own for name, own in forms(spread).items()}
        extra = Extra(self._rule, self._shapes(), graph, dict(sorted(layout.items())), self.skipped_steps)

        def complete(_: torch.optim.Optimizer, packed: dict[str, Any]) -> None:
            for spread in spreads:
                for name, param in spread.params.items():
                    packed["state"][places[param]] = portable(spread, name, packed["state"][places[param]])
            packed["state"] = {number: packed["state"][number] for number in sorted(packed["state"])}
            packed[ENTRY] = pack_extra(extra)

        # A hook of our own, called before the user's, so that theirs see the whole.
        handle = self.register_state_dict_post_hook(complete, True)
        try:
            return super().state_dict()
        finally:
            handle.remove()

    @_disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; going on from it equals never having stopped, bit for bit.

        The meta-parameters and the length of the run come with it; a ``total_steps`` that was given when this optimizer
        was built wins, with a warning. If the graph is not captured yet, it will be, from the next forward pass.

        Args:
            state_dict: From `state_dict`, of an optimizer of the same model.

        Raises:
            CheckpointError: The state is damaged, another optimizer's, or of another version; nothing was changed.
            GraphMismatchError: The state belongs to another model; nothing was changed.
        """
        if not isinstance(state_dict, Mapping):
            raise CheckpointError(f"A state must be a dict from state_dict(), not {type(state_dict).__name__}.")
        self._follow()
        final: dict[str, Any] = {}
        extra: Extra | None = None

        def check(_: torch.optim.Optimizer, packed: dict[str, Any]) -> None:
            nonlocal extra
            extra = check_state_dict(packed, self._shapes(), [group["params"] for group in self.param_groups])
            final.update(packed)

        names = [group["param_names"] for group in self.param_groups]
        handles = [
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(lambda _: self._take(final, extra, names), prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for handle in handles:
                handle.remove()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for group in self.param_groups:
            for name, param in zip(group["param_names"], group["params"], strict=True):
                if not is_lazy(param):
                    shapes[unique(name, shapes)] = tuple(param.shape)
        return shapes

    def _take(self, final: dict[str, Any], extra: Extra | None, names: list[list[str]]) -> None:
        """Undo what torch's loading did to names and dtypes, and take over the rest of the state."""
        restore(self.state, self.param_groups, final)
        saved = self.param_groups[0]["total_steps"]
        given = saved if self._given_total_steps is None else self._given_total_steps
        for group, own_names in zip(self.param_groups, names, strict=True):
            numbered = extra is not None and all(map(is_generated, own_names))
            group["param_names"] = group["param_names"] if numbered else own_names  # real names are worth more
            group["total_steps"] = given
        self._members = members_of(self.param_groups)
        if given != saved:
            self._warn_once(
                "total_steps",
                f"total_steps={given} was given, and the loaded state says {saved}: the run goes on from step "
                f"{self.param_groups[0]['step']} with total_steps={given}.",
            )
        if extra is not None:
            self._rule, self.skipped_steps, self._saved_graph = extra.rule, extra.skipped_steps, extra.graph
        self._shares = None
        self._compare_with_saved_graph()
        if self._graph is not None:
            self._fit()

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: hooks stay behind, and a copy that has no graph yet listens to the copied model."""
        self._follow()
        awaiting = self._listener.roots if self._listener is not None else None
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in _KEPT}, "_awaiting": awaiting}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Inverse of `__getstate__`; torch also calls it with a part of the state when it loads."""
        state = dict(state)
        copied, awaiting = "_awaiting" in state, state.pop("_awaiting", None)
        super().__setstate__(state)
        self._shares = None
        if copied:
            self._ranks, self._measured, self._joint, self._roots = Ranks(), None, [], []
            self._members = members_of(self.param_groups)
            self._listener = (
                Listener(awaiting, self._report, self._ranks.notice_forward) if awaiting is not None else None
            )
