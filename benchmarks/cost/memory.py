"""Peak memory of a call: what a CUDA allocator says, or by how much the resident set of a Linux process grew."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

# glibc: tensors get mappings of their own, which go back to the system when they are freed.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def environment() -> dict[str, str]:
    """For the process that measures."""
    return {**os.environ, **ENVIRONMENT}


def in_use(device: str = "cpu") -> float:  # MiB
    """What is taken now.

    Raises:
        RuntimeError: On a CPU, and not on Linux.
    """
    if device == "cuda":
        return torch.cuda.memory_allocated() / 2**20
    if sys.platform != "linux":
        raise RuntimeError("memory on a CPU is read from Linux's /proc: use --no-memory elsewhere")
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    return resident("VmRSS")


def peak_of(run: Callable[[], object], device: str = "cpu") -> float:  # MiB
    """The most that was in use during a call; raises as `in_use` does."""
    in_use(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is resident now
    run()
    return resident("VmHWM")


def growth(run: Callable[[], object], device: str = "cpu") -> float:  # MiB
    """By how much what is in use grew during a call, at its peak; raises as `in_use` does."""
    before = in_use(device)
    return peak_of(run, device) - before


def resident(key: str) -> float:  # MiB
    """A line of this process's status on Linux: ``"VmRSS"`` is what it takes now, ``"VmHWM"`` the most it took."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 2**10
