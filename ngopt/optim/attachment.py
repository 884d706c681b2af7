"""The parameters of an optimizer on their graph: waiting for it, who is where on it, and the state that each needs.

`ngopt.optim.attach` finds graph and names and matches them, `ngopt.optim.sharded` knows what is spread over ranks; here
they meet. Groups and state stay in the optimizer, which is passed in.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.sharding import is_sharded
from ngopt.optim.attach.exchange import Members, follow, members_of, unchanged
from ngopt.optim.attach.listener import Listener, why_no_graph
from ngopt.optim.attach.match import Partition, block_digests, explain_difference, listing, partition_by_device
from ngopt.optim.attach.options import refuse_sharded_later
from ngopt.optim.attach.places import named_parameters
from ngopt.optim.notices import Notices
from ngopt.optim.rule.direction import init_state
from ngopt.optim.rule.update_rule import UpdateRule
from ngopt.optim.saving.state import fit_state
from ngopt.optim.sharded.joint import Joint, has_shards, spread_out
from ngopt.optim.sharded.state import counted

NO_MODULE = (
    "The parameters belong to no module: they take the per-tensor rule. Pass the model itself, NGOptimizer(model), to "
    "use its graph; or, for parameters of your own that its function is called with, their names there and its graph, "
    "NGOptimizer(named.items(), graph=ngopt.trace(model, inputs))."
)


class Attachment:
    """Parameters, rule and graph as they belong together now.

    Args:
        rule: The meta-parameters.
        roots: The modules that the parameters belong to, held weakly.
        notices: Where it warns.

    Attributes:
        rule: The meta-parameters.
        graph: The neural graph, or None while there is none.
        named: The model's parameters by name; empty if no model is known.
        saved_graph: Digests of the graph that a loaded state belongs to.
        partitions: What a step is called with, by device; None: to be made again from all of the above.
    """

    def __init__(self, rule: UpdateRule, roots: Sequence[nn.Module], notices: Notices) -> None:
        self.rule = rule
        self.graph: NeuralGraph | None = None
        self.named: dict[str, Tensor] = dict(named_parameters(roots))
        self.saved_graph: dict[str, str] = {}
        self.partitions: list[Partition] | None = None
        self._joints: list[Joint] | None = []  # the sharded ones; None: to be made by all ranks together
        self._members: Members = []  # what the groups held when they were last looked at
        self._off_graph: list[str] = []  # names of parameters that are on no graph
        self._listener: Listener | None = None  # while the first forward pass is to be captured
        self._roots = [weakref.ref(root) for root in roots]
        self._notices = notices

    # ---- which graph

    @property
    def waiting(self) -> bool:
        """Whether a forward pass is still waited for."""
        return self._listener is not None

    def wait_for(self, roots: Sequence[nn.Module], notice: Callable[[], None]) -> None:
        """Capture the graph from the first forward pass. `Listener` says what ``notice`` is."""
        self._listener = Listener(roots, notice)

    def listen(self, optimizer: Optimizer, *, stepping: bool = False) -> None:
        """Trace what has run by now.

        Args:
            optimizer: Its groups and state.
            stepping: A step is about to be made.
        """
        if self._listener is None:
            return
        if stepping and not optimizer.param_groups[0]["step"]:
            optimizer.state.clear()  # made anew by the first step, and not needed beside what tracing takes
            self.partitions = None
        with torch.inference_mode(False), torch.no_grad():
            before = named_parameters(self._listener.roots)
            found = self._listener.settle(stepping=stepping)
            self._rename(before, named_parameters(self._listener.roots))
            if isinstance(found, NeuralGraph):
                self.adopt(optimizer, found)
            elif found is not None:
                self._notices.once("graph", why_no_graph(found))
        if not self._listener.listening:
            self._listener = None
            self._warn_off_graph()

    def adopt(self, optimizer: Optimizer, graph: NeuralGraph, *, strict: bool = False) -> None:
        """Use a graph from now on. Unless ``strict``, this raises nothing: it happens inside a step."""
        self.follow(optimizer)
        self.graph = graph
        self._compare_with_saved_graph()
        self.fit(optimizer, strict=strict)

    def _rename(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Parameters go by the names that another module has for them."""
        if before.keys() != after.keys():
            known = {id(param): self.named.get(name, param) for name, param in before.items()}
            self.named = {name: known.get(id(param), param) for name, param in after.items()}

    def digests(self) -> dict[str, str]:
        """What a saved state belongs to."""
        return block_digests(self.graph) if self.graph is not None else self.saved_graph

    def _compare_with_saved_graph(self) -> None:
        if self.saved_graph and self.graph is not None:
            difference = explain_difference(self.saved_graph, block_digests(self.graph), "digest")
            if difference:
                self._notices.once(
                    "saved graph",
                    f"The loaded state was saved on another graph ({difference}): state is kept where it fits, and "
                    "starts anew elsewhere. A model whose branches depend on its inputs can be the reason; if that is "
                    "not so, compare the models.",
                )

    def _warn_off_graph(self) -> None:
        if self.graph is not None and self._off_graph:
            self._notices.once(
                "off graph",
                f"{listing(self._off_graph)}: not on the neural graph; these take the per-tensor rule. Where they "
                "belong to a network, pass NGOptimizer(model, example_inputs=...) of a module whose forward uses them.",
            )

    # ---- which parameters

    def remember(self, optimizer: Optimizer) -> None:
        """The groups are as they should be."""
        self._members = members_of(optimizer.param_groups)

    def follow(self, optimizer: Optimizer) -> None:
        """Notice parameters that were exchanged in the groups."""
        if not unchanged(self._members, optimizer.param_groups):
            self.named = follow(self._members, optimizer.param_groups, self.named, optimizer.state)
            self.remember(optimizer)
            self.partitions = None

    def fit(self, optimizer: Optimizer, also: Iterable[Tensor] = (), *, strict: bool = False) -> list[Partition]:
        """Partition the parameters again; each one that is trained, or is in ``also``, gets the state it needs."""
        groups, state = optimizer.param_groups, optimizer.state
        self.partitions, self._off_graph = partition_by_device(groups, self.graph, self.named, self.rule, strict)
        self._joints = None if any(map(has_shards, self.partitions)) else []
        ids, config = {id(param) for param in also}, self.rule.config
        for partition in self.partitions:
            plans = partition.plans(state)
            for key, (_, param) in partition.params.items():
                if is_sharded(param):
                    state.setdefault(param, counted())  # the rest in `together`
                elif param.requires_grad or param in state or id(param) in ids:
                    state[param] = fit_state(state.get(param, {}), init_state(param, plans[key], config))
        if self._listener is None:
            self._warn_off_graph()
        return self.partitions

    def fitted(self, optimizer: Optimizer) -> list[Partition]:
        """The partitions of the groups as they are now."""
        self.follow(optimizer)
        return self.fit(optimizer) if self.partitions is None else self.partitions

    def refuse_sharded_later(self) -> None:
        """Raise RuntimeError where the model was sharded after this was made."""
        refuse_sharded_later(self.named, [root for ref in self._roots if (root := ref()) is not None])

    # ---- over several ranks

    def together(self, optimizer: Optimizer) -> list[Joint]:
        """The partitions that are sharded, ready for a step. All ranks call it."""
        if self.partitions is None and any(is_sharded(p) for group in optimizer.param_groups for p in group["params"]):
            self.fit(optimizer)
        if self._joints is None:
            spreads = spread_out(self.partitions or (), self.graph)
            if not all(spread.agreed for spread in spreads):
                self._notices.once(
                    "graph",
                    "Ranks captured different graphs, as where the branches that a model takes depend on its inputs: "
                    "all parameters take the per-tensor rule. Pass the same example_inputs= on all ranks.",
                )
                self.graph = None
                spreads = spread_out(self.fit(optimizer), None)
            self._joints = [Joint(spread, optimizer.state) for spread in spreads]
            if lost := [name for joint in self._joints for name in joint.lost]:
                self._notices.once(
                    "lost",
                    f"The averages of {listing(lost)} start anew: the loaded state came without them. States of "
                    "sharded parameters are saved and loaded with torch.distributed.checkpoint; pass example_inputs=, "
                    "so that the graph is known before they are loaded.",
                )
        return self._joints

    def joints(self, optimizer: Optimizer) -> list[Joint]:
        """The partitions that are sharded, as far as known: while a forward pass is waited for, none are made."""
        return self.together(optimizer) if self._listener is None else self._joints or []

    # ---- resuming and copying

    def resume(self, optimizer: Optimizer) -> None:
        """Fit to a state that was loaded."""
        self.remember(optimizer)
        self.partitions = None
        self._compare_with_saved_graph()
        if self.graph is not None:
            self.fit(optimizer)

    def kept(self) -> dict[str, Any]:
        """What a copy needs: hooks stay behind."""
        awaiting = self._listener.roots if self._listener is not None else None
        kept = {name: self.__dict__[name] for name in ("rule", "graph", "named", "saved_graph")}
        return {**kept, "awaiting": awaiting}

    @classmethod
    def restored(
        cls, kept: dict[str, Any], optimizer: Optimizer, notices: Notices, notice: Callable[[], None]
    ) -> Attachment:
        """From `kept`. A copy that has no graph yet listens to the copied model."""
        kept = dict(kept)
        awaiting, new = kept.pop("awaiting"), cls(kept["rule"], [], notices)
        new.__dict__.update(kept)
        new.remember(optimizer)
        if awaiting is not None:
            new.wait_for(awaiting, notice)
        return new
