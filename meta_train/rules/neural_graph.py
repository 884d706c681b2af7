"""The rule of `ngopt.optim` as a `LearnedRule`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meta_train.rules.base import LearnedRule, State
from meta_train.theta import Theta
from ngopt.errors import CheckpointError
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.rule.controls import TENSOR_FEATURES
from ngopt.optim.rule.plan import plan_graph
from ngopt.optim.saving.checkpoint import save_pretrained
from ngopt.optim.update import UpdateConfig, UpdateRule, init_state, update

EXPONENT = 0.5  # an exponent's move, relative to a log gain's


class ShiftedControls:
    """An `UpdateRule` whose controls of each tensor are shifted by given amounts.

    Args:
        rule: The rule.
        moves: By name, ``[control]``.
    """

    def __init__(self, rule: UpdateRule, moves: Mapping[str, Tensor]) -> None:
        self.rule, self.moves = rule, moves
        self.config, self.schedule = rule.config, rule.schedule

    def controls(self, *given: Any) -> dict[str, Tensor]:
        """See `UpdateRule.controls`."""
        return {name: said + self.moves[name] for name, said in self.rule.controls(*given).items()}


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
        return init_state(weight, plan_graph(graph, config)[name], config)

    def update(self, graph, weights, grads, state, *, step: int, total_steps: int, moves=None):
        """See `ngopt.optim.update.update`."""
        rule = ShiftedControls(self.inner, moves) if moves else self.inner
        return update(rule, graph, weights, grads, state, step=step, total_steps=total_steps)

    def actions(self, state: State) -> dict[str, Tensor]:
        """The logarithm of each tensor's gain, and its exponent; see `ngopt.optim.rule.controls`."""
        return {name: own["controls"] for name, own in state.items()}

    def action_scales(self) -> Tensor:
        """A gain moves a step's length by its exponential, an exponent by a power of the direction's size."""
        return torch.tensor([1.0, EXPONENT])

    def parts(self) -> dict[str, Theta]:
        """``encoder``; ``heads``, which read controls off it; ``schedule``."""
        parts: dict[str, Theta] = {part: {} for part in ("encoder", "heads", "schedule")}
        for name, value in self.named_parameters():
            parts[name.split(".")[1]][name] = torch.ones_like(value)
        if not self.inner.config.messages:  # embeddings are zero: PES would move by noise what reads or makes them
            parts["heads"]["inner.heads.hidden.weight"][:, TENSOR_FEATURES:] = 0.0
            for mask in parts["encoder"].values():
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
        """Mean and spread of the controls over tensors."""
        found = {}
        for k, name in enumerate(("log gain", "exponent")):
            values = torch.cat([own["controls"][..., k].flatten() for own in state.values()])
            found |= {name: float(values.mean()), f"{name}, spread": float(values.std())}
        return found

    def save(self, theta: Theta, path: Path, card: Mapping[str, Any]) -> None:
        """See `ngopt.save_pretrained`."""
        rule = copy.deepcopy(self)
        rule.load_state_dict(theta)
        save_pretrained(rule.inner, path, card=card)


READOUTS = ("inner.heads.read.", "inner.heads.direct.", "inner.schedule.")


def _is_readout(name: str) -> bool:
    return name.startswith(READOUTS)
