"""Store pictures of digits as networks, and read from the weights alone what the pictures show.

    python examples/read_network.py

The reader that is shipped has learned from 55,000 such networks, fitted to MNIST. The digits here are scikit-learn's,
by other hands and of 8 x 8 pixels, so a few are misread. No network is ever run by the reader.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks, which are not installed

from benchmarks.inr_data import Siren, coordinates, initial
from benchmarks.inr_data.fitting import fit
from benchmarks.inr_data.kinds import KINDS
from benchmarks.inr_data.siren import state
from ngopt.encoder import load_reader


def main(count: int = 20) -> float:
    """Fit networks to some digits and read them; returns the share that was read right."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    pictures = torch.from_numpy(pictures[:count]).float().view(-1, 1, 8, 8) / 16
    pictures = F.pad(
        F.interpolate(pictures, size=20, mode="bicubic").clamp(0, 1), (4, 4, 4, 4)
    )  # laid out as MNIST's are
    params, _ = fit(pictures, initial(count, 1, seed=0, small=True), KINDS["dws"].recipe)
    reader, network, right = load_reader("mnist-inr"), Siren(), 0
    for k, label in enumerate(labels[:count].tolist()):
        network.load_state_dict(state(params, k))
        chances = reader(network, coordinates(28, 28)).softmax(0)
        right += int(chances.argmax()) == label
        print(f"a network of a {label} is read as a {int(chances.argmax())}, {float(chances.max()):.0%} sure")
    return right / count


if __name__ == "__main__":
    main()
