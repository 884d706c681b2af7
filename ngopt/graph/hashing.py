"""64-bit hashes of arrays of ids: colours are sums of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Hashes = NDArray[np.uint64]


def mix(x: NDArray | np.generic | int) -> Hashes:
    """Scramble integers to 64 bits that look random (the finaliser of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = np.asarray(x).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def text_hash(text: str) -> int:
    """A 64-bit hash of a string that does not depend on the process (unlike `hash`)."""
    value = np.uint64(len(text))
    with np.errstate(over="ignore"):
        for byte in text.encode():
            value = mix(value * np.uint64(257) + np.uint64(byte))[()]
    return int(value)


def sum_by(keys: Ids, values: Hashes, size: int) -> Hashes:
    """Wrapping sums of 64-bit values per key: ``[key] -> [size]``."""
    total = np.zeros(size, np.uint64)
    np.add.at(total, keys, values)
    return total


def unique_pairs(a: Ids, b: Ids) -> Ids:
    """The different pairs ``(a[i], b[i])``, sorted: ``[pair, 2]``."""
    base = int(b.max(initial=0)) + 1
    keys = np.unique(a * base + b)
    return np.stack([keys // base, keys % base], 1)
