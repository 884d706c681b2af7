"""Where batches come from: held-out images stay out, noise is as much as was asked, pictures, text and tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from meta_train.tasks import TRAINING, VALIDATION, draw
from meta_train.tasks import base as tasks_base
from meta_train.tasks import images as tasks_images
from meta_train.tasks import language as tasks_language
from meta_train.tasks.images import Images, images
from meta_train.tasks.language import CHARACTERS, LanguageModel, Text, text
from meta_train.tasks.recurrent import Recurrence
from meta_train.tasks.siren import Pixels, siren
from meta_train.tasks.tabular import COLUMNS, Table, table
from meta_train.tasks.transformer import Block
from meta_train.tasks.validation import RowGRU
from meta_train.tasks.vit import Patches

FIRST, IMAGES, HELD_OUT = 100, 1200, 200  # labels are FIRST + number of the image, so that they say which one it is


def marked_dataset(name: str) -> SimpleNamespace:
    """Random training images; there are no test images to read."""
    assert name in ("mnist", "fashion-mnist"), name
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (IMAGES, 28, 28, 1), generator=random, dtype=torch.uint8)
    return SimpleNamespace(train_images=pixels, train_labels=FIRST + torch.arange(IMAGES))


@pytest.fixture(autouse=True)
def marked_images(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Images whose labels are their numbers, and tasks without graphs."""
    monkeypatch.setattr(tasks_images, "load", marked_dataset)
    monkeypatch.setattr(tasks_images, "HELD_OUT", HELD_OUT)
    monkeypatch.setattr(tasks_base.ngopt, "trace", lambda *args, **kwargs: None)
    images.cache_clear()
    yield
    images.cache_clear()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_held_out_images_are_in_no_training_batch() -> None:
    boundary = FIRST + IMAGES - HELD_OUT
    assert images("mnist", 8)[1].tolist() == list(range(FIRST, boundary))
    assert images("mnist", 8, held_out=True)[1].tolist() == list(range(boundary, FIRST + IMAGES))
    seen = 0
    for name in (*TRAINING, *VALIDATION):
        for seed in range(6):
            data = draw(name, seed).data
            if isinstance(data, Images) and data.targets == "labels":
                labels = data.batch(generator(seed), 4, 500)[1]
                labels = labels[labels >= FIRST]  # the rest is label noise
                assert bool((labels < boundary).all() if name in TRAINING else (labels >= boundary).all()), name
                seen += 1
            elif isinstance(data, Images):
                assert data.held_out == (name in VALIDATION)
    assert seen > 30


def test_label_noise_has_its_share_and_stays() -> None:
    data = Images("mnist", 8, label_noise=0.3, seed=5)
    x, y = data.batch(generator(), 1, 20_000)
    labels: dict[bytes, set[int]] = {}
    for pixels, label in zip(x[0], y[0].tolist(), strict=True):
        labels.setdefault(pixels.numpy().tobytes(), set()).add(label)
    assert len(labels) == IMAGES - HELD_OUT
    assert all(len(own) == 1 for own in labels.values())
    noisy = sum(next(iter(own)) < FIRST for own in labels.values())
    assert noisy / len(labels) == pytest.approx(0.3, abs=0.05)
    assert bool((Images("mnist", 8).batch(generator(), 1, 5000)[1] >= FIRST).all())


def test_subsets_are_drawn_once_and_have_their_size() -> None:
    def used(seed: int) -> set[int]:
        return set(Images("mnist", 8, subset=50, seed=seed).batch(generator(), 2, 2000)[1].flatten().tolist())

    assert len(used(0)) == len(used(1)) == 50
    assert used(0) == used(0) != used(1)


def test_images_are_normalised_and_three_channels_differ() -> None:
    for size in (8, 14, 28):
        pixels, _ = images("mnist", size)
        assert pixels.shape == (IMAGES - HELD_OUT, 1, size, size)
        assert abs(float(pixels.mean())) < 1e-5 and float(pixels.std()) == pytest.approx(1, abs=1e-5)
    x, _ = Images("mnist", 8, channels=3, seed=1).batch(generator(), 2, 5)
    assert x.shape == (2, 5, 3, 8, 8)
    assert not torch.allclose(x[:, :, 0], x[:, :, 1])
    x, y = Images("mnist", 8, targets="pixels").batch(generator(), 2, 5)
    assert torch.equal(x.flatten(2), y)


def test_each_siren_of_a_stack_has_its_own_image() -> None:
    data = Pixels("mnist", 28, seed=4)
    xy, target = data.batch(generator(), 3, 400)
    assert xy.shape == (3, 400, 2) and float(xy.min()) == -1 and float(xy.max()) == 1
    pixels = images("mnist", 28)[0][:, 0]
    column, row = ((xy + 1) * 27 / 2).round().long().unbind(-1)
    own = []
    for k in range(3):
        matching = (pixels[:, row[k], column[k]] == target[k, :, 0]).all(1).nonzero().flatten().tolist()
        assert len(matching) == 1
        own += matching
    assert len(set(own)) == 3
    later, wanted = data.batch(generator(1), 1, 400)  # other pixels, the same image
    column, row = ((later[0] + 1) * 27 / 2).round().long().unbind(-1)
    assert torch.equal(pixels[own[0], row, column], wanted[0, :, 0])


