"""A language model small enough to see all of its neural graph.

``python -m ngopt.graph examples.tiny_transformer:tiny_transformer --input 2,5:int --draw graph.png``
"""

from __future__ import annotations

from torch import Tensor, nn


class TinyTransformer(nn.Module):
    """Embedding, one layer of attention with three heads, an MLP, a head."""

    def __init__(self, words: int = 11, width: int = 12, heads: int = 3, hidden: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.layer = nn.TransformerEncoderLayer(width, heads, hidden, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, words)

    def forward(self, tokens: Tensor) -> Tensor:  # [batch, token] -> [batch, token, word]
        """Logits of the next word."""
        return self.head(self.layer(self.embedding(tokens)))


def tiny_transformer() -> nn.Module:
    """The model at its default sizes."""
    return TinyTransformer()
