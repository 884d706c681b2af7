"""Two processes on the CPU: a step is skipped by all ranks or by none, and a state that ZeRO splits is whole again.

All checks run in one pair of processes, because starting them takes longer than the checks.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import ngopt
from tests.optim.ngoptimizer_cases import batch, differing, make_mlp, same, train, weights

RANKS = 2


def sums(model: nn.Module) -> list[float]:
    return [param.detach().double().sum().item() for param in model.parameters()]


def step_on_a_bad_rank(model: nn.Module, wrapped: nn.Module, optimizer: Any, rank: int, bad: int | None) -> bool:
    """One step of which rank ``bad`` sees a NaN; whether anything moved.

    With a split state all ranks have the NaN, as they do once gradients are averaged, but one of them owns it.
    """
    x, y = batch(rank)
    optimizer.zero_grad()
    nn.functional.cross_entropy(wrapped(x), y).backward()
    before = weights(model)
    is_split = hasattr(optimizer, "optim")
    if bad is not None and (is_split or rank == bad):
        list(model.parameters())[-bad].grad[0] = float("nan")
    optimizer.step()
    return differing(before, weights(model)) != []


def skips(rank: int, build: Callable[[nn.Module], tuple[nn.Module, Any]]) -> dict[str, Any]:
    model = make_mlp()
    wrapped, optimizer = build(model)
    moved = [step_on_a_bad_rank(model, wrapped, optimizer, rank, bad) for bad in (None, 0, 1, None)]
    inner = getattr(optimizer, "optim", optimizer)
    return {"moved": moved, "skipped": inner.skipped_steps, "sums": sums(model)}


def wrapped_first(model: nn.Module) -> tuple[nn.Module, Any]:
    wrapped = DistributedDataParallel(model)
    return wrapped, ngopt.NGOptimizer(wrapped)


def wrapped_later(model: nn.Module) -> tuple[nn.Module, Any]:
    optimizer = ngopt.NGOptimizer(model)
    return DistributedDataParallel(model), optimizer


def wrapped_and_compiled(model: nn.Module) -> tuple[nn.Module, Any]:
    wrapped = torch.compile(DistributedDataParallel(model), backend="eager")
    return wrapped, ngopt.NGOptimizer(wrapped, graph=False)


def split(model: nn.Module) -> tuple[nn.Module, Any]:
    from torch.distributed.optim import ZeroRedundancyOptimizer  # its import warns, which is an error outside of here

    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=ngopt.NGOptimizer, graph=False)
    return DistributedDataParallel(model), optimizer


def each_for_itself(model: nn.Module) -> tuple[nn.Module, Any]:
    """Control: nothing says that the ranks belong together, and gradients are not averaged."""
    return model, ngopt.NGOptimizer(model, graph=False)


def uneven(rank: int) -> dict[str, Any]:
    """Under ``join`` the rank with fewer batches makes fewer steps; the other must not wait for it in a step."""
    model = make_mlp()
    wrapped, optimizer = wrapped_first(model)
    with wrapped.join():
        train(wrapped, optimizer, range(2 + 2 * rank))
    return {"steps": optimizer.param_groups[0]["step"], "sums": sums(model)}


def consolidated(rank: int) -> dict[str, Any]:
    """Train with a split state, gather it, go on from it, split again and in one piece."""
    model = make_mlp()
    wrapped, optimizer = split(model)
    train(wrapped, optimizer, range(3))
    optimizer.consolidate_state_dict(0)
    found: dict[str, Any] = {"sums": sums(model)}
    states = [optimizer.state_dict() if rank == 0 else None]
    dist.broadcast_object_list(states)
    state, start = copy.deepcopy(states[0]), weights(model)  # what is gathered shares memory with what is trained
    train(wrapped, optimizer, range(3, 5))
    reached = sums(model)

    again = make_mlp()
    wrapped, optimizer = split(again)
    again.load_state_dict(start)
    optimizer.load_state_dict(copy.deepcopy(state))
    train(wrapped, optimizer, range(3, 5))
    found["split again"] = sums(again) == pytest.approx(reached, abs=0.02)

    whole = make_mlp()
    plain = ngopt.NGOptimizer(whole, graph=False)
    whole.load_state_dict(start)
    plain.load_state_dict(copy.deepcopy(state))
    found["complete"] = same(
        [plain.state[p]["momentum"] for p in whole.parameters()],
        [state["state"][i]["momentum"] for i in range(len(list(whole.parameters())))],
    )
    train(DistributedDataParallel(whole), plain, range(3, 5))
    found["in one piece"] = sums(whole) == pytest.approx(reached, abs=0.02)
    return found


def work(rank: int, folder: str) -> None:
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, store=dist.FileStore(f"{folder}/store", RANKS))
    found = {
        build.__name__: skips(rank, build)
        for build in (wrapped_first, wrapped_later, wrapped_and_compiled, split, each_for_itself)
    }
    found |= {"uneven": uneven(rank), "consolidated": consolidated(rank)}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder),), RANKS)
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("build", ["wrapped_first", "wrapped_later", "wrapped_and_compiled", "split"])
def test_a_step_is_skipped_by_all_ranks_or_by_none(found: list[dict[str, Any]], build: str) -> None:
    one, other = (rank[build] for rank in found)
    assert one["moved"] == other["moved"] == [True, False, False, True]
    assert one["skipped"] == other["skipped"] == 2
    assert one["sums"] == other["sums"]


def test_ranks_that_are_not_together_decide_alone(found: list[dict[str, Any]]) -> None:
    """Control: here each rank skips its own bad step only."""
    assert [rank["each_for_itself"]["moved"] for rank in found] == [
        [True, False, True, True],
        [True, True, False, True],
    ]


def test_uneven_inputs_wait_for_nobody(found: list[dict[str, Any]]) -> None:
    assert [rank["uneven"]["steps"] for rank in found] == [2, 4]


def test_a_split_state_is_gathered_whole(found: list[dict[str, Any]]) -> None:
    one, other = (rank["consolidated"] for rank in found)
    assert one == other
    assert (one["split again"], one["complete"], one["in one piece"]) == (True, True, True)
