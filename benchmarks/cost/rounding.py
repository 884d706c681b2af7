"""How training amplifies rounding: ``python -m benchmarks.cost.rounding`` prints a table.

Two runs of one network in float32, of which the second begins with weights that differ in their last digit: the
difference of how far weights went, relative to how far they went. Rows change what could make steps less sensitive.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from unittest import mock

import torch
from torch import Tensor, nn

import ngopt
from ngopt.command import run_command
from ngopt.optim.fast import inplace
from ngopt.optim.rule.update_rule import UpdateRule

AFTER = (1, 5, 20)
LAST_DIGIT = 2.0**-23
ROWS: dict[str, tuple[float, float]] = {  # factors on ``tie_break``, and on the floor under roots
    "as it is": (1, 1),
    "`tie_break` ten times as large": (10, 1),
    "`tie_break` a hundred times as large": (100, 1),
    "floor under roots ten times as large": (1, 10),
    "floor under roots a hundred times as large": (1, 100),
}


def network(nudged: bool = False) -> nn.Module:
    """An MLP of three layers; ``nudged``: with other last digits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 5))
        for param in model.parameters() if nudged else ():
            param.data.mul_(1 + LAST_DIGIT * torch.randint(-1, 2, param.shape))
    return model


def way(model: nn.Module, rule: UpdateRule) -> list[Tensor]:
    """How far weights went after some numbers of steps."""
    draw = torch.Generator().manual_seed(1)
    start = [param.detach().clone() for param in model.parameters()]
    optimizer = ngopt.NGOptimizer(model, rule=rule)
    found = []
    for step in range(1, max(AFTER) + 1):
        x, y = torch.randn(64, 16, generator=draw), torch.randint(0, 5, (64,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if step in AFTER:
            found.append(
                torch.cat([(p.detach() - q).flatten() for p, q in zip(model.parameters(), start, strict=True)])
            )
    return found


def drift(ties: float, floor: float) -> list[float]:
    """Relative differences between the two runs, after each of `AFTER`."""
    rule = copy.deepcopy(ngopt.load_pretrained())
    rule.config = dataclasses.replace(rule.config, tie_break=ties * rule.config.tie_break)
    with mock.patch.object(inplace, "EPS", floor * inplace.EPS):
        pairs = zip(way(network(), rule), way(network(nudged=True), rule), strict=True)
        return [float((y - x).norm() / x.norm()) for x, y in pairs]


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    argparse.ArgumentParser(prog="python -m benchmarks.cost.rounding", description=__doc__).parse_args(argv)
    torch.set_num_threads(1)
    print(f"| | {' | '.join(map(str, AFTER))} |\n|---|{'---|' * len(AFTER)}")
    for name, changes in ROWS.items():
        print(f"| {name} | {' | '.join(f'{value:.2g}' for value in drift(*changes))} |", flush=True)


if __name__ == "__main__":
    run_command(main)
