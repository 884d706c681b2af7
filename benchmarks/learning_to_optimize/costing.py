"""What a step of every optimizer costs: all of them take turns in one process, so that what else the machine does meets
them alike. Rows of runs hold times too, but runs are made one after the other, on different days."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from benchmarks.common.results import new_results, write_results
from benchmarks.common.training import Loop, Steps
from benchmarks.learning_to_optimize.measures import significant
from benchmarks.learning_to_optimize.store import FOLDER, Row, cost_path, stamped
from benchmarks.learning_to_optimize.tasks import Task
from benchmarks.learning_to_optimize.training import make_loop
from benchmarks.learning_to_optimize.tuning import file_settings

SEED = 0
HORIZON = 1000  # steps of the run whose beginning is timed
WARM = 40  # steps that nobody times: kernels, caches, and what a learned optimizer does more often at first
TURN = 20  # a multiple of how often anything is refreshed
TURNS = 7


def measure(
    task: Task, makers: dict[str, Callable[[nn.Module], Steps]], turns: int = TURNS
) -> dict[str, dict[str, float | None]]:
    """Time the beginning of a run with every optimizer, in turns.

    Args:
        task: To train.
        makers: Optimizers of a model, by name.
        turns: How many turns of `TURN` steps count.

    Returns:
        Per optimizer: processor milliseconds per step (median over turns; forward, backward and update), the same by
        the wall clock, and processor milliseconds that came once: making it, and what the first steps took more.
    """
    part, _ = task.load().for_running()
    loops, once = {}, {}
    for name, make in makers.items():

        def timed(model: nn.Module, name: str = name, make: Callable[[nn.Module], Steps] = make) -> Steps:
            started = time.process_time()
            optimizer = make(model)
            once[name] = time.process_time() - started
            return optimizer

        loops[name] = make_loop(task, timed, part, SEED, HORIZON)
        once[name] += _timed(loops[name], WARM)[0]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for _ in range(turns):
        for name, loop in loops.items():
            times[name].append(_timed(loop, TURN))
    found = {}
    for name, pairs in times.items():
        cpu, wall = (median(pair[k] for pair in pairs) / TURN for k in (0, 1))
        found[name] = {
            "cpu_ms_per_step": significant(1e3 * cpu, 4),
            "wall_ms_per_step": significant(1e3 * wall, 4),
            "once_ms": significant(1e3 * max(0.0, once[name] - WARM * cpu), 4),
        }
    return found


def cost(
    task: Task,
    makers: dict[str, Callable[[nn.Module], Steps]],
    settings: dict[str, dict[str, Any]],
    command: Sequence[str],
    folder: Path = FOLDER,
) -> list[Row]:
    """Measure, and store a row per optimizer, in the place of all rows before: times of another day do not compare."""
    results = new_results(command, file_settings(task, HORIZON))
    for name, times in measure(task, makers).items():
        results["rows"].append(stamped({"optimizer": name, "settings": settings[name], **times}))
    write_results(cost_path(task.name, folder), results)
    return results["rows"]


def _timed(loop: Loop, steps: int) -> tuple[float, float]:
    cpu, wall = loop.cpu_seconds, loop.seconds
    loop.advance(steps)
    return loop.cpu_seconds - cpu, loop.seconds - wall
