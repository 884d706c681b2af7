"""One training loop for all tasks: stopped at any moment and started again, it ends with the same bits.

The best epoch is chosen by the validation networks; the test networks are looked at once, at the very end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from benchmarks.weight_space.augment import disturbed, disturbs, draw, moved
from benchmarks.weight_space.config import Config
from benchmarks.weight_space.folder import BEST, STATE, Progress, TrainingError, claim
from benchmarks.weight_space.log import Log
from benchmarks.weight_space.models import FLOAT32_ONLY, measured
from benchmarks.weight_space.pictures import before_after_target
from benchmarks.weight_space.replay import Replay
from benchmarks.weight_space.samples import Samples, counts
from benchmarks.weight_space.step import (
    backward_in_parts,
    follow,
    generator,
    has_bf16,
    in_parts,
    learning_rate,
    number,
    rate_groups,
)
from benchmarks.weight_space.tasks import Editing, Task, as_float32
from benchmarks.weight_space.together import Team
from meta_train import tensor_files as checkpoint
from ngopt.errors import FileError
from ngopt.files import from_json
from ngopt.tensor_files import check_like, reading

LOGGED_PICTURES = 8
MOST_SKIPPED = 20  # steps without a finite gradient in a row
BEAT = 50  # steps on a GPU between two looks at losses, which wait for it
READ_AT_ONCE = 1024  # networks that a GPU is tested on at a time


class Trainer:
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
        self.team = team or Team()
        if self.team.first:
            claim(folder, config)
        self.config, self.task, self.folder = config, task, folder
        self.splits = {name: samples.to(config.device) for name, samples in splits.items()}
        self.model = model.to(config.device)
        for stack in measured(self.splits["train"]):
            self.model.fit_statistics(stack.graph, stack.params)
        self.forward = torch.compile(self.model) if config.compile else self.model
        groups = rate_groups(self.model, config.encoder_lr)
        self.on_gpu = torch.device(config.device).type == "cuda"
        self.optimizer = torch.optim.AdamW(  # fused: can leave out a step without a look at its gradients
            groups,
            lr=config.lr,
            weight_decay=config.weight_decay,
            amsgrad=config.amsgrad,
            fused=True,
            capturable=self.on_gpu,
        )
        self.mean = None  # of weights over steps, which is what is tested
        if config.ema:
            self.mean = AveragedModel(self.model, device=torch.device(config.device))
        self.progress = Progress(part=config.batch_size)
        self.best = self._weights()
        bears = not isinstance(self.model, FLOAT32_ONLY)
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and bears and has_bf16(config.device))
        self._order = (-1, torch.zeros(0))  # an epoch, and its shuffle
        self._load()
        self._saved = self.progress.step
        if self.on_gpu:
            for group in self.optimizer.param_groups:
                group["lr"] = torch.zeros((), device=config.device)
        # Loss, gradient norm, and those numbers of `Progress` that training changes, where the model is.
        progress, self.seen = self.progress, torch.zeros(2, dtype=torch.float64, device=config.device)
        tally = [progress.loss_sum, progress.loss_count, progress.skipped, progress.skipped_in_row]
        self.tally = torch.tensor(tally, dtype=torch.float64, device=config.device)
        self.replay = None
        if self.on_gpu and self._can_replay():
            self.replay = Replay(self._learn_whole)

    @property
    def epoch_steps(self) -> int:
        """Steps per epoch; the last batch may be smaller."""
        return -(-len(self.splits["train"]) // self.config.batch_size)

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

    def output(self, samples: Samples) -> Any:
        """What the model says, in float32: of all networks, stack by stack."""
        mean = self.mean is not None and not self.model.training
        forward = self.mean.module.eval() if mean else self.forward
        with torch.autocast(torch.device(self.config.device).type, torch.bfloat16, enabled=self.bf16):
            outputs = [forward(stack.graph, stack.params) for stack in samples.stacks]
        return as_float32(outputs[0] if len(outputs) == 1 else torch.cat(outputs))

    @torch.no_grad()
    def pictures(self, task: Editing, split: str, count: int) -> Tensor:  # [3, net, channel, height, width]
        """What the first networks of a split show; see `before_after_target`."""
        samples = self.splits[split][slice(0, count)]
        self.model.eval()
        rows = before_after_target(task, samples, self.output(samples))
        self.model.train()
        return rows

    def _step(self, total: int, log: Log) -> bool:
        """One step; returns whether its loss was looked at."""
        config, progress, started, cpu = self.config, self.progress, time.perf_counter(), time.process_time()
        indices = self._indices(progress.step)
        random = generator(config.seed, "augment", progress.step)
        seed = number(config.seed, "dropout", progress.step, *([self.team.rank] if self.team.rank else []))
        lr = learning_rate(config, progress.step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"].fill_(lr * group["share"]) if self.on_gpu else lr * group["share"]
        self.model.train()
        if self._replayed(indices, seed):
            cpu = time.process_time() - cpu
        else:
            cpu = self._learn(indices, random, seed, cpu)
        progress.step += 1
        progress.networks += len(indices)
        looks = not self.on_gpu or progress.step % BEAT == 0 or progress.step % self.epoch_steps == 0
        if looks:
            self._look()
        seconds = time.perf_counter() - started
        progress.seconds, progress.cpu_seconds = progress.seconds + seconds, progress.cpu_seconds + cpu
        if looks:
            loss, norm = self.seen.tolist()
            speed = progress.networks / progress.seconds
            log.step(progress.step, loss=loss, lr=lr, gradient_norm=norm, networks_per_second=speed)
        return looks

    def _replayed(self, indices: Tensor, seed: int) -> bool:
        """Learn from some networks by `Replay`, if that can be."""
        config = self.config
        if self.replay is None or not len(indices) == config.batch_size == self.progress.part:
            return False
        torch.manual_seed(seed)
        random = generator(config.seed, "augment", self.progress.step)
        try:
            self.replay(indices, *draw(config, len(indices), random))
        except torch.OutOfMemoryError:  # before anything was changed; parts of a batch need less
            self.replay = None
            return False
        return True

    def _learn(self, indices: Tensor, random: torch.Generator, seed: int, cpu: float) -> float:
        """Learn from some networks, in parts if memory is short; returns processor seconds since ``cpu``."""
        progress, batch = self.progress, self._batch(indices, draw(self.config, len(indices), random))
        if disturbs(self.config):
            stacks = [replace(s, params=disturbed(s.params, self.config, random)) for s in batch.stacks]
            batch = replace(batch, stacks=tuple(stacks))
        part, progress.part = backward_in_parts(
            lambda s: self.task.loss(self.output(batch[s]), batch.targets[s]),
            lambda: self.optimizer.zero_grad(set_to_none=True),
            seed,
            len(batch),
            progress.part,
            self.team.share(len(batch)),
        )
        if self.team.world > 1:
            loss, cpu = self.team.add_gradients(self.model.parameters(), part.item(), time.process_time() - cpu)
            self._apply(part.new_tensor(loss))
            return cpu
        self._apply(part)
        return time.process_time() - cpu

    def _can_replay(self) -> bool:
        """Whether all steps do the same work on tensors of the same shapes, with random numbers drawn outside."""
        config, alike = self.config, len(self.splits["train"].stacks) == 1
        return config.replay and alike and self.team.world == 1 and not (disturbs(config) or config.compile)

    def _batch(self, indices: Tensor, draws: Sequence[Tensor]) -> Samples:
        """Some of the training networks, moved."""
        batch = self.splits["train"][indices]
        if not draws:
            return batch
        (stack,) = batch.stacks
        draws = [x.to(indices.device, non_blocking=True) for x in draws]
        params, targets = moved(stack.params, batch.targets, self.config, draws)
        return replace(batch, stacks=(replace(stack, params=params),), targets=targets)

    def _learn_whole(self, indices: Tensor, *draws: Tensor) -> Tensor:
        """The same as `_learn`, of a batch that fits into memory, for `Replay`."""
        batch = self._batch(indices, draws)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.task.loss(self.output(batch), batch.targets)
        loss.backward()
        self._apply(loss.detach())
        return self.seen

    def _apply(self, loss: Tensor) -> None:
        """Make the step for the gradients that are there, unless they are not finite; nothing waits for a GPU."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip).detach()
        bad = (~(loss.isfinite() & norm.isfinite())).float()
        self.optimizer.grad_scale, self.optimizer.found_inf = None, bad  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.mean is not None:
            follow(self.mean, self.model, self.config.ema, bad)
        self.seen.copy_(torch.stack([loss.double(), norm.double()]))
        bad, one = bad.double(), torch.ones_like(self.tally[0])
        self.tally.mul_(torch.stack([one, one, one, bad]))
        self.tally.add_(torch.stack([torch.where(bad > 0, 0.0, loss.double()), 1 - bad, bad, bad]))

    def _look(self) -> None:
        """Bring the numbers of training up to date; this waits for a GPU."""
        progress = self.progress
        progress.loss_sum, *counts = self.tally.tolist()
        progress.loss_count, progress.skipped, progress.skipped_in_row = map(int, counts)
        if progress.skipped_in_row >= MOST_SKIPPED:
            loss, norm = self.seen.tolist()
            raise TrainingError(
                f"{MOST_SKIPPED} steps in a row, up to step {progress.step}, had no finite gradient (loss {loss}, "
                f"gradient norm {norm}). Lower --lr, lengthen --warmup, or use --precision fp32, in a new folder."
            )

    def _indices(self, step: int) -> Tensor:
        """Which networks a step sees: every epoch has a shuffle of its own."""
        epoch, place = divmod(step, self.epoch_steps)
        if self._order[0] != epoch:
            order = self.splits["train"].order(generator(self.config.seed, "order", epoch), self.config.together)
            self._order = (epoch, order.to(self.config.device))
        return self._order[1][place * self.config.batch_size :][: self.config.batch_size]

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

    def _weights(self) -> dict[str, Tensor]:
        """Those that are tested."""
        model = self.model if self.mean is None else self.mean.module
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

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
        self.best, self.progress = best, progress
