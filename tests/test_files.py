"""Files are whole, believed only if they are what was written, and folders belong to one process at a time."""

from __future__ import annotations

import ast
import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from ngopt import files
from ngopt.command import INTERRUPTED, run_command
from ngopt.errors import FileError, FolderInUseError
from ngopt.files import from_json, locked, read_json, write_bytes, write_json
from ngopt.tensor_files import check_like, read_tensors, write_tensors
from tests.mutations import DEEP, survey

ROOT = Path(__file__).resolve().parents[1]
VALUES = {"name": "run", "lr": 0.1, "steps": [1, 2, 3], "nested": {"none": None, "yes": True}, "text": "ä" * 40}
TENSORS = {"a": torch.arange(60.0).reshape(3, 20), "b": torch.tensor([True, False]), "empty": torch.zeros(0, 2)}


def same(found: tuple) -> bool:
    tensors, header = found
    return (
        header == VALUES
        and tensors.keys() == TENSORS.keys()
        and all(x.dtype == TENSORS[n].dtype and torch.equal(x, TENSORS[n]) for n, x in tensors.items())
    )


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", VALUES)
    assert read_json(tmp_path / "new" / "a.json") == VALUES
    write_tensors(tmp_path / "a.safetensors", TENSORS, VALUES)
    assert same(read_tensors(tmp_path / "a.safetensors"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "new"]  # and nothing beside it


def test_files_of_before_there_were_checksums(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(VALUES))
    assert read_json(tmp_path / "a.json") == VALUES


def test_damaged_json(tmp_path: Path) -> None:
    """No mutation gives another exception, or other values; control: without the checksum, many do."""
    write_json(path := tmp_path / "a.json", VALUES)
    found = survey(path, lambda: read_json(path), lambda values: values == VALUES)
    assert found["wrong"] == found["foreign"] == 0 and found["refused"] > 800
    path.write_text(json.dumps(VALUES))
    assert survey(path, lambda: read_json(path), lambda values: values == VALUES)["wrong"] > 50


def test_damaged_tensors(tmp_path: Path) -> None:
    write_tensors(path := tmp_path / "a.safetensors", TENSORS, VALUES)
    found = survey(path, lambda: read_tensors(path), same)
    assert found["wrong"] == found["foreign"] == 0 and found["refused"] > 800


@pytest.mark.parametrize("content", [b"", b"[1]", b"7", DEEP, b'{"a": ' + DEEP, b"\xff\xfe{}", b'{"sha256": 1}'])
def test_what_is_no_object_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(FileError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_sizes_are_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(files.MOST_JSON + 1)  # takes no space
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("was read"))
    with pytest.raises(FileError, match="too many"):
        read_json(tmp_path / "a.json")


@dataclass
class Counters:
    step: int
    loss: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, int]] = field(default_factory=list)
    limit: int | None = None


def test_records_have_their_types() -> None:
    values = {"step": 3, "loss": 1, "best": {"a": 0.5}, "rows": [{"b": 1}], "limit": None}
    assert from_json(Counters, values, "state").best == {"a": 0.5}
    for wrong in ({"step": "3"}, {"step": True}, {"loss": None}, {"best": [1]}, {"rows": [{"b": "x"}]}, {"other": 1}):
        with pytest.raises(FileError, match="state"):
            from_json(Counters, values | wrong, "state")
    with pytest.raises(FileError, match="lacks step"):
        from_json(Counters, {}, "state")


def test_tensors_have_names_shapes_and_dtypes() -> None:
    check_like(TENSORS, TENSORS, "state")
    for wrong in ({"a": TENSORS["a"].T}, {"a": TENSORS["a"].double()}, {"c": TENSORS["a"]}):
        with pytest.raises(FileError, match=r"state: tensors [ac]"):
            check_like(TENSORS | wrong, TENSORS, "state")
    check_like(TENSORS | {"more/x": TENSORS["a"]}, TENSORS, "state", optional="more/")


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_full_disk_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(path := tmp_path / "a", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, full)
        with pytest.raises(OSError, match="No space left"):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_bytes(path, b"new")  # control
    assert path.read_bytes() == b"new"


def test_a_folder_is_one_process_s(tmp_path: Path) -> None:
    (tmp_path / f".left{files.TEMPORARY}").write_text("half")
    with locked(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == [files.NOTE]  # what killed processes left is gone
        with (
            pytest.raises(FolderInUseError, match=rf"in use by process {os.getpid()} .*another folder"),
            locked(tmp_path),
        ):
            pytest.fail("two at once")
    with locked(tmp_path), locked(tmp_path / "other"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from ngopt.files import locked\n"
    script += "with locked(Path(sys.argv[1])):\n    print('has it', flush=True); time.sleep(600)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"has it\n"
        with pytest.raises(FolderInUseError, match=str(process.pid)), locked(tmp_path):
            pytest.fail("two at once")
        process.kill()
        process.wait()
    with locked(tmp_path):
        pass


# Commands


def test_every_command_ends_the_same_way() -> None:
    """Whatever can be started calls `run_command`, and nothing else."""
    found = 0
    for folder in ("ngopt", "meta_train", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
                    if path.name == "versions.py":  # runs before anything is installed, so without ngopt
                        continue
                    found += 1
                    assert ast.unparse(node.body[-1]).startswith("run_command("), path
            if path.name == "__main__.py":
                assert "run_command(" in path.read_text(encoding="utf-8"), path
    assert found > 15


@pytest.mark.parametrize(
    "error, status, words",
    [
        (KeyboardInterrupt(), INTERRUPTED, "go on with: python"),
        (FileError("a.json is not JSON"), 1, "error: a.json is not JSON"),
        (FolderInUseError("runs/a is in use by process 7"), 1, "in use by process 7"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 1, "runs/a: No space left on device. Mend that"),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 1, "runs: Permission denied. Mend that"),
    ],
)
def test_what_goes_wrong_is_one_line(
    error: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_command(fail)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert caught.value.code == status and words in line


def test_mistakes_of_ours_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: 3)
    assert caught.value.code == 3


def test_ctrl_c(tmp_path: Path) -> None:
    """A real one, of a process."""
    (tmp_path / "wait.py").write_text(
        "import time\nfrom ngopt.command import run_command\n"
        "def main():\n    print('works', flush=True)\n    time.sleep(600)\nrun_command(main)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, tmp_path / "wait.py", "--steps", "5"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "works\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == INTERRUPTED
        assert process.stderr.read().strip() == (
            f"Stopped. What was finished is kept; go on with: python {tmp_path / 'wait.py'} --steps 5"
        )
