"""The optimizer follows the symmetries of every model in the zoo: permute, then step, equals step, then permute."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

import ngopt
from ngopt.graph import Generator
from ngopt.graph.capture import output_tensors
from ngopt.optim.rule.direction import out_of_bases
from ngopt.optim.rule.plan import plan_all
from tests.optim.ngoptimizer_cases import batch, lively_rule, make_mlp, train
from tests.zoo import MODELS, Case
from tests.zoo.numerics import AllDouble, state_of

STEPS = 2
NOT_DIFFERENTIABLE = {"in_place"}  # overwrites what its own backward pass needs
# Of the largest entry. Every tensor steps as far as others do, be its gradient a billionth of theirs: rounding counts.
TOLERANCE, FAR = 1e-3, 1e-2
NOISE = 1e-11  # of the largest gradient: entries below are zero but for rounding (a key's bias, a bias before a norm)


def gradients(case: Case, module: nn.Module, step: int) -> None:
    """Gradients of a fixed random function of the outputs, the same for every arrangement of the hidden neurons."""
    generator = torch.Generator().manual_seed(step)
    module.zero_grad()
    with AllDouble():
        outputs = [x for x in output_tensors(module(*case.args, **case.kwargs)) if x.requires_grad]
        loss = sum((torch.randn(x.shape, generator=generator, dtype=x.dtype) * x).sum() for x in outputs)
        loss.backward()
    grads = [param.grad for param in module.parameters() if param.grad is not None]
    largest = max(grad.abs().max().item() for grad in grads)
    for grad in grads:
        grad[grad.abs() < NOISE * largest] = 0.0


def run(
    case: Case, module: nn.Module, graph: ngopt.NeuralGraph, encoder: str = "neuron_mp"
) -> dict[str, dict[str, Tensor]]:
    """Train a few steps. Weights, and every entry of the state spread to the shape of its parameter, all by name."""
    optimizer = ngopt.NGOptimizer(
        module.named_parameters(), lr=0.05, graph=graph, rule=lively_rule(dtype=torch.float64, encoder=encoder)
    )
    start = {name: param.detach().clone() for name, param in module.named_parameters()}
    for step in range(STEPS):
        gradients(case, module, step)
        optimizer.step()
    blocks = {name: block for block in graph.blocks for name in (block.name, *block.aliases)}
    found: dict[str, dict[str, Tensor]] = {}
    for name, param in module.named_parameters():
        found.setdefault("change", {})[name] = param.detach() - start[name]
        block = blocks[name]
        for key, value in optimizer.state.get(param, {}).items():
            if key == "momentum":
                own, rule = optimizer.state[param], optimizer.rule.config
                plan = plan_all(graph, {block.name: own}, {block.name: tuple(param.shape)}, rule)[block.name]
                found.setdefault(key, {})[name] = plan.unview(out_of_bases(plan.sides, value, own), tuple(param.shape))
            elif key in ("step", "initial_rms", "guard", "unit", "controls"):  # however the neurons are arranged
                found.setdefault(key, {})[f"{name}: {key}"] = value
            elif key.endswith("_order") or key == "second_moment":
                pass  # the first is read in terms of neurons, the second in terms of the bases, which have free signs
            elif key.endswith(("_factor", "_basis")):
                pass  # what follows from them, the change, is compared
            else:
                raise AssertionError(f"{key} of {name}: say here how the new entry of the state is permuted")
    return found


def spread(block: ngopt.graph.ParamBlock, value: Tensor) -> Tensor:
    return block.from_matrix(value.expand(block.matrix_shape).contiguous())


def worst(
    one: dict[str, dict[str, Tensor]], other: dict[str, dict[str, Tensor]], generator: Generator | None
) -> tuple[float, str]:
    """Largest difference between what one run did, permuted, and what the other did; and where."""
    assert one.keys() == other.keys()
    worst = (0.0, "")
    for key, table in one.items():
        moved = generator.apply(table) if generator is not None else table
        for name, value in moved.items():
            size = max(value.abs().max().item(), 1e-30)
            worst = max(worst, ((other[key][name] - value).abs().max().item() / size, f"{key} of {name}"))
    return worst


def permuted(module: nn.Module, generator: Generator) -> nn.Module:
    twin = copy.deepcopy(module)
    moved = generator.apply(state_of(module))
    with torch.no_grad():
        for name, tensor in state_of(twin).items():
            tensor.copy_(moved[name])
    return twin


@pytest.mark.parametrize("name", [name for name in MODELS if name not in NOT_DIFFERENTIABLE])
@pytest.mark.filterwarnings("ignore::ngopt.FrozenSymmetryWarning")
def test_zoo(name: str) -> None:
    """One permutation that moves every set of interchangeable neurons at once."""
    if not MODELS[name].available:
        pytest.skip(f"{MODELS[name].needs} is not installed")
    case = MODELS[name].make()
    # What `torch.export` captured holds on all inputs and needs no certificate here; it has tests of its own.
    graph = ngopt.trace(case.module, case.args, example_kwargs=case.kwargs, certify=False)
    generator = graph.symmetries.random()
    reference = run(case, copy.deepcopy(case.module), graph)
    assert any(table.abs().max() > 1e-3 for key, t in reference.items() if key == "controls" for table in t.values())
    if not generator.moves:
        assert not MODELS[name].sizes  # a negative control of the zoo: there is nothing to permute
        return
    other = run(case, permuted(case.module, generator), graph)
    error, where = worst(reference, other, generator)
    assert error < TOLERANCE, f"{where} differs by {error:.1e}"
    assert worst(reference, other, None)[0] > FAR  # control: the permutation is not trivial


@pytest.mark.parametrize("encoder", ["ng_gnn", "ng_t"])
@pytest.mark.parametrize("name", ["mlp", "cnn_batch_norm_pooling", "transformer_encoder", "lstm"])
def test_any_encoder_can_drive_it(name: str, encoder: str) -> None:
    case = MODELS[name].make()
    graph = ngopt.trace(case.module, case.args, example_kwargs=case.kwargs)
    generator = graph.symmetries.random()
    reference = run(case, copy.deepcopy(case.module), graph, encoder)
    other = run(case, permuted(case.module, generator), graph, encoder)
    error, where = worst(reference, other, generator)
    assert error < TOLERANCE, f"{where} differs by {error:.1e}"
    assert worst(reference, other, None)[0] > FAR  # control: the permutation is not trivial
    assert worst(reference, run(case, copy.deepcopy(case.module), graph), None)[0] > FAR  # and the encoder matters


def test_a_wrong_graph_is_found_out() -> None:
    """Control: with two hidden neurons mixed up in one block, permuting and stepping do not commute any more."""
    module = make_mlp(dtype=torch.float64)
    case = Case(module, (batch(0, torch.float64)[0],), {})
    graph = ngopt.trace(module, case.args)
    generator = next(graph.generators())
    wrong = tuple(
        dataclasses.replace(block, row_nodes=block.row_nodes.roll(1, dims=1)) if block.name == "0.weight" else block
        for block in graph.blocks
    )
    for blocks, holds in ((graph.blocks, True), (wrong, False)):
        changed = dataclasses.replace(graph, blocks=blocks)
        one = run(case, copy.deepcopy(module), changed)
        other = run(case, permuted(module, generator), changed)
        assert (worst(one, other, generator)[0] < TOLERANCE) == holds


class Pair(nn.Module):
    """Two networks that share nothing."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Each on its own input."""
        return self.first(x), self.second(y)


