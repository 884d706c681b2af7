"""Optimizers that other libraries build: same groups as theirs, the right horizon, and they train."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import ngopt
from ngopt.integrations import register_timm, trainer_optimizer

ignoring_warnings = pytest.mark.filterwarnings("ignore")  # of other packages


def needs(package: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(package)


def arguments(**changes: Any) -> SimpleNamespace:
    values = {"max_steps": -1, "num_train_epochs": 2.5, "train_batch_size": 4, "world_size": 2}
    values |= {"gradient_accumulation_steps": 3, "dataloader_drop_last": False, "lr_scheduler_type": "constant"}
    return SimpleNamespace(**values | changes)


@ignoring_warnings  # parameters of no module
@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, {"total_steps": 13}),  # 14 batches, 5 steps in an epoch
        ({"dataloader_drop_last": True}, {"total_steps": 13}),
        ({"max_steps": 7}, {"total_steps": 7}),
        ({"lr_scheduler_type": "linear"}, {"schedule": "user"}),
    ],
)
def test_the_horizon_comes_from_the_arguments(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    chosen, options = trainer_optimizer(arguments(**changes), range(111), lr=0.5)
    assert options == {**expected, "lr": 0.5}
    assert isinstance(chosen([{"params": nn.Linear(2, 2).parameters()}], **options), ngopt.NGOptimizer)


def test_an_unknown_number_of_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match="pass train_dataset="):
        trainer_optimizer(arguments())


@ignoring_warnings
@pytest.mark.parametrize("scheduler", ["constant", "cosine"])
def test_hugging_face_trainer(scheduler: str, tmp_path: Path) -> None:
    transformers = needs("transformers")
    needs("accelerate")
    x = torch.randn(96, 6)
    data = [{"x": row, "labels": (row[0] > 0).long()} for row in x]
    model = Classifier()
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=3,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        weight_decay=0.1,
        lr_scheduler_type=scheduler,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    chosen = trainer_optimizer(settings, data)
    trainer = transformers.Trainer(model, settings, train_dataset=data, optimizer_cls_and_kwargs=chosen)
    before = trainer.evaluate(data)["eval_loss"]
    trainer.train()
    optimizer = trainer.optimizer.optimizer
    assert isinstance(optimizer, ngopt.NGOptimizer)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert optimizer.param_groups[0]["step"] == trainer.state.max_steps == 9
    assert optimizer.param_groups[0]["total_steps"] == (9 if scheduler == "constant" else None)
    assert trainer.evaluate(data)["eval_loss"] < before


class Classifier(nn.Module):
    """An MLP with a norm, as the Trainer calls models."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.body(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@ignoring_warnings
def test_timm_factory() -> None:
    timm_optim = needs("timm.optim")
    register_timm()
    register_timm()  # again: no warning, no change
    model = Classifier()
    optimizer = timm_optim.create_optimizer_v2(model, opt="ngopt", lr=1.0, weight_decay=0.05, total_steps=20)
    assert isinstance(optimizer, ngopt.NGOptimizer)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}
    assert {group["total_steps"] for group in optimizer.param_groups} == {20}
    x = torch.randn(64, 6)
    labels = (x[:, 0] > 0).long()
    losses = []
    for _ in range(20):
        loss = model(x, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@ignoring_warnings
def test_accelerate() -> None:
    accelerate = needs("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = Classifier()
    data = [(row, (row[0] > 0).long()) for row in torch.randn(64, 6)]
    loader = torch.utils.data.DataLoader(data, batch_size=16)
    model, optimizer, loader = accelerator.prepare(model, ngopt.NGOptimizer(model, total_steps=8), loader)
    for _ in range(2):
        for x, labels in loader:
            optimizer.zero_grad()
            accelerator.backward(model(x, labels)["loss"])
            optimizer.step()
    assert optimizer.optimizer.param_groups[0]["step"] == 8 and optimizer.optimizer.graph is not None


@ignoring_warnings
def test_skorch() -> None:
    skorch = needs("skorch")
    x = torch.randn(96, 6)
    y = (x[:, 0] > 0).long()
    net = skorch.NeuralNetClassifier(
        lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)),
        criterion=nn.CrossEntropyLoss,
        optimizer=ngopt.NGOptimizer,
        lr=1.0,
        optimizer__total_steps=60,
        iterator_train__shuffle=True,
        max_epochs=10,
        batch_size=16,
        train_split=None,
        verbose=0,
    )
    net.fit(x.numpy(), y.numpy())
    assert net.optimizer_.param_groups[0]["step"] == 60 and net.optimizer_.graph is not None
    assert net.score(x.numpy(), y.numpy()) > 0.9


@ignoring_warnings
@pytest.mark.parametrize("fit", ["fit", "fit_flat_cos"])
def test_fastai(fit: str) -> None:
    needs("fastai")
    from functools import partial

    from fastai.callback import progress, schedule  # noqa: F401  they give learners `no_bar` and `fit_flat_cos`
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    data = [(row, (row[0] > 0).long()) for row in torch.randn(128, 6)]
    loaders = DataLoaders.from_dsets(data, data[:64], bs=16, device=torch.device("cpu"))
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    chosen = partial(OptimWrapper, opt=ngopt.NGOptimizer, schedule="user")
    learner = Learner(loaders, model, loss_func=nn.CrossEntropyLoss(), opt_func=chosen)
    with learner.no_bar(), learner.no_logging():
        before = learner.validate()[0]
        getattr(learner, fit)(5, 1.0)
        assert learner.validate()[0] < 0.7 * before
    assert learner.opt.opt.param_groups[0]["step"] == 40 and learner.opt.opt.graph is not None
