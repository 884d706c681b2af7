"""Settings of the update rule: what is chosen by hand, as opposed to learned."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

DEFAULT_LR = 0.07
ENCODERS = ("neuron_mp", "ng_gnn", "ng_t")


@dataclass(frozen=True, kw_only=True)
class OrthogonalConfig:
    """How the momentum is orthogonalised; see `ngopt.optim.orthogonal`.

    Attributes:
        rounds: Newton-Schulz rounds (2 to 6), each one odd polynomial of degree five.
        reduced_precision: Do the rounds of large float32 matrices in bfloat16 where the machine has that natively.
        large: Smallest side from which a matrix counts as large.
        degenerate: Matrices with a side of at most this are left to the Adam-like direction.
    """

    rounds: int = 3
    reduced_precision: bool = True
    large: int = 128
    degenerate: int = 1

    def __post_init__(self) -> None:
        """Reject settings that cannot work."""
        if self.rounds not in range(2, 7):
            raise ValueError(f"rounds={self.rounds!r} must be 2, 3, 4, 5 or 6.")
        for name in ("large", "degenerate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """Settings of `ngopt.optim.update.update`. All are JSON values, so that a checkpoint can hold them.

    Attributes:
        momentum: Decay of the momentum.
        second_moment: Decay of the squared gradient.
        orthogonal: How the momentum is orthogonalised.
        output_scale: Factor on the step of weights that write to the network's outputs.
        vector_scale: Step of biases, norm scales, embeddings and tables, relative to the learning rate.
        horizon_power: Steps grow as runs get shorter, by this power of their length.
        warmup_steps: Steps over which the built-in schedule rises to one.
        dense_steps: The gates are refreshed in every one of the first so many steps.
        refresh_every: And then every so many steps.
        encoder: ``"neuron_mp"``; or ``"ng_gnn"``, ``"ng_t"``, which embed every weight: for small networks.
        neuron_gates: Read gates off neuron embeddings; otherwise off each tensor alone (the graph ablation).
        gate_bound: Largest deviation that each of the tensor, row and column gates can learn.
        gain_bound: Largest logarithm of the per-tensor gain.
        schedule_bound: Largest logarithm of the learned schedule factor.
        embedding: Width of the node embeddings.
        message: Width of the messages; of edge embeddings with ``"ng_gnn"`` and ``"ng_t"``.
        message_rounds: Rounds of message passing; sweeps there and back with ``"ng_gnn"`` and ``"ng_t"``.
        seed: Seed of the initial meta-parameters.
    """

    momentum: float = 0.9
    second_moment: float = 0.99
    orthogonal: OrthogonalConfig = field(default_factory=OrthogonalConfig)
    output_scale: float = 0.5
    vector_scale: float = 0.08
    horizon_power: float = 0.0
    warmup_steps: int = 20
    dense_steps: int = 30
    refresh_every: int = 10
    encoder: str = "neuron_mp"
    neuron_gates: bool = True
    gate_bound: float = 0.5
    gain_bound: float = 0.3
    schedule_bound: float = 0.5
    embedding: int = 16
    message: int = 8
    message_rounds: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings that cannot work."""
        for name in ("momentum", "second_moment"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name}={getattr(self, name)!r} must lie in [0, 1).")
        for name in ("output_scale", "vector_scale", "horizon_power", "gate_bound", "gain_bound", "schedule_bound"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0.0):
                raise ValueError(f"{name}={getattr(self, name)!r} must be finite and not negative.")
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder={self.encoder!r} must be one of {', '.join(ENCODERS)}.")
        for name, low in (
            ("warmup_steps", 0),
            ("dense_steps", 1),
            ("refresh_every", 1),
            ("embedding", 1),
            ("message", 1),
            ("message_rounds", 0),
        ):
            if getattr(self, name) < low:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least {low}.")
