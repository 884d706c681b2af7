"""`benchmarks.cost --plan`. That its bytes are those that are measured: `tests/optim/test_sharded.py`."""

from __future__ import annotations

import pytest

from benchmarks.cost.__main__ import main
from benchmarks.cost.plan import Throughput, costs, held_by, parse_mesh
from benchmarks.cost.plan_models import MODELS, network
from benchmarks.models_language import Sizes
from ngopt.optim.rule import plan
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.sharded import layout
from ngopt.optim.sharded.layout import assign

CONFIG = UpdateConfig()
SMALL = Sizes(64, 32, 12, 4, 2, 80)
EXPERTS = Sizes(64, 16, 6, 4, 2, 24, experts=4)


@pytest.mark.parametrize("sizes", [SMALL, EXPERTS])
@pytest.mark.parametrize("mesh", [(1, 2), (1, 4), (2, 2)])
def test_owners_share_state_and_work(sizes: Sizes, mesh: tuple[int, int]) -> None:
    found = costs(network(sizes), *mesh, Throughput(), CONFIG)
    ranks, own, plain = mesh[0] * mesh[1], found["owner ranks"], found["plain gather"]
    assert own.state <= 1.1 / ranks * own.whole
    assert own.flops <= 1.2 / ranks * plain.flops
    assert plain.state == pytest.approx(own.whole), "control: gathered, every rank keeps all"


def test_all_parameters_are_planned_and_owned_once() -> None:
    net = network(SMALL)
    held = held_by(net.shapes, 1, 4)
    pieces, loads = assign(held, net.plans("default", CONFIG), 4, CONFIG.bases_every)
    assert sum(piece.box.numel for piece in pieces) == net.entries
    assert max(load.state for load in loads) < 1.1 * min(load.state for load in loads)


def test_a_large_head_is_stepped_where_its_shards_are(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Sizes(20_000, 32, 4, 4, 2, 80)
    found = costs(network(sizes), 1, 16, Throughput(), CONFIG)["owner ranks"]
    assert found.state <= 1.2 / 16 * found.whole
    monkeypatch.setattr(plan, "LARGEST_HEAD", 10**9)
    whole = costs(network.__wrapped__(sizes), 1, 16, Throughput(), CONFIG)["owner ranks"]
    assert whole.state > 5 / 16 * whole.whole  # control: with one owner


def test_experts_are_owned_by_several_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(Sizes(64, 16, 2, 4, 2, 48, experts=32))
    found = costs(net, 1, 32, Throughput(), CONFIG)["owner ranks"]
    assert found.state <= 1.4 / 32 * found.whole
    monkeypatch.setattr(layout, "SMALL", 100.0)
    whole = costs(net, 1, 32, Throughput(), CONFIG)["owner ranks"]
    assert whole.state > 5 / 32 * whole.whole  # control: with one owner


def test_one_basis_takes_less_than_two() -> None:
    found = costs(network(SMALL), 1, 4, Throughput(), CONFIG)
    assert found["owner ranks, one-sided"].state < found["owner ranks"].state
    assert found["owner ranks, one-sided"].flops < found["owner ranks"].flops


def test_active_parameters_are_those_of_the_chosen_experts() -> None:
    net = network(EXPERTS)
    of_experts = 6 * 4 * 3 * 16 * 24
    assert net.active == net.entries - of_experts // 2
    assert network(SMALL).active == network(SMALL).entries


def test_a_rank_with_nothing_is_planned() -> None:
    """An axis shorter than the number of ranks leaves some of them without a part."""
    held = held_by({"a": (3, 5)}, 1, 8)
    assert [ranks for ranks in held["a"].boxes.values()] == [(0,), (1,), (2,)]


def test_sizes_of_the_models_are_what_their_names_say() -> None:
    assert set(MODELS) == {"gpt2", "llama-1b", "llama-8b", "moe-8x0.4b"}
    assert network(MODELS["gpt2"]).entries == 124_439_808


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--plan", "gpt2", "--ranks", "4", "--mesh", "2x2"])
    printed = capsys.readouterr().out
    assert "gpt2 (0.12B)" in printed and "owner ranks, one-sided" in printed


@pytest.mark.parametrize("mesh", ["3", "2x3", "a", "2x2x1"])
def test_a_mesh_must_fit(mesh: str) -> None:
    with pytest.raises(ValueError, match="--mesh"):
        parse_mesh(mesh, 4)
    assert parse_mesh("2x2", 4) == (2, 2)
    assert parse_mesh("4", 4) == (1, 4)
