"""Inner training: a stack of optimizees of one task, stepped together by one rule.

A step is a pure function of the rule's meta-parameters, so that estimators can differentiate through it (truncated
backpropagation) or give every optimizee meta-parameters of its own (evolution strategies). All optimizees of a stack
stand at the same step of runs of the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from meta_train.rules import LearnedRule, State
from meta_train.seeds import derive, generator
from meta_train.tasks import Batch, Task, Weights
from meta_train.theta import Theta

Moves = Callable[[float], dict[str, Tensor]]


@dataclass(frozen=True)
class Stack:
    """Optimizees in training.

    Attributes:
        weights: Each ``[optimizee, ...]``.
        state: The optimizer's, each ``[optimizee, ...]``.
        step: Steps made so far.
        horizon: Steps that the run will take.
        seed: Fixes initial weights and every batch.
        copies: The stack is so many copies of the same optimizees: same initial weights, batches and noise.
    """

    weights: Weights
    state: State
    step: int
    horizon: int
    seed: int
    copies: int = 1

    @property
    def done(self) -> bool:
        """Whether the run is over."""
        return self.step >= self.horizon

    @property
    def count(self) -> int:
        """How many optimizees, copies counted."""
        return len(next(iter(self.weights.values())))

    def tensors(self) -> list[Tensor]:
        """All weights, then all state, in a fixed order."""
        return [*self.weights.values(), *(x for entries in self.state.values() for x in entries.values())]

    def with_tensors(self, tensors: Iterable[Tensor]) -> Stack:
        """The same with other tensors, in the order of `tensors`."""
        values = iter(tensors)
        weights = {name: next(values) for name in self.weights}
        state = {name: {key: next(values) for key in entries} for name, entries in self.state.items()}
        return replace(self, weights=weights, state=state)

    def detached(self) -> Stack:
        """The same, cut off from what led to it."""
        return self.with_tensors(x.detach() for x in self.tensors())


def start(rule: LearnedRule, task: Task, *, count: int, horizon: int, seed: int, copies: int = 1) -> Stack:
    """A stack before its first step: ``count`` optimizees, each ``copies`` times."""
    drawn = task.init(derive("init", seed), count)
    device = next(rule.parameters()).device
    weights = {name: x.repeat(copies, *[1] * (x.ndim - 1)).to(device) for name, x in drawn.items()}
    state = {}
    for name, weight in weights.items():
        one = rule.init_state(task.graph, name, weight[0])
        state[name] = {key: x.expand(count * copies, *x.shape).clone() for key, x in one.items()}
    return Stack(weights, state, 0, horizon, seed, copies)


def batch_at(task: Task, stack: Stack) -> Batch:
    """The batches of the stack's next step: the same for the same seed and step, whatever was drawn before."""
    drawn = task.batch(generator("batch", stack.seed, stack.step), stack.count // stack.copies)
    like = next(iter(stack.weights.values()))
    drawn = tuple(x.to(like) if x.is_floating_point() else x.to(like.device) for x in drawn)
    return tuple(x.repeat(stack.copies, *[1] * (x.ndim - 1)) for x in drawn) if stack.copies > 1 else drawn


def make_step(
    rule: LearnedRule, task: Task, *, own_theta: bool = False, moves: Moves | None = None
) -> Callable[..., tuple[Stack, Tensor]]:
    """A function ``(theta, stack) -> (stack, losses [optimizee])`` that makes one step.

    The losses are those before the step, of batches that the weights have not seen.

    Args:
        rule: Its meta-parameters are given at each call.
        task: What the optimizees learn.
        own_theta: Every optimizee has its own meta-parameters, ``[optimizee, ...]``; else they share them.
        moves: What is added to what the rule says about each weight (`LearnedRule.actions`), each
            ``[optimizee, action]``, when a given share of the run is over.
    """
    applied = _Applied(rule)

    def one(theta, weights: Weights, state: State, batch: Batch, noise: Weights, moves: Weights, at: tuple[int, int]):
        grads, loss = grad_and_value(task.loss)(weights, batch)
        for name, drawn in noise.items():
            grads[name] = grads[name] + drawn * grads[name].detach().square().mean().sqrt()
        prefixed = {f"rule.{name}": value for name, value in theta.items()}
        updates, state = functional_call(applied, prefixed, (task.graph, weights, grads, state, moves, *at))
        return {name: weight + updates[name] for name, weight in weights.items()}, state, loss

    def step(theta: Theta, stack: Stack) -> tuple[Stack, Tensor]:
        at = (stack.step, stack.horizon)
        stacked = vmap(lambda *xs: one(*xs, at), in_dims=(0 if own_theta else None, 0, 0, 0, 0, 0))
        given = batch_at(task, stack), _gradient_noise(task, stack), moves(stack.step / stack.horizon) if moves else {}
        weights, state, losses = stacked(theta, stack.weights, stack.state, *given)
        return replace(stack, weights=weights, state=state, step=stack.step + 1), losses

    return step


def losses_of(task: Task, stack: Stack) -> Tensor:  # -> [optimizee]
    """Losses on the batches of the next step, without a step."""
    return vmap(task.loss)(stack.weights, batch_at(task, stack))


def _gradient_noise(task: Task, stack: Stack) -> Weights:
    if not task.gradient_noise:
        return {}
    drawn = generator("noise", stack.seed, stack.step)
    noise = {}
    for name, weight in stack.weights.items():
        one = torch.randn(weight.shape[0] // stack.copies, *weight.shape[1:], generator=drawn).to(weight)
        noise[name] = task.gradient_noise * one.repeat(stack.copies, *[1] * (weight.ndim - 1))
    return noise


class _Applied(nn.Module):
    """The rule's update as a module's forward pass, for `functional_call`."""

    def __init__(self, rule: LearnedRule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, graph, weights, grads, state, moves, step: int, horizon: int):
        given = {"moves": moves} if moves else {}
        return self.rule.update(graph, weights, grads, state, step=step, total_steps=horizon, **given)
