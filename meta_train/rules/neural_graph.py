"""The rule of `ngopt.optim` as a `LearnedRule`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meta_train.rules.base import LearnedRule, State
from meta_train.theta import Theta
from ngopt.errors import CheckpointError
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.basis import BASIS
from ngopt.optim.checkpoint import save_pretrained
from ngopt.optim.gates import TENSOR_FEATURES, Gates
from ngopt.optim.plan import plan_graph
from ngopt.optim.update import UpdateConfig, UpdateRule, init_state, update

GATE = 0.3  # a gate's move, relative to a log gain's


class ShiftedGates:
    """An `UpdateRule` whose gates of each tensor are shifted by given amounts.

    Args:
        rule: The rule.
        moves: By name, ``[BASIS + 1]``.
    """

    def __init__(self, rule: UpdateRule, moves: Mapping[str, Tensor]) -> None:
        self.rule, self.moves = rule, moves
        self.config, self.schedule = rule.config, rule.schedule

    def gates(self, *given: Any) -> dict[str, Gates]:
        """See `UpdateRule.gates`."""
        found = self.rule.gates(*given)
        return {name: replace(gates, tensor=gates.tensor + self.moves[name]) for name, gates in found.items()}


class NeuralGraphRule(LearnedRule):
    """`ngopt.optim.update` as a `LearnedRule`.

    Args:
        config: Settings of the rule.
    """

    def __init__(self, config: UpdateConfig | None = None) -> None:
        super().__init__()
        self.inner = UpdateRule(config)

    def start_from(self, source: UpdateRule) -> None:
        """Take over the meta-parameters of another rule, and be the same function as it is.

        Raises:
            CheckpointError: It has other sizes.
        """
        try:
            self.inner.load_state_dict(source.state_dict())
        except RuntimeError as error:
            raise CheckpointError(f"init: the checkpoint's sizes are not those of this config: {error}") from error

    def init_state(self, graph: NeuralGraph, name: str, weight: Tensor) -> dict[str, Tensor]:
        """See `ngopt.optim.update.init_state`."""
        config = self.inner.config
        return init_state(weight, plan_graph(graph, config)[name].block, config)

    def update(self, graph, weights, grads, state, *, step: int, total_steps: int, moves=None):
        """See `ngopt.optim.update.update`."""
        rule = ShiftedGates(self.inner, moves) if moves else self.inner
        return update(rule, graph, weights, grads, state, step=step, total_steps=total_steps)

    def actions(self, state: State) -> dict[str, Tensor]:
        """Gates of each tensor as a whole, and the logarithm of its gain; see `ngopt.optim.gates`."""
        return {name: own["tensor_gates"] for name, own in state.items()}

    def action_scales(self) -> Tensor:
        """A gate moves the step's direction by its value; a gain, its length by its exponential."""
        return torch.tensor([GATE] * BASIS + [1.0])

    def parts(self) -> dict[str, Theta]:
        """``encoder``; ``directions``: all gates; ``neurons``: those of neurons on the leading direction, which move
        steps from neuron to neuron and nothing else; ``tensors``: those of whole tensors; ``gain``; ``schedule``.
        """
        parts: dict[str, Theta] = {k: {} for k in ("encoder", "directions", "neurons", "tensors", "gain", "schedule")}
        for name, value in self.named_parameters():
            if name.startswith("inner.encoder."):
                parts["encoder"][name] = torch.ones_like(value)
            elif name.startswith("inner.schedule."):
                parts["schedule"][name] = torch.ones_like(value)
            elif name.startswith(("inner.heads.tensor_out.", "inner.heads.tensor_direct.")):
                parts["gain"][name] = torch.zeros_like(value)
                parts["gain"][name][-1] = 1.0
                parts["directions"][name] = 1.0 - parts["gain"][name]
                parts["tensors"][name] = parts["directions"][name].clone()
            else:
                parts["directions"][name] = torch.ones_like(value)
                if name.startswith("inner.heads.tensor_in."):  # gates and gain are read off this layer
                    parts["gain"][name], parts["tensors"][name] = torch.ones_like(value), torch.ones_like(value)
                else:
                    parts["neurons"][name] = torch.zeros_like(value)
                    parts["neurons"][name][::BASIS] = 1.0
        if not self.inner.config.neuron_gates:  # embeddings are zero: PES would move by noise what reads or makes them
            for part in ("directions", "tensors", "gain"):
                parts[part]["inner.heads.tensor_in.weight"][:, TENSOR_FEATURES:] = 0.0
            sides = [parts["directions"][f"inner.heads.{side}.weight"] for side in ("row", "col")]
            for mask in (*sides, *parts["neurons"].values(), *parts["encoder"].values()):
                mask.zero_()
        return parts

    def outer_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """The zero-initialised readouts decay, to the hand-made rule; the encoder does not."""
        read = [value for name, value in self.named_parameters() if _is_readout(name)]
        rest = [value for name, value in self.named_parameters() if not _is_readout(name)]
        return [{"params": read, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]

    def shrunk(self, theta: Theta, strength: float) -> Theta:
        """The readouts, which start at zero, are scaled."""
        return {name: value * (strength if _is_readout(name) else 1.0) for name, value in theta.items()}

    def curves(self, theta: Theta) -> dict[str, list[float]]:
        """The learned factor on the schedule, of runs of 100 and 1000 steps."""
        schedule = copy.deepcopy(self.inner.schedule)
        with torch.no_grad():
            schedule.weight.copy_(theta["inner.schedule.weight"])
            return {
                f"schedule of {steps} steps": [float(schedule(round(k / 10 * steps), steps)) for k in range(11)]
                for steps in (100, 1000)
            }

    def statistics(self, state: State) -> dict[str, float]:
        """Mean gate of each direction and mean log gain, over tensors; spread of the gates over neurons."""
        tensors = torch.cat([own["tensor_gates"].reshape(-1, BASIS + 1) for own in state.values()])
        found = {f"tensor gate {k}": float(mean) for k, mean in enumerate(tensors[:, :BASIS].mean(0))}
        found |= {"log gain": float(tensors[:, BASIS].mean()), "log gain, spread": float(tensors[:, BASIS].std())}
        for side in ("row", "col"):
            gates = [
                own[f"{side}_gates"].std(dim=-1, correction=0).mean()
                for own in state.values()
                if f"{side}_gates" in own
            ]
            found[f"{side} gates, spread over neurons"] = float(torch.stack(gates).nanmean())
        return found

    def save(self, theta: Theta, path: Path, card: Mapping[str, Any]) -> None:
        """See `ngopt.save_pretrained`."""
        rule = copy.deepcopy(self)
        rule.load_state_dict(theta)
        save_pretrained(rule.inner, path, card=card)


READOUTS = (
    "inner.heads.row.",
    "inner.heads.col.",
    "inner.heads.tensor_out.",
    "inner.heads.tensor_direct.",
    "inner.schedule.",
)


def _is_readout(name: str) -> bool:
    return name.startswith(READOUTS)
