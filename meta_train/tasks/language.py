"""Language models of characters: tiny causal transformers on the help texts that come with Python.

The texts are those of ``help("topics")``: nothing to download, but they differ a little from one Python version to the
next.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta_train.tasks.augment import training_conditions
from meta_train.tasks.base import Batch, Task, family
from meta_train.tasks.drawing import chance, choice
from meta_train.tasks.transformer import Block

CHARACTERS = 90  # the commonest ones; all others are one more, the last id
HELD_OUT = 0.1  # the end of the text


@functools.lru_cache(maxsize=2)
def text(held_out: bool = False) -> Tensor:  # int64 [character]
    """Ids of the characters of the text, or of its held-out end."""
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics[name] for name in sorted(topics))
    start = round(len(whole) * (1 - HELD_OUT))
    counts = Counter(whole[:start])
    kept = sorted(counts, key=lambda character: (-counts[character], character))[:CHARACTERS]
    ids = {character: k for k, character in enumerate(kept)}
    part = whole[start:] if held_out else whole[:start]
    return torch.tensor([ids.get(character, CHARACTERS) for character in part])


@dataclass(frozen=True)
class Text:
    """Windows of the text, drawn with replacement.

    Attributes:
        context: Characters of a window; each is to be told from those before it.
        held_out: Use the end of the text, which meta-training never draws.
    """

    context: int
    held_out: bool = False

    def batch(self, generator: torch.Generator, count: int, size: int) -> Batch:
        """See `Data.batch`: characters and those that follow them, both ``[count, size, context]``."""
        ids = text(self.held_out)
        start = torch.randint(len(ids) - self.context, (count, size, 1), generator=generator)
        window = ids[start + torch.arange(self.context + 1)]
        return window[..., :-1], window[..., 1:]

    def example(self) -> tuple[Tensor, ...]:
        """See `Data.example`."""
        return (torch.arange(2 * self.context).reshape(2, self.context),)


class LanguageModel(nn.Module):
    """Characters and learned positions, blocks, and a linear head on every character."""

    def __init__(self, context: int, width: int, blocks: list[Block]) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(CHARACTERS + 1, width), nn.Parameter(torch.empty(context, width))
        for table in (self.embed.weight, self.positions):
            nn.init.normal_(table, std=0.02)
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(width)
        self.head = nn.Linear(width, CHARACTERS + 1)

    def forward(self, ids: Tensor) -> Tensor:  # int64 [batch token] -> [batch token character]
        """Logits of the next character."""
        return self.head(self.norm(self.blocks(self.embed(ids) + self.positions)))


def next_character(logits: Tensor, target: Tensor) -> Tensor:  # [batch token character], [batch token] -> []
    """Mean cross-entropy over batch and tokens."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


@family("language")
def language(generator: torch.Generator) -> Task:
    """One or two causal pre-norm blocks of width 16 to 48 with 2 to 4 heads, on windows of 16 to 32 characters."""
    context, depth = choice(generator, (16, 24, 32)), choice(generator, (1, 2))
    heads, width = choice(generator, (2, 3, 4)), choice(generator, (16, 24, 32, 48))
    width -= width % heads
    hidden, activation = choice(generator, (2, 4)) * width, choice(generator, ("gelu", "gelu", "relu", "silu"))
    packed = chance(generator, 0.5)

    def build() -> nn.Module:
        blocks = [Block(width, heads, hidden, activation, causal=True, packed=packed) for _ in range(depth)]
        return LanguageModel(context, width, blocks)

    name = f"language {depth}x{width} h{heads} ff{hidden} {activation}{' packed' if packed else ''} context {context}"
    batch, conditions = choice(generator, (8, 16, 32)), training_conditions(generator, build())
    return Task(name, "language", build, Text(context), next_character, batch, **conditions)
