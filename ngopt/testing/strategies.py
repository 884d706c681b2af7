"""What hypothesis draws: modules, networks, group elements, batches. What fails shrinks to the smallest network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ngopt.extras import extra
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.symmetry import Generator
from ngopt.testing import known
from ngopt.testing.architectures import INPUTS, RandomNet
from ngopt.testing.known import KnownModule

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

with extra("testing", "ngopt.testing.strategies"):
    from hypothesis import strategies as st

SEEDS = st.integers(0, 2**16)


@dataclass(frozen=True)
class Product:
    """A product of generators of a graph's symmetry group, applied from left to right; the identity if it has none."""

    factors: tuple[Generator, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what it moves."""
        return tuple(dict.fromkeys(name for factor in self.factors for name in factor.parameters))

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Permute whatever is keyed and shaped like the network's parameters; see `Generator.apply`."""
        result = dict(state)
        for factor in self.factors:
            result = factor.apply(result)
        return result

    def __repr__(self) -> str:
        return " then ".join(f"the exchange {factor.name}" for factor in self.factors) or "the identity"


def elements(graph: NeuralGraph, most: int = 8) -> SearchStrategy[Product]:
    """Elements of a graph's symmetry group; they shrink to one exchange of two neighbours.

    Args:
        graph: From `ngopt.trace`. Without symmetries, only the identity is drawn.
        most: Exchanges in a product.
    """
    generators = list(graph.generators())
    if not generators:
        return st.just(Product(()))
    indices = st.lists(st.integers(0, len(generators) - 1), min_size=1, max_size=most)
    return indices.map(lambda chosen: Product(tuple(generators[i] for i in chosen)))


def orders(count: int) -> SearchStrategy[list[int]]:
    """Permutations of ``0 ... count - 1``; they shrink towards the identity. See `assert_layer_equivariant`."""
    return st.permutations(range(count))


def networks(graph: NeuralGraph, dtype: torch.dtype = torch.float64) -> SearchStrategy[dict[str, Tensor]]:
    """Random networks of an architecture: parameters and learned buffers, name -> ``[*shape]``; tied ones are equal."""
    return SEEDS.map(lambda seed: _network(graph, seed, dtype))


def _network(graph: NeuralGraph, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    random, state = torch.Generator().manual_seed(seed), {}
    for block in (*graph.blocks, *graph.buffers):
        x = torch.randn(block.shape, generator=random, dtype=torch.float64) / block.fan_in**0.5
        if block.name.endswith("running_var"):
            x = x.square() + 0.5
        state |= dict.fromkeys((block.name, *block.aliases), x.to(dtype))
    return state


def batches(
    shape: tuple[int, ...],
    sizes: tuple[int, int] = (1, 4),
    dtype: torch.dtype = torch.float64,
) -> SearchStrategy[Tensor]:
    """Random normal inputs ``[batch, *shape]``.

    Args:
        shape: Of one input.
        sizes: Least and greatest number of inputs.
        dtype: Of the result.
    """

    def draw(numbers: tuple[int, int]) -> Tensor:
        size, seed = numbers
        return torch.randn(size, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

    return st.tuples(st.integers(*sizes), SEEDS).map(draw)


def modules(depth: int = 3, width: int = 6) -> SearchStrategy[KnownModule]:
    """Small modules whose symmetries are known by construction: MLPs, CNNs, residual networks, attention.

    Args:
        depth: Greatest number of hidden layers, or blocks.
        width: Greatest number of neurons in each; the least is two.
    """
    number = st.integers(2, width)
    some = st.lists(number, min_size=1, max_size=depth)
    return st.one_of(
        some.map(known.mlp),
        some.map(known.cnn),
        st.tuples(number, some).map(lambda x: known.residual(*x)),
        st.tuples(st.integers(2, 3), number, number).map(lambda x: known.attention(*x)),
    )


def architectures(steps: int = 9) -> SearchStrategy[tuple[str, list[Any]]]:
    """Arguments of `RandomNet`: a kind of input, and up to ``steps`` quadruples of integers."""
    quadruples = st.lists(st.tuples(*[st.integers(0, 999)] * 4), min_size=1, max_size=steps)
    return st.tuples(st.sampled_from(list(INPUTS)), quadruples)


def random_nets(steps: int = 9) -> SearchStrategy[RandomNet]:
    """Random small DAGs of some thirty kinds of layers, with normal parameters and unknown symmetries."""

    def build(arguments: tuple[str, list[Any]]) -> RandomNet:
        net = RandomNet(*arguments).double()
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
        return net

    return architectures(steps).map(build)
