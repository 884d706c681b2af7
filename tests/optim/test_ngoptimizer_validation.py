"""A state is right, or refused by name with nothing changed: damage to every entry, states of other optimizers."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import ngopt
from ngopt.errors import CheckpointError, GraphMismatchError
from ngopt.optim import resume
from ngopt.optim.attach import capture
from tests.optim.ngoptimizer_cases import batch, differing, graph_of, lively_rule, make_mlp, same, train, weights

MUTATIONS = 500
NUMBERS = [float("nan"), float("inf"), -float("inf")]
DEEP = "[" * 100_000


@pytest.fixture(autouse=True)
def remembered_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes longer than all the rest of these tests, and most of them use the same model."""
    monkeypatch.setattr(capture, "trace_quietly", graph_of)


def build(seed: int = 0) -> tuple[nn.Module, ngopt.NGOptimizer]:
    model = make_mlp(seed)
    groups = [{"params": list(model[0].parameters())}, {"params": list(model[2].parameters()), "weight_decay": 0.1}]
    return model, ngopt.NGOptimizer(groups, model=model, rule=lively_rule(seed), total_steps=50 + seed)


def saved_state() -> dict[str, Any]:
    model, optimizer = build()
    train(model, optimizer, range(3))
    return copy.deepcopy(optimizer.state_dict())


# ---- mutations: each takes a state and a random generator, and damages the state


def some_entry(state: dict, rng: random.Random, keep: Callable[[str, torch.Tensor], bool]) -> tuple[dict, str]:
    places = [(own, key) for own in state["state"].values() for key, value in own.items() if keep(key, value)]
    return rng.choice(places)


def not_finite(state: dict, rng: random.Random) -> None:
    own, key = some_entry(state, rng, lambda _, value: value.is_floating_point())
    flat = own[key].reshape(-1).clone()
    flat[rng.randrange(len(flat))] = rng.choice(NUMBERS)
    own[key] = flat.reshape(own[key].shape)


def negative(state: dict, rng: random.Random) -> None:
    own, key = some_entry(state, rng, lambda key, _: key in ("step", "second_moment", "row_square", "unit"))
    flat = own[key].reshape(-1).clone()
    flat[rng.randrange(len(flat))] = -rng.choice([1e-30, 1.0, 7.0])
    own[key] = flat.reshape(own[key].shape)


def fractional_step(state: dict, rng: random.Random) -> None:
    own, key = some_entry(state, rng, lambda key, _: key == "step")
    own[key] = torch.tensor(rng.choice([0.5, 1.25]))


def other_shape(state: dict, rng: random.Random) -> None:
    own, key = some_entry(state, rng, lambda *_: True)
    value = own[key]
    changes = [
        value[None],
        value.repeat(*[2] * max(1, value.dim())),
        value.new_zeros(0),
        torch.cat([value.flatten()] * 2),
    ]
    own[key] = rng.choice(changes)


def other_kind_of_tensor(state: dict, rng: random.Random) -> None:
    own, key = some_entry(state, rng, lambda _, value: value.dim() > 0)
    value = own[key]
    own[key] = rng.choice([value.to(torch.complex64), value.to_sparse(), value.to("meta")])


def no_tensor(state: dict, rng: random.Random) -> None:
    own, key = some_entry(state, rng, lambda *_: True)
    own[key] = rng.choice([None, "x", 3, [1.0], {"a": own[key]}, object()])


def lost_entry(state: dict, rng: random.Random) -> None:
    own, key = some_entry(state, rng, lambda *_: True)
    del own[key]


def added_entry(state: dict, rng: random.Random) -> None:
    own, _ = some_entry(state, rng, lambda *_: True)
    own[rng.choice(["exp_avg", "momentum2", 7, None])] = torch.zeros(3)


def state_of_a_parameter(state: dict, rng: random.Random) -> None:
    number = rng.choice(list(state["state"]))
    change = rng.randrange(5)
    if change == 0:
        del state["state"][number]
    elif change == 1:
        state["state"][rng.choice([99, -1, "0.weight", 1.5, None, True])] = copy.deepcopy(state["state"].pop(number))
    else:
        state["state"][number] = [{}, [], None, 3.0][rng.randrange(4)]


