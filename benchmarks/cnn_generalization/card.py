"""What is known about a predictor, as a page for people: the file beside the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.weight_space.tables import MEASURES, cell


def page(name: str, card: dict[str, Any]) -> str:
    """Markdown of a card; see `predictor.write`.

    Args:
        name: Of the predictor.
        card: Zoo, size, limits, and what its run found.
    """
    lines = [f"# {name}", "", f"Predicts accuracies on the images of the zoo {card['zoo']}, size {card['size']}."]
    if "test" in card:
        measures = MEASURES["cnn_generalization"]
        heads = ["networks", *(measure.title.removeprefix("test ") for measure in measures)]
        lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for split in ("test", *card.get("shifted", {})):  # a card is a row, where measures are concerned
            lines.append(f"| {' | '.join([split, *(cell(replace(m, split=split), [card]) for m in measures)])} |")
        counts = ", ".join(f"{count} {split}" for split, count in card["networks"].items())
        lines += ["", f"In brackets 95 % bootstrap intervals over training runs of the networks. Networks: {counts}."]
    lines += ["", card["limits"]]
    if "command" in card:
        versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
        lines += ["", f"Made by `{card['command']}` with {versions}. MIT licence."]
    return "\n".join(lines) + "\n"
