r"""The feed-forward learned optimizer: one small MLP, the same for every parameter; the baseline of papers.

For each parameter alone, from its value ``w``, its gradient ``g`` and five momenta:

.. math::

    m_k \leftarrow \beta_k m_k + g, \qquad (a, b) = \mathrm{MLP}(\phi(w), \phi(g), \phi(m_1), \dots, \phi(m_5)), \qquad
    w \leftarrow w + \lambda a e^{\lambda b}

with :math:`\beta = .5, .9, .99, .999, .9999`, :math:`\lambda = 0.01` and
:math:`\phi(x) = (\log|x| / p, \mathrm{sign}\,x)` where :math:`|x| \ge e^{-p}`, else :math:`(-1, e^p x)`, and
:math:`p = 10`. Nothing says how far a run has come. What the MLP reads is detached, as published: the derivative of a
loss reaches an update only through the sum.

Sources: the setting of github.com/SamsungSAILMontreal/l2o_pytorch; preprocessing from Andrychowicz et al. 2016,
"Learning to learn by gradient descent by gradient descent", arXiv:1606.04474.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meta_train.rules.base import LearnedRule, State
from meta_train.theta import Theta
from ngopt.cards import card_page
from ngopt.errors import CheckpointError, FileError
from ngopt.files import write_text
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.tensor_files import check_like, read_tensors, reading, write_tensors

DECAYS = (0.5, 0.9, 0.99, 0.999, 0.9999)
HIDDEN = 32
SCALE = 0.01
P = 10
FORMAT = "ngopt-feed-forward"
SHIPPED = Path(__file__).parents[1] / "pretrained" / "feed-forward.safetensors"


class FeedForwardRule(LearnedRule):
    """The per-parameter MLP as a `LearnedRule`: 14 inputs, twice 32 hidden units with ReLU, 2 outputs.

    Args:
        seed: Of the initial meta-parameters: torch's own initialisation.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mlp = nn.Sequential(
                nn.Linear(2 * (2 + len(DECAYS)), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
                nn.Linear(HIDDEN, 2),
            )  # fmt: skip

    def init_state(self, graph: NeuralGraph | None, name: str, weight: Tensor) -> dict[str, Tensor]:
        """The momenta, ``[5, *shape]``."""
        del graph, name
        return {"momenta": weight.new_zeros(len(DECAYS), *weight.shape)}

    def update(
        self,
        graph: NeuralGraph | None,
        weights: Mapping[str, Tensor],
        grads: Mapping[str, Tensor | None],
        state: Mapping[str, dict[str, Tensor]],
        *,
        step: int = 0,
        total_steps: int | None = None,
    ) -> tuple[dict[str, Tensor], State]:
        """See `LearnedRule.update`. Graph, step and horizon change nothing; without a gradient nothing is updated."""
        del graph, step, total_steps
        names = [name for name in weights if grads.get(name) is not None]
        if not names:
            return {}, dict(state)
        # One call of the MLP for all tensors: there are many small ones.
        flat = torch.cat([weights[name].detach().reshape(-1) for name in names])
        grad = torch.cat([grads[name].detach().reshape(-1) for name in names])
        momenta = torch.cat([state[name]["momenta"].detach().reshape(len(DECAYS), -1) for name in names], 1)
        momenta = momenta * momenta.new_tensor(DECAYS)[:, None] + grad
        read = torch.stack([flat, grad, *momenta], -1)  # [parameter, 7]
        out = self.mlp(torch.stack(log_and_sign(read), -1).flatten(-2))
        added = SCALE * out[..., 0] * torch.exp(SCALE * out[..., 1])
        sizes = [weights[name].numel() for name in names]
        updates = {name: x.reshape(weights[name].shape) for name, x in zip(names, added.split(sizes), strict=True)}
        new_state = dict(state)
        for name, x in zip(names, momenta.split(sizes, 1), strict=True):
            new_state[name] = {"momenta": x.reshape(state[name]["momenta"].shape)}
        return updates, new_state

    def parts(self) -> dict[str, Theta]:
        """``all`` of it."""
        return {"all": {name: torch.ones_like(value) for name, value in self.named_parameters()}}

    def shrunk(self, theta: Theta, strength: float) -> Theta:
        """Unchanged: there is no hand-made start to go back to."""
        del strength
        return dict(theta)

    def save(self, theta: Theta, path: Path, card: Mapping[str, Any]) -> None:
        """Write one safetensors file, the card in its header, and the card beside it as Markdown."""
        write_tensors(path, dict(theta), {"format": FORMAT, "card": dict(card)})
        write_text(path.with_suffix(".md"), card_page(path.stem, card))


def log_and_sign(x: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitude and sign of numbers of any size, both of the order of one."""
    size, least = x.abs(), math.exp(-P)
    small = size < least
    return (
        torch.where(small, -1.0, torch.log(size.clamp_min(least)) / P),
        torch.where(small, math.exp(P) * x, torch.sign(x)),
    )


def load_feed_forward(path: str | Path = SHIPPED) -> FeedForwardRule:
    """Load what `FeedForwardRule.save` wrote.

    Raises:
        CheckpointError: No such file, or it is none of these, or damaged.
    """
    rule = FeedForwardRule()
    try:
        with reading(path):
            tensors, header = read_tensors(Path(path))
            if header.get("format") != FORMAT:
                raise ValueError(f"its format is {header.get('format')!r}")
            check_like(tensors, rule.state_dict(), path)
            rule.load_state_dict(tensors)
    except (FileError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable feed-forward optimizer: {error}") from error
    return rule


class FeedForwardOptimizer(torch.optim.Optimizer):
    """A feed-forward rule at work. It has no settings, and no schedule.

    Args:
        params: Parameters, or groups of them.
        rule: The meta-parameters.
    """

    def __init__(self, params: Iterable[Any], rule: FeedForwardRule) -> None:
        super().__init__(params, {})
        self.rule = rule

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; returns the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p] = self.rule.init_state(None, "", p)
        names = {str(k): p for k, p in enumerate(params)}
        updates, state = self.rule.update(
            None, names, {k: p.grad for k, p in names.items()}, {k: self.state[p] for k, p in names.items()}
        )
        for k, p in names.items():
            p.add_(updates[k])
            self.state[p] = state[k]
        return loss


def available() -> bool:
    """Whether trained meta-parameters are there."""
    return SHIPPED.is_file()


def make_optimizer(model: nn.Module, total_steps: int) -> FeedForwardOptimizer:
    """The trained feed-forward optimizer for a model; it does not use the number of steps."""
    del total_steps
    return FeedForwardOptimizer(model.parameters(), load_feed_forward())
