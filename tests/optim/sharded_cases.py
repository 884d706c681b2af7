"""What the processes of `test_sharded.py` do: each case returns what a rank found, as JSON values."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils._pytree import tree_map_only

import ngopt
from benchmarks.cost.plan import bytes_of_a_step
from tests.optim.ngoptimizer_cases import lively_rule
from tests.optim.sharded_networks import batch, make

STEPS, HORIZON = 20, 40
Found = dict[str, Any]


def train(
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    indices: Iterable[int] = range(STEPS),
    spoil: Callable[[int], None] = lambda index: None,
) -> None:
    """Steps on batches that are the same on all ranks."""
    dtype = next(p.dtype for p in model.parameters())
    for index in indices:
        x, y = batch(name, index, dtype)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        spoil(index)
        optimizer.step()


def new_optimizer(model: nn.Module, rule: ngopt.UpdateRule | None = None, **options: Any) -> ngopt.NGOptimizer:
    """With everything that a step depends on."""
    return ngopt.NGOptimizer(model, total_steps=HORIZON, weight_decay=0.1, rule=rule, **options)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every rank."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def digest(tensors: Iterable[Tensor]) -> str:
    """Of all bits."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def state_bytes(state: Iterable[dict[str, Tensor]]) -> int:
    """Memory of some state."""
    return sum(x.numel() * x.element_size() for own in state for x in own.values())


