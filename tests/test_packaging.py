"""The wheel holds what users need, and nothing else, and does it with no network and from anywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

import ngopt
from meta_train.config import shipped_configs

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)]+)\)")


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
    assert {"ngopt/py.typed", *(f"meta_train/configs/{name}.toml" for name in shipped_configs())} <= held


def test_the_wheel_ships_weights_with_their_cards(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    weights = [name for name in sizes if name.startswith("ngopt/pretrained/") and name.endswith(".safetensors")]
    assert weights
    assert all(sizes[name] < 1_000_000 for name in weights)


def test_what_the_package_index_shows(wheel: Path) -> None:
    """README is rendered without a warning, and all its links and pictures work away from the repository."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    targets = LINK.findall(str(metadata.get_payload()))
    relative = [target for target in LINK.findall((ROOT / "README.md").read_text()) if "://" not in target]
    assert relative, "README links to pages and pictures of the repository"
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    home = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))["Repository"]
    ours = [target for target in targets if target.rsplit("/", 1)[-1] in {r.rsplit("/", 1)[-1] for r in relative}]
    path = home.removeprefix("https://github.com/")
    assert all(t.startswith((f"{home}/", f"https://raw.githubusercontent.com/{path}/", "#")) for t in ours)
    from readme_renderer.markdown import render  # here, so that other tests are collected on a machine without it

    html = render(metadata.get_payload())
    assert html is not None
    assert "<h1" in html and "<pre" in html


# What a user does first, in an interpreter that has no network and sees the installed wheel only.
FIRST_HOUR = """
import os, socket, sys
def refuse(*arguments, **options):
    raise OSError("no network here")
socket.socket.connect = socket.create_connection = refuse

import torch
import ngopt, meta_train
assert ngopt.__file__.startswith(sys.argv[1]) and meta_train.__file__.startswith(sys.argv[1]), ngopt.__file__

model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
optimizer = ngopt.NGOptimizer(model, total_steps=2)
model(torch.randn(4, 3)).sum().backward()
optimizer.step()
ngopt.trace(model, torch.randn(2, 3)).draw("graph.png")

from ngopt.graph.__main__ import main as graph
assert graph(["torch.nn:Flatten", "--input", "2,3", "--draw", "flatten.png"]) == 0
from ngopt.pretrained.__main__ import main as pretrained
pretrained([])
from meta_train.__main__ import main as train
train(["quick", "--until", "1", "--out", "run"])
"""


@pytest.mark.slow
def test_the_installed_wheel_does_what_a_user_does_first(wheel: Path, tmp_path: Path) -> None:
    """Optimizer, graph and its picture, list of checkpoints, and meta-training by a config's name: all offline."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([*command, str(wheel)], check=True)
    (tmp_path / "first_hour.py").write_text(FIRST_HOUR, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "first_hour.py", str(site)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site), "NGOPT_DATA": str(tmp_path / "no data")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ngopt-base(-untrained)?: .*, the default$", done.stdout, re.MULTILINE), done.stdout
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("graph.png", "flatten.png"))
    assert list((tmp_path / "run").glob("state-*")), "one iteration of meta-training"


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


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == ngopt.__version__
    assert len(citation["references"]) == 2 and all(paper["authors"] for paper in citation["references"])
