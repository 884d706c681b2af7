"""Meta-training: slots give gradients, the outer optimizer steps, validation chooses what is kept."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from meta_train.config import RunConfig
from meta_train.estimators.pes import pes_gradient
from meta_train.evaluate import Curve, Validation, score
from meta_train.folder import RunFolder
from meta_train.outer import Outer
from meta_train.parallel import Processes
from meta_train.rules import LearnedRule
from meta_train.slots import (
    Plan,
    SlotResult,
    SlotState,
    advance,
    enter,
    first_plan,
    next_plan,
    perturbations_of,
    steps_of,
)
from meta_train.tasks import FAMILIES, TaskError
from meta_train.tensor_files import group, load_optimizer, optimizer_tensors, prefixed
from meta_train.theta import Theta, mask_of
from ngopt.files import from_json
from ngopt.tensor_files import check_like

logger = logging.getLogger(__name__)
FAILED = -1.0  # in place of "this slot has a piece", where its task failed to build
MAX_FAILURES = 20  # in a row, of one slot
ON_DEVICE = ("average", "best", "accumulated")  # groups of a state; torch places the optimizer's itself


@dataclass
class Progress:
    """Counters and the best of a run. All JSON values."""

    iteration: int = 0
    dropped: int = 0  # optimizees, or pairs, with losses that are not finite
    steps: int = 0  # inner steps, summed over optimizees
    cpu_seconds: float = 0.0  # of all processes
    gpu_seconds: float = 0.0  # that GPUs were held, one by each process
    skipped_tasks: list[str] = field(default_factory=list)
    best_score: float = math.inf
    best_iteration: int = 0
    best_strength: float = 0.0
    best_table: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """A meta-training run.

    Args:
        config: Settings.
        rule: A fresh rule; trained in place.
        folder: Where states go; the run goes on from the last one there.
        processes: That share the work.

    Raises:
        RunFolderError: The folder cannot be used.
        ValueError: A family or part that does not exist.
    """

    def __init__(self, config: RunConfig, rule: LearnedRule, folder: RunFolder, processes: Processes) -> None:
        self.config, self.rule, self.folder, self.processes = config, rule, folder, processes
        named = [name for slot in config.slots for name in slot.families]
        if unknown := sorted({*named, *config.evaluation.families} - FAMILIES.keys()):
            raise ValueError(f"There are no task families {unknown}; these are known: {', '.join(sorted(FAMILIES))}.")
        self.device = next(rule.parameters()).device
        self.outer = Outer(rule, config.outer, config.iterations)
        initial: Theta = {name: value.detach().clone() for name, value in rule.named_parameters()}
        self.untrained = rule.shrunk(initial, 0.0)
        self.masks = [mask_of(slot.train, rule.parts(), self.untrained) for slot in config.slots]
        self.plans: list[Plan] = [first_plan(config, slot) for slot in range(len(config.slots))]
        self.accumulated: dict[int, Tensor] = {
            k: torch.zeros(slot.count, self.outer.size(), device=self.device)
            for k, slot in enumerate(config.slots)
            if slot.estimator == "pes"
        }
        # For each slot, the length of its gradient on the wire, and of its meta-losses.
        self.sizes = [
            (0 if slot.estimator == "pes" else self.outer.size(), slot.copies * slot.count) for slot in config.slots
        ]
        self.live: dict[int, SlotState] = {}
        self.failures = [0] * len(config.slots)  # in a row
        self.progress = Progress()
        self.best: Theta = {name: value.clone() for name, value in initial.items()}
        self.validation = Validation(rule, config.evaluation, self.untrained) if processes.first else None
        if (found := folder.load()) is not None:
            self._resume(*found)
        if processes.first:
            folder.trim_log(self.progress.iteration)

    @property
    def done(self) -> bool:
        """Whether all iterations were made."""
        return self.progress.iteration >= self.config.iterations

    def iterate(self) -> dict[str, Any]:
        """One outer step; returns what to log. Every process must call it."""
        started, busy = time.perf_counter(), time.process_time()
        iteration, slots = self.progress.iteration, self.config.slots
        theta = {name: value.detach() for name, value in self.rule.named_parameters()}
        steps = [steps_of(self.config, plan, iteration) for plan in self.plans]
        epsilons = {k: perturbations_of(self.config, k, iteration, self.masks[k]) for k in self.accumulated}
        own = {k: self._piece(k, theta, steps[k], epsilons.get(k)) for k in self.processes.owned(len(slots))}
        seconds = time.process_time() - busy
        packed = {slot: _pack(piece, self.sizes[slot], seconds / len(own)) for slot, piece in own.items()}
        gathered = self.processes.gather(packed, [sum(size) + 2 for size in self.sizes])
        total, row = torch.zeros(self.outer.size(), device=self.device), {"iteration": iteration + 1}
        for slot, vector in enumerate(gathered):
            self._absorb(slot, vector, steps[slot], epsilons.get(slot), total, row)
        self.outer.step(total / len(slots), iteration)
        self.progress.iteration += 1
        row |= {"seconds": time.perf_counter() - started, "lr": self.outer.lr_at(iteration)}
        self._count_gpu(row["seconds"])
        row |= {"dropped": self.progress.dropped, "skipped": len(self.progress.skipped_tasks)}
        return row

    def evaluate(self) -> list[dict[str, Any]]:
        """Validate the averaged rule at every strength, and keep the best. Only the first process does the work."""
        assert self.validation is not None
        rows = []
        started, busy = time.perf_counter(), time.process_time()
        for strength in self.config.evaluation.strengths:
            theta = self.rule.shrunk(self.outer.average, strength)
            found = self.validation(theta)
            value = score(found, self.config.evaluation.harm)
            table = [
                {"family": family, "horizon": horizon, **_versus(trained, untrained)}
                for (family, horizon), (trained, untrained) in found.items()
            ]
            rows.append({"iteration": self.progress.iteration, "strength": strength, "score": value, "table": table})
            if value < self.progress.best_score:
                self.progress.best_score, self.progress.best_strength = value, strength
                self.progress.best_iteration, self.progress.best_table = self.progress.iteration, table
                self.best = {name: x.clone() for name, x in theta.items()}
        self.progress.cpu_seconds += time.process_time() - busy
        self._count_gpu(time.perf_counter() - started)
        return rows

    def save(self) -> None:
        """Write the state. Every process must call it."""
        plans = [dataclasses.asdict(plan) for plan in self.plans]
        header = {"progress": dataclasses.asdict(self.progress), "plans": plans, "usual": self.outer.usual}
        header["failures"] = self.failures
        slots = {
            slot: ({str(k): x for k, x in enumerate(live.stack.tensors())}, {"step": live.stack.step})
            for slot, live in self.live.items()
        }
        self.folder.save(self.progress.iteration, (self._tensors(), header), slots)

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors that processes share."""
        return prefixed(
            theta=dict(self.outer.params),
            average=self.outer.average,
            best=self.best,
            optimizer=optimizer_tensors(self.outer.optimizer),
            accumulated={str(slot): x for slot, x in self.accumulated.items()},
        )

    def _count_gpu(self, seconds: float) -> None:
        """Count time of the run; while the first process validates, the GPUs of the others are held too."""
        if self.device.type == "cuda":
            self.progress.gpu_seconds += seconds * self.processes.world

    def _piece(self, slot: int, theta: Theta, steps: int, epsilon: Tensor | None) -> SlotResult | None:
        """What one of our slots gives; None if its task fails to build."""
        plan = self.plans[slot]
        if slot not in self.live or self.live[slot].plan.run != plan.run:
            try:
                self.live[slot] = enter(self.rule, theta, self.config.slots[slot], plan)
            except TaskError as error:
                logger.warning("Skipped: %s", error)
                return None
        return advance(self.rule, theta, self.config, self.live[slot], steps, epsilon)

    def _absorb(
        self, slot: int, vector: Tensor, steps: int, epsilon: Tensor | None, total: Tensor, row: dict[str, Any]
    ) -> None:
        """Add what a slot gave to the total gradient, count and log it, and move its plan on."""
        plan, settings = self.plans[slot], self.config.slots[slot]
        size, _ = self.sizes[slot]
        flag, seconds, losses = vector[0], float(vector[1]), vector[2 + size :].to(self.device)
        gradient = vector[2 : 2 + size].to(self.device)
        self.progress.cpu_seconds += seconds
        if float(flag) == FAILED:
            self._count_failure(slot)
            self.plans[slot] = next_plan(self.config, plan, 0)
            return
        self.failures[slot] = 0
        dropped = int((~torch.isfinite(losses)).sum())
        if epsilon is not None:
            self.accumulated[slot] += epsilon
            gradient, dropped = pes_gradient(self.accumulated[slot], losses, settings.sigma)
            # Meta-losses are means over a piece: steps of a short last one must not weigh more than others of the run.
            whole = settings.steps_at(self.progress.iteration, self.config.iterations)
            gradient *= steps / min(whole, plan.horizon)
        self.progress.dropped += dropped
        self.progress.steps += steps * len(losses)
        normalised = self.outer.normalised(gradient * self.masks[slot], f"{settings.estimator} {plan.family}")
        if normalised is None:
            self.progress.dropped += 1
        else:
            total += normalised
        kind = f"{slot} {settings.estimator} {plan.family}"
        row[f"meta_loss/{kind}"] = float(losses[torch.isfinite(losses)].mean())
        row[f"gradient_norm/{kind}"] = float(torch.linalg.vector_norm(gradient))
        self.plans[slot] = next_plan(self.config, plan, steps)
        if self.plans[slot].run != plan.run and slot in self.accumulated:
            self.accumulated[slot].zero_()

    def _count_failure(self, slot: int) -> None:
        plan = self.plans[slot]
        self.progress.skipped_tasks.append(f"{plan.family} {plan.task_seed}")
        self.failures[slot] += 1
        if self.failures[slot] >= MAX_FAILURES:
            enter(self.rule, self.untrained, self.config.slots[slot], plan)  # raises what is wrong

    def _resume(self, shared: tuple[dict[str, Tensor], dict[str, Any]], state: Any) -> None:
        with self.folder.believing(state / "shared.safetensors"):
            self._restore(*shared)
        for slot in self.processes.owned(len(self.plans)):
            with self.folder.believing(state / f"slot-{slot}.safetensors"):
                self._restore_slot(slot, state)

    def _restore(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """What all processes share."""
        check_like(tensors, self._tensors(), "The state", optional="optimizer/")
        self.progress = from_json(Progress, header["progress"], "The state")
        self.plans = [from_json(Plan, plan, "The state") for plan in header["plans"]]
        self.outer.usual = header["usual"]
        self.failures = header.get("failures", self.failures)  # older states do not have it
        with torch.no_grad():
            for name, value in group(tensors, "theta").items():
                self.outer.params[name].copy_(value)
        tensors = {name: x.to(self.device) if name.split("/")[0] in ON_DEVICE else x for name, x in tensors.items()}
        self.outer.average, self.best = group(tensors, "average"), group(tensors, "best")
        self.accumulated = {int(slot): x for slot, x in group(tensors, "accumulated").items()}
        load_optimizer(self.outer.optimizer, group(tensors, "optimizer"))

    def _restore_slot(self, slot: int, state: Any) -> None:
        plan = self.plans[slot]
        if plan.step == plan.begin:
            return  # its run has not begun
        live = enter(self.rule, self.untrained, self.config.slots[slot], dataclasses.replace(plan, begin=0))
        values, own = self.folder.read(state / f"slot-{slot}.safetensors")
        check_like(values, {str(k): x for k, x in enumerate(live.stack.tensors())}, "The slot")
        stack = live.stack.with_tensors(values[str(k)].to(self.device) for k in range(len(values)))
        self.live[slot] = SlotState(plan, live.task, dataclasses.replace(stack, step=own["step"]))


def _pack(piece: SlotResult | None, sizes: tuple[int, int], seconds: float) -> Tensor:
    """A slot's piece as one vector: a flag, processor seconds, gradient, meta-losses."""
    if piece is None:
        return torch.tensor([FAILED, seconds, *[0.0] * sum(sizes)])
    head = torch.tensor([1.0, seconds])
    return torch.cat([head, piece.gradient.float().cpu(), piece.meta_losses.float().cpu()])


def _versus(trained: Curve, untrained: Curve) -> dict[str, Any]:
    """Final losses of two rules, as geometric means, and their ratio."""
    return {
        "untrained": math.exp(untrained.final),
        "trained": math.exp(trained.final),
        "ratio": math.exp(trained.final - untrained.final),
        "mean_ratio": math.exp(trained.mean - untrained.mean),
        "diverged": trained.diverged,
    }