def test_sirens_keep_their_spread_through_the_layers() -> None:
    """Before every sine but the first weights give a spread of 1 and biases as much; torch's weights give 12."""
    torch.manual_seed(0)
    x, spread = 2 * torch.rand(2000, 2) - 1, []
    for layer in siren(256, 4, 30.0):
        if not isinstance(layer, nn.Linear):
            spread.append(30 * float(x.detach().std()))
        x = layer(x)
    assert 5 < spread[0] < 20 and all(0.7 < s < 2 for s in spread[1:]), spread


def test_windows_of_text_are_followed_by_the_next_characters() -> None:
    ids, held_out = text(), text(held_out=True)
    assert len(held_out) == pytest.approx(0.1 * (len(ids) + len(held_out)), abs=1)
    assert int(ids.min()) == 0 and int(ids.max()) == int(held_out.max()) == CHARACTERS
    counts = torch.bincount(ids, minlength=CHARACTERS + 1)[:-1]
    assert bool((counts[:-1] >= counts[1:]).all()) and float((ids == CHARACTERS).float().mean()) < 0.01
    x, y = Text(24).batch(generator(), 3, 50)
    assert x.shape == y.shape == (3, 50, 24) and torch.equal(x[..., 1:], y[..., :-1])


@pytest.mark.parametrize("held_out", [False, True])
def test_windows_stay_inside_their_part_of_the_text(held_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {False: torch.arange(40), True: torch.arange(100, 130)}
    monkeypatch.setattr(tasks_language, "text", parts.__getitem__)
    x, y = Text(16, held_out).batch(generator(), 4, 500)
    assert (int(x.min()), int(y.max())) == ((100, 129) if held_out else (0, 39))


@pytest.mark.parametrize("packed", [False, True])
def test_language_models_see_no_later_character(packed: bool) -> None:
    model = LanguageModel(12, 16, [Block(16, 2, 32, "gelu", causal=True, packed=packed) for _ in range(2)])
    ids = torch.randint(CHARACTERS, (2, 12))
    changed = ids.clone()
    changed[:, 7] += 1
    same = (model(ids) == model(changed)).all(2).all(0)
    assert same.tolist() == [True] * 7 + [False] * 5


def test_patches_are_squares() -> None:
    rows = torch.arange(4).repeat_interleave(2)
    image = (4 * rows[:, None] + rows[None]).float().expand(1, 1, 8, 8)  # each 2 x 2 square has one number
    assert torch.equal(Patches(2)(image)[0], torch.arange(16.0)[:, None].expand(16, 4))


def take_over(ours: Recurrence, theirs: nn.RNNBase) -> None:
    for mine, its in ((ours.ins, "ih"), (ours.hidden, "hh")):
        for kind in ("weight", "bias"):
            getattr(mine, kind).data.copy_(getattr(theirs, f"{kind}_{its}_l0"))


@pytest.mark.parametrize(("kind", "layer"), [("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn", nn.RNN)])
def test_recurrent_layers_are_those_of_torch(kind: str, layer: type[nn.RNNBase]) -> None:
    ours, theirs = Recurrence(kind, 5, 8).double(), layer(5, 8, batch_first=True).double()
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    assert not torch.allclose(ours(x), theirs(x)[0])  # control
    take_over(ours, theirs)
    torch.testing.assert_close(ours(x), theirs(x)[0], rtol=1e-10, atol=1e-10)


def test_the_gru_is_a_gru() -> None:
    ours, theirs = RowGRU(14, 8).double(), nn.GRU(14, 8, batch_first=True).double()
    take_over(ours.network, theirs)
    x = torch.randn(3, 1, 14, 14, dtype=torch.float64)
    torch.testing.assert_close(ours(x), ours.head(theirs(x[:, 0])[1][0]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", COLUMNS)
def test_tables_are_standardised(name: str) -> None:
    x, y = table(name)
    assert (x.shape[1], y.shape[1]) == COLUMNS[name] and x.dtype == y.dtype == torch.float32
    for part in (x, y):
        torch.testing.assert_close(part.mean(0), torch.zeros(part.shape[1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(part.std(0, correction=0), torch.ones(part.shape[1]), rtol=0, atol=1e-5)
    inputs, target = Table(name).batch(generator(), 2, 30)
    index = (inputs[0][:, None] == x).all(2).float().argmax(1)
    assert torch.equal(x[index], inputs[0])
    assert target.shape == (2, 30, COLUMNS[name][1])


def test_tables_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    table.cache_clear()
    with pytest.raises(
        ImportError, match=r"the tabular tasks cannot run without sklearn: pip install 'ngopt\[train\]'"
    ):
        Table("diabetes").batch(generator(), 1, 2)
