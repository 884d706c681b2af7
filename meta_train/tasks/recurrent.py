"""Recurrent networks (LSTM, GRU, and plain ones) on the characters of `meta_train.tasks.language`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meta_train.tasks.augment import training_conditions
from meta_train.tasks.base import Task, family
from meta_train.tasks.drawing import choice
from meta_train.tasks.language import CHARACTERS, Text, next_character

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


class Recurrence(nn.Module):
    """An LSTM (``"lstm"``), GRU or plain recurrent layer of plain ops: torch's own cannot run in stacks."""

    def __init__(self, kind: str, size: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.ins, self.hidden = (nn.Linear(n, GATES[kind] * width) for n in (size, width))

    def forward(self, x: Tensor) -> Tensor:  # [batch token size] -> [batch token width]
        """The state after each token."""
        states, state = [], x.new_zeros(len(x), self.hidden.in_features)
        cell = state
        for read in self.ins(x).unbind(1):
            gates, kept = read.chunk(GATES[self.kind], -1), self.hidden(state).chunk(GATES[self.kind], -1)
            if self.kind == "lstm":
                ins, forget, new, out = (a + b for a, b in zip(gates, kept, strict=True))
                cell = torch.sigmoid(forget) * cell + torch.sigmoid(ins) * torch.tanh(new)
                state = torch.sigmoid(out) * torch.tanh(cell)
            elif self.kind == "gru":
                reset, update = (torch.sigmoid(a + b) for a, b in zip(gates[:2], kept[:2], strict=True))
                state = update * state + (1.0 - update) * torch.tanh(gates[2] + reset * kept[2])
            else:
                state = torch.tanh(gates[0] + kept[0])
            states.append(state)
        return torch.stack(states, 1)


class Recurrent(nn.Module):
    """An embedding of characters, a recurrent layer, and a linear head on every character."""

    def __init__(self, kind: str, embedding: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(CHARACTERS + 1, embedding)
        self.network = Recurrence(kind, embedding, width)
        self.head = nn.Linear(width, CHARACTERS + 1)
        for weight in self.network.parameters():  # as torch's own layers start
            nn.init.uniform_(weight, -(width**-0.5), width**-0.5)

    def forward(self, ids: Tensor) -> Tensor:  # int64 [batch token] -> [batch token character]
        """Logits of the next character."""
        return self.head(self.network(self.embed(ids)))


@family("recurrent")
def recurrent(generator: torch.Generator) -> Task:
    """One layer of width 16 to 48, on windows of 8 to 16 characters."""
    kind = choice(generator, ("lstm", "lstm", "gru", "gru", "rnn"))
    embedding, width = choice(generator, (8, 16, 24, 32)), choice(generator, (16, 24, 32, 48))
    context, batch = choice(generator, (8, 12, 16)), choice(generator, (8, 16, 32))

    def build() -> nn.Module:
        return Recurrent(kind, embedding, width)

    name = f"recurrent {kind} {width} embedding {embedding} context {context}"
    conditions = training_conditions(generator, build())
    return Task(name, "recurrent", build, Text(context), next_character, batch, **conditions)
