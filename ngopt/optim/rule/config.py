"""Settings of the update rule: what is chosen by hand, as opposed to learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

DEFAULT_LR = 1.0  # `lr` is a multiple of the rule's own step size
ENCODERS = ("neuron_mp", "shuffled_mp", "ng_gnn", "ng_t")


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """Settings of `ngopt.optim.update.update`. All are JSON values, so that a checkpoint can hold them.

    Attributes:
        step_size: Step at ``lr=1``: the root mean square of a matrix's step times the root of its fan-in, at most.
        momentum: Decay of the momentum.
        second_moment: Decay of squared gradients, and of the factors that bases are read off.
        vector_scale: Step of biases and norm scales, and least one of embeddings and tables, relative to that of
            matrices.
        tap_power: Steps of convolutions are larger, by this power of their taps; see `ngopt.optim.rule.scale`.
        decay_power: The built-in schedule falls to zero like this power of what is left of the run; a higher one in
            long runs, see `ngopt.optim.rule.schedule.steepness`.
        warmup_steps: Steps over which the built-in schedule rises to one.
        spike: A gradient counts with at most so many times its usual root mean square.
        state_floats: The state may hold so many numbers per parameter, in units of a float32,
        small_state: and so many in all, where that is more. Bases are as large as this allows; see `plan`.
        largest_joint: Most entries of a side that the columns and the taps of a convolution share; embeddings of more
            tokens have no bases.
        largest_side: Sides with more entries are split into blocks of at most so many, if others do not have as many,
        small_side: and where memory ends, so are sides with more than this many.
        bases_every: Bases follow the gradients in every so many steps.
        tie_break: Size of the term that decides on the basis where gradients do not, relative to their mean square.
        controls_every: What the rule says of each tensor is computed anew in every so many steps,
        dense_steps: and in every one of the first so many.
        encoder: ``"neuron_mp"``; ``"shuffled_mp"``, its control, which gives each neuron what another one should have;
            or ``"ng_gnn"``, ``"ng_t"``, which embed every weight: for small networks.
        messages: Read neuron embeddings; otherwise only what is known of each tensor alone (the graph ablation).
        gain_bound: Largest logarithm of a tensor's gain.
        exponent_bound: Largest exponent to which a direction is normalised.
        schedule_bound: Largest logarithm of the learned schedule factor.
        embedding: Width of the node embeddings.
        message: Width of the messages; of edge embeddings with ``"ng_gnn"`` and ``"ng_t"``.
        message_rounds: Rounds of message passing; sweeps there and back with ``"ng_gnn"`` and ``"ng_t"``.
        seed: Seed of the initial meta-parameters.
    """

    step_size: float = 0.08
    momentum: float = 0.9
    second_moment: float = 0.95
    vector_scale: float = 0.16
    tap_power: float = 0.5
    decay_power: float = 1.0
    warmup_steps: int = 20
    spike: float = 10.0
    state_floats: float = 5.0
    small_state: int = 50_000
    largest_joint: int = 512
    largest_side: int = 256
    small_side: int = 32
    bases_every: int = 10
    tie_break: float = 1e-5
    controls_every: int = 10
    dense_steps: int = 30
    encoder: str = "neuron_mp"
    messages: bool = True
    gain_bound: float = 1.1
    exponent_bound: float = 1.0
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
        for name in (
            *("step_size", "vector_scale", "tap_power", "decay_power", "tie_break", "state_floats"),
            *("gain_bound", "exponent_bound", "schedule_bound"),
        ):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0.0):
                raise ValueError(f"{name}={getattr(self, name)!r} must be finite and not negative.")
        if not self.spike > 1.0:
            raise ValueError(f"spike={self.spike!r} must be greater than one.")
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder={self.encoder!r} must be one of {', '.join(ENCODERS)}.")
        for name, low in (
            *(("warmup_steps", 0), ("largest_joint", 1), ("largest_side", 1), ("small_side", 1), ("bases_every", 1)),
            ("small_state", 0),
            *(("controls_every", 1), ("dense_steps", 1), ("embedding", 1), ("message", 1), ("message_rounds", 0)),
        ):
            if getattr(self, name) < low:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least {low}.")
