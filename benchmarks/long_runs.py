"""Long runs at a constant rate: losses and weight norms beside AdamW's. ``python -m benchmarks.long_runs``.

Every batch is drawn anew, with noise that nothing can predict, so that no network comes to its end by learning its data
by heart, and what a loss should do is stay where it is. AdamW is as torch has it. Runs that are there are kept.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ngopt
from benchmarks.common.pages import fill_pages
from benchmarks.common.results import RESULTS, put_row, read_results
from benchmarks.gpu_parts import GPT
from ngopt.command import run_command

Batch = tuple[Tensor, Tensor]
Draw = Callable[[torch.Generator, int], Batch]

CHECKS = (1_000, 5_000, 10_000, 20_000)
RULE = "ngopt-base-untrained"
PATH = RESULTS / "long_runs.json"


@dataclass(frozen=True)
class Problem:
    """A network and its data.

    Attributes:
        network: Makes the network.
        draw: Makes a batch of some size.
        loss: Of outputs and targets.
        batch: Size.
    """

    network: Callable[[], nn.Module]
    draw: Draw
    loss: Callable[[Tensor, Tensor], Tensor]
    batch: int


def noisy_teacher(generator: torch.Generator, count: int) -> Batch:
    """What a random network says of random vectors, and noise with a variance of 0.1."""
    fixed = torch.Generator().manual_seed(1)
    first, second = torch.randn(16, 16, generator=fixed) / 4, torch.randn(16, 4, generator=fixed) / 4
    x = torch.randn(count, 16, generator=generator)
    y = torch.tanh(2 * x @ first) @ second
    return x, y + 0.1**0.5 * torch.randn(y.shape, generator=generator)


@functools.cache
def _digits() -> Batch:
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(found.target)


def noisy_digits(generator: torch.Generator, count: int) -> Batch:
    """Pictures of digits, 8 x 8, in noise; one in ten labels is drawn by lot."""
    images, labels = _digits()
    which = torch.randint(len(images), (count,), generator=generator)
    x = images[which] + 0.5 * torch.randn(count, 1, 8, 8, generator=generator)
    lots = torch.randint(10, (count,), generator=generator)
    return x, torch.where(torch.rand(count, generator=generator) < 0.1, lots, labels[which])


def chain(generator: torch.Generator, count: int, symbols: int = 8, length: int = 9) -> Batch:
    """Sequences in which the two last symbols decide on the odds of the next."""
    logits = 2 * torch.randn(symbols**2, symbols, generator=torch.Generator().manual_seed(1))
    odds = logits.softmax(-1)
    found = [torch.randint(symbols, (count,), generator=generator) for _ in range(2)]
    for _ in range(length - 2):
        found.append(torch.multinomial(odds[symbols * found[-2] + found[-1]], 1, generator=generator)[:, 0])
    sequence = torch.stack(found, 1)  # [sequence, position]
    return sequence[:, :-1], sequence[:, 1:]


def mlp() -> nn.Module:
    """16-32-4."""
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def cnn() -> nn.Module:
    """Two convolutions with batch normalisation, which undoes the scale of the weights before it."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32, 10)),
    )


def _per_token(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


PROBLEMS = {
    "mlp": Problem(mlp, noisy_teacher, F.mse_loss, 32),
    "cnn": Problem(cnn, noisy_digits, F.cross_entropy, 16),
    "gpt": Problem(lambda: GPT(16, 2, 1, 8, 8), chain, _per_token, 8),
}


def train(
    problem: Problem,
    make: Callable[[nn.Module], torch.optim.Optimizer],
    checks: Sequence[int],
    *,
    seed: int = 0,
    watched: bool = False,
) -> list[dict[str, float]]:
    """Train, and look now and then.

    Args:
        problem: Network and data.
        make: The optimizer from the network.
        checks: After how many steps to look, in order; the last ends the run.
        seed: Of initial weights and batches.
        watched: Whether each look is told to whoever waits.

    Returns:
        ``step``, ``loss`` on 1,024 samples that are always the same, and ``norm`` of all weight matrices, at each look.
    """
    torch.manual_seed(seed)
    model = problem.network()
    optimizer, generator = make(model), torch.Generator().manual_seed(seed)
    x_test, y_test = problem.draw(torch.Generator().manual_seed(2**31), 1024)
    found = []
    for step in range(1, checks[-1] + 1):
        x, y = problem.draw(generator, problem.batch)
        optimizer.zero_grad()
        problem.loss(model(x), y).backward()
        optimizer.step()
        if step in checks:
            model.eval()
            with torch.no_grad():
                loss = problem.loss(model(x_test), y_test).item()
                norm = sum(p.double().square().sum().item() for p in model.parameters() if p.dim() > 1) ** 0.5
            model.train()
            found.append({"step": step, "loss": round(loss, 5), "norm": round(norm, 3)})
            if watched:
                print(found[-1], file=sys.stderr, flush=True)
    return found


MAKERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "AdamW": lambda model: torch.optim.AdamW(model.parameters()),
    "NGOptimizer": lambda model: ngopt.NGOptimizer(model, pretrained=RULE),
}


def measure(name: str, optimizer: str, checks: Sequence[int] = CHECKS) -> dict[str, Any]:
    """One row."""
    looks = train(PROBLEMS[name], MAKERS[optimizer], checks, watched=True)
    return {"network": name, "optimizer": optimizer, "looks": looks}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    heads = [f"{step:,}" for step in CHECKS]
    lines = [f"| network | optimizer | loss at {' / '.join(heads)} steps | weight norm there |", "|---|---|---|---|"]
    for row in rows:
        cells = [" / ".join(f"{look[key]:{form}}" for look in row["looks"]) for key, form in _FORMS]
        lines.append(f"| {row['network']} | {row['optimizer']} | {' | '.join(cells)} |")
    return "\n".join(lines)


_FORMS = (("loss", ".4f"), ("norm", ".1f"))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_runs", description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--optimizers", nargs="+", choices=list(MAKERS), default=list(MAKERS))
    options = parser.parse_args(argv)
    settings = {"rule": RULE, "steps": CHECKS[-1]}
    for name in options.networks:
        for optimizer in options.optimizers:
            kept = read_results(PATH)["rows"] if PATH.is_file() else []
            if not any((row["network"], row["optimizer"]) == (name, optimizer) for row in kept):
                row, key = measure(name, optimizer), ("network", "optimizer")
                put_row(PATH, row, key, settings, ["python", "-m", "benchmarks.long_runs"], order=_order)
    text = table(read_results(PATH)["rows"])
    print(text)
    fill_pages("long_runs", text)


def _order(row: dict[str, Any]) -> tuple[int, int]:
    return list(PROBLEMS).index(row["network"]), list(MAKERS).index(row["optimizer"])


if __name__ == "__main__":
    run_command(main)
