"""Who steps what of sharded parameters: pieces, owners and messages, without any process."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import ngopt
from benchmarks.cost.plan import held_by
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.plan import ParamPlan, plan_graph
from ngopt.optim.sharded.flows import to_holders, to_owners
from ngopt.optim.sharded.layout import Box, OwnedBox, Placement, assign, divided
from tests.optim.sharded_networks import batch, make

CONFIG = UpdateConfig()


def unfolded() -> nn.Module:
    """Grouped convolutions of both kinds, whose groups lie along different axes."""
    layers = [nn.Conv2d(2, 12, 1), nn.ReLU(), nn.ConvTranspose2d(12, 12, 3, groups=3, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(12, 8, 2, groups=2), nn.Flatten(), nn.LazyLinear(3)).double()


def plans_of(name: str) -> dict[str, ParamPlan]:
    """Of a small network."""
    if name == "unfolded":
        inputs = torch.randn(1, 2, 4, 4, dtype=torch.float64)
        model = unfolded()
        model(inputs)
    else:
        inputs, model = batch(name, 0)[0], make(name)
    return plan_graph(ngopt.trace(model, inputs), CONFIG)


@pytest.mark.parametrize(("name", "stacks"), [("cnn", 1), ("experts", 3), ("unfolded", 2)])
def test_pieces_of_a_stack_are_boxes(name: str, stacks: int) -> None:
    """What a piece's plan sees of its box are some matrices of what the plan sees of the whole."""
    found = 0
    for plan in plans_of(name).values():
        assert plan.block is not None
        x, at = torch.randn(plan.block.shape, dtype=torch.float64), 0
        pieces = divided(plan, plan.block.shape, 2)
        for box, part in pieces:
            stop = at + part.matrix_shape[0]
            assert torch.equal(part.view(x[box.slices]), plan.view(x)[at:stop] if plan.sides else x)
            assert torch.equal(part.unview(part.view(x[box.slices]), box.size), x[box.slices])
            assert (part.entries, part.fan_in, part.sides) == (plan.entries, plan.fan_in, plan.sides)
            at = stop
        assert at == plan.matrix_shape[0]
        found += len(pieces) == 2
    assert found == stacks


@pytest.fixture(scope="module")
def experts() -> dict[str, ParamPlan]:
    """Plans of a network with three stacks of five experts."""
    return plans_of("experts")


def shapes_of(plans: dict[str, ParamPlan]) -> dict[str, tuple[int, ...]]:
    """Of the parameters."""
    return {name: plan.block.shape for name, plan in plans.items() if plan.block is not None}


def stacked(pieces: list[OwnedBox]) -> dict[str, list[OwnedBox]]:
    """The pieces of each stack."""
    names = {piece.name for piece in pieces if piece.plan.groups > 1}
    return {name: [piece for piece in pieces if piece.name == name] for name in names}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8, 64])
def test_every_entry_has_one_owner_and_no_rank_two_pieces_of_a_parameter(
    experts: dict[str, ParamPlan], ranks: int
) -> None:
    shapes = shapes_of(experts)
    pieces, loads = assign(held_by(shapes, 1, ranks), experts, ranks, CONFIG.bases_every)
    for name, shape in shapes.items():
        seen, owners = torch.zeros(shape), []
        for piece in pieces:
            if piece.name == name:
                seen[piece.box.slices] += 1.0
                owners.append(piece.owner)
        assert bool((seen == 1.0).all())
        assert len(set(owners)) == len(owners)
    assert len(loads) == ranks
    sizes = {len(own) for own in stacked(pieces).values()}
    assert sizes == {{1: 1, 2: 2, 3: 3, 4: 3}.get(ranks, 5)}  # of equally many experts, but for the last


def test_small_stacks_are_not_divided(experts: dict[str, ParamPlan]) -> None:
    """Beside a matrix that is much larger, on few ranks."""
    wide = ngopt.trace(nn.Sequential(nn.Linear(8, 999), nn.Linear(999, 999)), torch.randn(1, 8), certify=False)
    plans = experts | {f"wide.{name}": plan for name, plan in plan_graph(wide, CONFIG).items()}
    pieces, _ = assign(held_by(shapes_of(plans), 1, 2), plans, 2, CONFIG.bases_every)
    assert {len(own) for own in stacked(pieces).values()} == {1}


def test_experts_that_are_sharded_one_by_one_stay_where_they_are(experts: dict[str, ParamPlan]) -> None:
    plans = {name: plan for name, plan in experts.items() if ".mlp." in name}
    held = held_by(shapes_of(plans), 1, 5)
    pieces, loads = assign(held, plans, 5, CONFIG.bases_every)
    for own in stacked(pieces).values():
        assert all(flow.stays for flow in (*to_owners(held, own), *to_holders(held, own)))
    assert any(not flow.stays for flow in to_owners(held, pieces)), "control: the router's matrix moves"
    assert max(load.state for load in loads) < 1.3 * sum(load.state for load in loads) / 5


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_messages_carry_every_entry_once(experts: dict[str, ParamPlan], cut: int) -> None:
    """Whatever the axis along which stacks are sharded, and unevenly so: to the owner, and back to who holds it."""
    shapes, held = shapes_of(experts), {}
    for name, shape in shapes.items():
        axis = cut if len(shape) == 3 else 0
        boxes, at = [], 0
        for rank in range(4):
            size = (shape[axis] - at) // (4 - rank)
            start, sizes = [0] * len(shape), list(shape)
            start[axis], sizes[axis] = at, size
            boxes.append(Box(tuple(start), tuple(sizes)))
            at += size
        held[name] = Placement.by_ranks(shape, 8, boxes)
    pieces, _ = assign(held, experts, 4, CONFIG.bases_every)
    for flows, end in ((to_owners(held, pieces), "target"), (to_holders(held, pieces), "source")):
        seen: dict[str, Tensor] = {name: torch.zeros(shape) for name, shape in shapes.items()}
        for flow in flows:
            seen[flow.name][flow.box.slices] += 1.0
            owner = next(p for p in pieces if p.name == flow.name and p.box.common(flow.box) == flow.box).owner
            assert getattr(flow, end) == owner
        assert all(bool((x == 1.0).all()) for x in seen.values())


def test_common_part_of_boxes() -> None:
    one, other = Box((1, 0), (3, 4)), Box((2, 3), (5, 5))
    assert one.common(other) == other.common(one) == Box((2, 3), (2, 1))
    assert one.common(Box((4, 0), (1, 4))).numel == 0
    assert math.prod(one.common(one).size) == one.numel
