"""What meta-training asks of a learned optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from meta_train.theta import Theta
from ngopt.graph.neural_graph import NeuralGraph

State = dict[str, dict[str, Tensor]]


class LearnedRule(nn.Module):
    """A learned optimizer: meta-parameters, the state that it keeps for each parameter, and one pure step."""

    def init_state(self, graph: NeuralGraph, name: str, weight: Tensor) -> dict[str, Tensor]:
        """State of a parameter before its first step."""
        raise NotImplementedError

    def update(
        self,
        graph: NeuralGraph,
        weights: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Mapping[str, dict[str, Tensor]],
        *,
        step: int,
        total_steps: int,
        moves: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], State]:
        """What to add to each weight, and the new state. Differentiable in the meta-parameters.

        Args:
            graph: Of the network.
            weights: By name.
            grads: By name.
            state: By name.
            step: Steps made so far.
            total_steps: Length of the run.
            moves: Added to the rule's actions, ``[action]``; by name of the weight, for all or none.
        """
        raise NotImplementedError

    def actions(self, state: State) -> dict[str, Tensor]:  # each [..., action]
        """The few numbers that the rule decides on for each weight, off its state; differentiable in the rule."""
        raise NotImplementedError

    def action_scales(self) -> Tensor:  # [action]
        """How far each action has to move to make a like difference."""
        raise NotImplementedError

    def parts(self) -> dict[str, Theta]:
        """Masks (zero or one) of the parts that can be trained apart, by name."""
        raise NotImplementedError

    def outer_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Meta-parameters in groups for the outer optimizer: decay pulls the rule back to where it started."""
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]

    def shrunk(self, theta: Theta, strength: float) -> Theta:
        """These meta-parameters with their deviation from the hand-made start scaled: 1 changes nothing, 0 is it."""
        raise NotImplementedError

    def curves(self, theta: Theta) -> dict[str, list[float]]:
        """Learned functions of the time in a run, for logs: values at equal distances from its start to its end."""
        return {}

    def statistics(self, state: State) -> dict[str, float]:
        """What the state of optimizees says about what was learned, for logs."""
        return {}

    def save(self, theta: Theta, path: Path, card: Mapping[str, Any]) -> None:
        """Write meta-parameters and model card."""
        raise NotImplementedError
