"""A pronouncing dictionary: convolutions that write it on, an LSTM in both directions that counts syllables, and
experts that guess the next letter of a word."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.learning_to_optimize.tasks.base import BITS, Data, Task, register
from benchmarks.learning_to_optimize.tasks.sources import SEED, parted, windows
from meta_train.data import load_text

SYMBOLS = 63  # characters of the dictionary
CONTEXT = 32
LETTERS = 27  # A to Z, and none
LONGEST = 10  # letters of a word
SYLLABLES = 6  # that many or more are one class
WINDOW = 4  # letters that the next one is guessed from


class CausalConvolutions(nn.Module):
    """A temporal convolutional network: dilated convolutions that see nothing later, each added to its input."""

    def __init__(self, alphabet: int = SYMBOLS, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.characters = nn.Embedding(alphabet, width)
        self.layers = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**k) for k in range(depth))
        self.head = nn.Linear(width, alphabet)

    def forward(self, x: Tensor) -> Tensor:  # int64 [b t] -> [b t alphabet]
        """Logits of the character after each."""
        stream = self.characters(x).transpose(1, 2)
        for k, layer in enumerate(self.layers):
            stream = stream + F.glu(layer(F.pad(stream, (2**k, 0))), 1)
        return self.head(stream.transpose(1, 2))


class SyllableLSTM(nn.Module):
    """Letters embedded, an LSTM in both directions, the highest state over letters, a linear layer."""

    def __init__(self, width: int = 12, hidden: int = 20, classes: int = SYLLABLES) -> None:
        super().__init__()
        self.letters = nn.Embedding(LETTERS, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, x: Tensor) -> Tensor:  # int64 [b t] -> [b classes]
        """Logits of the number of syllables."""
        return self.head(self.lstm(self.letters(x))[0].amax(1))


class Experts(nn.Module):
    """A mixture of MLPs, two of them chosen for every example, behind embedded letters."""

    def __init__(self, width: int = 12, hidden: int = 32, experts: int = 4, chosen: int = 2) -> None:
        super().__init__()
        self.letters, self.chosen = nn.Embedding(LETTERS, width), chosen
        inputs = WINDOW * width
        self.gate = nn.Linear(inputs, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, inputs)) for _ in range(experts)
        )
        self.head = nn.Linear(inputs, LETTERS)

    def forward(self, x: Tensor) -> Tensor:  # int64 [b WINDOW] -> [b LETTERS]
        """Logits of the next letter."""
        stream = self.letters(x).flatten(1)
        scores = self.gate(stream)
        kept = scores >= scores.topk(self.chosen, -1).values[:, -1:]
        weights = scores.masked_fill(~kept, -torch.inf).softmax(-1)  # [b experts]
        outputs = torch.stack([expert(stream) for expert in self.experts], 1)
        return self.head(stream + (weights[..., None] * outputs).sum(1))


@lru_cache(maxsize=1)
def words() -> tuple[list[str], list[int]]:
    """Words of letters alone, up to `LONGEST` of them, in a seeded order, and their numbers of syllables."""
    spelled, counts = [], []
    for line in load_text("cmudict").splitlines():
        word, _, sounds = line.partition("  ")
        if re.fullmatch("[A-Z]+", word) and len(word) <= LONGEST:
            spelled.append(word)
            counts.append(sum(character.isdigit() for character in sounds))  # vowels carry their stress
    order = np.random.default_rng(SEED).permutation(len(spelled))[:30_000]
    return [spelled[k] for k in order], [counts[k] for k in order]


def codes(word: str) -> list[int]:
    """A is 1."""
    return [ord(letter) - ord("A") + 1 for letter in word]


@lru_cache(maxsize=1)
def entries() -> Data:
    """The dictionary as it is written, in windows that do not overlap; one of eight, which is enough."""
    whole = windows("cmudict", CONTEXT)
    train, test = (tuple(part[::8] for part in parts) for parts in (whole.train, whole.test))
    return Data(train, test, whole.holdout // 8)


@lru_cache(maxsize=1)
def syllables() -> Data:
    """Words, filled up with zeros, and how many syllables they have, less one."""
    spelled, counts = words()
    x = torch.tensor([codes(word) + [0] * (LONGEST - len(word)) for word in spelled])
    return parted(x, torch.tensor(counts).clamp(1, SYLLABLES) - 1)


@lru_cache(maxsize=1)
def next_letters() -> Data:
    """For each word one place in it: the letters before it (zeros before the beginning), and the letter there, or zero
    behind the end."""
    spelled, _ = words()
    places = np.random.default_rng(SEED).integers(0, LONGEST + 1, len(spelled))
    x, y = [], []
    for word, place in zip(spelled, places, strict=True):
        at = int(place) % (len(word) + 1)
        padded = [0] * WINDOW + codes(word) + [0]
        x.append(padded[at : at + WINDOW])
        y.append(padded[at + WINDOW])
    return parted(torch.tensor(x), torch.tensor(y))


register(
    Task(
        "tcn",
        "unseen",
        "causal convolutions with gates, characters of a pronouncing dictionary",
        "cmudict",
        CausalConvolutions,
        entries,
        8,
        metric=BITS,
    )
)
register(
    Task(
        "bi-lstm", "unseen", "LSTM of 20 in both directions, syllables of words", "cmudict", SyllableLSTM, syllables, 32
    )
)
register(
    Task(
        "experts",
        "unseen",
        "2 of 4 experts, the next letter of a word",
        "cmudict",
        Experts,
        next_letters,
        64,
        metric=BITS,
    )
)
