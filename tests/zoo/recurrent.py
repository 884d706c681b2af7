"""Recurrent networks: the gates of a neuron move together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.registry import model


class Recurrent(nn.Module):
    """A recurrent layer, and a linear head on every step."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0])


def sequence() -> tuple[Tensor]:
    """A batch of short sequences."""
    return (torch.randn(2, 4, 5),)


@model("rnn", expected={"hidden": (7, 1)})
def rnn():
    return Recurrent(nn.RNN(5, 7, nonlinearity="relu", batch_first=True), 7), sequence()


@model("lstm", expected={"first layer": (7, 1), "second layer": (7, 1)})
def lstm():
    return Recurrent(nn.LSTM(5, 7, num_layers=2, batch_first=True), 7), sequence()


@model("lstm_projected", expected={"cells": (7, 1), "projected": (3, 1)})
def lstm_projected():
    return Recurrent(nn.LSTM(5, 7, proj_size=3, batch_first=True), 3), sequence()


@model("lstm_bidirectional", expected={"forward": (6, 1), "backward": (6, 1)})
def lstm_bidirectional():
    return Recurrent(nn.LSTM(5, 6, bidirectional=True, batch_first=True), 12), sequence()


@model("gru", expected={"hidden": (7, 1)})
def gru():
    return Recurrent(nn.GRU(5, 7, batch_first=True), 7), sequence()


class StateIsOutput(nn.Module):
    """The state itself is returned, so that nothing can move."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(5, 4, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x)


@model("gru_state_is_output", expected={})
def gru_state_is_output():
    return StateIsOutput(), sequence()


class Cells(nn.Module):
    """Cells in a Python loop, with a learned initial state."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(5, 7), nn.GRUCell(7, 6)
        self.start, self.head = nn.Parameter(torch.empty(6)), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 7)
        state, above = (h, h), self.start.expand(len(x), -1)
        for step in x.unbind(1):
            state = self.first(step, state)
            above = self.second(state[0], above)
        return self.head(above)


@model("cells_in_a_loop", expected={"lstm": (7, 1), "gru": (6, 1)})
def cells_in_a_loop():
    return Cells(), sequence()


class MinGRU(nn.Module):
    """A linear recurrence by cumulative sums over time."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.gates, self.head = nn.Linear(5, 7), nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gates(x).exp()
        return self.head(torch.cumsum(self.values(x) * gates, 1) / torch.cumsum(gates, 1))


@model("linear_recurrence", expected={"hidden": (7, 1)})
def linear_recurrence():
    return MinGRU(), sequence()
