"""`NGOptimizer`: the drop-in `torch.optim.Optimizer` around the pure update function of `ngopt.optim.update`.

A thin shell, which decides nothing: parameters and their graph are `Attachment`'s, a step is in `stepping`, saving and
loading in `resume`. State is one dict of tensors per parameter, plus ``step`` in every group; ``state_dict()`` adds one
entry, ``"ngopt"``, with the meta-parameters and what the state belongs to, all of it tensors, numbers and strings.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from ngopt.errors import CheckpointError
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.attach import capture, options
from ngopt.optim.attach.groups import checked_new_group
from ngopt.optim.attach.owner import listed, owners
from ngopt.optim.attach.places import unwrap
from ngopt.optim.attachment import NO_MODULE, Attachment
from ngopt.optim.notices import Notices
from ngopt.optim.ranks import Ranks
from ngopt.optim.resume import Loading, Packing
from ngopt.optim.saving.checkpoint import DEFAULT_PRETRAINED, load_pretrained
from ngopt.optim.sharded.spread import Spread
from ngopt.optim.skips import Skips
from ngopt.optim.stepping import gradients, may_be_late, update_groups
from ngopt.optim.summary import ParamSummary, as_table, copies_of, ratios, short_form, summarise, write_scalars
from ngopt.optim.update import DEFAULT_LR, UpdateRule

_KEPT = ("_given_total_steps", "_notices", "_others", "_rates")  # by copies, besides what `Attachment.kept` says


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
        self._others = options.keys_of_wrappers(params)
        if isinstance(params, nn.Module):
            model, params = params, unwrap(params).named_parameters()
        given, tensors = listed(params)
        roots = [model] if model is not None else owners(tensors) if graph is None else []
        options.refuse_flattened([*tensors, *(param for root in roots for param in root.parameters())])
        rule = copy.deepcopy(rule if rule is not None else load_pretrained(pretrained)).requires_grad_(False)
        if not messages:
            rule.config = dataclasses.replace(rule.config, messages=False)
        self._notices, self._rates = Notices(), options.Rates()
        self._attachment = Attachment(rule, roots, self._notices)
        self._ranks = Ranks(model)
        self._skips = Skips(self._ranks, self._notices)
        self._measured: dict[str, float] | None = None  # update-to-weight ratios of the last step; None: not wanted
        defaults = dict(lr=lr, weight_decay=weight_decay, maximize=maximize)
        super().__init__(given, {**defaults, "total_steps": total_steps, "schedule": schedule, "step": 0})
        self._given_total_steps: int | None = self.param_groups[0]["total_steps"]
        for topic, message in (("foreign", without_effect), ("lr", options.explain_leftover(self.param_groups))):
            if message is not None:
                self._notices.once(topic, message)
        self._attach(graph, roots, example_inputs, example_kwargs)

    def _attach(
        self,
        graph: NeuralGraph | Literal[False] | None,
        roots: Sequence[nn.Module],
        example_inputs: Any,
        example_kwargs: dict[str, Any] | None,
    ) -> None:
        """Use the graph that is given, or trace, or wait for a forward pass."""
        if isinstance(graph, NeuralGraph):
            self._attachment.adopt(self, graph, strict=True)
        elif graph is False:
            self._attachment.fit(self)
        elif not roots:
            self._notices.once("graph", NO_MODULE)
            self._attachment.fit(self)
        elif example_inputs is not None or example_kwargs is not None:
            if len(roots) > 1:
                raise ValueError("example_inputs are those of one module, and these parameters are of several.")
            inputs = () if example_inputs is None else example_inputs
            traced = capture.trace_quietly(unwrap(roots[0]), inputs, example_kwargs)
            self._attachment.adopt(self, traced, strict=True)
        else:
            self._attachment.fit(self)
            self._attachment.wait_for(roots, self._ranks.notice_forward)

    @property
    def graph(self) -> NeuralGraph | None:
        """The neural graph, or None while it is not captured."""
        self._attachment.listen(self)
        return self._attachment.graph

    @property
    def rule(self) -> UpdateRule:
        """The meta-parameters."""
        return self._attachment.rule

    @property
    def skipped_steps(self) -> int:
        """Steps that were not made because a gradient was NaN or infinite. On a GPU, this waits for the last step."""
        self._skips.settle(self)
        return self._skips.count

    @property
    def partitions_over_ranks(self) -> list[Spread]:
        """Who has what of sharded parameters; empty where there are none. All ranks ask together."""
        return [joint.spread for joint in self._attachment.together(self)]

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
        self._skips.settle(self)
        self._attachment.listen(self, stepping=True)
        grads = gradients(self, self._attachment)
        if not grads:
            self._attachment.refuse_sharded_later()
        looks = [joint.look(grads) for joint in self._attachment.together(self)]
        partitions = self._attachment.partitions or ()
        late = not looks and may_be_late(self, partitions, grads)
        gate = self._skips.later(grads, self) if late else None
        if (not late and self._skips.now(grads, looks, self)) or not (grads or looks):
            return
        before = None if self._measured is None else copies_of(partitions, grads)
        stepped = update_groups(self, partitions, grads, looks, self._notices, self._rates, gate)
        if late:
            self._skips.made(stepped)
        if before is not None:
            self._measured = ratios(partitions, before)

    # ---- what it knows

    def summary(self) -> str:
        """A table of all parameters: matrix view, eigenbases, scale, gain, size of the last step, skips.

        Parameters that are on no graph are marked. The update-to-weight ratio is measured from the first call of `log`
        on. `ngopt.optim.summary.ParamSummary` says what the columns are.
        """
        first, graph = self.param_groups[0], self._attachment.graph
        place = "no neural graph yet" if self._attachment.waiting else "no neural graph"
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
        self._skips.settle(self)
        return summarise(self._attachment.fitted(self), self.state, self._measured or {})

    def __repr__(self) -> str:
        """One line per group, without its parameters."""
        return short_form(type(self).__name__, self.param_groups)

    # ---- groups

    def _catch_up(self) -> None:
        """Know what became of the last step, and what the groups hold now."""
        self._skips.settle(self)
        self._attachment.follow(self)

    @_disable_dynamo
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, named or not, with options of their own; their state is made at once.

        Args:
            param_group: ``{"params": ..., "lr": ..., "weight_decay": ..., "maximize": ...}``.
        """
        self._catch_up()
        if isinstance(param_group, dict) and not isinstance(param_group["params"], set):
            param_group, without_effect = checked_new_group(
                param_group, self.param_groups, self.defaults, self._attachment.named, self._others
            )
            if without_effect is not None:
                self._notices.once("foreign", without_effect)
        complete = bool(self.param_groups) and self._attachment.partitions is not None
        super().add_param_group(param_group)
        self._attachment.remember(self)
        if complete:
            self._attachment.fit(self)

    # ---- saving, loading, copying

    @_disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """The state: torch's two entries, and ``"ngopt"``. All of it tensors, numbers and strings."""
        self._catch_up()
        self._attachment.listen(self)
        handle = self.register_state_dict_post_hook(Packing(self, self._attachment, self._skips.count), True)
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
        self._catch_up()
        loading = Loading(self)
        handles = [
            self.register_load_state_dict_pre_hook(loading.check),
            self.register_load_state_dict_post_hook(lambda _: self._take(loading), prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for handle in handles:
                handle.remove()

    def _take(self, loading: Loading) -> None:
        """Take a state over that was checked, and that torch has loaded."""
        loading.restore(self, self._given_total_steps, self._notices)
        if (extra := loading.extra) is not None:
            self._attachment.rule, self._attachment.saved_graph = extra.rule, extra.graph
            self._skips.count = extra.skipped_steps
        self._attachment.resume(self)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: hooks stay behind, and a copy that has no graph yet listens to the copied model."""
        self._catch_up()
        kept = {name: self.__dict__[name] for name in _KEPT}
        kept |= {"_attachment": self._attachment.kept(), "_skipped": self._skips.count}
        return {**super().__getstate__(), **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Inverse of `__getstate__`; torch also calls it with a part of the state when it loads."""
        state = dict(state)
        kept, skipped = state.pop("_attachment", None), state.pop("_skipped", 0)
        super().__setstate__(state)
        if kept is None:
            self._attachment.partitions = None
        else:
            self._ranks, self._measured = Ranks(), None
            self._skips = Skips(self._ranks, self._notices, skipped)
            self._attachment = Attachment.restored(kept, self, self._notices, self._ranks.notice_forward)
