"""Loops in a recording, kept to their first few iterations.

A recurrent cell in a Python loop makes the same calls over and over, on the outputs of those before. What neurons
there are is known after the first iterations; the rest of a loop of 1,000 steps only costs time. So a stretch of a
recording that repeats itself is cut after `KEPT` iterations, and what was read from later ones is read from the last
that is left.

This is a guess about the iterations left out. It is right for what depends on the iteration number in no other way than
through entries of an input, and the certificate checks it on the whole forward pass; where it fails, `ngopt.trace`
starts again with the whole recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ngopt.graph.recording import Form, Recording, Ref, Step

KEPT = 3  # iterations; in the first one or two, states are constants that have no neurons
MAX_PERIOD = 4096  # calls in one iteration
CANDIDATES = 16  # periods that are looked at closely in each round, until one saves half of the recording


def rolled(recording: Recording) -> Recording:
    """The recording without later iterations of its loops; itself if it has none."""
    while (shorter := _without_longest_loop(recording)) is not None:
        recording = shorter
    return recording


def _without_longest_loop(recording: Recording) -> Recording | None:
    steps = recording.steps
    if len(steps) <= KEPT:
        return None
    alike, outlines = _Alike(recording), np.array([_outline(step) for step in steps], np.int64)
    best_saved, best = 0, (0, 0, 0)
    for period in _likely_periods(outlines):
        promising = (outlines[period:] == outlines[:-period]).tolist()
        start, length = _longest_run([ok and alike(i, i + period) for i, ok in enumerate(promising)])
        count = length // period + 1  # iterations that repeat
        if (saved := (count - KEPT) * period) > best_saved:
            best_saved, best = saved, (start, period, count)
        if 2 * best_saved >= len(steps):
            break
    return _cut(recording, *best) if best_saved else None


def _outline(step: Step) -> int:
    """A hash of what all iterations of a loop have in common."""
    kinds = tuple(None if isinstance(x, int | float | Ref) else str(x) for x in step.leaves)
    return hash((step.op, step.path, step.shapes, kinds))


def _likely_periods(outlines: NDArray[np.int64]) -> list[int]:
    """Distances at which most calls look alike, the likeliest first; of multiples, the smallest."""
    longest = min(len(outlines) // 2, MAX_PERIOD)
    counts = np.array([np.count_nonzero(outlines[p:] == outlines[:-p]) for p in range(1, longest + 1)])
    order = np.argsort(-counts, kind="stable")[:CANDIDATES]
    return [int(p) + 1 for p in order if counts[p]]


def _longest_run(matches: list[bool]) -> tuple[int, int]:
    """Start and length of the longest run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(matches, np.int8), [0]])))
    if not len(edges):
        return 0, 0
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return int(starts[longest]), int(lengths[longest])


class _Alike:
    """Whether two calls, one period apart, are the same call of two iterations."""

    def __init__(self, recording: Recording) -> None:
        self._steps = recording.steps
        self._maker: dict[int, tuple[int, int]] = {}  # tensor -> the call that made it, and which output it is
        self._learned = set(range(len(recording.names)))  # parameters, and what depends on nothing else
        self._given = set(recording.tensors) - self._learned  # inputs and constants
        self._first_view: dict[int, int] = {}  # tensor -> the first one that is the same view of the same tensor
        views: dict[tuple[Any, ...], int] = {}
        for index, step in enumerate(recording.steps):
            refs = step.refs
            for place, number in enumerate(step.outputs):
                if number is not None and number not in recording.tensors:
                    self._maker.setdefault(number, (index, place))
                    if refs and self._learned.issuperset(refs):
                        self._learned.add(number)
                    if step.op.is_view:
                        of = tuple(Ref(self._viewed(x.number)) if type(x) is Ref else x for x in step.leaves)
                        self._first_view[number] = views.setdefault((step.op, place, step.form, of), number)

    def _viewed(self, number: int) -> int:
        return self._first_view.get(number, number)

    def __call__(self, first: int, second: int) -> bool:
        a, b = self._steps[first], self._steps[second]
        same = (a.op, a.path, a.shapes, len(a.leaves)) == (b.op, b.path, b.shapes, len(b.leaves))
        if not same or a.form != b.form:
            return False
        from_outside = True
        for x, y in zip(a.leaves, b.leaves, strict=True):
            if type(x) is Ref and type(y) is Ref:
                if not self._is_same(x.number, y.number, second - first):
                    return False
                is_one = self._viewed(x.number) == self._viewed(y.number)
                from_outside = from_outside and is_one and x.number not in self._learned
        return all(
            _is_same_setting(x, y) or (type(x) is int and type(y) is int and from_outside)
            for x, y in zip(a.leaves, b.leaves, strict=True)
        )

    def _is_same(self, x: int, y: int, period: int) -> bool:
        """Whether a tensor is the other one, or what the other one was an iteration ago, or another input."""
        if x == y or (x in self._given and y in self._given):
            return True
        if x not in self._maker or y not in self._maker:
            return False
        (made_x, place_x), (made_y, place_y) = self._maker[x], self._maker[y]
        if made_x == made_y:  # parts of one tensor, as ``x.unbind(1)`` gives them
            return x not in self._learned
        return made_y - made_x == period and place_x == place_y


