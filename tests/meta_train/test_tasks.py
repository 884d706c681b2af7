"""What every task must do, whatever its family: the same draws from one seed, stacks, derivatives, learning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from meta_train.tasks import FAMILIES, TRAINING, VALIDATION, Batch, Task, TaskError, Weights, draw
from meta_train.tasks import base as tasks_base
from meta_train.tasks import images as tasks_images

IMAGES, HELD_OUT = 700, 100
SEEDS = (0, 1, 2)
LOSSES = {"autoencoder": (0.8, 12.0), "siren": (0.3, 4.0), "tabular": (0.5, 6.0), "language": (4.2, 5.2)}
LOSSES |= {"validation-table": (0.5, 6.0), "validation-pixels": (0.8, 12.0)}
LOSSES |= dict.fromkeys(("recurrent", *(f"validation-{n}" for n in ("lstm", "language", "window"))), LOSSES["language"])
VALIDATIONS = ("cnn", "deep", "depthwise", "gru", "mixer", "table", "lstm", "language", "window", "pixels")
CLASSIFIER = (1.9, 6.0)  # ln 10 is 2.3; He's initialisation starts higher


def fake_dataset(name: str) -> SimpleNamespace:
    """Noisy pictures of ten patterns; test sets are not even there, and no other data set may be asked for."""
    assert name in ("mnist", "fashion-mnist"), name
    random = torch.Generator().manual_seed(len(name))
    labels = torch.randint(10, (IMAGES,), generator=random)
    patterns = torch.randint(256, (10, 28, 28, 1), generator=random).float()
    pixels = 0.7 * patterns[labels] + 0.3 * torch.randint(256, (IMAGES, 28, 28, 1), generator=random)
    return SimpleNamespace(train_images=pixels.byte(), train_labels=labels)


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Synthetic images instead of the real ones."""
    monkeypatch.setattr(tasks_images, "load", fake_dataset)
    monkeypatch.setattr(tasks_images, "HELD_OUT", HELD_OUT)
    tasks_images.images.cache_clear()
    yield
    tasks_images.images.cache_clear()


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks without graphs, which take most of the time."""
    monkeypatch.setattr(tasks_base.ngopt, "trace", lambda *args, **kwargs: None)


def every_task() -> list:
    return [
        pytest.param(name, seed, id=f"{name}-{seed}")
        for name in sorted(FAMILIES)
        for seed in (SEEDS if name in TRAINING or name == "validation-deep" else SEEDS[:1])
    ]


def batches(task: Task, seed: int, count: int) -> Batch:
    return task.batch(torch.Generator().manual_seed(seed), count)


def doubled(tensors: Batch) -> Batch:
    return tuple(x.double() if x.is_floating_point() else x for x in tensors)


def equal(ours: dict | tuple, theirs: dict | tuple) -> bool:
    a, b = (list(x.values()) if isinstance(x, dict) else list(x) for x in (ours, theirs))
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def stacked_loss(task: Task, weights: Weights, batch: Batch) -> Tensor:  # [optimizee]
    return vmap(task.loss)(weights, batch)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_seed_fixes_a_task_and_all_that_is_drawn_from_it(name: str) -> None:
    before = torch.random.get_rng_state()
    once, again = draw(name, 3), draw(name, 3)
    assert once.name == again.name and once.family == again.family == name
    assert (once.scales, once.gradient_noise, once.data) == (again.scales, again.gradient_noise, again.data)
    assert equal(once.init(7, 2), again.init(7, 2))
    assert equal(batches(once, 7, 2), batches(again, 7, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    # controls
    assert not equal(once.init(7, 2), once.init(70, 2))
    assert not equal(batches(once, 7, 2), batches(once, 8, 2))
    drawn = [draw(name, seed) for seed in range(12)]
    assert len({(task.name, str(task.data)) for task in drawn}) >= (9 if name in TRAINING else 1)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name, seed", every_task())
def test_stacks_have_shapes_and_start_at_the_loss_of_a_guess(name: str, seed: int) -> None:
    task = draw(name, seed)
    weights, batch = task.init(1, 3), batches(task, 2, 3)
    assert {n: w.shape for n, w in weights.items()} == {n: (3, *p.shape) for n, p in task.module.named_parameters()}
    assert not list(task.module.buffers())
    assert all(x.shape[:2] == (3, task.batch_size) for x in batch)
    assert all(not torch.equal(x[0], x[1]) for x in batch)
    assert [x.shape[1:] for x in task.data.example()] == [x.shape[2:] for x in batch[:-1]]
    assert torch.equal(task.init(2, 1)[next(iter(weights))][0], weights[next(iter(weights))][1])  # one seed each
    losses = stacked_loss(task, weights, batch)
    low, high = LOSSES.get(name, CLASSIFIER)
    assert losses.shape == (3,) and bool(((losses > low) & (losses < high)).all()), losses


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name, seed", every_task())
def test_stacked_gradients_are_those_of_each_and_can_be_differentiated(name: str, seed: int) -> None:
    task = replace(draw(name, seed), batch_size=4)
    weights = {n: w.double().requires_grad_() for n, w in task.init(1, 2).items()}
    batch = doubled(batches(task, 2, 2))
    stacked = vmap(grad(task.loss))(weights, batch)
    for k in range(2):
        own = {n: w[k].detach().requires_grad_() for n, w in weights.items()}
        wanted = torch.autograd.grad(task.loss(own, tuple(x[k] for x in batch)), list(own.values()))
        for (n, gradient), single in zip(stacked.items(), wanted, strict=True):
            assert gradient.dtype == torch.float64
            torch.testing.assert_close(gradient[k], single, rtol=1e-9, atol=1e-9, msg=n)
    assert all(bool((gradient != 0).any()) for gradient in stacked.values())
    # along the gradient, the second derivative is what differences of first derivatives say
    direction = {n: g.detach() for n, g in stacked.items()}
    along = sum(((g * d).sum() for (n, g), d in zip(stacked.items(), direction.values(), strict=True)), torch.zeros(()))
    second = dict(zip(weights, torch.autograd.grad(along, list(weights.values()), allow_unused=True), strict=True))
    assert all(x is not None and bool(x.isfinite().all()) for x in second.values())
    curvature = sum(float((second[n] * direction[n]).sum()) for n in weights)
    size = 1e-5 / max(1.0, max(float(d.abs().max()) for d in direction.values()))
    ends = [
        vmap(grad(task.loss))({n: w.detach() + sign * size * direction[n] for n, w in weights.items()}, batch)
        for sign in (-1, 1)
    ]
    differences = sum(float(((ends[1][n] - ends[0][n]) * direction[n]).sum()) for n in weights) / (2 * size)
    assert curvature == pytest.approx(differences, rel=1e-2, abs=1e-5)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name, seed", every_task())
def test_a_few_steps_of_adam_lower_the_loss(name: str, seed: int) -> None:
    task = draw(name, seed)
    weights = {n: w.requires_grad_() for n, w in task.init(1, 2).items()}
    batch = batches(task, 2, 2)
    optimizer = torch.optim.Adam(weights.values(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = stacked_loss(task, weights, batch)
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    assert all(w.dtype == torch.float32 for w in weights.values())
    assert bool((losses[-1] < losses[0]).all()), (losses[0], losses[-1])


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name, seed", every_task())
def test_scales_change_the_weights_but_not_the_function(name: str, seed: int) -> None:
    task = draw(name, seed)
    names = [n for n, _ in task.module.named_parameters()]
    plain = replace(task, scales={})
    scaled = replace(task, scales={n: 0.5 + k / len(names) for k, n in enumerate(names[1:])})
    batch = batches(task, 2, 2)
    ours, theirs = scaled.init(1, 2), plain.init(1, 2)
    torch.testing.assert_close(
        stacked_loss(scaled, ours, batch), stacked_loss(plain, theirs, batch), rtol=1e-6, atol=1e-6
    )
    assert torch.equal(ours[names[0]], theirs[names[0]])
    for n in names[1:]:
        torch.testing.assert_close(ours[n] * scaled.scales[n], theirs[n], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_graph_has_every_parameter_and_freezes_no_layer_between_neurons(name: str) -> None:
    task = draw(name, 0)  # a warning about frozen symmetries would be an error here
    parameters = dict(task.module.named_parameters())
    assert {block.name: block.shape for block in task.graph.blocks} == {n: p.shape for n, p in parameters.items()}
    assert task.graph.certified
    free = torch.zeros(task.graph.num_nodes, dtype=torch.bool)
    for group in task.graph.groups:
        free[group.start : group.stop] = not group.frozen
    stuck = [
        block.name
        for block in task.graph.blocks
        if block.col_nodes is not None and not free[block.row_nodes].any() and not free[block.col_nodes].any()
    ]
    assert stuck == []


@pytest.mark.usefixtures("untraced")
def test_examples_to_trace_with_differ() -> None:
    """Two like examples would hide errors from the certificate, and their spread is nothing but rounding."""
    for name in FAMILIES:
        assert all(not torch.equal(x[0], x[1]) for x in draw(name, 1).data.example())


def test_families_are_for_training_or_for_validation() -> None:
    assert sorted((*TRAINING, *VALIDATION)) == sorted(FAMILIES)
    assert {"mlp", "cnn", "autoencoder", "siren", "vit", "language", "recurrent", "tabular"} == set(TRAINING)
    assert {f"validation-{n}" for n in VALIDATIONS} == set(VALIDATION)


@pytest.mark.usefixtures("untraced")
def test_names_say_the_family_and_draws_that_fail_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no task family 'mpl'.*cnn.*mlp.*validation-gru"):
        draw("mpl", 0)

    def broken(generator: torch.Generator) -> Task:
        raise RuntimeError("kernel larger than the image")

    def missing(generator: torch.Generator) -> Task:
        raise FileNotFoundError("mnist")

    monkeypatch.setitem(FAMILIES, "broken", broken)
    monkeypatch.setitem(FAMILIES, "missing", missing)
    with pytest.raises(TaskError, match=r"task 12 of family 'broken' failed: RuntimeError: kernel larger"):
        draw("broken", 12)
    with pytest.raises(FileNotFoundError, match="mnist"):  # not one bad task among many: no task can be drawn
        draw("missing", 12)


@pytest.mark.usefixtures("untraced")
def test_the_module_is_what_the_loss_runs() -> None:
    task = draw("vit", 0)
    weights, batch = {n: w[0] for n, w in task.init(1, 1).items()}, tuple(x[0] for x in batches(task, 2, 1))
    seen = {n: w * task.scales.get(n, 1.0) for n, w in weights.items()}
    logits = functional_call(task.module, seen, batch[:1])
    torch.testing.assert_close(task.loss(weights, batch), torch.nn.functional.cross_entropy(logits, batch[1]))
