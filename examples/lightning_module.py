"""Train a LightningModule with `ngopt.NGOptimizer`; the data is made up, nothing is downloaded.

    python examples/lightning_module.py --epochs 5

`configure_optimizers` hands the whole module to the optimizer. Its own ``forward`` is never called here, only that of
the network inside it; the optimizer finds that out and captures the graph there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ngopt


class Classifier(lightning.LightningModule):
    """A network, its loss, and its optimizer."""

    def __init__(self, total_steps: int) -> None:
        super().__init__()
        self.total_steps = total_steps
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The one line that matters."""
        return ngopt.NGOptimizer(self, total_steps=self.total_steps)


def make_data(size: int = 512, batch: int = 32) -> DataLoader:
    """Points in a box, labelled by which of three random projections is largest."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 8, generator=generator)
    y = (x @ torch.randn(8, 3, generator=generator)).argmax(1)
    return DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)


def main(argv: Sequence[str] | None = None) -> Classifier:
    """Train, print the loss at the start and at the end, and return the module."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args(argv)

    lightning.seed_everything(0, verbose=False)
    data = make_data()
    module = Classifier(total_steps=options.epochs * len(data))
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    print(f"loss {module.losses[0]:.3f} -> {module.losses[-1]:.3f} in {trainer.global_step} steps")
    return module


if __name__ == "__main__":
    main()
