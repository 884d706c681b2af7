"""The clock of all cost benchmarks."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Reads a clock after waiting for the device."""

    def __init__(self, device: str, clock: str) -> None:
        self.cuda, self.now = device == "cuda", time.process_time if clock == "cpu" else time.perf_counter

    def __call__(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return self.now()
