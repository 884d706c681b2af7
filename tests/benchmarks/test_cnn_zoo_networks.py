"""Networks of the zoos: what is drawn, what can be traced, stacks that train like one each, and published files."""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ngopt
from benchmarks.cnn_zoo import Architecture, load_published
from benchmarks.cnn_zoo.architecture import small_cnn
from benchmarks.cnn_zoo.bucket import param_shapes
from benchmarks.cnn_zoo.networks import ACTIVATIONS
from benchmarks.cnn_zoo.recipe import INITS, OPTIMIZERS, Recipe, draw, initial
from benchmarks.cnn_zoo.sampler import CHANNELS, KERNELS, LIMIT, TRAINED_NORMS, WIDER, sample
from benchmarks.cnn_zoo.stack import TrainingStack, forward
from benchmarks.cnn_zoo.wild import _optimizer, frozen_parts
from meta_train.seeds import generator

IMAGE = (3, 16, 16)


def drawn(split: str, count: int = 150) -> list[Architecture]:
    return [sample(generator("test", split, i), IMAGE, split) for i in range(count)]


def test_what_is_drawn() -> None:
    found = drawn("train", 400)
    cnns = [a for a in found if a.layers]
    layers = [layer for a in cnns for layer in a.layers]
    assert {len(a.layers) for a in cnns} == set(range(2, 9))
    assert {layer.channels for layer in layers} == set(CHANNELS)
    assert {layer.kernel for layer in layers} == set(KERNELS)
    assert {layer.activation for layer in layers} == set(ACTIVATIONS)
    assert {layer.norm for layer in layers} == set(TRAINED_NORMS)
    assert {a.head for a in cnns} == {"pool", "flatten"}
    sources = [(i, layer.source) for a in cnns for i, layer in enumerate(a.layers) if layer.source is not None]
    assert all(0 <= source < i - 1 for i, source in sources) and len({i - source for i, source in sources}) > 4
    assert {a.family for a in found} == {"CNN", "CNN batch norm", "CNN layer norm", "ViT", "mixer", "hybrid"}
    assert max(a.multiplications() for a in found) <= LIMIT
    assert found == drawn("train", 400), "the same every time"
    for a in found[:40]:
        assert Architecture.from_json(a.to_json()) == a
        assert a.describe().startswith(a.family)


def test_what_is_out_of_distribution() -> None:
    assert {c.channels for a in drawn("wider") for c in a.layers} == set(WIDER) and min(WIDER) > max(CHANNELS)
    assert {len(a.layers) for a in drawn("deeper")} == set(range(9, 13))
    assert {c.norm for a in drawn("other-norm") for c in a.layers} == {"group"}
    assert "group" not in TRAINED_NORMS


def some(family: str, split: str = "train") -> Architecture:
    """The first one of a family, with a residual connection if it can have one."""
    found = (sample(generator("some", i), IMAGE, split) for i in range(1000))
    residual = (a for a in found if a.family == family and (a.blocks or any(c.source is not None for c in a.layers)))
    return next(residual)


@pytest.mark.parametrize("family", ["CNN batch norm", "CNN group norm", "hybrid"])
def test_it_is_traced_without_frozen_parts(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, graphs, trace = some(family, "other-norm" if "group" in family else "train"), [], ngopt.trace
    monkeypatch.setattr(ngopt, "trace", lambda *inputs: graphs.append(trace(*inputs)) or graphs[-1])
    assert frozen_parts(architecture) == []
    assert {block.name for block in (*graphs[0].blocks, *graphs[0].buffers)} == set(param_shapes(architecture))


@pytest.mark.slow
@pytest.mark.parametrize(
    "split, number", [(s, i) for s in ("train", "wider", "deeper", "other-norm") for i in range(8)]
)
def test_more_are_traced_without_frozen_parts(split: str, number: int) -> None:
    assert frozen_parts(sample(generator("trace", number), IMAGE, split)) == []


def test_frozen_parts_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ACTIVATIONS["tanh"], "forward", lambda self, x: x.sort(1).values)
    architecture = Architecture.from_json(small_cnn("tanh", 15).to_json())
    assert frozen_parts(architecture), "a sort over channels freezes them"


def recipes() -> list[Recipe]:
    base = draw(generator("recipe"))
    return [replace(base, optimizer=name, lr=0.01, weight_decay=0.01, dropout=0.0) for name in OPTIMIZERS]


