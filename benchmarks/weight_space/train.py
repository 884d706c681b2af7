"""One training loop for all tasks: stopped at any moment and started again, it ends with the same bits.

The best epoch is chosen by the validation networks; the test networks are looked at once, at the very end.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.weight_space.config import Config
from benchmarks.weight_space.folder import BEST, STATE, Progress, TrainingError, claim
from benchmarks.weight_space.learning import Learner
from benchmarks.weight_space.log import Log
from benchmarks.weight_space.pictures import before_after_target
from benchmarks.weight_space.samples import Samples, counts
from benchmarks.weight_space.step import (
    in_parts,
)
from benchmarks.weight_space.tasks import Editing, Task
from benchmarks.weight_space.together import Team
from meta_train import tensor_files as checkpoint
from ngopt.errors import FileError
from ngopt.files import from_json
from ngopt.tensor_files import check_like, reading

LOGGED_PICTURES = 8
READ_AT_ONCE = 1024  # networks that a GPU is tested on at a time


class Trainer(Learner):
    """A run: model, data, and where it stands.

    Args:
        config: Settings.
        task: What is learned.
        splits: "train", "val", "test", and others to test on. Networks may be of one architecture or of many: those
            of a batch that share one are read as a stack.
        model: Trained in place, on the device of ``config``.
        folder: The run directory: settings, checkpoint, best model, logs.
        team: The processes that share the run.

    Raises:
        TrainingError: The directory holds a run with other settings.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        splits: dict[str, Samples],
        model: nn.Module,
        folder: Path,
        team: Team | None = None,
    ) -> None:
        team = team or Team()
        if team.first:
            claim(folder, config)
        super().__init__(config, task, splits, model, team)
        self.folder = folder
        self.best = self._weights()
        self._load()
        self._saved = self.progress.step

    def run(self) -> dict[str, Any]:
        """Train to the end, then test the best epoch's model; returns what is to be said about the run.

        Raises:
            TrainingError: Too many steps in a row had no finite gradient, or no epoch a finite validation measure.
        """
        total, progress = self.config.epochs * self.epoch_steps, self.progress
        log = Log(self.folder / "tensorboard" if self.team.first else None, progress.step)
        with tqdm(
            total=total, initial=progress.step, desc=self.folder.name, unit="step", disable=not self.team.first
        ) as bar:
            while progress.step < total and not self._given_up():
                if self._step(total, log):
                    bar.set_postfix({"loss": f"{self.seen[0]:.4f}", **self._best_so_far()}, refresh=False)
                bar.update()
                if progress.step % self.epoch_steps == 0:
                    self._end_epoch(log)
                if progress.step - self._saved >= self.config.checkpoint_steps:
                    self._save()
        if progress.step > self._saved:
            self._save()
        self.replay = None  # which holds on to much memory
        outcome = self._test()
        log.close()
        return outcome

    def evaluate(self, split: str) -> dict[str, float]:
        """All measures of a split."""
        return self.task.summary(self.values(split), self.splits[split])

    def values(self, split: str) -> dict[str, Tensor]:
        """What the task measures of each network of a split, ``[net]``."""
        samples = self.splits[split][self.team.share(len(self.splits[split]))]
        self.model.eval()
        with torch.no_grad():
            # As many at once as in training: published NG-GNN normalises over whatever is in the batch.
            size = self.progress.part
            if self.on_gpu and not self.config.faithful and size == self.config.batch_size:
                size = max(size, READ_AT_ONCE)
            parts, _ = in_parts(lambda slices: [self._measure(samples[s]) for s in slices], len(samples), size)
        self.model.train()
        return self.team.joined({name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def _measure(self, samples: Samples) -> dict[str, Tensor]:
        return self.task.measure(self.output(samples), samples)

    @torch.no_grad()
    def pictures(self, task: Editing, split: str, count: int) -> Tensor:  # [3, net, channel, height, width]
        """What the first networks of a split show; see `before_after_target`."""
        samples = self.splits[split][slice(0, count)]
        self.model.eval()
        rows = before_after_target(task, samples, self.output(samples))
        self.model.train()
        return rows

    def _end_epoch(self, log: Log) -> None:
        """Validate, and remember the model if it is the best so far."""
        progress, epoch = self.progress, self.progress.step // self.epoch_steps
        values = self.evaluate("val")
        row = {"epoch": epoch, **{f"val_{name}": value for name, value in values.items()}}
        if progress.loss_count:
            row["train_loss"] = progress.loss_sum / progress.loss_count
        progress.history.append(row)
        progress.loss_sum, progress.loss_count = 0.0, 0
        self.tally[:2] = 0.0
        sign, metric = (1 if self.task.higher_is_better else -1), self.task.metric
        before = sign * progress.best[metric] if progress.best else -math.inf
        if math.isfinite(values[metric]) and sign * values[metric] > before:
            progress.best, progress.best_epoch, self.best = values, epoch, self._weights()
        log.epoch(progress.step, values)
        if isinstance(self.task, Editing):
            log.pictures(progress.step, "val", self.pictures(self.task, "val", LOGGED_PICTURES))

    def _given_up(self) -> bool:
        """Whether validation has not become better for as long as the settings bear."""
        progress, patience = self.progress, self.config.patience
        waited = progress.step // self.epoch_steps - max(progress.best_epoch, 0)
        return bool(patience) and progress.step % self.epoch_steps == 0 and waited >= patience

    def _best_so_far(self) -> dict[str, str]:
        best = self.progress.best.get(self.task.metric)
        return {} if best is None else {f"val_{self.task.metric}": f"{best:.4g}"}

    def _test(self) -> dict[str, Any]:
        """Measures of the best model on the test networks; writes the model."""
        progress = self.progress
        if progress.best_epoch < 0:
            raise TrainingError(f"No epoch had a finite validation {self.task.metric}. Lower --lr, in a new folder.")
        self.model.load_state_dict(self.best)
        self.mean = None  # the best is one already
        values = {split: self.values(split) for split in self.splits if split not in ("train", "val")}
        outcome = {
            "test": self.task.summary(values["test"], self.splits["test"]),
            "val": progress.best,
            "best_epoch": progress.best_epoch,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "steps": progress.step,
            "skipped_steps": progress.skipped,
            "reads": progress.networks,
            "seconds": round(progress.seconds, 2),
            "cpu_seconds": round(progress.cpu_seconds, 2),
            "networks_per_second": round(progress.networks / progress.seconds, 2),
            "networks_per_cpu_second": round(progress.networks / progress.cpu_seconds, 2),
            "processes": self.team.world,
            "precision": "bf16" if self.bf16 else "fp32",
            **counts(self.splits),
            "history": progress.history,
            **self.task.details(values, self.splits),
        }
        header = {"config": asdict(self.config), "val": progress.best, "task": self.task.saved(self.splits["train"])}
        if self.team.first:
            checkpoint.write_tensors(self.folder / BEST, self.best, header)
        return outcome

    def _save(self) -> None:
        self._look()
        self._saved = self.progress.step
        if not self.team.first:
            return
        mean = {} if self.mean is None else {"mean": self.mean.state_dict()}
        tensors = checkpoint.prefixed(
            model=self.model.state_dict(),
            best=self.best,
            optimizer=checkpoint.optimizer_tensors(self.optimizer),
            **mean,
        )
        checkpoint.write_tensors(self.folder / STATE, tensors, asdict(self.progress))

    def _load(self) -> None:
        if not (self.folder / STATE).is_file():
            return
        try:
            with reading(self.folder / STATE):
                self._restore(*checkpoint.read_tensors(self.folder / STATE))
        except FileError as error:
            raise TrainingError(
                f"{error} Remove {self.folder / STATE}: the run then starts again from its beginning."
            ) from error

    def _restore(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        model, best, mean = (checkpoint.group(tensors, name) for name in ("model", "best", "mean"))
        for found in (model, best):
            check_like(found, self.model.state_dict(), self.folder / STATE)
        progress = from_json(Progress, header, self.folder / STATE)
        if self.mean is not None:
            check_like(mean, self.mean.state_dict(), self.folder / STATE)
            self.mean.load_state_dict(mean)
        checkpoint.load_optimizer(self.optimizer, checkpoint.group(tensors, "optimizer"))
        self.model.load_state_dict(model)
        self.best = best
        self.begin(progress)