def group_option(state: dict, rng: random.Random) -> None:
    group = rng.choice(state["param_groups"])
    option, values = rng.choice(
        [
            ("lr", [*NUMBERS, -1.0, "0.1", None, [1.0], torch.ones(2), True]),
            ("weight_decay", [*NUMBERS, -0.1, "0", None]),
            ("total_steps", [0, -5, 1.5, "9", True, *NUMBERS]),
            ("schedule", ["cosine", None, 3, []]),
            ("step", [-1, 2**70, 1.5, "3", None, True, 17]),
            ("maximize", ["yes", None, 2]),
            ("initial_lr", NUMBERS),
            ("capturable", [True]),
            ("param_names", [["x"], "names", [1, 2], None]),
        ]
    )
    group[option] = rng.choice(values)


def lost_option(state: dict, rng: random.Random) -> None:
    group = rng.choice(state["param_groups"])
    del group[rng.choice(["lr", "weight_decay", "total_steps", "schedule", "step", "maximize", "params"])]


def members(state: dict, rng: random.Random) -> None:
    group = rng.choice(state["param_groups"])
    numbers = group["params"]
    group["params"] = rng.choice(
        [
            numbers[:1],
            [*numbers, 9],
            [numbers[0]] * 2,
            [3 - n for n in numbers],
            None,
            ["a", 1.5],
            "01",
            [[0], [1]],
            {0, 1},
        ]
    )


def containers(state: dict, rng: random.Random) -> None:
    changes: list[Callable[[], Any]] = [
        lambda: state.pop("state"),
        lambda: state.pop("param_groups"),
        lambda: state.update(state=None),
        lambda: state.update(state=[1, 2]),
        lambda: state.update(param_groups=None),
        lambda: state.update(param_groups={}),
        lambda: state.update(param_groups=[]),
        lambda: state.update(param_groups=state["param_groups"][:1]),
        lambda: state.update(param_groups=[*state["param_groups"], {"params": []}]),
        lambda: state.update(param_groups=[None, None]),
        lambda: state.update(ngopt=rng.choice([None, [], "x", {}])),
    ]
    rng.choice(changes)()


def own_entry(state: dict, rng: random.Random) -> None:
    own = state["ngopt"]
    key = rng.choice(list(own))
    junk = [
        None,
        3,
        [],
        "",
        "{",
        DEEP,
        '{"a":' * 50_000,
        "null",
        "3",
        '["a"]',
        '{"0.weight": "x"}',
        '{"0.weight": [-1]}',
        {},
    ]
    if rng.random() < 0.2:
        del own[key]
    elif key == "skipped_steps":
        own[key] = rng.choice([-1, 1.5, "2", None, True])
    elif key == "config":
        old, new = rng.choice(
            [('"embedding": 16', '"embedding": 10000000'), ('"message_rounds": 2', '"message_rounds": 1000000')]
            + [('"momentum": 0.9', f'"momentum": {value}') for value in ("NaN", "-1", '"a"', "[]", "1e400")]
        )
        assert old in own[key]
        own[key] = rng.choice([own[key].replace(old, new), *junk])
    else:
        own[key] = rng.choice(junk)


def meta_parameters(state: dict, rng: random.Random) -> None:
    rule = state["ngopt"]["rule"]
    name = rng.choice(list(rule))
    value = rule[name]
    spoilt = value.reshape(-1).clone()
    spoilt[rng.randrange(len(spoilt))] = rng.choice(NUMBERS)
    changes: list[Callable[[], Any]] = [
        lambda: rule.pop(name),
        lambda: rule.update({name: spoilt.reshape(value.shape)}),
        lambda: rule.update({name: value[..., None].repeat(*[1] * value.dim(), 2)}),
        lambda: rule.update({name: value.to(rng.choice([torch.int64, torch.float16, torch.complex64]))}),
        lambda: rule.update({name: rng.choice([None, 3.0, "x"])}),
        lambda: rule.update({"surplus": value}),
    ]
    rng.choice(changes)()


KINDS = [
    *(not_finite, negative, fractional_step, other_shape, other_kind_of_tensor, no_tensor, lost_entry, added_entry),
    *(state_of_a_parameter, group_option, lost_option, members, containers, own_entry, meta_parameters),
]


def snapshot(optimizer: ngopt.NGOptimizer) -> dict[str, Any]:
    """All that loading could change."""
    return copy.deepcopy(
        {
            "state": optimizer.state_dict(),
            "names": [group["param_names"] for group in optimizer.param_groups],
            "warned": sorted(optimizer._notices.topics),
            "saved_graph": optimizer._attachment.saved_graph,
        }
    )


