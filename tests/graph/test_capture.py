"""Capturing disturbs nobody: what user code keeps outside of its module, or on it, is as without a trace."""

from __future__ import annotations

import copy
import functools
import random
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import ngopt
from ngopt.graph.capture import capture
from ngopt.graph.isolation import isolated

TABLE: dict[int, Tensor] = {}
LOSSES: list[Tensor] = []
COUNT = 0
MEAN = torch.zeros(8)
STATE = SimpleNamespace(calls=0)


@dataclass
class Statistics:
    """An object of the user's."""

    seen: int = 0


STATISTICS = Statistics()


@functools.lru_cache(maxsize=8)
def positions(length: int) -> Tensor:
    """[length]"""
    return torch.linspace(0, 1, length)


def table(length: int) -> Tensor:
    """A table that is filled on first use."""
    if length not in TABLE:
        TABLE[length] = torch.ones(length)
    return TABLE[length]


class Writing(nn.Module):
    """Writes wherever Python lets it."""

    shared: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 3]"""
        global COUNT
        COUNT += 1
        STATE.calls += 1
        STATISTICS.seen += len(x)
        type(self).shared.append(len(x))
        hidden = torch.relu(self.first(x))
        MEAN.mul_(0.9).add_(hidden.detach().mean(0), alpha=0.1)
        LOSSES.append(hidden.square().mean())
        return self.second(hidden * table(8) + positions(3)[:1] * positions(8)[0])


def outside() -> dict[str, Any]:
    """All that `Writing` writes."""
    return {
        "table": dict(TABLE),
        "losses": list(LOSSES),
        "count": COUNT,
        "mean": MEAN.clone(),
        "calls": STATE.calls,
        "seen": STATISTICS.seen,
        "shared": list(Writing.shared),
    }


def test_writes_outside_of_the_module_are_undone() -> None:
    torch.manual_seed(1)
    model, seen = Writing(), []
    model.first.register_forward_hook(lambda module, args, output: seen.append(output))
    model(torch.randn(4, 5)).sum().backward()
    before = outside()
    graph = ngopt.trace(model, torch.randn(4, 5))
    after = outside()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.equal(after[name]) if isinstance(value, Tensor) else value == after[name], name
    assert len(seen) == 1  # the user's hooks do not run
    assert [(s.degree, s.copies) for s in graph.symmetries] == [(8, 1)]
    TABLE.clear()
    positions.cache_clear()
    ngopt.trace(model, torch.randn(4, 5))  # now it is the trace that fills the tables
    assert TABLE == {}
    assert type(positions(8)) is Tensor  # no stand-in, although nothing can empty a cache of functools
    assert torch.equal(positions(8), torch.linspace(0, 1, 8))


def test_the_check_of_writes_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without the undoing, the traced pass shows."""
    monkeypatch.setattr("ngopt.graph.outside._Snapshot.restore", lambda self: None)
    before = COUNT
    ngopt.trace(Writing(), torch.randn(4, 5))
    assert before < COUNT


class Remembering(nn.Module):
    """Keeps its last state between calls, as spiking and recurrent layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(5, 6), nn.Linear(6, 2)
        self.memory: Tensor | None = None
        self.log: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 2]"""
        now = torch.tanh(self.read(x))
        self.memory = now if self.memory is None else 0.5 * self.memory + now
        self.log.append(self.memory)
        return self.head(self.memory)


@pytest.mark.parametrize("ran", [False, True])
def test_state_on_the_module(ran: bool) -> None:
    model, x = Remembering(), torch.randn(4, 5)
    if ran:
        model(x)
    memory = model.memory
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = ngopt.trace(model, x)
    assert graph.certified
    assert model.memory is memory
    assert len(model.log) == ran
    if not ran:
        assert [s.degree for s in graph.symmetries] == [6]


def test_what_cannot_be_copied_is_shared() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    model.lock = threading.Lock()
    model.cached = model[0].weight * 2  # has a history: deepcopy refuses it
    with pytest.raises((RuntimeError, TypeError)):
        copy.deepcopy(model)
    copied = isolated(model)
    assert copied.lock is model.lock
    assert torch.equal(copied.cached, model.cached)
    assert copied.cached is not model.cached
    assert not copied.cached.requires_grad
    assert {id(p) for p in copied.parameters()}.isdisjoint(id(p) for p in model.parameters())
    assert ngopt.trace(model, torch.randn(2, 5)).certified


def test_a_forward_that_was_replaced_runs_on_the_copy() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    inner = model[0].forward
    model[0].forward = lambda x: inner(x) + 1
    graph = ngopt.trace(model, torch.randn(2, 5))
    assert [s.degree for s in graph.symmetries] == [8]
    assert graph.certified


def test_hooks_that_compute_weights_are_kept() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still used
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 3))
    graph = ngopt.trace(model, torch.randn(2, 5))
    assert {block.name: block.role for block in graph.blocks}["0.weight_g"] != "unused"
    assert [s.degree for s in graph.symmetries] == [8]


# ---- recurrent layers


