"""The meta-parameters of the update rule, and how they turn a network's state into gates."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ngopt.encoder.base import Encoder
from ngopt.encoder.features import NODE_FEATURES, node_features
from ngopt.encoder.neuron_mp import NeuronMP
from ngopt.encoder.ng_gnn import NGGNN
from ngopt.encoder.ng_t import NGT
from ngopt.encoder.structure import structure
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.config import UpdateConfig
from ngopt.optim.gates import GateHeads, Gates, tensor_features
from ngopt.optim.plan import ParamPlan
from ngopt.optim.schedule import LearnedSchedule

ParamState = dict[str, Tensor]


class UpdateRule(nn.Module):
    """All that meta-training learns: the encoder, the heads that read gates off it, and the schedule's factor.

    A new rule has a random encoder and heads that are all zero, so that every gate is zero: the hand-made rule,
    exactly. `state_dict()` and `config` make a checkpoint.

    Args:
        config: Settings; also fixes the seed of the encoder's initial weights.
    """

    def __init__(self, config: UpdateConfig | None = None) -> None:
        super().__init__()
        self.config = config or UpdateConfig()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.encoder = _encoder(self.config)
            self.heads = GateHeads(self.config)
        self.schedule = LearnedSchedule(self.config.schedule_bound)
        self._neutral: tuple[tuple, bool] = ((), False)  # versions of the heads when last looked at, and the answer

    @property
    def neutral(self) -> bool:
        """Whether the heads are untrained, so that nothing needs to be computed to know that all gates are zero."""
        versions = tuple((id(p), p._version) for p in self.heads.parameters())
        if versions != self._neutral[0]:
            self._neutral = (versions, self.heads.neutral())
        return self._neutral[1]

    def gates(
        self,
        graph: NeuralGraph,
        plans: Mapping[str, ParamPlan],
        weights: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Mapping[str, ParamState],
        step: int,
        total_steps: int | None,
    ) -> dict[str, Gates]:
        """Gates of the parameters in ``plans`` that are on the graph.

        The encoder sees every block with a weight, be it optimised or not. All that is read is detached: gates are
        differentiable in the rule alone.
        """
        plans = {name: plan for name, plan in plans.items() if plan.block is not None}
        if not plans:
            return {}
        example = self.heads.row.weight
        dtype, device = example.dtype, example.device
        static = structure(graph, device)
        if self.config.neuron_gates:
            embeddings = self._embed(graph, weights, grads, state)
        else:
            embeddings = example.new_zeros(graph.num_nodes, self.config.embedding)
        features = []
        for name, plan in plans.items():
            read = (weights[name].detach(), grads[name].detach(), state[name]["momentum"].detach())
            features.append(tensor_features(plan, *read, static, step, total_steps, dtype).to(device))
        return self.heads(embeddings, static, list(plans.values()), features)

    def _embed(
        self,
        graph: NeuralGraph,
        weights: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Mapping[str, ParamState],
    ) -> Tensor:  # [node, embedding]
        """Neuron embeddings from all that is known of the network."""
        example = self.heads.row.weight
        channels, edges = {}, {}
        for block in graph.blocks:
            name = block.name
            if name not in weights:
                continue
            weight = block.to_matrix(weights[name].detach())
            others = (grads.get(name), state.get(name, {}).get("momentum"))
            gradient, momentum = (None if x is None else block.to_matrix(x.detach()) for x in others)
            channels[name] = (weight, gradient, momentum)
            edges[name] = (weight, torch.zeros_like(weight) if momentum is None else momentum)
        features = node_features(graph, channels, example.dtype, example.device)
        return self.encoder(graph, features, edges)[0]


def _encoder(config: UpdateConfig) -> Encoder:
    """The encoder of node features and of two channels per edge, weight and momentum."""
    if config.encoder == "neuron_mp":
        sizes = {"embedding": config.embedding, "message": config.message, "rounds": config.message_rounds}
        return NeuronMP(NODE_FEATURES, channels=2, **sizes)
    sizes = {"width": config.embedding, "edge_width": config.message, "layers": config.message_rounds}
    if config.encoder == "ng_gnn":
        return NGGNN(NODE_FEATURES, channels=2, message=config.message, **sizes)
    return NGT(NODE_FEATURES, channels=2, attention=config.message, heads=1, **sizes)
