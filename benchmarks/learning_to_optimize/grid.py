"""The stated grid of every rival, in two stages.

1. Learning rates of the series 1, 2, 5, 10, ... with warm-up and linear decay, five to begin with. While the best one
   is at an edge, one more is added there, two at most.
2. At the best learning rate: constant and cosine schedules, and changes of the other settings, one at a time; a
   constant schedule at one learning rate lower too.

Prodigy is the rival that needs no tuning: its learning rate is 1, and only its schedule is chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

Settings = dict[str, Any]
MAX_EXTENSIONS = 2


@dataclass(frozen=True)
class Grid:
    """What is tried of one rival.

    Args:
        lrs: Learning rates to begin with, ascending.
        fixed: Other settings in stage 1.
        changes: What stage 2 changes, one after the other.
        schedules: Schedules of stage 2.
        lower: Whether stage 2 has a constant schedule at one learning rate lower.
        adam_share: For Muon: the learning rate of its AdamW over its own.
        extensions: How often stage 1 may be extended.
    """

    lrs: tuple[float, ...]
    fixed: Settings = field(default_factory=dict)
    changes: tuple[Settings, ...] = ()
    schedules: tuple[str, ...] = ("constant", "cosine")
    lower: bool = False
    adam_share: float | None = None
    extensions: int = MAX_EXTENSIONS

    def point(self, lr: float, **others: Any) -> Settings:
        """Settings at a learning rate."""
        scheduled = {"schedule": "linear"} if self.schedules else {}
        tied = {} if self.adam_share is None else {"adam_lr": significant(lr * self.adam_share)}
        return {"lr": lr, **tied, **self.fixed, **scheduled, **others}

    def second(self, best: Settings) -> list[Settings]:
        """Stage 2 around the best settings of stage 1."""
        points = [{**best, "schedule": schedule} for schedule in self.schedules]
        if self.lower:
            points.append(self.point(neighbour(best["lr"], -1), schedule="constant"))
        for change in self.changes:
            share = change.get("adam_share")
            points.append({**best, **({"adam_lr": significant(best["lr"] * share)} if share else change)})
        return points


def neighbour(lr: float, steps: int) -> float:
    """The learning rate so many steps up (or, negative, down) the series 1, 2, 5, 10, ..."""
    exponent = math.floor(math.log10(lr) + 1e-9)
    at = (1, 2, 5).index(round(lr / 10**exponent)) + 3 * exponent + steps
    return significant((1, 2, 5)[at % 3] * 10.0 ** (at // 3))


def significant(value: float) -> float:
    """Without the noise of floating point in the last digits."""
    return float(f"{value:.6g}")


GRIDS: dict[str, Grid] = {
    "SGD": Grid((0.02, 0.05, 0.1, 0.2, 0.5), {"momentum": 0.9}, lower=True),
    "Adam": Grid((0.002, 0.005, 0.01, 0.02, 0.05), {"beta2": 0.999}, ({"beta2": 0.99},), lower=True),
    "AdamW": Grid(
        (0.002, 0.005, 0.01, 0.02, 0.05),
        {"weight_decay": 0.01, "beta2": 0.999},
        ({"beta2": 0.99}, {"weight_decay": 0.1}),
        lower=True,
    ),
    "Muon": Grid(
        (0.01, 0.02, 0.05, 0.1, 0.2),
        {"momentum": 0.9},
        ({"momentum": 0.95}, {"adam_share": 0.05}),
        lower=True,
        adam_share=0.2,
    ),
    "ScheduleFree": Grid((0.005, 0.01, 0.02, 0.05, 0.1), schedules=()),
    "SOAP": Grid((0.002, 0.005, 0.01, 0.02, 0.05)),
    "Prodigy": Grid((1.0,), extensions=0),
}


def smoke(grid: Grid) -> Grid:
    """As little of a grid as still runs both stages."""
    return Grid(grid.lrs[1:3] or grid.lrs, grid.fixed, (), grid.schedules[:1], False, grid.adam_share, extensions=0)