def harm_of(optimizer: ngopt.NGOptimizer, before: dict, saved: dict, seed: int) -> str | None:
    """What a damaged state did, if it was not refused as it must be."""
    rng = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    state = copy.deepcopy(saved)
    kind(state, rng)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.load_state_dict(state)
    except (CheckpointError, GraphMismatchError) as error:
        short = len(str(error)) < 1500
        changed = not same(snapshot(optimizer), before)
        return f"{kind.__name__} {seed}: changed something" if changed else None if short else f"{seed}: too long"
    except Exception as error:
        return f"{kind.__name__} {seed}: {type(error).__name__}: {error}"
    return f"{kind.__name__} {seed}: accepted"


@pytest.mark.parametrize("captured", [False, True])
def test_mutations_are_refused_and_change_nothing(captured: bool) -> None:
    saved = saved_state()
    model, optimizer = build(seed=1)
    if captured:
        train(model, optimizer, range(2))
    before = snapshot(optimizer)
    seeds = range(int(captured), MUTATIONS, 2)
    harms = [harm for seed in seeds if (harm := harm_of(optimizer, before, saved, seed)) is not None]
    assert harms == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another total_steps
        optimizer.load_state_dict(saved)  # and whole, it is accepted
    assert not same(snapshot(optimizer), before)


