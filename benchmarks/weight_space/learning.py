"""Steps of training: what a model learns from a batch, without waiting for a GPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from benchmarks.weight_space.augment import disturbed, disturbs, draw, moved
from benchmarks.weight_space.config import Config
from benchmarks.weight_space.folder import Progress, TrainingError
from benchmarks.weight_space.log import Log
from benchmarks.weight_space.models import FLOAT32_ONLY, measured
from benchmarks.weight_space.replay import Replay
from benchmarks.weight_space.samples import Samples
from benchmarks.weight_space.step import (
    backward_in_parts,
    follow,
    generator,
    has_bf16,
    learning_rate,
    number,
    rate_groups,
)
from benchmarks.weight_space.tasks import Task, as_float32
from benchmarks.weight_space.together import Team

MOST_SKIPPED = 20  # steps without a finite gradient in a row
BEAT = 50  # steps on a GPU between two looks at losses, which wait for it


class Learner:
    """A model that learns from networks, step by step.

    Args:
        config: Settings.
        task: What is learned.
        splits: See `benchmarks.weight_space.train.Trainer`.
        model: Trained in place, on the device of ``config``.
        team: The processes that share the run.
    """

    def __init__(self, config: Config, task: Task, splits: dict[str, Samples], model: nn.Module, team: Team) -> None:
        self.config, self.task, self.team = config, task, team
        self.on_gpu = torch.device(config.device).type == "cuda"
        self.splits = {name: samples.to(config.device) for name, samples in splits.items()}
        self.model = model.to(config.device)
        for stack in measured(self.splits["train"]):
            self.model.fit_statistics(stack.graph, stack.params)
        self.forward = torch.compile(self.model) if config.compile else self.model
        self.optimizer = torch.optim.AdamW(  # fused: can leave out a step without a look at its gradients
            rate_groups(self.model, config.encoder_lr),
            lr=config.lr,
            weight_decay=config.weight_decay,
            amsgrad=config.amsgrad,
            fused=True,
            capturable=self.on_gpu,
        )
        self.mean = None  # of weights over steps, which is what is tested
        if config.ema:
            self.mean = AveragedModel(self.model, device=torch.device(config.device))
        bears = not isinstance(self.model, FLOAT32_ONLY)
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and bears and has_bf16(config.device))
        self._order = (-1, torch.zeros(0))  # an epoch, and its shuffle
        self.replay = Replay(self._learn_whole) if self.on_gpu and self._can_replay() else None
        self.begin(Progress(part=config.batch_size))

    def begin(self, progress: Progress) -> None:
        """Go on from here: weights and the state of the optimizer are in place."""
        self.progress, device = progress, self.config.device
        # Loss, gradient norm, and those numbers of `Progress` that training changes, where the model is.
        self.seen = torch.zeros(2, dtype=torch.float64, device=device)
        tally = [progress.loss_sum, progress.loss_count, progress.skipped, progress.skipped_in_row]
        self.tally = torch.tensor(tally, dtype=torch.float64, device=device)
        if self.on_gpu:
            for group in self.optimizer.param_groups:
                group["lr"] = torch.zeros((), device=device)

    @property
    def epoch_steps(self) -> int:
        """Steps per epoch; the last batch may be smaller."""
        return -(-len(self.splits["train"]) // self.config.batch_size)

    def output(self, samples: Samples) -> Any:
        """What the model says, in float32: of all networks, stack by stack."""
        mean = self.mean is not None and not self.model.training
        forward = self.mean.module.eval() if mean else self.forward
        with torch.autocast(torch.device(self.config.device).type, torch.bfloat16, enabled=self.bf16):
            outputs = [forward(stack.graph, stack.params) for stack in samples.stacks]
        return as_float32(outputs[0] if len(outputs) == 1 else torch.cat(outputs))

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

    def _learn_whole(self, indices: Tensor, *draws: Tensor) -> Tensor:
        """The same as `_learn`, of a batch that fits into memory, for `Replay`."""
        batch = self._batch(indices, draws)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.task.loss(self.output(batch), batch.targets)
        loss.backward()
        self._apply(loss.detach())
        return self.seen

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

    def _weights(self) -> dict[str, Tensor]:
        """Those that are tested."""
        model = self.model if self.mean is None else self.mean.module
        return {name: value.detach().clone() for name, value in model.state_dict().items()}
