"""What a run tells while it goes: a line per iteration, TensorBoard, and a picture of its validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meta_train.folder import RunFolder
from meta_train.rules import LearnedRule
from meta_train.theta import Theta
from ngopt.extras import extra


class Log:
    """Writes the log of a run and its TensorBoard events.

    Args:
        folder: Of the run.
        iteration: Where the run goes on; events after it are forgotten.
    """

    def __init__(self, folder: RunFolder, iteration: int) -> None:
        with extra("train", "meta-training"):
            from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self.writer = SummaryWriter(str(folder.path / "tensorboard"), purge_step=iteration + 1)

    def iteration(self, row: Mapping[str, Any], inner_steps: int) -> None:
        """Log an outer step and the inner steps that it took."""
        self.folder.append_log(dict(row))
        step = row["iteration"]
        for name, value in row.items():
            if name != "iteration":
                self.writer.add_scalar(name if "/" in name else f"run/{name}", value, step)
        self.writer.add_scalar("run/inner_steps_per_second", inner_steps / max(1e-9, row["seconds"]), step)

    def evaluation(
        self, rows: list[dict[str, Any]], rule: LearnedRule, theta: Theta, statistics: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Log a validation, the sizes of the meta-parameters, the controls by family, and the learned schedule."""
        for row in rows:
            self.folder.append_log({"kind": "validation", **row})
            strength = f"strength {row['strength']:g}"
            self.writer.add_scalar(f"validation/score {strength}", row["score"], row["iteration"])
            for entry in row["table"]:
                tag = f"validation {entry['family']}/{entry['horizon']} steps, {strength}"
                self.writer.add_scalar(tag, entry["ratio"], row["iteration"])
        step = rows[0]["iteration"]
        for name, value in theta.items():
            self.writer.add_scalar(f"rms/{name}", float(value.square().mean().sqrt()), step)
        for family, values in statistics.items():
            for name, value in values.items():
                self.writer.add_scalar(f"controls of {family}/{name}", value, step)
        for name, values in rule.curves(theta).items():
            for k, value in enumerate(values):
                self.writer.add_scalar(f"{name}/at {k / (len(values) - 1):.1f} of the run", value, step)

    def close(self) -> None:
        """Flush and close."""
        self.writer.close()


def draw_validation(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw final losses relative to the untrained rule, over the iterations: below one is better.

    Args:
        rows: Of the log, those of validations.
        path: PNG file.
        title: Above the picture.
    """
    with extra("train", "the picture of a run"):
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

    strengths = sorted({row["strength"] for row in rows}, reverse=True)
    figure, axes = plt.subplots(1, len(strengths), figsize=(4.2 * len(strengths), 3.4), sharey=True, squeeze=False)
    for axis, strength in zip(axes[0], strengths, strict=True):
        curves: dict[str, tuple[list[int], list[float]]] = {}
        for row in (row for row in rows if row["strength"] == strength):
            for entry in row["table"]:
                x, y = curves.setdefault(f"{entry['family']}, {entry['horizon']} steps", ([], []))
                x.append(row["iteration"])
                y.append(entry["ratio"])
        for name, (x, y) in curves.items():
            axis.plot(x, y, marker="o", markersize=3, label=name.removeprefix("validation-"))
        axis.axhline(1.0, color="0.6", linewidth=1)
        axis.set(title=f"{strength:g} of the learned deviation", xlabel="outer step")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("final loss / untrained's")
    axes[0][-1].legend(fontsize=7)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
