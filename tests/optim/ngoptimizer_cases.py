"""Small models, batches and meta-parameters that the tests of `NGOptimizer` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

import ngopt
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.update import DEFAULT_LR, UpdateRule

FEATURES, CLASSES, BATCH = 5, 3, 8


class Net(nn.Module):
    """A little of everything: convolution, batch norm, linear layers, tied, frozen and unused parameters."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 2, bias=False)  # before a batch norm, a bias has rounding errors for a gradient
        self.norm = nn.BatchNorm1d(4)
        self.wide = nn.Linear(4 * (FEATURES - 1), 6)
        self.square = nn.Linear(6, 6, bias=False)
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.square.weight
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.head = nn.Linear(6, CLASSES)
        self.unused = nn.Parameter(torch.zeros(3))
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, FEATURES] -> [batch, CLASSES]."""
        x = torch.relu(self.norm(self.conv(x[:, None]))).flatten(1)
        x = torch.tanh(self.wide(x))
        x = torch.relu(self.tied(torch.relu(self.square(x))))
        return self.head(torch.relu(self.frozen(x)) + x)


def make_net(seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    """A `Net` whose initial values depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(dtype)


def make_mlp(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Two linear layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES)).to(dtype)


def batch(index: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Inputs and classes number ``index`` of an endless stream."""
    generator = torch.Generator().manual_seed(1000 + index)
    x = torch.randn(BATCH, FEATURES, generator=generator)
    return x.to(dtype), (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def lively_rule(
    seed: int = 0, scale: float = 0.3, dtype: torch.dtype = torch.float32, encoder: str = "neuron_mp"
) -> UpdateRule:
    """Meta-parameters drawn at random, so that every gate is open: the untrained ones would hide most mistakes."""
    rule = UpdateRule(UpdateConfig(encoder=encoder)).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # NG-GNN and NG-T are deep: with such large weights they would be chaotic. Their initial ones are lively enough.
        for value in (rule if encoder == "neuron_mp" else rule.heads).parameters():
            value.add_(scale * torch.randn(value.shape, generator=generator).to(dtype))
    return rule


def train(
    model: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    indices: Iterable[int],
    *,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> float:
    """One step per batch index, on the loss times ``scale``; the last loss, unscaled."""
    loss = torch.tensor(float("nan"))
    for index in indices:
        x, y = batch(index, dtype)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x).float() if dtype != torch.float64 else model(x), y)
        (scale * loss).backward()
        optimizer.step()
    return loss.item()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def differing(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    """Names whose tensors are not equal bit for bit."""
    assert before.keys() == after.keys()
    return [name for name in before if not torch.equal(before[name], after[name])]


def same(one: object, other: object) -> bool:
    """Whether two trees of dicts and lists are equal, tensors bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


_graphs: dict[tuple, ngopt.NeuralGraph] = {}


def graph_of(model: nn.Module, *_: object) -> ngopt.NeuralGraph:
    """The graph of a model, traced once per architecture and remembered: tests of tracing are elsewhere."""
    named = model.named_parameters(remove_duplicate=False)
    key = (str(model), *((name, tuple(value.shape), value.dtype) for name, value in named if value is not None))
    if key not in _graphs:
        _graphs[key] = ngopt.trace(model, (batch(0, next(model.parameters()).dtype)[0],))
    return _graphs[key]


def _two_groups(model: nn.Module) -> ngopt.NGOptimizer:
    named = list(model.named_parameters())
    groups = [{"params": named[:3], "lr": 0.7 * DEFAULT_LR}, {"params": named[3:], "weight_decay": 0.1}]
    return ngopt.NGOptimizer(groups, model=model, rule=lively_rule())


# Every way to build the optimizer; the contract in test_ngoptimizer.py holds for each.
CONSTRUCTIONS: dict[str, Callable[[nn.Module], ngopt.NGOptimizer]] = {
    "model": lambda model: ngopt.NGOptimizer(model, rule=lively_rule()),
    "untrained": lambda model: ngopt.NGOptimizer(model),
    "horizon": lambda model: ngopt.NGOptimizer(model, total_steps=80, weight_decay=0.01, rule=lively_rule()),
    "inputs": lambda model: ngopt.NGOptimizer(
        model.parameters(), model=model, example_inputs=batch(0, next(model.parameters()).dtype)[0], rule=lively_rule()
    ),
    "graph": lambda model: ngopt.NGOptimizer(
        model.named_parameters(),
        graph=graph_of(model),
        rule=lively_rule(),
    ),
    "groups": _two_groups,
    "user_schedule": lambda model: ngopt.NGOptimizer(model, lr=0.3 * DEFAULT_LR, schedule="user", rule=lively_rule()),
    "ng_gnn": lambda model: ngopt.NGOptimizer(model, rule=lively_rule(scale=0.03, encoder="ng_gnn")),
    "ng_t": lambda model: ngopt.NGOptimizer(model, rule=lively_rule(scale=0.03, encoder="ng_t")),
    "no_graph": lambda model: ngopt.NGOptimizer(model, graph=False, rule=lively_rule()),
}
