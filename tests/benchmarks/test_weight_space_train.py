"""The training loop: exact resume, the best epoch, one look at the test, losses that are not finite, short memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.weight_space import learning
from benchmarks.weight_space.folder import BEST, STATE, TrainingError
from benchmarks.weight_space.samples import Samples
from benchmarks.weight_space.step import backward_in_parts, in_parts, learning_rate, rate_groups
from benchmarks.weight_space.tasks import Classification
from benchmarks.weight_space.train import Trainer
from meta_train.tensor_files import read_tensors
from tests.benchmarks.weight_space_cases import Reader, settings, trainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
STEPS = 9  # 3 epochs of 3


class Task(Classification):
    """A classification that fails, or has losses that are not finite, at chosen calls."""

    def __init__(self, kill: int = -1, bad: range = range(0)) -> None:
        self.kill, self.bad, self.calls, self.tested = kill, bad, 0, 0

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.kill:
            raise KeyboardInterrupt
        return super().loss(output, targets) * (torch.nan if self.calls in self.bad else 1.0)

    def measure(self, output: Tensor, samples: Samples) -> dict[str, Tensor]:
        self.tested += len(samples) == 2  # of 10, at most 8 at once; only the test split has so many
        return super().measure(output, samples)


def weights(run: Trainer) -> dict[str, Tensor]:
    return read_tensors(run.folder / STATE)[0]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kill", [1, 2, 4, 6, 9])
@pytest.mark.parametrize("values", [{"ema": 0.8}, {"encoder": "mlp_aug", "amsgrad": True, "schedule": "constant"}])
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, kill: int, values: dict[str, Any]) -> None:
    whole = trainer(tmp_path / "whole", **values)
    expected = whole.run()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "killed", Task(kill=kill), **values).run()
    torch.manual_seed(123)  # whatever the new process did before
    task = Task()
    resumed = trainer(tmp_path / "killed", task, **values)
    outcome = resumed.run()
    assert same(weights(resumed), weights(whole))
    assert {k: v for k, v in outcome.items() if "second" not in k} == {
        k: v for k, v in expected.items() if "second" not in k
    }
    assert task.calls == STEPS - {1: 0, 2: 0, 4: 2, 6: 4, 9: 8}[kill]  # checkpoints: every second step
    other = trainer(tmp_path / "other", seed=1, **values)
    other.run()
    assert not same(weights(other), weights(whole))


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    outcome = first.run()
    task = Task()
    again = trainer(tmp_path, task).run()
    assert again == outcome
    assert task.calls == 0


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path)
    with pytest.raises(TrainingError, match=r"\(lr: 0.001 there, 0.1 asked for; seed: 0 there, 1 asked for\)"):
        trainer(tmp_path, lr=0.1, seed=1)


def test_best_epoch_by_validation_is_tested_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task()
    run = trainer(tmp_path, task)
    seen: list[dict[str, Tensor]] = []
    real = run.values

    def evaluate(split: str) -> dict[str, float]:
        assert split == "val" and not task.tested
        seen.append(run._weights())
        return {"accuracy": [10.0, 90.0, 90.0][len(seen) - 1]}  # a tie does not replace the first

    def values(split: str) -> dict[str, Tensor]:
        assert split == "test" and same(run._weights(), seen[1])  # the second of three epochs
        return real(split)

    monkeypatch.setattr(run, "evaluate", evaluate)
    monkeypatch.setattr(run, "values", values)
    outcome = run.run()
    assert task.tested == 1
    assert (outcome["best_epoch"], outcome["val"]) == (2, {"accuracy": 90.0})
    best, header = read_tensors(tmp_path / BEST)
    assert same(best, seen[1]) and not same(best, seen[2])
    assert header["config"]["seed"] == 0
    assert [row["val_accuracy"] for row in outcome["history"]] == [10.0, 90.0, 90.0]


def test_lower_is_better_for_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task()
    task.metric, task.higher_is_better = "loss", False
    run, values = trainer(tmp_path, task), iter([0.5, float("nan"), 0.7, 0.4])
    monkeypatch.setattr(run, "evaluate", lambda split: {"loss": next(values)})
    assert run.run()["best_epoch"] == 1


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path: Path) -> None:
    run = trainer(tmp_path, Task(bad=range(1, 4)))
    start = run._weights()
    for _ in range(3):
        run._step(STEPS, _Silent())
        assert same(start, run._weights())
    run._step(STEPS, _Silent())
    assert not same(start, run._weights())
    assert all(torch.isfinite(value).all() for value in run._weights().values())
    outcome = run.run()
    assert outcome["skipped_steps"] == 3
    json.dumps(outcome, allow_nan=False)


def test_twenty_skipped_steps_in_a_row_are_an_error(tmp_path: Path) -> None:
    bad = set(range(100)) - {5}
    run = trainer(tmp_path, Task(bad=bad), epochs=30)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"20 steps in a row, up to step 25.*Lower --lr"):
        run.run()


def test_no_finite_validation_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path)
    monkeypatch.setattr(run, "evaluate", lambda split: {"accuracy": float("nan")})
    with pytest.raises(TrainingError, match="No epoch had a finite validation accuracy"):
        run.run()


def test_short_memory_halves_batches_and_keeps_gradients() -> None:
    x, weight = torch.randn(10, 4), torch.randn(4, requires_grad=True)

    def loss_of(where: slice) -> Tensor:
        if where.stop - where.start > 3:
            (weight * 1e6).sum().backward()  # a part of the gradient was there already
            raise torch.OutOfMemoryError
        return (x[where] @ weight).square().mean()

    def clear() -> None:
        weight.grad = None

    with pytest.warns(UserWarning, match="Out of memory") as notices:
        loss, part = backward_in_parts(loss_of, clear, 0, 10, 10)
    assert part == 3
    assert ["5 of 10" in str(notices[0].message), "3 of 10" in str(notices[1].message)] == [True, True]
    (expected,) = torch.autograd.grad((x @ weight).square().mean(), weight)
    assert torch.allclose(weight.grad, expected)
    assert loss.item() == pytest.approx((x @ weight).square().mean().item())


@pytest.mark.filterwarnings("ignore:Out of memory")
def test_one_network_that_does_not_fit_is_an_error() -> None:
    def work(slices: list[slice]) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError, match="not enough memory for a single network"):
        in_parts(work, 10, 10)


@pytest.mark.filterwarnings("ignore:Out of memory")
def test_a_run_with_short_memory_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path)
    real = run.model.forward

    def forward(graph: Any, params: dict[str, Tensor]) -> Tensor:
        if len(params["seq.0.weight"]) > 4:
            raise torch.OutOfMemoryError
        return real(graph, params)

    monkeypatch.setattr(run.model, "forward", forward)
    assert run.run()["steps"] == STEPS
    assert run.progress.part == 4


def test_learning_rate() -> None:
    config = settings(lr=1.0, warmup=4)
    rates = [learning_rate(config, step, 10) for step in range(11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[7] == pytest.approx(0.5) and rates[10] == pytest.approx(0.0)
    assert learning_rate(settings(lr=1.0, warmup=4, schedule="constant"), 9, 10) == 1.0


def test_the_running_mean_is_what_is_tested(tmp_path: Path) -> None:
    run = trainer(tmp_path, ema=0.5)
    means = [run._weights()["body.0.weight"]]
    for step in range(4):
        run._step(STEPS, _Silent())
        now = run.model.state_dict()["body.0.weight"]
        share = 0.0 if step == 0 else min(0.5, (1 + step) / (10 + step))  # of what was before
        means.append(share * means[-1] + (1 - share) * now)
        torch.testing.assert_close(run._weights()["body.0.weight"], means[-1])
    assert not torch.allclose(now, means[-1])
    some = run.splits["val"][slice(0, 9)]
    run.model.eval()
    torch.testing.assert_close(run.output(some), run.mean.module(None, some.stacks[0].params))
    assert not torch.allclose(run.output(some), run.model(None, some.stacks[0].params)), "control"


def test_a_run_that_gets_no_better_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, values = trainer(tmp_path, patience=2, epochs=9), iter([10.0, 30.0, 20.0, 30.0, 90.0])
    monkeypatch.setattr(run, "evaluate", lambda split: {"accuracy": next(values)})
    outcome = run.run()
    assert (outcome["best_epoch"], len(outcome["history"]), outcome["steps"]) == (2, 4, 12)
    assert outcome["reads"] == 4 * 22


def test_precision_is_what_the_processor_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "has_bf16", lambda device: True)
    assert trainer(tmp_path / "has").bf16
    assert not trainer(tmp_path / "told", precision="fp32").bf16
    monkeypatch.setattr(learning, "FLOAT32_ONLY", Reader)
    assert not trainer(tmp_path / "only").bf16
    assert trainer(tmp_path / "insists", precision="bf16").bf16
    monkeypatch.setattr(learning, "has_bf16", lambda device: False)
    monkeypatch.setattr(learning, "FLOAT32_ONLY", ())
    assert not trainer(tmp_path / "has not").bf16


def test_an_encoder_learns_at_its_share_of_the_rate(tmp_path: Path) -> None:
    model = torch.nn.Module()
    model.encoder, model.readout = torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)
    groups = rate_groups(model, 0.1)
    assert [(len(group["params"]), group["share"]) for group in groups] == [(2, 1.0), (2, 0.1)]
    assert all(a is b for a, b in zip(groups[1]["params"], model.encoder.parameters(), strict=True))
    assert len(rate_groups(model, 1.0)) == 1
    run = trainer(tmp_path, encoder_lr=0.1, warmup=2, lr=0.5)
    run.model.encoder = run.model.body[0]
    run.optimizer = torch.optim.AdamW(rate_groups(run.model, 0.1), lr=1.0, fused=True)
    run._step(STEPS, _Silent())
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([0.25, 0.025])


def test_every_epoch_sees_every_network_once(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    epochs = [torch.cat([run._indices(3 * epoch + step) for step in range(3)]) for epoch in range(2)]
    assert [sorted(epoch.tolist()) for epoch in epochs] == [list(range(22))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


def test_bf16_and_compile_settings_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    run = trainer(tmp_path / "bf16", precision="bf16", compile=True)
    assert compiled == [run.model]
    plain = trainer(tmp_path / "fp32")
    plain.model.load_state_dict(run.model.state_dict())
    some = run.splits["val"][slice(0, 9)]
    half, full = run.model.eval() and run.output(some), plain.model.eval() and plain.output(some)
    assert half.dtype == full.dtype == torch.float32
    assert not torch.equal(half, full)
    assert torch.allclose(half, full, atol=0.05)


class _Silent:
    def step(self, *_: Any, **__: Any) -> None:
        """Log nothing."""


class _Direct:
    """In place of `Replay` on a CPU: the same work, done anew each time."""

    def __init__(self, work: Any, fail_at: int = -1) -> None:
        self.work, self.fail_at, self.calls = work, fail_at, 0

    def __call__(self, *inputs: Tensor) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise torch.OutOfMemoryError
        self.work(*inputs)


@pytest.mark.parametrize("fail_at", [-1, 3])
@pytest.mark.parametrize("values", [{"ema": 0.8}, {"symmetry": "mirror", "augment": False}])
def test_whole_steps_are_the_same_steps(tmp_path: Path, values: dict[str, Any], fail_at: int) -> None:
    """What a GPU replays, and how it goes on where memory is short for that."""
    plain, whole = trainer(tmp_path / "plain", **values), trainer(tmp_path / "whole", **values)
    whole.replay = direct = _Direct(whole._learn_whole, fail_at)  # type: ignore[assignment]
    expected, found = plain.run(), whole.run()
    assert direct.calls == (fail_at if fail_at > 0 else 2 * 3)  # the third batch of each epoch is smaller
    assert same(weights(plain), weights(whole))
    assert expected["history"] == found["history"] and expected["reads"] == found["reads"] == 66
    assert whole.replay is None


def test_what_cannot_be_replayed(tmp_path: Path) -> None:
    assert trainer(tmp_path / "a")._can_replay()
    changes = ({"noise": 0.1}, {"flip": True}, {"replay": False}, {"permute": True, "augment": False})
    for k, values in enumerate(changes):
        assert not trainer(tmp_path / str(k), **values)._can_replay()


@pytest.mark.gpu
@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_replayed_steps_are_the_same_steps(tmp_path: Path, ema: float) -> None:
    """On a GPU: recorded or not, the losses are the same."""
    outcomes = [
        trainer(tmp_path / str(replay), device="cuda", replay=replay, epochs=6, ema=ema).run()
        for replay in (True, False)
    ]
    first, second = ([row["train_loss"] for row in outcome["history"]] for outcome in outcomes)
    assert first == pytest.approx(second, rel=1e-5)
    assert first[-1] < first[0]