def errors(one: nn.Module, other: nn.Module) -> float:
    """Largest relative difference of a parameter, seen by all ranks."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(((whole(p) - q.detach()).norm() / q.detach().norm().clamp_min(1e-6)).item() for p, q in pairs)


_graphs: dict[str, ngopt.NeuralGraph] = {}  # of each network, captured once in the first case that has it


@functools.cache
def reached(
    name: str, steps: int = STEPS, dtype: torch.dtype = torch.float64, rule: ngopt.UpdateRule | None = None
) -> tuple[nn.Module, ngopt.NGOptimizer | None]:
    """What one process reaches, and its optimizer. The first rank computes it, and all ranks get the weights."""
    model, optimizer = make(name, dtype), None
    if not dist.get_rank():
        optimizer = new_optimizer(model, rule, graph=_graphs.get(name))
        train(name, model, optimizer, range(steps))
    with torch.no_grad():
        for param in model.parameters():
            dist.broadcast(param, 0)
    return model, optimizer


def rounding(name: str) -> float:
    """What one process makes in float32 of initial weights that differ in their last digit."""
    model = make(name, torch.float32)
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(1.0 + torch.finfo(torch.float32).eps)
    train(name, model, new_optimizer(model, graph=_graphs[name]))
    return errors(model, reached(name, STEPS, torch.float32)[0])


def alike(
    name: str,
    shard: Callable[[nn.Module], Any],
    steps: int = 10,
    dtype: torch.dtype = torch.float64,
    rule: ngopt.UpdateRule | None = None,
) -> Found:
    """Train alone and sharded; what differs, and what it costs."""
    alone, reference = reached(name, steps, dtype, rule)
    model = make(name, dtype)
    shard(model)
    optimizer = new_optimizer(model, rule, graph=_graphs.get(name))
    train(name, model, optimizer, range(10))
    spread = optimizer.partitions_over_ranks[0]
    before = spread.transport.sent_bytes
    train(name, model, optimizer, range(10, steps))
    captured, known = optimizer.graph, None if reference is None else reference.graph
    assert captured is not None
    _graphs.setdefault(name, captured)
    pieces = [piece for own in spread.pieces.values() for piece in own]
    planned, _ = bytes_of_a_step(spread.held, pieces, spread.ranks, spread.config.bases_every)
    return {
        "error": errors(model, alone),
        "bits": digest(whole(p) for p in model.parameters()),
        "graph": known is not None and captured.fingerprint() == known.fingerprint(),
        "state": state_bytes(optimizer.state.values()),
        "whole state": None if reference is None else state_bytes(reference.state.values()),
        "empty": any(not p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor)),
        "placements": sorted({str(p.placements) for p in model.parameters() if isinstance(p, DTensor)}),
        "sent": (spread.transport.sent_bytes - before) / max(1, steps - 10),
        "planned": planned[spread.rank],
        "planned state": spread.loads[spread.rank].state,
        "stacks": {n: spread.owners(n) for n in sorted(spread.in_parts) if spread.plans[n].sides},
        "moved": errors(make(name, dtype), alone),
    }


def fsdp(mesh: DeviceMesh, **options: Any) -> Callable[[nn.Module], Any]:
    """Every block by itself, then the rest."""

    def shard(model: nn.Module) -> None:
        for block in getattr(model, "blocks", [model[0]] if isinstance(model, nn.Sequential) else []):
            fully_shard(block, mesh=mesh, **options)
        fully_shard(model, mesh=mesh, **options)

    return shard


def by_columns(param: nn.Parameter) -> Shard | None:
    """Shard(1) where FSDP2 allows it: it wants these axes to be divided evenly."""
    return Shard(1) if param.dim() > 1 and param.shape[1] % 4 == 0 else None


def tensor_parallel(mesh: DeviceMesh) -> Callable[[nn.Module], Any]:
    """Of `even_mlp`: the first layer by columns, the second one by rows."""
    return lambda model: parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def replicated(mesh: DeviceMesh) -> Callable[[nn.Module], Any]:
    """Every parameter as a DTensor that all ranks have whole."""

    def into(_: nn.Module, inputs: Any, mesh: DeviceMesh) -> Any:
        return tuple(distribute_tensor(x, mesh, [Replicate()]) for x in inputs)

    return lambda model: distribute_module(
        model, mesh, input_fn=into, output_fn=lambda _, outputs, __: outputs.to_local()
    )


def with_a_plain_one(mesh: DeviceMesh) -> Callable[[nn.Module], Any]:
    """The layers in the middle are not sharded at all."""
    return lambda model: [fully_shard(model[i], mesh=mesh) for i in (0, 5)]


def both(mesh: DeviceMesh) -> Callable[[nn.Module], Any]:
    """FSDP of what is tensor parallel."""

    def shard(model: nn.Module) -> None:
        tensor_parallel(mesh["tp"])(model)
        fully_shard(model, mesh=mesh["dp"])

    return shard


def two_ranks(folder: Path) -> dict[str, Callable[[], Found]]:
    """Cases of two processes."""
    mesh = init_device_mesh("cpu", (2,))
    lively = lively_rule(dtype=torch.float64)
    return {
        **{f"{n}, fsdp": lambda n=n: alike(n, fsdp(mesh), STEPS) for n in ("mlp", "cnn", "gpt", "llama")},
        "llama, float32": lambda: {
            **alike("llama", fsdp(mesh), STEPS, torch.float32),
            "rounding": rounding("llama"),
        },
        "gpt, learned controls": lambda: alike("gpt", fsdp(mesh), rule=lively),
        "experts, fsdp": lambda: alike("experts", fsdp(mesh), STEPS),
        "experts, Shard(1)": lambda: alike("experts", fsdp(mesh, shard_placement_fn=by_columns), rule=lively),
        "even_mlp, Shard(1)": lambda: alike("even_mlp", fsdp(mesh, shard_placement_fn=by_columns)),
        "even_mlp, tensor parallel": lambda: alike("even_mlp", tensor_parallel(mesh)),
        "mlp, Replicate": lambda: alike("mlp", replicated(mesh)),
        "mlp, one plain": lambda: alike("mlp", with_a_plain_one(mesh), rule=lively),
        "skips": lambda: skips(mesh),
        "missing": lambda: missing(mesh),
        "lower precision": lambda: lower_precision(mesh),
        "mistakes": lambda: mistakes(mesh),
        "resumed": lambda: resumed(mesh, folder),
        "again": lambda: again(mesh),
        "in one piece": lambda: in_one_piece(mesh),
        "known": lambda: known(mesh),
    }


def four_ranks(folder: Path) -> dict[str, Callable[[], Found]]:
    """Cases of four processes."""
    mesh = init_device_mesh("cpu", (4,))
    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    lively = lively_rule(dtype=torch.float64)
    return {
        "mlp, fsdp": lambda: alike("mlp", fsdp(mesh), STEPS),
        "llama, fsdp": lambda: alike("llama", fsdp(mesh), STEPS),
        "llama, hsdp": lambda: alike("llama", fsdp(grid), rule=lively),
        "experts, fsdp": lambda: alike("experts", fsdp(mesh), rule=lively),
        "even_mlp, fsdp x tensor parallel": lambda: alike("even_mlp", both(grid)),
        "saved": lambda: saved(mesh, folder),
    }


def skips(mesh: DeviceMesh) -> Found:
    """A gradient is not finite on one rank only."""
    model, seen = make("mlp"), []
    fsdp(mesh)(model)
    optimizer = new_optimizer(model)

    def spoil(index: int) -> None:
        seen.append(digest(whole(p) for p in model.parameters()))
        if index in (2, 4) and dist.get_rank() == index // 4:
            next(model.parameters()).grad.to_local()[0] = float("nan")

    train("mlp", model, optimizer, range(6), spoil)
    return {"skipped": optimizer.skipped_steps, "moved": [a != b for a, b in itertools.pairwise(seen)]}


def missing(mesh: DeviceMesh) -> Found:
    """One rank has no gradient where the other one has: it counts as zeros there."""
    model = make("mlp")
    fsdp(mesh)(model)
    optimizer = new_optimizer(model)
    param = next(model.parameters())

    def spoil(index: int) -> None:
        if index and dist.get_rank():
            param.grad = None

    train("mlp", model, optimizer, range(3), spoil)
    return {"steps": float(optimizer.state[param]["step"]), "bits": digest(whole(p) for p in model.parameters())}


def lower_precision(mesh: DeviceMesh) -> Found:
    """FSDP2's mixed precision and offload: inputs are in bfloat16, parameters in float32 and on the CPU."""
    model = make("mlp", torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fsdp(mesh, mp_policy=policy, offload_policy=CPUOffloadPolicy(pin_memory=False))(model)
    optimizer = new_optimizer(model)
    train("mlp", model, optimizer, range(3))
    assert optimizer.graph is not None
    return {
        "graph": optimizer.graph.fingerprint() == _graphs["mlp"].fingerprint(),
        "error": errors(model, make("mlp", torch.float32)),
    }


def message_of(kind: type[Exception], action: Callable[[], Any]) -> str:
    """Of the error that an action must raise."""
    try:
        action()
    except kind as error:
        return str(error)
    return "no error"


def mistakes(mesh: DeviceMesh) -> Found:
    """What users do wrong."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = make("mlp")
    optimizer = new_optimizer(model)
    fsdp(mesh)(model)
    found = {"sharded later": message_of(RuntimeError, lambda: train("mlp", model, optimizer, range(1)))}
    for originals in (False, True):
        flat = FullyShardedDataParallel(
            make("mlp", torch.float32), device_id=torch.device("cpu"), use_orig_params=originals
        )
        found[f"flattened, originals {originals}"] = message_of(
            TypeError, lambda flat=flat: ngopt.NGOptimizer(flat.parameters())
        )
    other = make("mlp")
    with torch.no_grad():
        other[0].weight.mul_(1.0 + dist.get_rank())
    replicated(mesh)(other)
    if dist.get_rank():  # distribute_module sends the first rank's values to all
        with torch.no_grad():
            other[0].weight.to_local().mul_(2.0)
    found["replicas"] = message_of(RuntimeError, lambda: train("mlp", other, new_optimizer(other), range(1)))
    return found


def _copied(state: Any) -> Any:
    """A state that later steps do not write to."""
    return tree_map_only(Tensor, lambda x: x.clone(), state)


def again(mesh: DeviceMesh) -> Found:
    """A rank's own state, loaded by the same rank of as many."""
    model = make("mlp")
    fsdp(mesh)(model)
    optimizer = new_optimizer(model)
    train("mlp", model, optimizer, range(7))
    state, start = _copied(optimizer.state_dict()), {name: whole(p) for name, p in model.named_parameters()}
    train("mlp", model, optimizer, range(7, 12))
    twin = make("mlp")
    twin.load_state_dict(start)
    fsdp(mesh)(twin)
    other = new_optimizer(twin)
    other.load_state_dict(state)
    train("mlp", twin, other, range(7, 12))
    one, two = (digest(whole(p) for p in net.parameters()) for net in (model, twin))
    return {"same": one == two, "gathered": _from_one_process(mesh)}


def _from_one_process(mesh: DeviceMesh) -> float:
    """A state of one process, loaded by two ranks."""
    alone = make("mlp")
    optimizer = new_optimizer(alone, graph=_graphs["mlp"])
    train("mlp", alone, optimizer, range(7))
    model = make("mlp")
    model.load_state_dict(alone.state_dict())
    fsdp(mesh)(model)
    other = new_optimizer(model)
    other.load_state_dict(optimizer.state_dict())
    train("mlp", alone, optimizer, range(7, 12))
    train("mlp", model, other, range(7, 12))
    return errors(model, alone)


def in_one_piece(mesh: DeviceMesh) -> Found:
    """`torch.distributed.checkpoint.state_dict` asked for all of a state, and given all of one."""
    model = make("mlp")
    fsdp(mesh)(model)
    optimizer = new_optimizer(model)
    train("mlp", model, optimizer, range(2))
    full, offloaded = (StateDictOptions(full_state_dict=True, cpu_offload=offload) for offload in (False, True))
    found: Found = {
        f"refused, offload {options.cpu_offload}": message_of(
            NotImplementedError, lambda options=options: get_optimizer_state_dict(model, optimizer, options=options)
        )
        for options in (full, offloaded)
    }
    own = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(cpu_offload=True))
    found["own"] = bool(own["state"])
    alone = make("mlp")
    optimizer = new_optimizer(alone, graph=_graphs["mlp"])
    train("mlp", alone, optimizer, range(7))
    state, start = _copied(get_optimizer_state_dict(alone, optimizer)), _copied(alone.state_dict())
    train("mlp", alone, optimizer, range(7, 12))
    for way, options in (
        ("everywhere", StateDictOptions()),
        ("first rank", StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)),
    ):
        model = make("mlp")
        model.load_state_dict(start)
        fsdp(mesh)(model)
        optimizer = new_optimizer(model, example_inputs=batch("mlp", 0)[0])
        given = state if way == "everywhere" or not dist.get_rank() else {}
        set_optimizer_state_dict(model, optimizer, _copied(given), options=options)
        train("mlp", model, optimizer, range(7, 12))
        found[way] = errors(model, alone)
    return found


