"""Make one file of a classifier that was trained, with a card, for `ngopt.encoder.load_reader`.

python -m benchmarks.inr_classification save runs/inr_classification/mnist-dws-large/neuron_flow-seed0 out.safetensors
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ngopt
from benchmarks.inr_data.siren import Siren, coordinates
from benchmarks.weight_space.config import ConfigError
from benchmarks.weight_space.saving import best_of, config_of, save_command
from benchmarks.weight_space.session import ROW
from benchmarks.weight_space.suites import METANETWORKS
from ngopt.cards import card_page
from ngopt.encoder.reader import save_reader
from ngopt.files import read_json, write_text

MOST_BYTES = 2_000_000  # of a file that can be shipped
LIMITS = (
    "It reads networks of one architecture, with its names of parameters, that were fitted to such images from such "
    "starts: networks of other pictures, other starts or other recipes are outside of what it has seen, and nothing "
    "warns of that."
)


def save(run: Path, path: Path) -> Path:
    """Make one file of a run that has ended, and beside it a page with its card.

    Args:
        run: Its directory.
        path: File to write, ending in ``.safetensors``.

    Raises:
        ConfigError: The run has not ended, is not one of these, or is too large.
        CheckpointError: The path has another ending.
    """
    config = config_of(run, "inr_classification", ConfigError)
    if config.suite != "inr_classification" or config.encoder not in METANETWORKS or config.faithful or config.probes:
        raise ConfigError(f"{run} is a run of {config.suite}, {config.slug()}: a metanetwork without probes is needed.")
    tensors, _ = best_of(run, MOST_BYTES, ConfigError)
    row = read_json(run / ROW)
    channels = 3 if config.dataset.startswith("cifar10") else 1
    graph = ngopt.trace(Siren(channels), (coordinates(4, 4),), scalings=True)
    options = {"task": "classify", "outputs": 10, "encoder": config.encoder, **config.encoder_options()}
    card = {
        "what it is": f"Reads the weights of a SIREN with two hidden layers of 32 neurons and {channels} output(s), "
        "and says what its picture shows. Weights alone: it is never run.",
        "outputs": "logits of the digits 0 to 9" if config.dataset.startswith("mnist") else "logits of ten classes",
        "networks": f"{config.dataset}, size {config.size}: {row['networks']}",
        "test": row["test"],
        "validation": row["val"],
        "training": {name: row[name] for name in ("reads", "steps", "seconds", "parameters")}
        | {"on": row["machine"]["gpu"] or row["machine"]["processor"]},
        "made by": row["command"],
        "versions": row["versions"],
        "limits": LIMITS,
        "licence": "MIT",
    }
    save_reader(path, graph, tensors, options, card)
    write_text(path.with_suffix(".md"), card_page(path.stem, card))
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Save a classifier."""
    save_command("inr_classification", save, ValueError, argv)
