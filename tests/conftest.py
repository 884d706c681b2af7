"""Settings of the whole test run: offline, hypothesis profiles, and the ops that a CPU build lacks."""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported anywhere
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

# Tracing costs seconds under load, so time says nothing about health.
_SETTINGS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=20, **_SETTINGS)
settings.register_profile("ci", max_examples=50, derandomize=True, print_blob=True, **_SETTINGS)
settings.register_profile("deep", max_examples=1000, print_blob=True, **_SETTINGS)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

_LIBRARIES = []


def _declare_torchvision_ops() -> None:
    """Declare the two compiled ops that torchvision looks up at import, and which its CUDA wheel lacks on a CPU build.

    Without them `import torchvision` fails, and with it timm and parts of transformers. Nothing calls them here.
    """
    if find_spec("torchvision") is None or torch.version.cuda is not None:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        with contextlib.suppress(RuntimeError):  # declared already
            library.define(schema)
    _LIBRARIES.append(library)  # a library that is collected takes its ops with it


_declare_torchvision_ops()


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)


# What a marker needs, whether it is there, and what to say where it is not.
_NEEDS = {
    "gpu": (torch.cuda.is_available(), "no CUDA device"),
    # torch 2.6: FSDP2 stops in the first forward pass on CPU, since streams there record no events.
    "fsdp": (hasattr(torch.cpu.Stream, "record_event"), "FSDP2 of this torch does not run on CPU"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine, or this torch, cannot do."""
    for item in items:
        for marker, (there, reason) in _NEEDS.items():
            if item.get_closest_marker(marker) and not there:
                item.add_marker(pytest.mark.skip(reason=reason))
