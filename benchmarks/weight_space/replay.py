"""Steps on a GPU as one CUDA graph: hundreds of small kernels that are launched at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

WARMUP = 4  # calls before the capture, in which libraries and the optimizer take the memory that they keep


class Replay:
    """A function of tensors that is recorded once and then played back.

    The first calls are ordinary ones, on a stream of their own. What is played back reads and writes the same memory
    each time, so that the work must do the same whatever the values of its inputs are: no look at a number, no other
    shapes. A function that cannot be recorded is called as it is, with a warning.

    Args:
        work: Of tensors on one GPU; what it returns is overwritten by the next call.
    """

    def __init__(self, work: Callable[..., Tensor]) -> None:
        self.work, self.calls = work, 0
        self.inputs: tuple[Tensor, ...] = ()
        self.output = torch.zeros(())
        self.graph: torch.cuda.CUDAGraph | None = None
        self.refused = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Do the work; inputs are copied, from the CPU too."""
        self.calls += 1
        device = inputs[0].device
        if self.refused:
            return self.work(*(x.to(device, non_blocking=True) for x in inputs))
        if not self.inputs:
            self.inputs = tuple(x.to(device, copy=True) for x in inputs)
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)  # memory that is not pinned is read before this returns
        if self.graph is None and self.calls > WARMUP:
            self._record()
        if self.graph is not None:
            self.graph.replay()
            return self.output
        if self.refused:
            return self.work(*self.inputs)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            self.output = self.work(*self.inputs)
        torch.cuda.current_stream(device).wait_stream(side)
        return self.output

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.output = self.work(*self.inputs)
        except RuntimeError as error:
            warnings.warn(f"Steps cannot be recorded as a CUDA graph, and are slower for it: {error}", stacklevel=4)
            self.refused = True
            return
        self.graph = graph
