"""Tasks for choosing between checkpoints and comparing them: text that meta-training never draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta_train.tasks.base import Batch, Task, family
from meta_train.tasks.language import CHARACTERS, LanguageModel, Text, next_character
from meta_train.tasks.recurrent import Recurrent
from meta_train.tasks.transformer import Block


@family("validation-lstm")
def validation_lstm(generator: torch.Generator) -> Task:
    """An LSTM of 40 on windows of 14 characters."""
    del generator
    return _text("validation-lstm", "40", lambda: Recurrent("lstm", 20, 40), 14)


@family("validation-language")
def validation_language(generator: torch.Generator) -> Task:
    """Two causal blocks of width 40 with 5 heads, on windows of 20 characters."""
    del generator

    def build() -> nn.Module:
        return LanguageModel(20, 40, [Block(40, 5, 120, "gelu", causal=True, packed=True) for _ in range(2)])

    return _text("validation-language", "2x40", build, 20)


class LastCharacter(Text):
    """The same windows; only what follows all of a window is to be told."""

    def batch(self, generator: torch.Generator, count: int, size: int) -> Batch:
        """See `Data.batch`: characters ``[count, size, context]`` and the next one, ``[count, size]``."""
        characters, following = super().batch(generator, count, size)
        return characters, following[..., -1]


class Window(nn.Module):
    """An MLP on the embeddings of a window (Bengio et al., 2003, "A neural probabilistic language model")."""

    def __init__(self, context: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(CHARACTERS + 1, embedding)
        self.hidden, self.head = nn.Linear(context * embedding, hidden), nn.Linear(hidden, CHARACTERS + 1)

    def forward(self, ids: Tensor) -> Tensor:  # int64 [batch token] -> [batch character]
        """Logits."""
        return self.head(torch.tanh(self.hidden(self.embed(ids).flatten(1))))


@family("validation-window")
def validation_window(generator: torch.Generator) -> Task:
    """An MLP with 64 hidden neurons on 6 characters."""
    del generator
    data = LastCharacter(6, held_out=True)
    return Task("validation-window 64", "validation-window", lambda: Window(6, 12, 64), data, F.cross_entropy, 64)


def _text(family: str, form: str, build: Callable[[], nn.Module], context: int) -> Task:
    return Task(f"{family} {form}", family, build, Text(context, held_out=True), next_character, 16)