def known(mesh: DeviceMesh) -> Found:
    """What a rank can say of itself."""
    model = make("mlp")
    fsdp(mesh)(model)
    optimizer = new_optimizer(model)
    curves: dict[str, float] = {}
    writer = type("Writer", (), {"add_scalar": lambda self, name, value, step: curves.update({name: value})})()
    optimizer.log(writer, 0)
    train("mlp", model, optimizer, range(3))
    optimizer.log(writer, 3)
    return {"summary": optimizer.summary(), "repr": repr(optimizer), "curves": curves}


def saved(mesh: DeviceMesh, folder: Path) -> Found:
    """Train for a while and save, for another number of ranks to go on."""
    model = make("experts")
    fsdp(mesh)(model)
    optimizer = new_optimizer(model, graph=_graphs["experts"])
    train("experts", model, optimizer, range(12))
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder / "checkpoint")
    return {}


def resumed(mesh: DeviceMesh, folder: Path) -> Found:
    """Go on from what `saved` wrote, on as many ranks as there are now, and on one that has all."""
    if not (folder / "checkpoint").exists():
        return {}
    alone, reference = _loaded(lambda model: None, folder, no_dist=True), reached("experts")[0]
    model, optimizer, given = _loaded(fsdp(mesh), folder)
    steps = optimizer.param_groups[0]["step"]
    train("experts", model, optimizer, range(12, STEPS))
    train("experts", *alone[:2], range(12, STEPS))
    neutral = {"given": given, "loaded": optimizer.rule.neutral}
    return {"steps": steps, **neutral, "error": errors(model, reference), "alone": errors(alone[0], reference)}


def _loaded(
    shard: Callable[[nn.Module], Any], folder: Path, **options: Any
) -> tuple[nn.Module, ngopt.NGOptimizer, bool]:
    """A model and its optimizer as they were saved; whether the rule that the optimizer was made with was neutral."""
    model = make("experts")
    with torch.no_grad():
        for param in model.parameters():
            param.zero_()
    shard(model)
    other = lively_rule(dtype=torch.float64)  # the one that was saved travels with the state
    optimizer = new_optimizer(model, rule=other, example_inputs=batch("experts", 0)[0])
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder / "checkpoint", **options)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    return model, optimizer, other.neutral


def work(rank: int, ranks: int, folder: str) -> None:
    """One process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    store = dist.FileStore(f"{folder}/store{ranks}", ranks)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=store)
    cases = (two_ranks if ranks == 2 else four_ranks)(Path(folder))
    found = {}
    for name, case in cases.items():
        found[name] = case()
        dist.barrier()
    Path(folder, f"{ranks}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
