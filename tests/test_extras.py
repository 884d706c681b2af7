"""What ngopt needs and what it does without: the import graph, and optional packages that are missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ngopt.extras import extra


def test_importing_ngopt_brings_only_what_it_needs() -> None:
    """Import time is torch's: no optional package, and nothing of torch that `import torch` leaves out, is loaded."""
    code = "import sys, torch; before = set(sys.modules); import ngopt; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = done.stdout.split()
    foreign = {name.split(".")[0] for name in new} - set(sys.stdlib_module_names)
    assert "ngopt" in foreign
    assert foreign <= {"ngopt", "numpy", "safetensors", "einops"}
    assert sorted(name for name in new if name.startswith("torch.")) == []


NEEDS = {  # package: the extra that brings it, and what cannot run without it
    "matplotlib": ("train", "ngopt.trace(torch.nn.Linear(2, 3), torch.zeros(1, 2)).draw('x.png')"),
    "torch_geometric": ("encoders", "ngopt.trace(torch.nn.Linear(2, 3), torch.zeros(1, 2)).to_pyg()"),
    "torch_geometric.data": ("encoders", "import ngopt.encoder.collate"),
    "tensorboard": ("train", "from meta_train.log import Log; Log(None, 0)"),
    "tqdm": ("train", "from meta_train.data.download import download; download('', None)"),
    "sklearn": ("train", "from meta_train.tasks.tabular import table; table('diabetes')"),
}


def test_a_missing_extra_is_named_in_one_line() -> None:
    """Without all of them, ngopt is imported, and says of each what to install."""
    lines = ["import sys"]
    lines += [f"sys.modules[{package.split('.')[0]!r}] = None" for package in NEEDS]
    lines += ["import torch, ngopt"]
    for _, code in NEEDS.values():
        lines += ["try:", f"    {code}", "except ngopt.MissingExtraError as error:", "    print(error)"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == len(NEEDS)
    for line, (package, (name, _)) in zip(said, NEEDS.items(), strict=True):
        assert f"cannot run without {package}" in line and line.endswith(f"pip install 'ngopt[{name}]'")


def test_a_module_of_ours_that_is_missing_is_a_fault_and_no_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"ngopt\.nothing"), extra("train", "this"):
        import ngopt.nothing  # noqa: F401  # pyright: ignore
