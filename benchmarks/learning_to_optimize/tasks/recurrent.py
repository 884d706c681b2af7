"""Recurrent networks: an LSTM that predicts the next character, a GRU that reads a digit row by row."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from benchmarks.learning_to_optimize.tasks.base import BITS, Task, register
from benchmarks.learning_to_optimize.tasks.sources import images, windows
from benchmarks.learning_to_optimize.tasks.transformers import ALPHABET

CONTEXT = 24


class CharacterLSTM(nn.Module):
    """Embedding, LSTM, logits of the next character."""

    def __init__(self, alphabet: int = ALPHABET, width: int = 24, hidden: int = 48) -> None:
        super().__init__()
        self.characters = nn.Embedding(alphabet, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, alphabet)

    def forward(self, x: Tensor) -> Tensor:  # int64 [b t] -> [b t alphabet]
        """Logits of the character after each."""
        return self.head(self.lstm(self.characters(x))[0])


class RowGRU(nn.Module):
    """A GRU over the rows of an image; the last state says what it shows."""

    def __init__(self, width: int = 8, hidden: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:  # [b 1 h width] -> [b classes]
        """Logits of images."""
        return self.head(self.gru(x.squeeze(1))[0][:, -1])


register(
    Task(
        "lstm",
        "held-out",
        "LSTM of 48, characters of Moby Dick",
        "moby-dick",
        CharacterLSTM,
        partial(windows, "moby-dick", CONTEXT),
        32,
        metric=BITS,
    )
)
register(
    Task("gru", "held-out", "GRU of 32 over rows, scikit-learn digits", "digits", RowGRU, partial(images, "digits"), 32)
)
