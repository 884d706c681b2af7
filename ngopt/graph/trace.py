"""`trace`: from a module and example inputs to its neural graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ngopt.errors import FrozenSymmetryWarning, TraceError
from ngopt.graph.build import build_graph
from ngopt.graph.capture import capture
from ngopt.graph.certificate import failing_sets
from ngopt.graph.labelling import Labelling, label_program
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.outside import undoing
from ngopt.graph.scaling import find_scalings
from ngopt.graph.structure import Structure
from ngopt.graph.symmetry import Symmetries
from ngopt.warn import warn


def trace(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...] | Mapping[str, Any] = (),
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    strict: bool = False,
    certify: bool = True,
    scalings: bool = False,
) -> NeuralGraph:
    """Find the neural graph of any module from one forward pass.

    Every axis of every parameter starts with fresh neuron ids; the ids travel through the captured ATen program, and
    what the program does with them says which neurons are the same, which can be exchanged, and which are fixed.
    The module is left as it was: a copy of it runs, without forward hooks of the user's, and what its Python writes
    outside of it is put back.

    Args:
        model: The module. It is run in evaluation mode.
        example_inputs: Positional arguments of its forward pass (one tensor, a tuple, or a mapping of keyword
            arguments). Only shapes matter, except where the module's Python looks at values.
        example_kwargs: Keyword arguments of its forward pass.
        strict: Raise on ops that have no rule, instead of freezing what they touch.
        certify: Check every discovered symmetry by numbers, in float64, on random parameters; what fails is frozen.
            Modules on the meta device have no numbers and are not certified; see `NeuralGraph.certified`.
        scalings: Also look for sign and scale symmetries, ``graph.scalings``; see `ngopt.graph.scaling`. They are
            checked by numbers, and so not looked for on the meta device.

    Returns:
        The graph, with ``graph.symmetries`` and ``graph.generators()``.

    Raises:
        TraceError: the module fails on the example inputs.
        UnsupportedOpError: with ``strict``, an op has no rule.

    Warns:
        FrozenSymmetryWarning: an op has no rule, or a certificate failed.
        UserWarning: the forward pass is very long; or it does not run in float64, or its inputs hold NaN, so that
            symmetries are not certified.

    Example:
        >>> import torch, ngopt
        >>> model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> graph = ngopt.trace(model, torch.randn(2, 5))
        >>> [(s.name, s.degree) for s in graph.symmetries]
        [('0', 8)]
    """
    args, kwargs = _arguments(example_inputs, example_kwargs)
    if not isinstance(model, nn.Module):
        raise TraceError(f"trace() takes a torch.nn.Module, got {type(model).__name__}")
    on_meta = any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    certify = certify and not on_meta
    with undoing(model):
        try:
            graph = _traced(model, args, kwargs, strict, certify, roll=certify)
        except _RestDiffersError:
            graph = _traced(model, args, kwargs, strict, certify, roll=False)
        if scalings and not on_meta:
            with torch.random.fork_rng(devices=[]):
                graph = replace(graph, scalings=find_scalings(model, args, kwargs, graph))
    return graph


def _arguments(inputs: Any, kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs) | dict(kwargs or {})
    args = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    return args, dict(kwargs or {})


class _RestDiffersError(Exception):
    """What was found in the first iterations of loops cannot be shown to hold for the rest."""


def _traced(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], strict: bool, certify: bool, *, roll: bool
) -> NeuralGraph:
    """The graph, from the first iterations of loops where ``roll`` says so and the whole pass confirms it.

    Raises:
        _RestDiffersError: It does not.
    """
    program = capture(model, args, kwargs, roll=roll)
    labelling = label_program(model, program, strict=strict)
    structure, certified = Structure(labelling.table), False
    if certify:
        try:
            structure, wrong = _certified(model, labelling, structure, args, kwargs, once=not program.is_whole)
        except Exception as error:
            if not program.is_whole:
                raise _RestDiffersError from error
            warn(
                f"the symmetries of {type(model).__name__} could not be checked by numbers, in float64 "
                f"({type(error).__name__}: {error}); they are what the rules say.",
            )
        else:
            if wrong and not program.is_whole:
                raise _RestDiffersError
            certified = True
            _warn_wrong(wrong)
    _warn_unsupported(labelling)
    return replace(build_graph(labelling, structure, certified=certified), given=program.given)


def _warn_unsupported(labelling: Labelling) -> None:
    for op, path in labelling.unsupported.items():
        warn(
            f"op '{op}' (in module '{path or '<root>'}') has no rule: the neurons that it touches are frozen. "
            f"This is safe, but gives up their symmetry. Add a rule with @ngopt.graph.rule(torch.ops.{op}).",
            FrozenSymmetryWarning,
        )


def _warn_wrong(names: set[str]) -> None:
    if names:
        warn(
            "some discovered symmetries failed their certificate and were frozen; parameters concerned: "
            f"{', '.join(sorted(names))}. A rule is wrong for this module: please report it.",
            FrozenSymmetryWarning,
        )


def _certified(
    model: nn.Module,
    labelling: Labelling,
    structure: Structure,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    once: bool,
) -> tuple[Structure, set[str]]:
    """Freeze what fails until everything that is left holds, or ``once``; also names of parameters whose sets failed.

    Raises:
        Exception: What a copy of the model raises in float64.
    """
    frozen: frozenset[int] = frozenset()
    names: set[str] = set()
    while True:
        symmetries = Symmetries(labelling, structure)
        with torch.random.fork_rng(devices=[]):
            bad = failing_sets(model, symmetries, args, kwargs)
        for index in bad:
            siblings = structure.sibling_sets[index]
            moved = {c for swap in siblings.swaps for c in swap}
            names.update(name for swap in siblings.swaps for name in symmetries.index_maps(swap))
            frozen |= frozenset(i for i, c in enumerate(structure.class_of.tolist()) if c in moved)
        if not bad or once:
            return structure, names
        structure = Structure(labelling.table, frozen)
