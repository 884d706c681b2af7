"""The meta-parameters of the update rule, and how they turn a network's state into controls."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ngopt.encoder.base import Encoder
from ngopt.encoder.features import NODE_FEATURES, node_features
from ngopt.encoder.neuron_mp import NeuronMP, ShuffledMP
from ngopt.encoder.ng_gnn import NGGNN
from ngopt.encoder.ng_t import NGT
from ngopt.encoder.structure import structure
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.controls import ControlHeads, tensor_features
from ngopt.optim.rule.direction import ParamState, out_of_bases
from ngopt.optim.rule.plan import ParamPlan
from ngopt.optim.rule.schedule import LearnedSchedule
from ngopt.optim.rule.team import ALONE, Alone


class UpdateRule(nn.Module):
    """All that meta-training learns: the encoder, the heads that read controls off it, and the schedule's factor.

    A new rule has a random encoder and heads that are all zero, so that every control is zero: the hand-made rule,
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
            self.heads = ControlHeads(self.config)
        self.schedule = LearnedSchedule(self.config.schedule_bound)
        self._neutral: tuple[tuple, bool] = ((), False)  # versions of the heads when last looked at, and the answer

    @property
    def neutral(self) -> bool:
        """Whether the heads are untrained, so that nothing needs to be computed to know that all controls are zero."""
        versions = tuple((id(p), p._version) for p in self.heads.parameters())
        if versions != self._neutral[0]:
            self._neutral = (versions, self.heads.neutral())
        return self._neutral[1]

    def controls(
        self,
        graph: NeuralGraph,
        plans: Mapping[str, ParamPlan],
        weights: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Mapping[str, ParamState],
        step: int,
        total_steps: int | None,
        team: Alone = ALONE,
    ) -> dict[str, Tensor]:  # [CONTROLS] each
        """Controls of the parameters in ``plans`` that are on the graph; see `ngopt.optim.rule.controls`.

        The encoder sees every block with a weight, be it optimised or not. All that is read is detached: controls are
        differentiable in the rule alone.

        Args:
            graph: Of the network.
            plans: Of the parameters with a gradient.
            weights: By name.
            grads: By name, in units and, like the momentum, in the eigenbases; see `ngopt.optim.rule.direction`.
            state: By name.
            step: Steps made so far.
            total_steps: Length of the run, or None.
            team: Who has the rest of the network.
        """
        plans = {name: plan for name, plan in plans.items() if plan.block is not None}
        if not plans and team is ALONE:
            return {}
        read = self._read(graph, plans, weights, grads, state, team)
        example = self.heads.read.weight
        static = structure(graph, example.device)
        if self.config.messages:
            embeddings = self._embed(graph, read, team)
        else:
            embeddings = example.new_zeros(graph.num_nodes, self.config.embedding)
        known, features = [plan for name, plan in plans.items() if name in read], []
        for plan in known:
            weight, gradient, momentum = read[plan.name]
            of_all = (state[plan.name]["initial_rms"], static, step, total_steps, example.dtype)
            features.append(tensor_features(plan, weight, gradient, momentum, *of_all).to(example.device))
        return team.shared(self.heads(embeddings, static, known, features) if known else {})

    @staticmethod
    def _read(
        graph: NeuralGraph,
        plans: Mapping[str, ParamPlan],
        weights: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Mapping[str, ParamState],
        team: Alone,
    ) -> dict[str, tuple]:
        """Weight, gradient and momentum in the matrix view, as far as this rank reads them, in the graph's order."""
        matrices, others = {}, {}
        for block in graph.blocks:
            if not team.reads(name := block.name):
                continue
            if name in plans and (sides := plans[name].sides):
                own, weight = state[name], weights[name].detach()
                averages = [out_of_bases(sides, x.detach(), own) for x in (grads[name], own["momentum"])]
                if name in team.pieces:
                    others[name] = (weight, *(plans[name].unview(x, tuple(weight.shape)) for x in averages))
                else:
                    matrices[name] = (block.to_matrix(weight), *(x.reshape(block.matrix_shape) for x in averages))
            elif name in weights:
                averages = (grads[name].detach(), state[name]["momentum"].detach()) if name in plans else (None, None)
                others[name] = (weights[name].detach(), *averages)
        others, read = team.whole(others), {}
        for block in graph.blocks:
            if (name := block.name) in matrices:
                read[name] = matrices[name]
            elif name in others:
                read[name] = tuple(None if x is None else block.to_matrix(x) for x in others[name])
        return read

    def _embed(self, graph: NeuralGraph, read: Mapping[str, tuple], team: Alone) -> Tensor:  # [node, embedding]
        """Neuron embeddings from all that is known of the network."""
        example = self.heads.read.weight
        edges = {name: (w, torch.zeros_like(w) if m is None else m) for name, (w, _, m) in read.items()}
        features = node_features(graph, dict(read), example.dtype, example.device, team.total)
        shared = {} if team is ALONE else {"total": team.total}  # NeuronMP alone can share the work
        return self.encoder(graph, features, edges, **shared)[0]


def _encoder(config: UpdateConfig) -> Encoder:
    """The encoder of node features and of two channels per edge, weight and momentum."""
    if config.encoder in ("neuron_mp", "shuffled_mp"):
        sizes = {"embedding": config.embedding, "message": config.message, "rounds": config.message_rounds}
        kind = NeuronMP if config.encoder == "neuron_mp" else ShuffledMP
        return kind(NODE_FEATURES, channels=2, **sizes)
    sizes = {"width": config.embedding, "edge_width": config.message, "layers": config.message_rounds}
    if config.encoder == "ng_gnn":
        return NGGNN(NODE_FEATURES, channels=2, message=config.message, **sizes)
    return NGT(NODE_FEATURES, channels=2, attention=config.message, heads=1, **sizes)
