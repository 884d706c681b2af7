"""The suites that learn from weights: tasks, data, encoders, and the presets of every size in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

from benchmarks.cnn_zoo.plan import ZOOS
from benchmarks.inr_data.plan import SETS

SIZES = ("smoke", "small", "medium", "large", "full")
DATASETS = ("mnist", "fashion-mnist", "cifar10")  # whose networks a complete report has
METANETWORKS = ("neuron_flow", "ng_gnn", "ng_t")
MLPS = ("mlp", "mlp_aug")
ENCODERS = (*METANETWORKS, *MLPS, "probe_mlp", "statistics")
PUBLISHED = ("ng_gnn", "ng_t")  # have a faithful form
# Of one form of CNN, tanh or ReLU: each is tested on the others too, which have seen other images.
SHIFTED_ZOOS = ("small-mnist", "small-fashion_mnist", "small-cifar10")


@dataclass(frozen=True)
class Suite:
    """What a suite has that others have not.

    Attributes:
        networks: What they are, for people.
        source: Name of the module that loads networks and makes the problem of a run: ``networks_folder``,
            ``load_networks`` and ``make_problem``. With ``many`` it also has ``FAITHFUL``, models by encoder, and
            ``fit_trees``, which carries out the runs of ``statistics``.
        tasks: What can be learned.
        datasets: Sets of networks, in the order of tables; the word for one is ``noun``.
        encoders: Metanetworks and baselines that make sense here.
        plan: Sets and their tasks that a complete report has.
        sizes: Settings by size; ``preset`` those of all sizes.
        own: Settings by encoder, on top of those.
        published: Settings of size full for what is as published.
        results: Where rows go: the path of a file, up to the name of its set.
        many: Whether the networks of a set have several architectures; if not, they are implicit networks, which can
            be moved, flipped and probed.
    """

    networks: str
    source: str
    tasks: tuple[str, ...]
    datasets: tuple[str, ...]
    encoders: tuple[str, ...]
    plan: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, Mapping[str, Any]]
    results: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)
    noun: str = "dataset"
    many: bool = False
    words: tuple[str, ...] = ()  # of a command, after the module's name

    @property
    def module(self) -> ModuleType:
        """What ``source`` names; it imports this table, so that it is not at hand before."""
        return import_module(self.source)

    def command(self, name: str) -> list[str]:
        """How the command line of a suite begins."""
        return ["python", "-m", f"benchmarks.{name}", *self.words]


# Size "full" of the two suites of implicit networks is for a GPU: all images, 3.3 million reads in large batches. With
# --faithful it is as published [1], 9 to 11 million.
# [1] Kofinas et al., Graph Neural Networks for Learning Equivariant Representations of Neural Networks, 2024.
SUITES: dict[str, Suite] = {
    "inr_classification": Suite(
        networks="implicit networks",
        source="benchmarks.weight_space.inrs",
        tasks=("classify",),
        datasets=tuple(SETS),
        encoders=(*METANETWORKS, *MLPS, "probe_mlp"),
        plan={f"{name}-{init}": ("classify",) for name in DATASETS for init in ("dws", "nfn")},
        published={"epochs": 200, "batch_size": 128, "warmup": 1000},
        results="inr_classification_",
        preset={"augment": True, "clip": 10.0},
        sizes={
            "smoke": {"epochs": 2, "batch_size": 16, "warmup": 2},
            "small": {"epochs": 50, "batch_size": 64, "warmup": 100},
            "medium": {"epochs": 30, "batch_size": 64, "warmup": 100},
            "large": {"epochs": 15, "batch_size": 64, "warmup": 100},
            "full": {"epochs": 60, "batch_size": 512, "warmup": 300},
        },
        own={
            "neuron_flow": {"lr": 3e-3, "encoder_lr": 0.05, "ema": 0.998},
            "probe_mlp": {"lr": 3e-3, "ema": 0.998, "probes": 256, "sign": False},
        },
    ),
    "inr_editing": Suite(
        networks="implicit networks",
        source="benchmarks.weight_space.inrs",
        tasks=("dilation", "erosion", "contrast"),
        datasets=tuple(SETS),
        encoders=(*METANETWORKS, *MLPS),
        plan={"mnist-dws": ("dilation", "erosion"), "cifar10-nfn": ("contrast",)},
        published={"epochs": 200, "batch_size": 128, "warmup": 10_000},
        results="inr_editing_",
        preset={"augment": False, "clip": 1.0},
        sizes={
            "smoke": {"epochs": 2, "batch_size": 16, "warmup": 2},
            "small": {"epochs": 5, "batch_size": 32, "warmup": 50},
            "medium": {"epochs": 5, "batch_size": 32, "warmup": 100},
            "large": {"epochs": 10, "batch_size": 32, "warmup": 100},
            "full": {"epochs": 60, "batch_size": 512, "warmup": 300},
        },
        own={"neuron_flow": {"lr": 3e-3, "ema": 0.998, "symmetry": "square"}},
    ),
    "cnn_generalization": Suite(
        networks="image classifiers",
        source="benchmarks.cnn_generalization.problem",
        tasks=("accuracy",),
        datasets=tuple(ZOOS),
        encoders=(*METANETWORKS, "mlp", "statistics"),
        plan={zoo: ("accuracy",) for zoo in (*SHIFTED_ZOOS, "wild")},
        results="cnn_generalization/",
        preset={"augment": False, "clip": 10.0, "together": 4, "sign": False},
        sizes={
            "smoke": {"epochs": 2, "batch_size": 8, "warmup": 2},
            "small": {"epochs": 20, "batch_size": 32, "warmup": 50},
            "medium": {"epochs": 10, "batch_size": 32, "warmup": 100},
            "large": {"epochs": 20, "batch_size": 64, "warmup": 100},
            "full": {"epochs": 100, "batch_size": 128, "warmup": 1000},
        },
        # Zoos have few training runs, which readers learn by heart: hence a small one, of what layers are like.
        own={"neuron_flow": {"options": {"statistics": True, "apart": False, "width": 32, "dropout": 0.3}}},
        noun="zoo",
        words=("run",),
        many=True,
    ),
}
