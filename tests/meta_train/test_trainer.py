"""Runs that are killed, resumed, shared among processes, or badly fed: the same bits, or a clear error."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import meta_train_cases
import pytest
import torch
from meta_train_cases import BACKPROP, PES, VALUES, config_of, trainer_of

import meta_train.folder
from meta_train.__main__ import main, train
from meta_train.card import make_card
from meta_train.config import read_config
from meta_train.folder import LOG, RunFolderError
from meta_train.tasks import TaskError
from meta_train.tensor_files import read_tensors, write_tensors
from meta_train.trainer import MAX_FAILURES, Trainer
from ngopt import load_pretrained

SCRIPT = meta_train_cases.__file__
ITERATIONS = VALUES["iterations"]


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny families."""
    meta_train_cases.register(monkeypatch.setitem)


def bits(trainer: Trainer) -> dict[str, torch.Tensor]:
    """All that comes out of a run, and all that goes on."""
    found = {f"theta {name}": value.detach() for name, value in trainer.outer.params.items()}
    found |= {f"average {name}": value for name, value in trainer.outer.average.items()}
    found |= {f"best {name}": value for name, value in trainer.best.items()}
    return found | {f"accumulated {slot}": value for slot, value in trainer.accumulated.items()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """The run that nothing happened to."""
    with pytest.MonkeyPatch.context() as patch:
        meta_train_cases.register(patch.setitem)
        trainer = trainer_of(config_of(), tmp_path_factory.mktemp("whole"))
        train(trainer, ITERATIONS)
    return trainer


def logged(path: Path, kind: str | None = None) -> list[int]:
    rows = [json.loads(line) for line in (path / LOG).read_text().splitlines()]
    return [row["iteration"] for row in rows if row.get("kind") == kind]


@pytest.mark.parametrize("killed_at", [1, 3, 4, 6])
def test_killed_and_resumed(killed_at: int, tmp_path: Path, uninterrupted: Trainer) -> None:
    """States come every other iteration: after a kill at an odd one, an iteration is made and logged again."""
    first = trainer_of(config_of(), tmp_path)
    while first.progress.iteration < killed_at:  # what `train` does until it is killed
        row = first.iterate()
        first.folder.append_log(row)
        if first.progress.iteration % 3 == 0:
            first.folder.append_log({"kind": "validation", **first.evaluate()[0]})
        if first.progress.iteration % 2 == 0:
            first.save()
    (tmp_path / LOG).write_text((tmp_path / LOG).read_text() + '{"iteration": 9, "cut')
    second = trainer_of(config_of(), tmp_path)
    assert second.progress.iteration == killed_at // 2 * 2
    train(second, ITERATIONS)
    assert same(bits(second), bits(uninterrupted))
    assert second.progress.steps == uninterrupted.progress.steps
    assert second.plans == uninterrupted.plans and second.outer.usual == uninterrupted.outer.usual
    assert logged(tmp_path) == list(range(1, ITERATIONS + 1))
    assert len(list(tmp_path.glob("state-*"))) == 1


def test_what_is_compared_depends_on_all_of_the_state(tmp_path: Path, uninterrupted: Trainer) -> None:
    """Controls: the same bits do not come by themselves."""
    assert not same(bits(trainer_of(config_of(), tmp_path / "untrained")), bits(uninterrupted))
    path = tmp_path / "forgetful"
    first = trainer_of(config_of(), path)
    while not (all(plan.step > plan.begin for plan in first.plans) and first.accumulated[0].any()):
        first.iterate()  # until all slots are in the middle of runs
    first.save()
    assert first.progress.iteration < ITERATIONS - 1
    for forget in ("accumulated", "live", "optimizer"):
        second = trainer_of(config_of(), path)
        if forget == "accumulated":
            second.accumulated[0].zero_()
        elif forget == "live":
            for live in second.live.values():
                live.stack = live.stack.with_tensors(torch.zeros_like(x) for x in live.stack.tensors())
        else:
            second.outer.optimizer.state.clear()
        while not second.done:
            second.iterate()
        ours = {name: value for name, value in bits(second).items() if name.startswith("theta")}
        theirs = {name: value for name, value in bits(uninterrupted).items() if name.startswith("theta")}
        assert not same(ours, theirs), forget


def write_config(path: Path, **changes: Any) -> Path:
    """A TOML file of the tiny run."""
    values = {**VALUES, **changes}
    slots, tables = values.pop("slots"), {k: v for k, v in values.items() if isinstance(v, dict)}
    lines = [f"{k} = {json.dumps(v)}" for k, v in values.items() if k not in tables]
    for name, table in [*tables.items(), *(("[slots]", slot) for slot in slots)]:
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    path.write_text("\n".join(lines))
    return path


def command(*arguments: Any) -> dict[str, Any]:
    """Arguments of a subprocess: the tiny families' `python -m meta_train` on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([p for p in sys.path if p])}
    return {"args": [str(x) for x in arguments], "env": environment, "stderr": subprocess.PIPE, "text": True}


def test_sigkill(tmp_path: Path, uninterrupted: Trainer) -> None:
    """A process that is killed while it works, at no chosen moment, after its first state."""
    config, out = write_config(tmp_path / "run.toml"), tmp_path / "out"
    process = subprocess.Popen(**command(sys.executable, SCRIPT, config, "--out", out))
    deadline = time.monotonic() + 120
    while not list(out.glob("state-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()  # type: ignore[union-attr]
    process.stderr.close()  # type: ignore[union-attr]
    second = trainer_of(config_of(), out)
    assert 0 < second.progress.iteration < ITERATIONS
    train(second, ITERATIONS)
    assert same(bits(second), bits(uninterrupted)) and logged(out) == list(range(1, ITERATIONS + 1))


def test_two_processes(tmp_path: Path, uninterrupted: Trainer) -> None:
    """The same bits from two processes as from one, from a PES slot in the first and a backpropagation slot in the
    other; and one process goes on where two stopped."""
    config, out = write_config(tmp_path / "run.toml"), tmp_path / "out"
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    done = subprocess.run(**command(*launch, SCRIPT, config, "--out", out, "--until", 5), timeout=200)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in next(out.glob("state-*")).iterdir()) == [
        "shared.safetensors", "slot-0.safetensors", "slot-1.safetensors"
    ]  # fmt: skip
    assert logged(out) == [1, 2, 3, 4, 5]
    middle = trainer_of(config_of(), out)
    whole = trainer_of(config_of(), tmp_path / "one")
    for _ in range(5):
        whole.iterate()
        if whole.progress.iteration == 3:
            whole.evaluate()
    assert same(bits(middle), bits(whole))
    train(middle, ITERATIONS)
    assert same(bits(middle), bits(uninterrupted))


def test_a_folder_of_another_config(tmp_path: Path) -> None:
    trainer_of(config_of(), tmp_path)
    with pytest.raises(RunFolderError, match=r"outer\.lr is 0\.003 there and 0\.001 here.*--out"):
        trainer_of(config_of(outer={"warmup": 2, "lr": 0.001}), tmp_path)
    with pytest.raises(RunFolderError, match="slots"):
        trainer_of(config_of(slots=[BACKPROP]), tmp_path)
    trainer_of(config_of(), tmp_path)  # control


@pytest.mark.parametrize("damage", ["shared cut", "slot cut", "slot gone"])
def test_a_damaged_state(damage: str, tmp_path: Path) -> None:
    config = config_of(slots=[PES | {"horizon": [8, 8]}])
    trainer = trainer_of(config, tmp_path)
    trainer.iterate()
    trainer.save()
    trainer_of(config, tmp_path)  # control
    name, how = damage.split()
    (path,) = tmp_path.glob(f"state-*/{name}*.safetensors")
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.unlink()
    with pytest.raises(RunFolderError, match=rf"{path.name} is damaged.*Remove the folder .*state-000001"):
        trainer_of(config, tmp_path)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Trainer) -> None:
    trainer = trainer_of(config_of(), tmp_path)
    for _ in range(2):
        trainer.iterate()
    trainer.save()
    trainer.iterate()

    def full(path: Path, tensors: Any, header: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(meta_train.folder, "write_tensors", full)
        with pytest.raises(RunFolderError, match=r"No space left on device.*state before it is whole"):
            trainer.save()
    second = trainer_of(config_of(), tmp_path)
    assert second.progress.iteration == 2
    train(second, ITERATIONS)
    assert same(bits(second), bits(uninterrupted))
    monkeypatch.setattr(meta_train.folder, "NEEDED", 1 << 62)  # and before any work
    with pytest.raises(RunFolderError, match="MiB are free"):
        trainer_of(config_of(), tmp_path / "new")


def test_tasks_that_fail_to_build(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slots = [PES | {"families": ["sometimes"], "horizon": [2, 2]}, BACKPROP]
    trainer = trainer_of(config_of(slots=slots, iterations=8), tmp_path)
    rows = [trainer.iterate() for _ in range(8)]
    skipped = trainer.progress.skipped_tasks
    assert 0 < len(skipped) < 8 and rows[-1]["skipped"] == len(skipped)
    assert all(name.startswith("sometimes ") for name in skipped)
    assert [record.getMessage() for record in caplog.records if "family 'sometimes' failed" in record.getMessage()]
    assert any("0 pes sometimes" in key for row in rows for key in row)  # the others were trained on
    trainer.save()
    assert trainer_of(config_of(slots=slots, iterations=8), tmp_path).progress.skipped_tasks == skipped


def test_a_family_that_always_fails(tmp_path: Path) -> None:
    slots = [BACKPROP | {"families": ["broken"]}]
    trainer = trainer_of(config_of(slots=slots, iterations=50), tmp_path)
    before = bits(trainer)
    for _ in range(MAX_FAILURES - 1):
        trainer.iterate()
    assert len(trainer.progress.skipped_tasks) == MAX_FAILURES - 1 and same(bits(trainer), before)
    with pytest.raises(TaskError, match="family 'broken' failed: RuntimeError: there are no such networks"):
        trainer.iterate()


@pytest.mark.parametrize("known", [True, False], ids=["state", "older state"])
def test_failures_in_a_row_survive_a_kill(known: bool, tmp_path: Path) -> None:
    """The state knows how many there were; control: states of before it did start from zero."""
    config = config_of(slots=[BACKPROP | {"families": ["broken"]}], iterations=50)
    trainer = trainer_of(config, tmp_path)
    for _ in range(MAX_FAILURES - 1):
        trainer.iterate()
    trainer.save()
    if not known:
        (path,) = tmp_path.glob("state-*/shared.safetensors")
        tensors, header = read_tensors(path)
        del header["failures"], header["progress"]["gpu_seconds"]
        write_tensors(path, tensors, header)
    resumed = trainer_of(config, tmp_path)
    assert resumed.progress == trainer.progress
    if known:
        with pytest.raises(TaskError, match="family 'broken' failed"):
            resumed.iterate()
    else:
        resumed.iterate()
        assert resumed.failures == [1]


def test_a_gpu_is_paid_for_as_long_as_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By every process; on a CPU (control) there is nothing to count."""
    config = config_of(slots=[BACKPROP])
    trainer = trainer_of(config, tmp_path)
    trainer._count_gpu(3600.0)
    assert make_card(config, trainer.progress, [])["gpu_hours"] == 0.0
    monkeypatch.setattr(trainer, "device", torch.device("cuda"))
    monkeypatch.setattr(trainer.processes, "world", 2)
    trainer._count_gpu(3600.0)
    assert make_card(config, trainer.progress, [])["gpu_hours"] == 2.0


def test_families_and_parts_are_checked_before_any_work(tmp_path: Path) -> None:
    unknown = [BACKPROP | {"families": ["tiny", "tinny"]}]
    with pytest.raises(ValueError, match=r"no task families \['tinny'\].*tiny"):
        trainer_of(config_of(slots=unknown), tmp_path / "a")
    with pytest.raises(ValueError, match=r"no parts \['all'\]; it has encoder"):
        trainer_of(config_of(slots=[BACKPROP | {"train": ["all"]}]), tmp_path / "b")


def test_only_the_named_parts_are_trained(tmp_path: Path) -> None:
    config = config_of(slots=[BACKPROP | {"train": ["heads"]}, PES | {"train": ["schedule"]}])
    trainer = trainer_of(config, tmp_path)
    for _ in range(3):
        trainer.iterate()
    moved = {n for n, x in trainer.outer.params.items() if not torch.equal(x, trainer.untrained[n])}
    heads = {
        f"inner.heads.{name}" for name in ("hidden.weight", "hidden.bias", "read.bias", "read.weight", "direct.weight")
    }
    assert moved == heads | {"inner.schedule.weight"}


def run(*arguments: Any) -> None:
    main([str(x) for x in arguments])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = write_config(tmp_path / "run.toml", iterations=3), tmp_path / "out"
    run(config, "--out", out, "--until", 2)
    assert "Checkpoint" not in capsys.readouterr().out
    run(config, "--out", out)
    printed = capsys.readouterr().out
    assert "Best on validation" in printed and "tiny-run.safetensors" in printed
    best = trainer_of(read_config(config), out).best
    rule = load_pretrained(out / "tiny-run.safetensors")
    assert torch.equal(rule.schedule.weight, best["inner.schedule.weight"])
    card = (out / "tiny-run.md").read_text()
    assert f"python -m meta_train {config}" in card and "inner steps" in card
    assert (out / "validation.png").stat().st_size > 1000 and list((out / "tensorboard").iterdir())
    _, header = read_tensors(next(out.glob("state-*")) / "shared.safetensors")
    assert header["progress"]["iteration"] == 3


@pytest.mark.parametrize("mistake", ["no config", "other config", "unknown family", "folder is a file"])
def test_mistakes_end_the_command_line_without_a_traceback(
    mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write_config(tmp_path / "run.toml"), tmp_path / "out"
    arguments: Sequence[Any] = (config, "--out", out)
    if mistake == "no config":
        arguments = (tmp_path / "none.toml", "--out", out)
    elif mistake == "other config":
        trainer_of(config_of(seed=1), out)
    elif mistake == "unknown family":
        write_config(config, slots=[BACKPROP | {"families": ["tinny"]}])
    else:
        out.write_text("")
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    words = {"no config": "none.toml", "other config": "seed is 1 there and 0 here", "unknown family": "tinny"}
    assert last.startswith("error: ") and words.get(mistake, str(out)) in last