class Sequence(nn.Module):
    """A recurrent layer on padded or packed sequences, and a linear head."""

    def __init__(self, kind: type, packed: bool, **settings: Any) -> None:
        super().__init__()
        self.packed = packed
        self.layer = kind(5, 7, batch_first=True, **settings)
        width = settings.get("proj_size", 7) * (1 + settings.get("bidirectional", False))
        self.head, self.last = nn.Linear(width, 2), nn.Linear(width // (1 + settings.get("bidirectional", False)), 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, time, 5] -> [batch, time, 2], [layer, batch, 2]"""
        given = x
        if self.packed:
            lengths = torch.tensor([x.shape[1] - i for i in range(len(x))])
            given = pack_padded_sequence(x, lengths, batch_first=True)
        out, state = self.layer(given)
        out = pad_packed_sequence(out, batch_first=True)[0] if self.packed else out
        return self.head(out), self.last(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("kind", "settings", "sizes"),
    [
        (nn.LSTM, {}, [7]),
        (nn.LSTM, {"proj_size": 3}, [3, 7]),
        (nn.LSTM, {"num_layers": 2, "bidirectional": True}, [7]),
        (nn.GRU, {"bias": False}, [7]),
        (nn.RNN, {"nonlinearity": "relu"}, [7]),
    ],
)
def test_recurrent_layers_cost_the_same_at_any_length(kind: type, settings: dict, sizes: list, packed: bool) -> None:
    torch.manual_seed(2)
    model = Sequence(kind, packed, **settings).double()
    short, long = (capture(model, (torch.randn(3, n, 5).double(),), {}) for n in (4, 200))
    assert abs(len(short.graph.nodes) - len(long.graph.nodes)) <= 2 * len(settings) + 1
    graph = ngopt.trace(model, torch.randn(3, 4, 5).double())
    assert graph.certified
    assert sorted({s.degree for s in graph.symmetries}) == sizes


# ---- whatever a forward pass is made of


@dataclass
class Batch:
    """Inputs as an object."""

    x: Tensor
    scale: float = 1.0


class OnBatches(nn.Module):
    """Takes a `Batch`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, batch: Batch) -> Tensor:
        """[batch, 5] -> [batch, 3]"""
        return self.net(batch.x) * batch.scale


class Checkpointed(OnBatches):
    """Recomputes activations, as transformers do: ``requires_grad_`` inside the pass."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 3]"""
        hidden = self.net[0](x)
        if not hidden.requires_grad:
            hidden.requires_grad_()
        for use_reentrant in (True, False):
            hidden = torch.utils.checkpoint.checkpoint(self.net[1], hidden, use_reentrant=use_reentrant)
        return self.net[2](hidden)


class Complex(OnBatches):
    """Rotates pairs of neurons as complex numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 3]"""
        hidden = torch.view_as_complex(self.net[0](x).reshape(-1, 4, 2))
        turned = torch.view_as_real(hidden * torch.polar(torch.ones(4), torch.arange(4.0))).flatten(1)
        return self.net[2](turned)


class InPlace(OnBatches):
    """Normalises its own weights in every pass."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 3]"""
        with torch.no_grad():
            self.net[0].weight.div_(self.net[0].weight.norm(dim=1, keepdim=True))
        return self.net(x)


@pytest.mark.parametrize(
    ("make", "inputs", "symmetric"),
    [
        (OnBatches, (Batch(torch.randn(4, 5)),), True),
        (Checkpointed, (torch.randn(4, 5),), True),
        (Complex, (torch.randn(4, 5),), False),
        (lambda: torch.jit.script(OnBatches().net), (torch.randn(4, 5),), True),
    ],
)
def test_forward_passes_of_every_kind(make: Callable[[], nn.Module], inputs: tuple, symmetric: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of scripting
        model = make()
        graph = ngopt.trace(model, inputs)
    assert {block.name for block in graph.blocks} == {name for name, _ in model.named_parameters()}
    assert all(block.role != "unused" for block in graph.blocks)
    assert [s.degree for s in graph.symmetries] == ([8] if symmetric else [])


class Branching(OnBatches):
    """A branch as an op."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 3]"""
        hidden = self.net[1](self.net[0](x))
        return self.net[2](torch.cond(hidden.sum() > 0, lambda h: 2 * h, lambda h: h - 1, (hidden,)))


class Packing(OnBatches):
    """Packs what a layer made of padded sequences, and pads it again."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 3]"""
        hidden = self.net[1](self.net[0](x[:, None].expand(-1, 2, -1)))
        packed = pack_padded_sequence(hidden, torch.tensor([2, 1, 2, 1]), batch_first=True, enforce_sorted=False)
        return self.net[2](pad_packed_sequence(packed, batch_first=True)[0])


@pytest.mark.parametrize("make", [Branching, Packing])
def test_ops_that_are_seldom_seen(make: Callable[[], nn.Module]) -> None:
    graph = ngopt.trace(make(), torch.randn(4, 5))
    assert graph.certified
    assert [s.degree for s in graph.symmetries] == [8]


def test_writes_to_parameters_stay_in_the_copy() -> None:
    model = InPlace()
    before = [p.clone() for p in model.parameters()]
    with pytest.warns(UserWarning, match="writes to its parameters"):
        graph = ngopt.trace(model, torch.randn(4, 5))
    assert not graph.certified
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_random_numbers_of_all_kinds() -> None:
    class Drawing(OnBatches):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * random.random() * float(np.random.rand()) * torch.rand(())

    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert ngopt.trace(Drawing(), torch.randn(4, 5).fill_(1)).certified
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()