def test_mutations_are_noticed_by_the_checks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without them, most mutations are accepted, raise something else, or leave the optimizer half changed."""
    saved = saved_state()
    monkeypatch.setattr(resume, "check_state_dict", lambda *_: None)
    harms = 0
    for seed in range(2 * len(KINDS)):
        _, optimizer = build(seed=1)
        harms += harm_of(optimizer, snapshot(optimizer), saved, seed) is not None
    assert harms > len(KINDS)


def test_every_entry_of_a_state_is_known_to_the_checks() -> None:
    """A new kind of state must say whether it can be negative."""
    keys = {key for own in saved_state()["state"].values() for key in own}
    signed = {"momentum", "tensor_gates", "row_gates", "col_gates", "controls"}
    parts = {key for key in keys if key.endswith(("_factor", "_basis", "_order"))}
    assert keys <= signed | parts | {
        "step",
        "second_moment",
        "row_square",
        "col_square",
        "initial_rms",
        "guard",
        "unit",
    }


# ---- states without ngopt's own entry: shapes must fit together, and the parameter


def grown(x: torch.Tensor, axis: int, by: int = 1) -> torch.Tensor:
    """A tensor with more entries, or fewer, along one axis."""
    sizes = list(x.shape)
    sizes[axis] += by
    return torch.ones(sizes, dtype=x.dtype)


WRONG_SHAPES: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], Any]]] = {
    "longer rows": ("0.weight", lambda own: own.update(momentum=grown(own["momentum"], 1))),
    "fewer rows": ("0.weight", lambda own: own.update(momentum=grown(own["momentum"], 1, -1))),
    "both averages": (
        "0.weight",
        lambda own: own.update({key: grown(own[key], 2) for key in ("momentum", "second_moment")}),
    ),
    "another group": ("0.weight", lambda own: own.update(momentum=own["momentum"].transpose(0, 1))),
    "one average": ("0.weight", lambda own: own.update(second_moment=grown(own["second_moment"], 2))),
    "no second moment": ("0.weight", lambda own: own.pop("second_moment")),
    "a basis": ("0.weight", lambda own: own.update(row_basis=grown(own["row_basis"], 3))),
    "more blocks": ("0.weight", lambda own: own.update(row_basis=grown(own["row_basis"], 1))),
    "a longer vector": ("0.bias", lambda own: own.update({k: grown(own[k], 0) for k in ("momentum", "second_moment")})),
}


@pytest.mark.parametrize("wrong", WRONG_SHAPES)
def test_averages_of_a_wrong_size_without_an_entry_of_ours(wrong: str) -> None:
    state = saved_state()
    del state["ngopt"], state["param_groups"][-1]["ngopt"]
    _, optimizer = build()
    optimizer.load_state_dict(copy.deepcopy(state))  # control
    name, damage = WRONG_SHAPES[wrong]
    damage(state["state"][["0.weight", "0.bias"].index(name)])
    before = snapshot(optimizer)
    with pytest.raises(CheckpointError, match=r"not the state of a parameter of shape"):
        optimizer.load_state_dict(state)
    assert same(snapshot(optimizer), before)


def test_averages_in_padded_blocks_are_accepted() -> None:
    """Blocks are of equal size, so that the last of them is padded."""
    model = nn.Sequential(nn.Linear(7, 601), nn.ReLU(), nn.Linear(601, 2))
    optimizer = ngopt.NGOptimizer(model, graph=False)
    state = optimizer.state_dict()
    del state["ngopt"], state["param_groups"][-1]["ngopt"]
    assert state["state"][0]["momentum"].numel() > model[0].weight.numel()  # control
    optimizer.load_state_dict(copy.deepcopy(state))
    with pytest.raises(CheckpointError, match="not the state of a parameter"):
        other = nn.Sequential(nn.Linear(7, 550), nn.ReLU(), nn.Linear(550, 2))
        ngopt.NGOptimizer(other, graph=False).load_state_dict(state)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.3),
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, lr=0.1),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
        lambda p: torch.optim.LBFGS(p, lr=0.1),
    ],
)
@pytest.mark.parametrize("stepped", [False, True])
def test_a_state_of_another_optimizer(make: Callable[..., torch.optim.Optimizer], stepped: bool) -> None:
    model = make_mlp()
    other = make(model.parameters())
    if stepped:
        nn.functional.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
        other.step(lambda: torch.tensor(0.0))
    optimizer = ngopt.NGOptimizer(model, graph=False, weight_decay=0.1)
    before = snapshot(optimizer)
    with pytest.raises(CheckpointError, match="belongs to another optimizer"):
        optimizer.load_state_dict(other.state_dict())
    assert same(snapshot(optimizer), before)
    for junk in (None, 3, "state", [], {}, {"model": {}}):
        with pytest.raises(CheckpointError, match="state"):
            optimizer.load_state_dict(junk)


# ---- resuming with another horizon


@pytest.mark.parametrize(("saved_steps", "given"), [(50, 80), (None, 80), (50, None), (50, 50)])
@pytest.mark.parametrize("by_group", [False, True])
def test_a_length_of_the_run_that_is_given_wins(saved_steps: int | None, given: int | None, by_group: bool) -> None:
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model, total_steps=saved_steps)
    train(model, optimizer, range(3))
    twin = make_mlp()
    twin.load_state_dict(model.state_dict())
    if by_group:
        other = ngopt.NGOptimizer([{"params": list(twin.parameters()), "total_steps": given}], model=twin)
    else:
        other = ngopt.NGOptimizer(twin, total_steps=given)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other.load_state_dict(optimizer.state_dict())
        other.load_state_dict(optimizer.state_dict())
    wins = given is not None and given != saved_steps
    expected = f"total_steps={given} was given, and the loaded state says {saved_steps}"
    assert [str(w.message).split(":")[0] for w in caught] == [expected] * wins
    assert other.param_groups[0]["total_steps"] == (given if given is not None else saved_steps)
    for group in optimizer.param_groups:
        group["total_steps"] = other.param_groups[0]["total_steps"]
    train(model, optimizer, range(3, 6))
    train(twin, other, range(3, 6))
    assert differing(weights(model), weights(twin)) == []


# ---- a first batch that takes another branch


class TwoTasks(nn.Module):
    """A trunk and two heads, of which a batch uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(5, 8)
        self.heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])
        self.task = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 5] -> [batch, 3]."""
        return self.heads[self.task](torch.tanh(self.trunk(x)))


@pytest.mark.parametrize("captured", [False, True])
def test_the_first_batch_after_a_resume_takes_another_branch(monkeypatch: pytest.MonkeyPatch, captured: bool) -> None:
    """Nothing is raised, state is kept where it fits, and training goes on in both branches."""
    monkeypatch.undo()  # trace really: the graph depends on the branch
    model = TwoTasks()
    optimizer = ngopt.NGOptimizer(model)
    train(model, optimizer, range(3))
    twin = TwoTasks()
    twin.load_state_dict(model.state_dict())
    twin.task = 1
    other = ngopt.NGOptimizer(twin)
    state = copy.deepcopy(optimizer.state_dict())
    with pytest.warns(UserWarning, match=r"another graph.*heads\.0\.weight.*kept where it fits") as caught:
        if captured:
            train(twin, other, [0])
            twin.load_state_dict(model.state_dict())
        other.load_state_dict(state)
        for task in (1, 0, 1):
            twin.task = task
            before = weights(twin)
            train(twin, other, [task])
            assert {f"heads.{task}.weight", f"heads.{task}.bias"} <= set(differing(before, weights(twin)))
    assert len(caught) == 1
    assert other.state[twin.trunk.weight]["step"] == 6
