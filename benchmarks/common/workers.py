"""Do independent pieces of work, here or in some processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_workers(
    work: Callable[[Item], Result], items: Sequence[Item], *, workers: int, threads: int
) -> Iterator[Result]:
    """Results as they come, in any order.

    Args:
        work: A function that can be pickled, as its argument and its result.
        items: Its arguments.
        workers: Processes; with one, the work is done here.
        threads: Of each process.

    Raises:
        RuntimeError: A worker failed.
    """
    if workers == 1:
        torch.set_num_threads(threads)
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")
    open_ends, processes = [], {}
    for worker in range(workers):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(work, items[worker::workers], threads, theirs), daemon=True)
        process.start()
        theirs.close()
        open_ends.append(ours)
        processes[ours] = process
    while open_ends:
        for end in connection.wait(open_ends):
            try:
                yield end.recv()
            except EOFError:
                open_ends.remove(end)
                processes[end].join()
    if any(process.exitcode for process in processes.values()):
        raise RuntimeError("A worker failed; what it said is above. Run the command again to go on from here.")


def _work(work: Callable[[Any], Any], items: Sequence[Any], threads: int, report: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the process that waits for this one ends it
    torch.set_num_threads(threads)
    for item in items:
        result = work(item)
        try:
            report.send(result)
        except BrokenPipeError:
            return  # the process that waits for this one was killed
