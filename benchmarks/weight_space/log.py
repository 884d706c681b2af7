"""What TensorBoard shows of a run."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from benchmarks.weight_space.pictures import tile


class Log:
    """Scalars of every step and epoch, and rendered pictures of an editing task.

    Args:
        folder: For the event files; None to log nothing.
        step: Where the run goes on; what an interrupted run logged after it is hidden.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self.writer = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

        self.writer = SummaryWriter(str(folder), purge_step=step or None)

    def step(self, step: int, **values: float) -> None:
        """Numbers of one training step."""
        for name, value in values.items() if self.writer else ():
            self.writer.add_scalar(f"train/{name}", value, step)

    def epoch(self, step: int, values: dict[str, float]) -> None:
        """Validation measures."""
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(f"val/{name}", value, step)
            self.writer.flush()

    def pictures(self, step: int, split: str, rows: Tensor) -> None:
        """What `before_after_target` made of networks of a split."""
        if self.writer:
            self.writer.add_image(f"{split}/before_after_target", tile(rows), step)

    def close(self) -> None:
        """Write what is left."""
        if self.writer:
            self.writer.close()
