"""Models, rules and loops that the tests of the update function share."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import ngopt
from ngopt.optim.rule.plan import plan_new
from ngopt.optim.update import ParamState, UpdateConfig, UpdateRule, init_state, update, update_

CLASSES = 10
Weights = dict[str, Tensor]


class Recurrent(nn.Module):
    """An LSTM between an embedding and a linear layer: slots, a table of rows, and several nodes per row."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time] -> [batch, class]."""
        return self.head(self.lstm(self.embed(x))[0][:, -1])


class Transposed(nn.Module):
    """Weights stored as [in, out], as in GPT-2."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(0.3 * torch.randn(7, 12))
        self.second = nn.Parameter(0.3 * torch.randn(12, 9))
        self.head = nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, feature] -> [batch, class]."""
        return self.head(torch.relu(torch.relu(x @ self.first) @ self.second))


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def grouped() -> nn.Sequential:
    """Plain, grouped and depthwise convolutions, norms, and a flattening linear layer."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.GroupNorm(4, 8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 9, CLASSES),
    )


def images(*shape: int) -> Callable[[torch.Generator], Tensor]:
    """A maker of random inputs."""
    return lambda generator: torch.randn(12, *shape, generator=generator, dtype=torch.float64)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.Generator], Tensor]]] = {
    "mlp": (lambda: mlp(7, 12, 9, CLASSES), images(7)),
    "cnn": (grouped, images(2, 6, 6)),
    "transposed": (Transposed, images(7)),
    "lstm": (Recurrent, lambda generator: torch.randint(11, (12, 4), generator=generator)),
}


@functools.cache
def make(case: str, seed: int = 0) -> tuple[nn.Module, Tensor, ngopt.NeuralGraph]:
    """A model in float64, an input, and the model's graph; not to be changed by tests."""
    make_model, make_input = CASES[case]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model().double()
    x = make_input(torch.Generator().manual_seed(seed))
    return model, x, ngopt.trace(model, x)


def trained_rule(config: UpdateConfig | None = None, size: float = 0.3, seed: int = 5) -> UpdateRule:
    """A rule whose heads say something, in float64."""
    rule = UpdateRule(config).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in [*rule.heads.parameters(), *rule.schedule.parameters()]:
            param.copy_(size * torch.randn(param.shape, generator=generator, dtype=param.dtype))
    return rule


def gradients(model: nn.Module, weights: Mapping[str, Tensor], x: Tensor, loss_scale: float = 1.0) -> Weights:
    """Gradients of a cross-entropy with fixed labels."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    labels = torch.arange(len(x)) % CLASSES
    loss = nn.functional.cross_entropy(torch.func.functional_call(model, leaves, (x,)), labels)
    return dict(zip(leaves, torch.autograd.grad(loss * loss_scale, list(leaves.values())), strict=True))


def fresh_state(
    weights: Mapping[str, Tensor], graph: ngopt.NeuralGraph | None, config: UpdateConfig
) -> dict[str, ParamState]:
    """The state before the first step."""
    plans = plan_new(graph, {name: tuple(weight.shape) for name, weight in weights.items()}, {}, config)
    return {name: init_state(weight, plans[name], config) for name, weight in weights.items()}


def run(
    model: nn.Module,
    x: Tensor,
    graph: ngopt.NeuralGraph | None,
    rule: UpdateRule,
    steps: int,
    *,
    in_place: bool = False,
    loss_scale: float = 1.0,
    weights: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> Iterator[tuple[Weights, dict[str, ParamState]]]:
    """Train, with the pure function or in place; weights and state after each step."""
    weights = {name: w.detach().clone() for name, w in (weights or dict(model.named_parameters())).items()}
    state = fresh_state(weights, graph, rule.config)
    for step in range(steps):
        grads = gradients(model, weights, x, loss_scale)
        if in_place:
            update_(rule, graph, weights, grads, state, step=step, **options)
        else:
            with torch.no_grad():
                updates, state = update(rule, graph, weights, grads, state, step=step, **options)
            weights = {name: w + updates.get(name, 0.0) for name, w in weights.items()}
        yield weights, state


def last(steps: Iterator[Any]) -> Any:
    """The last element."""
    *_, final = steps
    return final


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Largest difference of two tables of tensors, relative to the norm of each tensor."""
    assert one.keys() == other.keys()
    pairs = [(one[k].double(), other[k].double()) for k in one]
    return max(((x - y).norm() / (y.norm() + 1e-30)).item() for x, y in pairs)


def flat(state: Mapping[str, ParamState]) -> Weights:
    """A state as one table."""
    return {f"{name}/{key}": value for name, entries in state.items() for key, value in entries.items()}


def unsigned(state: Mapping[str, ParamState]) -> Weights:
    """The same without signs, which eigenvectors leave free."""
    return {key: value.abs() for key, value in flat(state).items()}
