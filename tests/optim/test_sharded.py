"""Sharded training over two and four processes: the same weights as one process, and who keeps what.

Each number of ranks is started once, and runs all of its cases (`sharded_cases.py`); four ranks go first, since two of
them go on from what they saved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("torch.distributed.fsdp", reason="torch without torch.distributed")
if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("torch without gloo", allow_module_level=True)

from tests.optim.sharded_cases import work

pytestmark = pytest.mark.fsdp
Found = dict[int, list[dict[str, Any]]]  # ranks -> what each of them found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each rank found."""
    folder = tmp_path_factory.mktemp("sharded")
    read = {}
    for ranks in (4, 2):
        torch.multiprocessing.spawn(work, (ranks, str(folder)), ranks)
        read[ranks] = [json.loads(Path(folder, f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]
    return read


ALIKE = [
    *((2, case) for case in ("mlp, fsdp", "cnn, fsdp", "gpt, fsdp", "llama, fsdp", "gpt, learned controls")),
    *((2, case) for case in ("experts, fsdp", "experts, Shard(1)")),
    *((2, case) for case in ("even_mlp, Shard(1)", "even_mlp, tensor parallel", "mlp, Replicate", "mlp, one plain")),
    *((4, case) for case in ("mlp, fsdp", "llama, fsdp", "llama, hsdp", "even_mlp, fsdp x tensor parallel")),
    (4, "experts, fsdp"),
]


@pytest.mark.parametrize(("ranks", "case"), ALIKE)
def test_weights_are_those_of_one_process(found: Found, ranks: int, case: str) -> None:
    one = found[ranks][0][case]
    assert one["error"] < 1e-5  # in float64; most are below 1e-9
    assert one["graph"]
    assert one["moved"] > 0.02, "control: training does change them"


def test_weights_are_those_of_one_process_in_single_precision(found: Found) -> None:
    """As close as rounding lets one process come to itself: training amplifies it, in float64 as well."""
    case = found[2][0]["llama, float32"]
    assert case["error"] < 5.0 * case["rounding"]
    assert case["rounding"] > 1e-6, "control"


@pytest.mark.parametrize(("ranks", "case"), [*ALIKE, (2, "missing")])
def test_ranks_agree_bit_for_bit(found: Found, ranks: int, case: str) -> None:
    assert len({rank[case]["bits"] for rank in found[ranks]}) == 1


def test_the_cases_are_what_they_say(found: Found) -> None:
    assert any(rank["mlp, fsdp"]["empty"] for rank in found[4])
    assert "Shard(dim=1)" in str(found[2][0]["even_mlp, Shard(1)"]["placements"])
    assert "(Replicate(), Shard(dim=0))" in found[4][0]["llama, hsdp"]["placements"]
    assert "Shard(dim=0), Shard(dim=1)" in str(found[4][0]["even_mlp, fsdp x tensor parallel"]["placements"])
    assert "Strided" in str(found[4][0]["even_mlp, fsdp x tensor parallel"]["placements"])


@pytest.mark.parametrize(
    ("ranks", "case"), [(2, "gpt, fsdp"), (2, "llama, fsdp"), (4, "llama, fsdp"), (4, "llama, hsdp")]
)
def test_state_is_spread_evenly(found: Found, ranks: int, case: str) -> None:
    of_ranks = [rank[case]["state"] for rank in found[ranks]]
    whole = found[ranks][0][case]["whole state"]
    assert max(of_ranks) <= 1.1 / ranks * whole
    assert sum(of_ranks) < 1.02 * whole


def test_several_ranks_own_some_experts_each(found: Found) -> None:
    """Five experts are three and two on two ranks, and two, two and one on four."""
    stacks = {f"blocks.0.mlp.{name}" for name in ("gate", "up", "down")}
    for ranks, owners in ((2, 2), (4, 3)):
        for rank in found[ranks]:
            of_stacks = rank["experts, fsdp"]["stacks"]
            assert of_stacks.keys() == stacks
            assert all(len(set(own)) == len(own) == owners for own in of_stacks.values())
        assert not found[ranks][0]["llama, fsdp"]["stacks"], "control: matrices have one owner each"


@pytest.mark.parametrize(
    ("ranks", "case"),
    [(2, "mlp, fsdp"), (2, "gpt, fsdp"), (2, "llama, fsdp"), (2, "experts, fsdp"), (4, "llama, fsdp")],
)
def test_bytes_on_the_wire_are_those_of_the_plan(found: Found, ranks: int, case: str) -> None:
    """Gradients and changes in every step, weights where a basis turns: over ten steps, exactly what was planned."""
    for rank in found[ranks]:
        assert rank[case]["sent"] == pytest.approx(rank[case]["planned"], rel=1e-12)


def test_state_is_that_of_the_plan(found: Found) -> None:
    for rank in found[2]:
        assert rank["llama, float32"]["state"] == pytest.approx(rank["llama, float32"]["planned state"], rel=0.02)


def test_a_step_is_skipped_by_all_ranks(found: Found) -> None:
    for rank in found[2]:
        assert rank["skips"] == {"skipped": 2, "moved": [True, True, False, True, False]}


def test_a_gradient_that_one_rank_lacks_is_zero_there(found: Found) -> None:
    assert [rank["missing"]["steps"] for rank in found[2]] == [3.0, 3.0]


def test_lower_precision_does_not_disturb_the_capture(found: Found) -> None:
    case = found[2][0]["lower precision"]
    assert case["graph"]
    assert case["error"] > 0.0


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("sharded later", "Call fully_shard .* first, then NGOptimizer"),
        ("flattened, originals False", "Use FSDP2"),
        ("flattened, originals True", "Use FSDP2"),
        ("replicas", r"0.weight\[0, 0\] has other values on each of the ranks \[0, 1\]"),
    ],
)
def test_mistakes_are_named(found: Found, case: str, words: str) -> None:
    import re

    assert re.search(words, found[2][0]["mistakes"][case])


def test_distributed_checkpoint_goes_on_with_another_number_of_ranks(found: Found) -> None:
    assert found[2][0]["resumed"]["steps"] == 12
    assert (found[2][0]["resumed"]["given"], found[2][0]["resumed"]["loaded"]) == (False, True)
    assert found[2][0]["resumed"]["error"] < 1e-5
    assert found[2][0]["resumed"]["alone"] < 1e-5, "by a process that has all"


def test_a_state_goes_on_where_it_was(found: Found) -> None:
    for rank in found[2]:
        assert rank["again"]["same"]
        assert rank["again"]["gathered"] < 1e-7


def test_a_state_in_one_piece_is_refused_where_it_would_be_incomplete(found: Found) -> None:
    """Torch cannot put together what owners have. What one process saved is whole, and can be loaded."""
    for rank in found[2]:
        case = rank["in one piece"]
        for offload in (False, True):
            assert "what dcp.save wrote loads onto any number of ranks" in case[f"refused, offload {offload}"]
        assert case["own"]
        assert case["everywhere"] < 1e-7
        assert case["first rank"] < 1e-7


def test_every_rank_can_say_what_it_knows(found: Found) -> None:
    for rank in found[2]:
        assert "3 steps made of 40" in rank["known"]["summary"]
        assert "6 parameters" in rank["known"]["repr"] or "8 parameters" in rank["known"]["repr"]
        assert any(
            name.startswith("update_to_weight/") and value > 0 for name, value in rank["known"]["curves"].items()
        )
