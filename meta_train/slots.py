"""Slots: places where stacks of optimizees live, one run after another, and give one gradient per iteration.

What a slot does in an iteration (which task, which run, which steps) is its `Plan`: a few numbers, the same in every
process that shares the work. Its stack of optimizees (`SlotState`) lives in one process only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from meta_train.config import RunConfig, SlotConfig
from meta_train.estimators import spsa
from meta_train.estimators.backprop import backprop
from meta_train.estimators.pes import particles, perturbations
from meta_train.inner import Stack, make_step, start
from meta_train.rules import LearnedRule
from meta_train.seeds import derive, generator
from meta_train.tasks import Task, draw
from meta_train.tasks.drawing import choice, integer, log_uniform
from meta_train.theta import Theta, flatten, unflatten
from meta_train.unroll import meta_losses, unroll


@dataclass(frozen=True)
class Plan:
    """What a slot is about to do.

    Attributes:
        slot: Which slot.
        run: How many runs it finished or gave up.
        family: Task family.
        task_seed: Which task of it.
        horizon: Length of the run.
        begin: Steps that are made without a gradient before the run's first piece.
        step: Steps made so far.
    """

    slot: int
    run: int
    family: str
    task_seed: int
    horizon: int
    begin: int
    step: int

    @property
    def seed(self) -> int:
        """Seed of initial weights and batches."""
        return derive("run", self.slot, self.run, self.task_seed)


@dataclass
class SlotState:
    """The stack of a slot, with its task."""

    plan: Plan
    task: Task
    stack: Stack


@dataclass(frozen=True)
class SlotResult:
    """What a slot gives in an iteration.

    Attributes:
        gradient: ``[dim]``; empty from PES, whose gradient follows from the meta-losses.
        meta_losses: ``[optimizee]``; those that are not finite have no part in the gradient.
    """

    gradient: Tensor
    meta_losses: Tensor


def first_plan(config: RunConfig, slot: int) -> Plan:
    """Plan of a slot before the first iteration."""
    return _new_run(config, slot, 0, config.slots[slot].offset)


def next_plan(config: RunConfig, plan: Plan, steps: int) -> Plan:
    """Plan after a piece of so many steps; 0: the task failed to build, and the slot goes on with another."""
    step = plan.step + steps
    if steps and step < plan.horizon:
        return replace(plan, step=step, begin=0)
    return _new_run(config, plan.slot, plan.run + 1, False)


def steps_of(config: RunConfig, plan: Plan, iteration: int) -> int:
    """Inner steps of the piece that comes next."""
    return min(config.slots[plan.slot].steps_at(iteration, config.iterations), plan.horizon - plan.step)


def _new_run(config: RunConfig, slot: int, run: int, offset: bool) -> Plan:
    settings = config.slots[slot]
    drawn = generator("plan", config.seed, slot, run)
    family, task_seed = choice(drawn, settings.families), integer(drawn, 0, 2**62)
    low, high = settings.horizon
    horizon = min(high, max(low, round(log_uniform(drawn, low, high + 1))))
    begin = integer(drawn, 0, horizon) if offset else 0
    return Plan(slot, run, family, task_seed, horizon, begin, begin)


def enter(rule: LearnedRule, theta: Theta, settings: SlotConfig, plan: Plan) -> SlotState:
    """Build the task of a new run, and its stack where the first piece begins."""
    task = draw(plan.family, plan.task_seed)
    sizes = {"count": settings.count, "copies": settings.copies}
    stack = start(rule, task, **sizes, horizon=plan.horizon, seed=plan.seed)
    if plan.begin:
        with torch.no_grad():
            stack, _ = unroll(make_step(rule, task), theta, task, stack, plan.begin)
    return SlotState(plan, task, stack.detached())


def advance(
    rule: LearnedRule, theta: Theta, config: RunConfig, live: SlotState, steps: int, epsilon: Tensor | None
) -> SlotResult:
    """Run a piece of so many inner steps; the stack moves on.

    Args:
        rule: The learned optimizer.
        theta: Its meta-parameters.
        config: Of the run.
        live: The slot's stack, replaced by the one after the piece.
        steps: Inner steps.
        epsilon: Perturbations ``[pair, dim]`` of a PES slot.
    """
    settings, objective, first = config.slots[live.plan.slot], config.objective, live.stack.step
    if epsilon is not None:
        own = unflatten(particles(flatten(theta), epsilon), theta)
        with torch.no_grad():
            after, losses = unroll(make_step(rule, live.task, own_theta=True), own, live.task, live.stack, steps)
        gradient = torch.zeros(0)
    elif settings.estimator == "spsa":
        sigmas = settings.sigma * rule.action_scales().to(flatten(theta))
        moves = spsa.perturbations(live.plan.seed, settings.count, sigmas, list(live.stack.weights))
        gradient, after, losses = spsa.spsa(
            make_step(rule, live.task, moves=partial(spsa.moves_at, moves)),
            rule.actions,
            theta,
            live.task,
            live.stack,
            moves=moves,
            sigmas=sigmas,
            objective=objective,
        )
    else:
        gradient, after, losses = backprop(
            make_step(rule, live.task),
            theta,
            live.task,
            live.stack,
            steps=steps,
            segment=settings.segment,
            objective=objective,
            damping=settings.damping,
            growth=settings.growth,
        )
    live.stack = after.detached()
    return SlotResult(gradient, meta_losses(objective, losses, first, live.plan.horizon))


def perturbations_of(config: RunConfig, slot: int, iteration: int, mask: Tensor) -> Tensor:  # [pair, dim]
    """Perturbations of a PES slot in an iteration: a function of the config alone."""
    settings = config.slots[slot]
    return perturbations(derive("pes", config.seed, slot, iteration), settings.count, settings.sigma, mask)
