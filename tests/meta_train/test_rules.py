"""ngopt's rule as meta-training sees it: starting from a checkpoint, and what can be trained of it."""

from __future__ import annotations

from pathlib import Path

import meta_train_cases
import pytest
import torch
from meta_train_cases import BACKPROP, PES, config_of, tiny, trainer_of
from torch import Tensor

from meta_train.inner import make_step, start
from meta_train.rules import LearnedRule, NeuralGraphRule, make_rule
from meta_train.unroll import unroll
from ngopt.errors import CheckpointError
from ngopt.optim.rule.config import UpdateConfig


def trained_rule(config: UpdateConfig) -> NeuralGraphRule:
    """A rule moved away from its start, as far as its parts can be trained."""
    rule, random = NeuralGraphRule(config), torch.Generator().manual_seed(0)
    masks = {name: mask for part in rule.parts().values() for name, mask in part.items()}
    with torch.no_grad():
        for name, value in rule.named_parameters():
            value += 0.1 * masks[name] * torch.randn(value.shape, generator=random)
    return rule


@torch.no_grad()
def trained_weights(rule: LearnedRule) -> list[Tensor]:
    """Where a few steps of this rule lead."""
    task = tiny(torch.Generator().manual_seed(0))
    stack = start(rule, task, count=2, horizon=6, seed=1)
    return list(unroll(make_step(rule, task), dict(rule.named_parameters()), task, stack, 4)[0].weights.values())


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("messages", [True, False])
def test_a_rule_that_starts_from_a_checkpoint_is_the_same_function(messages: bool, tmp_path: Path) -> None:
    """Also one with the graph that starts from one without, whatever that one learned."""
    source, path = trained_rule(UpdateConfig(messages=messages)), tmp_path / "source.safetensors"
    source.save(dict(source.named_parameters()), path, {})
    rule = make_rule("neural_graph", UpdateConfig(), str(path))
    expected = trained_weights(source)
    assert same(trained_weights(rule), expected)
    assert not same(trained_weights(make_rule("neural_graph", UpdateConfig())), expected)  # control
    with torch.no_grad():  # control: its embeddings can matter
        rule.inner.heads.direct.weight += 0.1  # type: ignore[attr-defined]
    assert not same(trained_weights(rule), expected)


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    rule, path = NeuralGraphRule(), tmp_path / "rule.safetensors"
    rule.save(dict(rule.named_parameters()), path, {})
    make_rule("neural_graph", UpdateConfig(), str(path))  # control
    with pytest.raises(CheckpointError, match="sizes are not those of this config"):
        make_rule("neural_graph", UpdateConfig(embedding=UpdateConfig().embedding + 1), str(path))
    with pytest.raises(CheckpointError, match="random initial values only"):
        make_rule("feed_forward", UpdateConfig(), str(path))


@pytest.mark.parametrize("slot", [PES, BACKPROP], ids=["pes", "backprop"])
def test_without_messages_nothing_around_the_embeddings_moves(
    slot: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PES would move it by noise, and a rule with the graph that starts from there would be another function."""
    meta_train_cases.register(monkeypatch.setitem)
    for messages in (False, True):  # the second is the control
        config = config_of(slots=[slot | {"count": 1}], rule={"messages": messages})
        trainer = trainer_of(config, tmp_path / str(messages))
        for _ in range(3):  # readouts move first, then what they read, then the encoder
            trainer.iterate()
        moved = {name.removeprefix("inner.") for name, x in trainer.outer.params.items()
                 if not torch.equal(x, trainer.untrained[name])}  # fmt: skip
        assert "heads.direct.weight" in moved
        around = {name for name in moved if name.startswith("encoder.")}
        assert bool(around) == messages
        columns = trainer.outer.params["inner.heads.hidden.weight"][:, -2 * config.rule.embedding :]
        assert bool(columns.any()) == messages