def large(module: nn.Module) -> nn.Module:
    """The same module with weights half as large again."""
    with torch.no_grad():
        for param in module.parameters():
            param.mul_(1.5)
    return module


def test_beside_another_model_the_same_step() -> None:
    """Both begin with weights large enough for a guard of one, which is what they would share."""
    alone = large(make_mlp(dtype=torch.float64))
    train(alone, ngopt.NGOptimizer(alone, rule=lively_rule(dtype=torch.float64)), range(4), dtype=torch.float64)

    other = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2)).double()
    pair = Pair(large(make_mlp(dtype=torch.float64)), large(other))
    optimizer = ngopt.NGOptimizer(pair, rule=lively_rule(dtype=torch.float64))
    for index in range(4):
        x, target = batch(index, torch.float64)
        optimizer.zero_grad()
        first, second = pair(x, torch.randn(6, 4, dtype=torch.float64))
        (nn.functional.cross_entropy(first, target) + second.square().sum()).backward()
        optimizer.step()
    start = large(make_mlp(dtype=torch.float64)).state_dict()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(pair.first.state_dict()[name], value, rtol=0, atol=1e-9)
        assert not torch.equal(value, start[name])


@pytest.mark.parametrize("scale", [1e-3, 0.37, 1e5])
def test_any_positive_scale_of_the_loss(scale: float) -> None:
    model, twin = make_mlp(dtype=torch.float64), make_mlp(dtype=torch.float64)
    train(model, ngopt.NGOptimizer(model, rule=lively_rule(dtype=torch.float64)), range(12), dtype=torch.float64)
    train(
        twin,
        ngopt.NGOptimizer(twin, rule=lively_rule(dtype=torch.float64)),
        range(12),
        scale=scale,
        dtype=torch.float64,
    )
    for name, value in model.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value, rtol=1e-8, atol=1e-9)
