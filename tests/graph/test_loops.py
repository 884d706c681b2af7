"""Python loops over time cost the same at any length, and have the graph that all of their steps have together."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import ngopt
from ngopt.graph import capture as capturing
from ngopt.graph.capture import capture
from ngopt.graph.loops import KEPT

CALLS = itertools.count()  # not an object that a trace could put back


class Cell(nn.Module):
    """A long short-term memory, written out."""

    def __init__(self, ins: int, width: int) -> None:
        super().__init__()
        self.read, self.recur = nn.Linear(ins, 4 * width), nn.Linear(width, 4 * width)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """[batch, ins], ([batch, width], [batch, width]) -> ([batch, width], [batch, width])"""
        next(CALLS)
        i, f, g, o = (self.read(x) + self.recur(state[0])).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Loop(nn.Module):
    """Two cells above each other, step by step, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = Cell(5, 6), Cell(6, 7), nn.Linear(7, 2)

    def steps(self, x: Tensor) -> list[Tensor]:
        """[batch, time, 5] -> time times [batch, 7]"""
        low, high = (x.new_zeros(len(x), 6),) * 2, (x.new_zeros(len(x), 7),) * 2
        found = []
        for t in range(x.shape[1]):
            low = self.first(x[:, t], low)
            high = self.second(low[0], high)
            found.append(high[0])
        return found

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, 5] -> [batch, 2]"""
        return self.head(self.steps(x)[-1])


class AllSteps(Loop):
    """All outputs are read; which ones are alike does not matter to a head on each."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, 5] -> [batch, time, 2]"""
        return self.head(torch.stack(self.steps(x), 1))


class Flattened(Loop):
    """A head for all steps together, whose columns are steps of neurons."""

    def __init__(self, time: int) -> None:
        super().__init__()
        self.head = nn.Linear(7 * time, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, 5] -> [batch, 2]"""
        return self.head(torch.stack(self.steps(x), 1).flatten(1))


class ViewedAgain(Loop):
    """Every step makes the same view of the input anew, as indexing does in torch 2.6."""

    def steps(self, x: Tensor) -> list[Tensor]:
        """[batch, time, 5] -> time times [batch, 7]"""
        low, high = (x.new_zeros(len(x), 6),) * 2, (x.new_zeros(len(x), 7),) * 2
        for t in range(x.shape[1]):
            low = self.first(x.transpose(0, 1).flatten(2)[t], low)
            high = self.second(low[0], high)
        return [high[0]]


class LayerByLayer(Loop):
    """Two loops, one after the other, over parts of a tensor that layers made."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, 5] -> [batch, 2]"""
        state, found = (x.new_zeros(len(x), 6),) * 2, []
        for now in x.unbind(1):
            state = self.first(now, state)
            found.append(state[0])
        high = (x.new_zeros(len(x), 7),) * 2
        for now in torch.stack(found).tanh().split(1):
            high = self.second(now[0], high)
        return self.head(high[0])