def test_a_stack_trains_like_one_each() -> None:
    architecture, found = small_cnn("tanh", 16), recipes()
    shapes = param_shapes(architecture)
    starts = [initial(recipe, shapes, generator("start", i)) for i, recipe in enumerate(found)]
    starts = [{name: tensor.double() for name, tensor in start.items()} for start in starts]
    images, labels = torch.rand(6, 8, 1, 16, 16, dtype=torch.float64), torch.randint(10, (6, 8))
    stack = TrainingStack(
        architecture, {n: torch.stack([s[n] for s in starts]) for n in shapes}, found, generator("drop")
    )
    for x, y in zip(images, labels, strict=True):
        stack.step(x, y)
    logits = forward(architecture, stack.params(), images[0])
    for i, (recipe, start) in enumerate(zip(found, starts, strict=True)):
        model = architecture.build().double()
        model.load_state_dict(start)
        optimizer = _optimizer(model, recipe)
        for group in optimizer.param_groups:  # Keras's values, where these differ from PyTorch's
            group.update({"eps": 1e-7, "alpha": 0.9})
        for x, y in zip(images, labels, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        torch.testing.assert_close(logits[i], model(images[0]), rtol=1e-7, atol=1e-9)
    assert (logits[0] - logits[1]).abs().max() > 0.01, "control: optimizers differ"


def test_initial_weights() -> None:
    shapes = param_shapes(small_cnn("relu", 28))
    for init in INITS:
        params = initial(replace(draw(generator(0)), init=init, init_std=0.3), shapes, generator("init"))
        assert all((tensor == 0).all() == (name.endswith("bias")) for name, tensor in params.items())
        std = float(params["convs.1.weight"].std())
        expected = {"glorot_normal": (2 / 288) ** 0.5, "he_normal": (2 / 144) ** 0.5, "orthogonal": 144**-0.5}
        assert std == pytest.approx(expected.get(init, 0.3), rel=0.15)


def published(place: Path, runs: int) -> dict[str, torch.Tensor]:
    """Write files as they are published; returns the parameters in our layout."""
    place.mkdir()
    shapes = param_shapes(small_cnn("relu", 32))
    layers = ["convs.0", "convs.1", "convs.2", "head"]
    params = {name: torch.randn(2 * runs, *shape) for name, shape in shapes.items()}
    parts, layout, at = [], [], 0
    for number, layer in enumerate(layers):
        for kind, ours in (("bias", "bias"), ("kernel", "weight")):
            tensor = params[f"{layer}.{ours}"]
            if kind == "kernel":
                tensor = tensor.permute(0, 3, 4, 2, 1) if tensor.ndim == 5 else tensor.transpose(1, 2)
            flat = tensor.flatten(1)
            shape = str(tuple(tensor.shape[1:]))
            layout.append([number, f"sequential/layer_{number}/{kind}:0", at, at + flat.shape[1], shape])
            parts.append(flat)
            at += flat.shape[1]
    np.save(place / "weights.npy", torch.cat(parts, 1).numpy())
    with (place / "layout.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["", "varname", "start_idx", "end_idx", "shape"], *layout])
    with gzip.open(place / "metrics.csv.gz", "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["config.activation", "modeldir", "step", "test_accuracy", "test_loss"])
        for run in range(runs):
            for step in (0, 86):
                model = f"/zoo/{run}/permanent_ckpt-{step}"
                writer.writerow(["relu" if run < 8 else "tanh", model, step, 0.01 * run, 2.0])
    return params


def test_published_files(tmp_path: Path) -> None:
    params = published(tmp_path / "zoo", 16)
    found = load_published(tmp_path / "zoo")
    assert {split: sum(map(len, buckets)) for split, buckets in found.items()} == {"train": 10, "val": 2, "test": 4}
    for buckets in found.values():
        for bucket in buckets:
            assert bucket.architecture.layers[0].activation == ("relu" if bucket.run.max() < 8 else "tanh")
            torch.testing.assert_close(bucket.accuracy, 0.01 * bucket.run.float())
            for name, tensor in bucket.params.items():
                assert torch.equal(tensor, params[name][2 * bucket.run + 1]), "of epoch 86"
    every = load_published(tmp_path / "zoo", step=None)
    assert sum(len(bucket) for buckets in every.values() for bucket in buckets) == 32
    weights = np.load(tmp_path / "zoo" / "weights.npy")
    weights[1, 0] = np.nan
    np.save(tmp_path / "zoo" / "weights.npy", weights)
    with pytest.warns(UserWarning, match="1 networks are not finite"):
        load_published(tmp_path / "zoo")
    np.save(tmp_path / "zoo" / "weights.npy", weights[:-1])
    with pytest.raises(ValueError, match="31 rows of weights, but 32 of metrics"):
        load_published(tmp_path / "zoo")
    layout = (tmp_path / "zoo" / "layout.csv").read_text()
    np.save(tmp_path / "zoo" / "weights.npy", weights)
    (tmp_path / "zoo" / "layout.csv").write_text(layout.replace('"(3, 3, 16, 16)"', '"(3, 16, 3, 16)"'))
    with pytest.raises(ValueError, match="not the layout"):
        load_published(tmp_path / "zoo")
    (tmp_path / "zoo" / "layout.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"layout.csv is missing"):
        load_published(tmp_path / "zoo")
