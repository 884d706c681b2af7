"""`NGOptimizer` in libraries that build optimizers themselves: Hugging Face's Trainer and timm.

Lightning, accelerate, skorch and fastai need nothing from here; docs/integrations.md has a recipe for each.
"""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any

from ngopt.optim.ngoptimizer import NGOptimizer

__all__ = ["register_timm", "trainer_optimizer"]


def trainer_optimizer(
    arguments: Any, train_dataset: Sized | None = None, **options: Any
) -> tuple[type[NGOptimizer], dict[str, Any]]:
    """What Hugging Face's ``Trainer`` takes as ``optimizer_cls_and_kwargs``.

    The Trainer's groups, with and without weight decay, stay as it makes them. With
    ``lr_scheduler_type="constant"`` the built-in schedule runs over the whole training; with any other, the Trainer's
    scheduler decides (``schedule="user"``). ``learning_rate`` of the arguments is meant for AdamW and is not used.

    Args:
        arguments: The Trainer's ``TrainingArguments``.
        train_dataset: Its data, to know the number of steps where ``max_steps`` does not say it.
        options: Of `NGOptimizer`, such as ``lr``.

    Raises:
        ValueError: A constant schedule is asked for, and the number of steps is not known.

    Example:
        >>> chosen = trainer_optimizer(arguments, train_dataset=data)  # doctest: +SKIP
        >>> Trainer(model, arguments, train_dataset=data, optimizer_cls_and_kwargs=chosen)  # doctest: +SKIP
    """
    if arguments.lr_scheduler_type == "constant":
        options = {"total_steps": _steps(arguments, train_dataset), **options}
    else:
        options = {"schedule": "user", **options}
    return NGOptimizer, options


def _steps(arguments: Any, train_dataset: Sized | None) -> int:
    """Optimizer steps of a whole training, counted as the Trainer counts them."""
    if arguments.max_steps > 0:
        return int(arguments.max_steps)
    if train_dataset is None:
        raise ValueError("The number of steps is not known: pass train_dataset=, or set max_steps in the arguments.")
    per_batch = arguments.train_batch_size * arguments.world_size
    whole = math.floor if arguments.dataloader_drop_last else math.ceil
    per_epoch = max(1, math.ceil(whole(len(train_dataset) / per_batch) / arguments.gradient_accumulation_steps))
    return math.ceil(arguments.num_train_epochs * per_epoch)


def register_timm(name: str = "ngopt") -> None:
    """Make `NGOptimizer` known to timm's ``create_optimizer_v2(model, opt=name, ...)``.

    timm's groups (no weight decay on vectors, rates by layer) stay as it makes them; further keywords, such as
    ``total_steps``, are handed on. Registering again changes nothing.

    Raises:
        ModuleNotFoundError: timm is not installed.
    """
    from timm.optim import _optim_factory as factory

    if name not in factory.default_registry.list_optimizers():
        factory.default_registry.register(
            factory.OptimInfo(
                name=name,
                opt_class=NGOptimizer,
                description="A learned optimizer that sees the network as a graph of its neurons",
                has_eps=False,
            )
        )
