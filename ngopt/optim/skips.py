"""Steps that are not made because a gradient is NaN or infinite: decided by all ranks, counted, warned of.

On the CPU the decision comes before the step. On a CUDA device the host would have to wait for it, with nothing queued
behind. There the step has a *gate* (`ngopt.optim.fast.writing`): the device decides whether it changes anything. The
host reads that when it comes to the next step, or when somebody asks, and mends what it has counted before anything
depends on it. So the numbers are those of a step that was left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from ngopt.optim.attach.match import listing
from ngopt.optim.fast.stack import Cohorts
from ngopt.optim.finite import finite, nonfinite
from ngopt.optim.notices import Notices
from ngopt.optim.ranks import Ranks
from ngopt.optim.sharded.look import Look


class Skips:
    """Which steps are not made.

    Args:
        ranks: Which skip together.
        notices: Where it warns.
        count: Of steps that were not made so far.

    Attributes:
        count: Steps that were not made, as far as the host knows.
    """

    def __init__(self, ranks: Ranks, notices: Notices, count: int = 0) -> None:
        self.count = count
        self._ranks, self._notices = ranks, notices
        self._asked: tuple[Late, list[str]] | None = None
        self._pending: tuple[Late, list[str], list[Cohorts]] | None = None  # of a step that was made

    def now(self, grads: Mapping[str, Tensor], looks: Sequence[Look], optimizer: Optimizer) -> bool:
        """Whether to skip the step that comes; waits for the answer, and for all ranks.

        Args:
            grads: Gradients by name.
            looks: What ranks have found of sharded ones.
            optimizer: Whose step it is.
        """
        if looks:
            bad = [name for look in looks for name in look.bad]
            skip = not all(look.finite for look in looks)
        else:
            bad = nonfinite(grads) if grads else []
            skip = self._ranks.any(bool(bad), optimizer)
        if skip:
            self._note(bad)
        return skip

    def later(self, grads: Mapping[str, Tensor], optimizer: Optimizer) -> Tensor:  # -> bool []
        """The gate of the step that comes, on the device; waits for nothing. When the step was made, call `made`.

        Args:
            grads: Gradients by name, all on one device.
            optimizer: Whose step it is.
        """
        names = [name for name, grad in grads.items() if grad.numel()]
        fine = finite([grads[name] for name in names])
        gate = self._ranks.all(fine.all(), optimizer)
        self._asked = Late(torch.cat([fine, gate.view(1)])), names
        return gate

    def made(self, cohorts: list[Cohorts]) -> None:
        """A step was made with the gate that `later` gave. `settle` comes before the next one.

        Args:
            cohorts: What was stepped.
        """
        assert self._asked is not None
        self._pending, self._asked = (*self._asked, cohorts), None

    def settle(self, optimizer: Optimizer) -> None:
        """Read what became of the last step, and put right what was counted on."""
        if self._pending is None:
            return
        (late, names, cohorts), self._pending = self._pending, None
        *fine, gate = late.read()
        if gate:
            return
        for some in cohorts:
            some.take_back()
        for group in optimizer.param_groups:
            group["step"] -= 1
        self._note([name for name, own in zip(names, fine, strict=True) if not own])

    def _note(self, bad: Sequence[str]) -> None:
        self.count += 1
        self._notices.once(
            "nonfinite",
            f"A step was skipped: NaN or infinity in the gradient of {listing(bad) or 'another rank'}. Weights and "
            "state are as before; further skips are only counted, in optimizer.skipped_steps.",
        )


class Late:
    """Truth values on their way to the host, from the device that has yet to compute them."""

    def __init__(self, values: Tensor) -> None:  # bool [value]
        self._host = values.to("cpu", non_blocking=True)  # into pinned memory
        self._arrived = torch.cuda.current_stream(values.device).record_event() if values.is_cuda else None

    def read(self) -> list[bool]:
        """The values; waits if they have not arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.tolist()
