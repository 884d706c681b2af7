"""What is known about a predictor, as a page for people: the file beside the weights."""

from __future__ import annotations

from typing import Any


def page(name: str, card: dict[str, Any]) -> str:
    """Markdown of a card; see `predictor.write`.

    Args:
        name: Of the predictor.
        card: Zoo, size, limits, and what its run found.
    """
    lines = [f"# {name}", "", f"Predicts accuracies on the images of the zoo {card['zoo']}, size {card['size']}."]
    if "test" in card:
        splits = {"test": card["test"], **card.get("shifted", {})}
        lines += ["", "| networks | Kendall τ-b | R² | mean absolute error (points) |", "|---|---|---|---|"]
        lines += [_line(split, measures, card["intervals"].get(split, {})) for split, measures in splits.items()]
        counts = ", ".join(f"{count} {split}" for split, count in card["networks"].items())
        lines += ["", f"In brackets 95 % bootstrap intervals over training runs of the networks. Networks: {counts}."]
    lines += ["", card["limits"]]
    if "command" in card:
        versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
        lines += ["", f"Made by `{card['command']}` with {versions}. MIT licence."]
    return "\n".join(lines) + "\n"


def _line(split: str, measures: dict[str, float], intervals: dict[str, list[float]]) -> str:
    cells = [split]
    for name, digits in (("tau", 3), ("r2", 3), ("mae", 2)):
        ends = ", ".join(f"{end:.{digits}f}" for end in intervals.get(name, []))
        cells.append(f"{measures[name]:.{digits}f}" + (f" [{ends}]" if ends else ""))
    return "| " + " | ".join(cells) + " |"
