"""Train one network of a task with one optimizer, and say what came out."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.common.training import Loop, Steps, batch_order, final_loss, mean_loss
from benchmarks.learning_to_optimize.measures import diverged, significant, thin
from benchmarks.learning_to_optimize.optimizers import evaluating, state_bytes
from benchmarks.learning_to_optimize.tasks import Part, Task

TURN = 50  # steps between looks at the loss


def make_loop(task: Task, make: Callable[[nn.Module], Steps], part: Part, seed: int, steps: int) -> Loop:
    """The network with a seed's initial weights and a seed's batches, the same ones for every optimizer."""
    model = task.build(seed)
    order = batch_order(len(part[0]), task.batch_size, steps, seed)

    def loss(model: nn.Module, indices: Tensor) -> Tensor:
        return task.loss(model, task.batch(part, indices))

    return Loop(model, make(model), loss, order)


def train(task: Task, loop: Loop, label: str) -> float:
    """Use up all batches, or stop when a loss is not finite: nothing good comes after that.

    Returns:
        Processor seconds per step: the median over turns, so that neither the one trace of a neural graph nor a
        disturbance is in it.
    """
    per_step = []
    with tqdm(total=len(loop.order), desc=f"{task.name} {label}", leave=False, disable=None) as bar:
        while not loop.done:
            before, cpu_before = len(loop.losses), loop.cpu_seconds
            loop.advance(TURN)
            per_step.append((loop.cpu_seconds - cpu_before) / (len(loop.losses) - before))
            bar.update(len(loop.losses) - before)
            bar.set_postfix(loss=f"{final_loss(loop.losses):.4g}", refresh=False)
            if not math.isfinite(sum(loop.losses[before:])):
                break
    return median(per_step)


def outcome(task: Task, loop: Loop, part: Part, evaluation: Part, label: str) -> dict[str, Any]:
    """Train, and evaluate: losses, times, memory.

    Args:
        task: Of the loop.
        loop: To train.
        part: What it is trained on.
        evaluation: What to evaluate on.
        label: For the progress bar.
    """
    per_step = train(task, loop, label)

    def forward(at: int) -> Tensor:
        return loop.model(task.batch(part, loop.order[at % len(loop.order)])[0])

    with evaluating(loop.optimizer, loop.model, forward):
        loss, metric = task.evaluate(loop.model, evaluation)
    steps = len(loop.losses)
    return {
        "steps": steps,
        "evaluation_loss": significant(loss),
        "metric": significant(metric),
        "initial_loss": significant(loop.losses[0]),
        "mean_loss": significant(mean_loss(loop.losses)),
        "final_loss": significant(final_loss(loop.losses)),
        "diverged": diverged(loop.losses, len(loop.order)),
        "seconds": round(loop.seconds, 3),
        "cpu_seconds": round(loop.cpu_seconds, 3),
        "cpu_ms_per_step": significant(1e3 * per_step, 4),
        "state_bytes": state_bytes(loop.optimizer),
        "curve": thin(loop.losses),
    }
