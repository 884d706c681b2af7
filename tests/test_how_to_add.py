"""docs/how_to_add.md cannot go stale: its diffs apply to the code as it is, and what they add works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how_to_add.md"
DIFFS = re.findall(r"^```diff\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
CHECKS = re.findall(r"^<!-- check\n(.*?)^-->", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code, without results and weights of benchmarks."""
    ignored = shutil.ignore_patterns("__pycache__", "results", "wild-small.safetensors")
    for folder in ("ngopt", "meta_train", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    return tmp_path


def apply(diff: str, folder: Path) -> int:
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}  # no repository around it
    command = ["git", "apply", "-"]
    return subprocess.run(command, input=diff, text=True, cwd=folder, env=environment, capture_output=True).returncode


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, text=True, cwd=folder, env=environment, capture_output=True)


def test_each_is_short_and_adds_one_file() -> None:
    assert len(DIFFS) == len(CHECKS) == 4
    for diff in DIFFS:
        assert len(diff.splitlines()) < 40
        assert diff.count("--- /dev/null") == 1


def test_what_is_added_works(copy: Path) -> None:
    for diff in DIFFS:
        assert apply(diff, copy) == 0
    done = run("\n".join(CHECKS), copy)
    assert done.returncode == 0, done.stderr


def test_a_diff_that_is_stale_does_not_apply(copy: Path) -> None:
    wrong = DIFFS[0].replace("     convolution,\n", "     something_else,\n")
    assert wrong != DIFFS[0] and apply(wrong, copy) != 0
