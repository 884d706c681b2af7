"""Learned optimizers that can be meta-trained: the rule of `ngopt.optim`, and the feed-forward rule of papers."""

from meta_train.rules.base import LearnedRule, State
from meta_train.rules.feed_forward import FeedForwardRule
from meta_train.rules.neural_graph import NeuralGraphRule
from ngopt.errors import CheckpointError
from ngopt.optim.saving.checkpoint import load_pretrained
from ngopt.optim.update import UpdateConfig

__all__ = ["FeedForwardRule", "LearnedRule", "NeuralGraphRule", "State", "make_rule"]


def make_rule(kind: str, config: UpdateConfig, init: str = "") -> LearnedRule:
    """A rule of a kind that configs name, fresh or from a checkpoint.

    Raises:
        CheckpointError: There is no such checkpoint, or it does not fit.
    """
    if kind == "feed_forward":
        if init:
            raise CheckpointError("init: a feed-forward rule starts from its random initial values only.")
        return FeedForwardRule(seed=config.seed)
    rule = NeuralGraphRule(config)
    if init:
        rule.start_from(load_pretrained(init))
    return rule