class Spiking(nn.Module):
    """Membrane potentials that are written in place, on the module, for a fixed number of steps."""

    def __init__(self, time: int) -> None:
        super().__init__()
        self.time, self.read, self.hidden, self.head = time, nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 2]"""
        self.low, self.high, rates = x.new_zeros(len(x), 6), x.new_zeros(len(x), 7), x.new_zeros(len(x), 2)
        for t in range(self.time):
            next(CALLS)
            self.low.mul_(0.9).add_(self.read(x) * 0.99**t)
            spikes = (self.low > 1).to(x.dtype)
            self.low -= spikes
            self.high = 0.8 * self.high + self.hidden(spikes)
            rates += self.head(torch.sigmoid(self.high))
        return rates / self.time


class RungeKutta(nn.Module):
    """A neural differential equation: loops within a loop, on one function."""

    def __init__(self, time: int) -> None:
        super().__init__()
        self.time, self.up, self.down = time, nn.Linear(5, 7), nn.Linear(7, 5)

    def slope(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 5]"""
        next(CALLS)
        return self.down(torch.tanh(self.up(x)))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 5]"""
        for _ in range(self.time):
            total = k = self.slope(x)
            for weight in (0.5, 0.5, 1.0):
                k = self.slope(x + 0.1 * weight * k)
                total = total + k / weight
            x = x + 0.02 * total
        return x


LOOPS: dict[str, Callable[[int], tuple[nn.Module, Tensor]]] = {
    "loop": lambda time: (Loop(), torch.randn(2, time, 5)),
    "all steps": lambda time: (AllSteps(), torch.randn(2, time, 5)),
    "flattened": lambda time: (Flattened(time), torch.randn(2, time, 5)),
    "viewed again": lambda time: (ViewedAgain(), torch.randn(2, time, 5)),
    "layer by layer": lambda time: (LayerByLayer(), torch.randn(2, time, 5)),
    "spiking": lambda time: (Spiking(time), torch.randn(2, 5).abs()),
    "differential equation": lambda time: (RungeKutta(time), torch.randn(2, 5)),
}


def symmetries(graph: ngopt.NeuralGraph) -> list[tuple[str, int, int]]:
    """Sets of neurons that can be exchanged."""
    return [(s.name, s.degree, s.copies) for s in graph.symmetries]


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_costs_the_same_at_any_length(name: str) -> None:
    torch.manual_seed(0)
    model, x = LOOPS[name](60)
    short = capture(LOOPS[name](12)[0], (LOOPS[name](12)[1],), {}, roll=True)
    long = capture(model, (x,), {}, roll=True)
    per_step = name in ("all steps", "flattened", "layer by layer")  # steps are put side by side
    assert len(long.graph.nodes) - len(short.graph.nodes) <= 48 * per_step
    whole = capture(LOOPS[name](12)[0], (LOOPS[name](12)[1],), {})
    assert len(short.graph.nodes) < len(whole.graph.nodes)  # control
    before = next(CALLS)
    graph = ngopt.trace(model, x)
    passes = (next(CALLS) - before) / {"differential equation": 240, "spiking": 60}.get(name, 120)
    assert passes <= 20
    assert graph.certified


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_has_the_graph_of_all_its_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = LOOPS[name](KEPT + 3)
    rolled = ngopt.trace(model, x)
    monkeypatch.setattr(capturing, "rolled", lambda recording: recording)
    whole = ngopt.trace(model, x)
    assert len(rolled.program) < len(whole.program)
    assert symmetries(rolled) == symmetries(whole)
    assert {d for _, d, _ in symmetries(whole)} & {6, 7}
    for mine, theirs in zip(rolled.blocks, whole.blocks, strict=True):
        assert (mine.name, mine.role, mine.matrix_shape) == (theirs.name, theirs.role, theirs.matrix_shape)
        assert torch.equal(mine.row_nodes, theirs.row_nodes)


class OneByOne(nn.Module):
    """A loop over neurons: each is read alone, so that none can be exchanged with another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.each = nn.Linear(5, 9), nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 3]"""
        hidden, out = self.first(x), x.new_zeros(len(x), 3)
        for j in range(9):
            out = 0.5 * out + torch.relu(self.each(hidden[:, j : j + 1]))
        return out


def test_iterations_that_differ_are_found_out() -> None:
    model, x = OneByOne(), torch.randn(3, 5)
    assert not capture(model, (x,), {}, roll=True).is_whole  # what it looks like
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = ngopt.trace(model, x)
    assert graph.certified
    assert symmetries(graph) == []


class OwnWeights(nn.Module):
    """Every step has weights of its own, be they modules or slices of one tensor."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(8, 6, 6)) if packed else nn.ParameterList([*torch.randn(8, 6, 6)])
        self.first, self.head = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 2]"""
        x = self.first(x)
        for weight in self.weights:
            x = torch.tanh(x @ weight)
        return self.head(x)


@pytest.mark.parametrize("packed", [False, True])
def test_steps_with_weights_of_their_own_are_all_read(packed: bool) -> None:
    assert capture(OwnWeights(packed), (torch.randn(3, 5),), {}, roll=True).is_whole


class LooksBack(nn.Module):
    """Every step reads all steps before."""

    def __init__(self) -> None:
        super().__init__()
        self.recur, self.head = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, 5] -> [batch, 2]"""
        seen = [x[:, 0]]
        for t in range(1, x.shape[1]):
            seen.append(torch.tanh(self.recur(torch.stack(seen, 1).mean(1)) + x[:, t]))
        return self.head(seen[-1])


def test_what_takes_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capturing, "LONG", 40)
    monkeypatch.setattr(capturing, "LONG_PER_TENSOR", 14)
    with pytest.warns(UserWarning, match=r"LooksBack is \d+ ops long.* takes about \d+ s.*shorter_inputs"):
        ngopt.trace(LooksBack(), torch.randn(2, 12, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ngopt.trace(Loop(), torch.randn(2, 12, 5))  # as long, but its steps are alike
        ngopt.trace(nn.Sequential(*[nn.Linear(5, 5) for _ in range(30)]), torch.randn(2, 5))  # as long, and no loop