def _is_same_setting(x: Any, y: Any) -> bool:
    """Numbers that are no index may change from one iteration to the next."""
    if type(x) is not type(y):
        return False
    return type(x) in (float, Ref) or bool(x == y)


def _cut(recording: Recording, start: int, period: int, count: int) -> Recording:
    """Leave out all but the first iterations of ``count``, each of ``period`` calls."""
    first, last = start + KEPT * period, start + count * period
    made = {number for step in recording.steps[:first] for number in step.made}.union(recording.tensors)
    instead: dict[int, int] = {}  # tensor that is left out -> the same one of the last iteration that is kept
    for index in range(first, last):
        kept = recording.steps[first - period + (index - first) % period]
        for mine, theirs in zip(recording.steps[index].outputs, kept.outputs, strict=True):
            if mine is not None and theirs is not None and mine not in made:
                instead.setdefault(mine, theirs)
    steps = [
        replace(step, leaves=tuple(Ref(instead.get(x.number, x.number)) if type(x) is Ref else x for x in step.leaves))
        for step in (*recording.steps[:first], *recording.steps[last:])
    ]
    outputs = tuple(instead.get(number, number) for number in recording.outputs)
    return replace(recording, steps=_with_parts_that_are_read(steps, outputs), outputs=outputs)


def _with_parts_that_are_read(steps: list[Step], outputs: Iterable[int]) -> tuple[Step, ...]:
    """Instead of all parts of a tensor, make those that are read from."""
    read = {number for step in steps for number in step.refs}.union(outputs)
    found: list[Step] = []
    for step in steps:
        parts = [(place, number) for place, number in enumerate(step.outputs) if number in read]
        make = _PARTS.get(step.op)
        found += [step] if make is None or len(parts) == len(step.outputs) else [make(step, *part) for part in parts]
    return tuple(found)


def _select(step: Step, place: int, number: int | None) -> Step:
    """``x.unbind(dim)[place]``"""
    whole, dim = (*step.leaves, 0)[:2]
    return _view(step, torch.ops.aten.select.int, (whole, dim, place), place, number)


def _view(step: Step, op: Any, leaves: tuple[Any, ...], place: int, number: int | None) -> Step:
    form = Form((-1,) * len(leaves), ())
    return replace(step, op=op, leaves=leaves, form=form, outputs=(number,), shapes=(step.shapes[place],))


def _slice(step: Step, place: int, number: int | None) -> Step:
    """``x.split(size, dim)[place]``"""
    whole, size, dim = (*step.leaves, 0)[:3]
    return _view(step, torch.ops.aten.slice.Tensor, (whole, dim, place * size, (place + 1) * size), place, number)


_PARTS: dict[Any, Callable[[Step, int, int | None], Step]] = {
    torch.ops.aten.unbind.int: _select,
    torch.ops.aten.split.Tensor: _slice,
}
