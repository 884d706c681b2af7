"""The wheel holds what users need, and nothing else, and imports with no network and from anywhere."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in ("ngopt", "meta_train")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == expected
    assert "ngopt/py.typed" in held


def test_the_wheel_ships_weights_with_their_cards(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    weights = [name for name in sizes if name.startswith("ngopt/pretrained/") and name.endswith(".safetensors")]
    assert weights
    assert all(sizes[name] < 1_000_000 for name in weights)


def test_the_wheel_imports_alone(wheel: Path, tmp_path: Path) -> None:
    """From its own folder, without the repository on the path, and an optimizer with the shipped weights steps."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, 'site')\n"
        "import torch, ngopt, meta_train\n"
        "assert ngopt.__file__.startswith(sys.argv[1]), ngopt.__file__\n"
        "model = torch.nn.Linear(3, 2)\n"
        "optimizer = ngopt.NGOptimizer(model, total_steps=2)\n"
        "model(torch.randn(4, 3)).sum().backward(); optimizer.step()\n"
    )
    (tmp_path / "check.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "check.py", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
