"""What the tests of metanetworks share: networks of the zoo with their graphs, stacks of them, and metanetworks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice, pairwise

import pytest
import torch
from torch import Tensor, nn

import ngopt
from ngopt.encoder import Metanetwork, metanetwork
from ngopt.graph.symmetry import Generator
from ngopt.testing import relative_error
from tests.zoo import MODELS

ENCODERS = ("neuron_flow", "ng_gnn", "ng_t")
SWEEPS = ("ng_gnn", "ng_t")  # these embed every weight
TASKS = ("classify", "edit")
EXACT = 1e-10  # in float64, relative to the spread

State = dict[str, Tensor]
Network = tuple[ngopt.NeuralGraph, State]


class Siren(nn.Module):
    """Sine networks; `outputs` linear, frequencies ``omega`` in the first layer and ``inner`` in the others."""

    def __init__(
        self, *widths: int, inputs: int = 2, outputs: int = 1, omega: float = 30.0, inner: float | None = None
    ) -> None:
        super().__init__()
        sizes = (inputs, *widths, outputs)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.omegas = [omega] + [inner or omega] * (len(widths) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """[sample, coordinate] -> [sample, channel]."""
        for omega, layer in zip(self.omegas, self.layers, strict=False):
            x = (omega * layer(x)).sin()
        return self.layers[-1](x)


def network_of(module: nn.Module, *args: Tensor, scalings: bool = False, **kwargs: Tensor) -> Network:
    """Graph, parameters and learned buffers of a module, in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages warn of is not our subject
        graph = ngopt.trace(
            module.double().eval(), args, example_kwargs=kwargs, certify=False, scalings=scalings
        )  # the tests of graphs check the zoo's certificates
    known = {name for block in (*graph.blocks, *graph.buffers) for name in (block.name, *block.aliases)}
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return graph, {name: tensor.detach() for name, tensor in tensors if name in known}


@cache
def zoo(name: str) -> Network:
    """A network of the zoo, traced once per test run."""
    if not MODELS[name].available:
        pytest.skip(f"{MODELS[name].needs} is not installed")
    case = MODELS[name].make()
    return network_of(case.module, *case.args, **case.kwargs)


def drawn(state: Mapping[str, Tensor], seed: int) -> State:
    """Another network of the same architecture."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(x.shape, generator=generator, dtype=x.dtype) * x.std(correction=0)
        for name, x in state.items()
    }


def stacked(*states: Mapping[str, Tensor]) -> State:
    """Networks of one architecture as a stack."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def reader(graph: ngopt.NeuralGraph, encoder: str = "ng_gnn", task: str = "classify", **options: object) -> Metanetwork:
    """A metanetwork with fixed random weights, in float64; new parameters are old ones plus changes of scale one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = metanetwork(graph, encoder=encoder, task=task, **options).double().eval()
    if task == "edit":
        scale_changes(model, 1.0)
    return model.requires_grad_(False)


def scale_changes(model: nn.Module, scale: float) -> None:
    """How large the changes are that an editor makes, in all of its rounds."""
    for part in model.readout.modules():
        if isinstance(found := getattr(part, "scale", None), nn.Parameter):
            nn.init.constant_(found, scale)


def reading(model: Metanetwork, graph: ngopt.NeuralGraph, state: State, task: str, mixed: bool) -> Callable:
    """What the model makes of one network, ``state -> [output]`` or ``state -> changes``, read among others."""
    others = [drawn(state, seed) for seed in (1, 2)]
    stranger = zoo("conv1d")

    def read(state: State) -> Tensor | State:
        if mixed:
            result = model.mixed([stranger, (graph, state), (graph, others[0])])
            own = {name: x[0] for name, x in result[1].items()} if task == "edit" else result[1]
        else:
            result = model(graph, stacked(others[0], state, others[1]))
            own = {name: x[1, 0] for name, x in result.items()} if task == "edit" else result[1]
        return {name: x - state[name] for name, x in own.items()} if task == "edit" else own

    return read


def elements(graph: ngopt.NeuralGraph, generators: int | None = 2, products: int = 1) -> Iterator[Generator]:
    """Some generators of the graph's symmetries, spread evenly (all with None), and random elements of the group."""
    everything = list(graph.generators())
    step = 1 if generators is None else max(1, len(everything) // max(1, generators))
    yield from islice(everything, 0, None, step)
    if everything and graph.symmetries is not None:
        yield from (graph.symmetries.random(seed) for seed in range(products))


def differ(x: Tensor, y: Tensor) -> float:
    """Largest difference, relative to the spread."""
    return relative_error([x], [y])
