"""Capturing the graph from the first forward pass: it works wherever the pass happens, and leaves no mark."""

from __future__ import annotations

import contextlib
import copy
import gc
import inspect
import pickle
import random
import warnings
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import ngopt
from ngopt.optim.attach import capture
from ngopt.optim.attach.capture import slim_batch, trace_quietly
from ngopt.optim.attach.match import canonical_name
from tests.optim.ngoptimizer_cases import BATCH, batch, differing, lively_rule, make_mlp, make_net, train, weights


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def reference(steps: int = 3) -> dict[str, torch.Tensor]:
    """Weights of `make_net` after some steps with a graph that was traced beforehand."""
    model = make_net()
    optimizer = ngopt.NGOptimizer(model, model=model, example_inputs=batch(0)[0], rule=lively_rule())
    train(model, optimizer, range(steps))
    return weights(model)


# ---- leaving no mark


@pytest.mark.parametrize("training", [True, False])
def test_forward_pass_is_as_without_the_hook(training: bool) -> None:
    model, twin = make_net().train(training), make_net().train(training)
    for net in (model, twin):
        net.wide = nn.Sequential(net.wide, nn.Dropout(0.5))
        net.head.register_forward_pre_hook(lambda module, args: random.random() and None)
    optimizer = ngopt.NGOptimizer(model)
    x, _ = batch(0)
    model.square.weight.grad = torch.ones_like(model.square.weight)
    torch.manual_seed(5)
    random.seed(5)
    out = model(x)
    state = torch.get_rng_state(), random.getstate()
    torch.manual_seed(5)
    random.seed(5)
    expected = twin(x)
    assert optimizer.graph is not None
    assert torch.equal(out, expected)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    assert differing(weights(model), weights(twin)) == []  # running statistics included
    assert [module.training for module in model.modules()] == [module.training for module in twin.modules()]
    assert torch.equal(model.square.weight.grad, torch.ones_like(model.square.weight))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "square.weight")
    assert hooks(model) == hooks(twin) == 1


def test_nothing_of_the_data_is_kept() -> None:
    model = make_net()
    optimizer = ngopt.NGOptimizer(model)
    x, _ = batch(0)
    gone = weakref.ref(x)
    model(x)
    assert optimizer.graph is not None
    del x
    gc.collect()
    assert gone() is None


def test_python_state_of_the_module_is_not_touched() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_mlp()
            self.calls = 0
            self.last: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.last = x
            return self.net(x)

    model = Counting()
    optimizer = ngopt.NGOptimizer(model)
    x, _ = batch(0)
    model(x)
    assert optimizer.graph is not None
    assert model.calls == 1
    assert model.last is x


def test_a_module_that_cannot_be_copied_gets_its_buffers_back() -> None:
    model, twin = make_net(), make_net()
    cached = (model.wide.weight * 2).sum()  # not a leaf: deepcopy refuses it
    object.__setattr__(model, "cached", cached)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    optimizer = ngopt.NGOptimizer(model)
    x, _ = batch(0)
    assert torch.equal(model(x), twin(x))
    assert optimizer.graph is not None
    assert differing(weights(model), weights(twin)) == []


def test_an_abandoned_optimizer_is_freed_and_its_hook_goes() -> None:
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    assert hooks(model) == 0


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_of_the_model_does_not_report(how: str) -> None:
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model)
    average = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    average(batch(0)[0])
    assert optimizer.graph is None
    assert hooks(average) == 0
    train(model, optimizer, [0])
    assert optimizer.graph is not None


def test_stand_ins_for_tensors_are_passed_over() -> None:
    """Exporting or vmapping the model while the hook waits works, and does not count as a forward pass."""
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model)
    x, _ = batch(0)
    torch.export.export(model, (x,))
    torch.func.vmap(model)(x)
    assert optimizer.graph is None
    assert hooks(model) > 0
    torch.func.functional_call(model, dict(model.named_parameters()), (x,))
    assert optimizer.graph is not None  # by the last of the three
    assert ngopt.trace(model, (x,)).num_nodes == optimizer.graph.num_nodes


def test_exporting_is_no_forward_pass() -> None:
    """Not even its shapes count: they may be symbols."""
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model)
    torch.export.export(model, (batch(0)[0],), dynamic_shapes=({0: torch.export.Dim("rows", min=2, max=64)},))
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    with pytest.warns(UserWarning, match="No forward pass"):
        optimizer.step()


# ---- wherever it happens


@contextlib.contextmanager
def autocast() -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield


@pytest.mark.parametrize("context", [contextlib.nullcontext, torch.no_grad, torch.inference_mode, autocast])
def test_first_pass_inside(context: type) -> None:
    model = make_net()
    optimizer = ngopt.NGOptimizer(model, rule=lively_rule())
    model.norm.eval()
    with context():
        model(torch.randn(7, 5))
    model.norm.train()
    assert optimizer.graph is not None
    assert hooks(model) == 0
    train(model, optimizer, range(3))
    assert differing(weights(model), reference()) == []


def test_half_precision_inputs_under_autocast() -> None:
    """As when the model is the second half of a network whose first half ran under autocast."""
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model)
    with autocast():
        model(batch(0)[0].bfloat16())
    assert optimizer.graph is not None


def test_keyword_inputs_and_nested_outputs() -> None:
    class Keyworded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_mlp()

        def forward(self, *, inputs: dict[str, torch.Tensor], flag: bool = False) -> dict[str, list[torch.Tensor]]:
            return {"out": [self.net(inputs["x"])] if flag else []}

    model = Keyworded()
    optimizer = ngopt.NGOptimizer(model)
    model(inputs={"x": batch(0)[0]}, flag=True)
    assert {block.name for block in optimizer.graph.blocks} == set(dict(model.named_parameters()))


def test_the_network_inside_a_module_that_never_runs() -> None:
    """As in a LightningModule, whose training step calls ``self.net``."""
    outer = nn.Module()
    outer.net = make_net()
    optimizer = ngopt.NGOptimizer(outer, rule=lively_rule())
    train(outer.net, optimizer, range(3))
    assert optimizer.graph is not None
    assert hooks(outer) == 0
    assert differing(weights(outer.net), reference()) == []


def test_lazy_modules() -> None:
    """Their first pass makes the parameters, with the user's random numbers; the graph follows at the first step."""

    def make() -> nn.Sequential:
        torch.manual_seed(3)
        return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 3))

    model, twin = make(), make()
    optimizer = ngopt.NGOptimizer(model)
    torch.manual_seed(4)
    twin(batch(0)[0])
    torch.manual_seed(4)
    model(batch(0)[0])
    assert differing(weights(model), weights(twin)) == []
    first = train(model, optimizer, [0])
    assert len(optimizer.graph.blocks) == 4
    assert hooks(model) == 0
    assert train(model, optimizer, [0] * 40) < 0.7 * first


def test_distributed_data_parallel() -> None:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        model = make_net()
        wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        optimizer = ngopt.NGOptimizer(wrapped, rule=lively_rule())
        assert optimizer.param_groups[0]["param_names"][1] == "conv.weight"
        train(wrapped, optimizer, range(3))
        assert optimizer.graph is not None
        assert differing(weights(model), reference()) == []

        later = make_net()
        optimizer = ngopt.NGOptimizer(later, rule=lively_rule())
        train(nn.parallel.DistributedDataParallel(later, find_unused_parameters=True), optimizer, range(3))
        assert optimizer.graph is not None
        assert differing(weights(later), reference()) == []
    finally:
        dist.destroy_process_group()


def test_data_parallel() -> None:
    model = make_net()
    wrapped = nn.DataParallel(model)
    optimizer = ngopt.NGOptimizer(wrapped, rule=lively_rule())
    train(wrapped, optimizer, range(3))
    assert optimizer.graph is not None
    assert hooks(wrapped) == 0
    assert differing(weights(model), reference()) == []


def test_one_layer_compiled() -> None:
    """Compiling a part of the model only changes neither names nor steps."""
    torch.compiler.reset()
    model, twin = make_mlp(), make_mlp()
    model[0] = torch.compile(model[0], backend="eager")
    optimizer = ngopt.NGOptimizer(model, rule=lively_rule())
    train(model, optimizer, range(3))
    assert len(optimizer.graph.blocks) == 4
    train(twin, ngopt.NGOptimizer(twin, rule=lively_rule()), range(3))
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_inputs_as_a_mapping() -> None:
    model = Plain()
    optimizer = ngopt.NGOptimizer(model, example_inputs={"x": batch(0)[0]})
    assert len(optimizer.graph.blocks) == 4
    optimizer = ngopt.NGOptimizer(model, example_kwargs={"x": batch(0)[0]})
    assert len(optimizer.graph.blocks) == 4
    with pytest.raises(ngopt.TraceError):
        ngopt.NGOptimizer(model, example_inputs=torch.zeros(2, 99))


class Plain(nn.Module):
    """A module of the user's own: `torch.compile` runs its hooks as ordinary Python, unlike those of containers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, feature] -> [batch, class]."""
        return self.net(x)


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("when", ["before", "after", "in place"])
@pytest.mark.parametrize("make", [make_mlp, Plain])
def test_compiled(make: type, when: str, fullgraph: bool) -> None:
    """Compiled before or after the optimizer is built: the same steps as eager, and the model stays compiled."""
    if when == "in place" and make is make_mlp and torch.__version__.startswith("2.6."):
        pytest.skip("torch 2.6 does not compile nn.Sequential in place, whoever listens to it")
    torch.compiler.reset()
    model, twin = make(), make()
    compiled_ops = []

    def backend(graph: torch.fx.GraphModule, _: list) -> object:
        compiled_ops.append(len(graph.graph.nodes))
        return graph.forward

    if when == "before":
        run = torch.compile(model, backend=backend, fullgraph=fullgraph)
        optimizer = ngopt.NGOptimizer(run, rule=lively_rule())
    else:
        optimizer = ngopt.NGOptimizer(model, rule=lively_rule())
        run = model
        if when == "after":
            run = torch.compile(model, backend=backend, fullgraph=fullgraph)
        else:
            model.compile(backend=backend, fullgraph=fullgraph)
    train(run, optimizer, range(4))
    assert optimizer.graph is not None
    assert hooks(model) == 0
    assert 1 <= len(compiled_ops) <= 2  # at most one recompilation, when the hook goes
    assert set(optimizer.param_groups[0]["param_names"]) == set(dict(twin.named_parameters()))
    train(twin, ngopt.NGOptimizer(twin, rule=lively_rule()), range(4))
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_compiled_step() -> None:
    """``torch.compile`` of the optimizer's step runs it as it is."""
    torch.compiler.reset()
    model = make_net()
    optimizer = ngopt.NGOptimizer(model, rule=lively_rule())
    step = torch.compile(optimizer.step, backend="eager")
    for index in range(3):
        x, y = batch(index)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        step()
    assert differing(weights(model), reference()) == []


# ---- parameters only: the module is found


def forms(model: nn.Module) -> dict[str, object]:
    """What programs pass to an optimizer instead of the model."""
    decay, rest = [], []
    for param in model.parameters():
        (decay if param.ndim > 1 else rest).append(param)
    return {
        "parameters": model.parameters(),
        "list": list(model.parameters()),
        "named": model.named_parameters(),
        "groups": [{"params": iter(decay), "weight_decay": 0.0}, {"params": rest}],
        "named groups": [{"params": list(model.named_parameters())}],
    }


@pytest.mark.parametrize("form", ["parameters", "list", "named", "groups", "named groups"])
def test_parameters_only_train_as_the_model_does(form: str) -> None:
    """Same weights as with the model itself; and the same names in every form."""
    model, copied = make_net(), copy.deepcopy(make_net())
    optimizer = ngopt.NGOptimizer(forms(model)[form], rule=lively_rule())
    assert sorted(n for g in optimizer.param_groups for n in g["param_names"]) == sorted(
        dict(copied.named_parameters())
    )
    train(model, optimizer, range(3))
    assert optimizer.graph is not None
    assert hooks(model) == 0
    for name, value in reference().items():
        torch.testing.assert_close(weights(model)[name], value, msg=name)


def test_parameters_of_a_frozen_base() -> None:
    """Adapters only, as programs for low-rank adaptation pass them: the graph is that of the whole network."""
    model = make_net()
    for name, param in model.named_parameters():
        param.requires_grad_(name.startswith(("head", "square")))
    optimizer = ngopt.NGOptimizer([p for p in model.parameters() if p.requires_grad])
    before = weights(model)
    train(model, optimizer, range(2))
    assert {block.name for block in optimizer.graph.blocks} == set(dict(model.named_parameters()))
    named = dict(model.named_parameters())
    changed = set(differing(before, weights(model))) & named.keys()
    assert changed == {name for name, param in named.items() if param.requires_grad}


class Layers(nn.Module):
    """A network of its own, built of the layers of another: fewer modules than that has."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.first, self.second = model[0], model[2]

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class Around(nn.Module):
    """Holds a model, and runs its layers itself."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model[2](torch.tanh(self.model[0](x)))


@pytest.mark.parametrize("given", ["parameters", "model"])
@pytest.mark.parametrize("other", [Layers, Around])
@pytest.mark.parametrize("late", [False, True])
def test_another_module_with_the_same_parameters_is_what_runs(
    given: str, other: Callable[[nn.Sequential], nn.Module], late: bool
) -> None:
    """As where a model is given a second use, before the optimizer is made or after. What runs is what is traced."""

    def build() -> tuple[nn.Module, nn.Module, ngopt.NGOptimizer]:
        model = make_mlp()
        runs = None if late else other(model)
        optimizer = ngopt.NGOptimizer(model if given == "model" else model.parameters())
        return model, runs or other(model), optimizer

    model, runs, optimizer = build()
    train(runs, optimizer, range(3))
    assert hidden_neurons(optimizer, "first.weight" if other is Layers else "model.0.weight") == {False}
    assert sum(hooks(module) for module in (model, *model.modules(), runs)) == 0
    copied = copy.deepcopy((runs, optimizer))
    _, resumed, again = build()
    resumed.load_state_dict(runs.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(runs, optimizer, range(3, 6))
    train(*copied, range(3, 6))
    train(resumed, again, range(3, 6))
    assert differing(weights(runs), weights(copied[0])) == []
    assert differing(weights(runs), weights(resumed)) == []


@pytest.mark.parametrize("other", [Layers, Around])
def test_another_module_with_the_same_parameters_that_never_runs(other: Callable[[nn.Sequential], nn.Module]) -> None:
    model = make_mlp()
    idle = other(model)
    optimizer = ngopt.NGOptimizer(model.parameters())
    train(model, optimizer, range(3))
    assert hidden_neurons(optimizer, "0.weight") == {False}
    assert sum(hooks(module) for module in (model, *model, idle)) == 0


def test_two_modules_with_the_same_parameters_that_both_run() -> None:
    """The graph is that of one of them, without a word: both have these neurons."""
    model = make_mlp()
    other = Layers(model)
    optimizer = ngopt.NGOptimizer(model)
    for index in range(3):
        x, y = batch(index)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x) + other(x), y).backward()
        optimizer.step()
    assert hidden_neurons(optimizer, "0.weight") == {False}
    assert sum(hooks(module) for module in (model, *model, other)) == 0


def test_a_module_of_torch_fx() -> None:
    """Its class is made for it alone, and has the forward pass."""
    model = torch.fx.symbolic_trace(make_mlp())
    optimizer = ngopt.NGOptimizer(model)
    train(model, optimizer, range(2))
    assert hidden_neurons(optimizer, "0.weight") == {False}


def test_a_scripted_module() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of scripting
        model = torch.jit.script(make_mlp())
    optimizer = ngopt.NGOptimizer(model.parameters())
    train(model, optimizer, range(2))  # seen from the second step on, while the module that was scripted is alive
    assert len(optimizer.graph.blocks) == 4
    assert all(block.role != "unused" for block in optimizer.graph.blocks)


def test_a_traced_module_can_be_given() -> None:
    """Its class cannot be asked for its forward; building an optimizer must not fail of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of tracing
        model = torch.jit.trace(make_mlp(), batch(0)[0])
    assert len(ngopt.NGOptimizer(model.parameters()).param_groups[0]["params"]) == 4


def test_parameters_that_a_function_is_called_with() -> None:
    """As with `torch.func.functional_call`: they are in no module, and what the warning says can be done."""
    model, x = make_mlp(), batch(0)[0]
    named = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    with pytest.warns(UserWarning, match=r"belong to no module.*NGOptimizer\(named.items\(\), graph="):
        ngopt.NGOptimizer(named.items())
    optimizer = ngopt.NGOptimizer(named.items(), graph=ngopt.trace(model, x))
    assert hidden_neurons(optimizer, "0.weight") == {False}
    losses = []
    for _ in range(30):
        losses.append(nn.functional.cross_entropy(torch.func.functional_call(model, named, x), batch(0)[1]))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_the_cost_of_a_step_follows_what_is_trained() -> None:
    """A frozen base that is larger than its adapters is not read; one that is smaller is."""
    base = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    for param in base.parameters():
        param.requires_grad_(False)
    model = nn.Sequential(base, nn.Linear(3, 3))
    optimizer = ngopt.NGOptimizer(model, rule=lively_rule())
    train(model, optimizer, [0])
    assert [set(partition.readable) for partition in optimizer._attachment.partitions] == [{"1.weight", "1.bias"}]
    base[2].requires_grad_(True)
    optimizer = ngopt.NGOptimizer(model, rule=lively_rule())
    train(model, optimizer, [0])
    assert set(optimizer._attachment.partitions[0].readable) == set(dict(model.named_parameters()))


class ActorCritic(nn.Module):
    """Without a forward pass of its own, as policies of reinforcement learning are."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critics = make_mlp(), nn.ModuleList([make_mlp()])

    def act(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, feature] -> [batch, class]."""
        return self.actor(x)


@pytest.mark.parametrize("whole", [True, False])
def test_a_module_without_forward(whole: bool) -> None:
    model = ActorCritic()
    optimizer = ngopt.NGOptimizer(model if whole else model.parameters())
    x, _ = batch(0)
    (model.act(x).square().mean() + model.critics[0](x[:3]).mean()).backward()
    optimizer.step()
    assert {block.name for block in optimizer.graph.blocks} == set(dict(model.named_parameters()))
    assert hooks(model) == 0
    assert optimizer.graph.certified
    assert any(s.degree > 1 for s in optimizer.graph.symmetries)


class Policy(nn.Module):
    """A trunk with two heads, a parameter of its own, and methods in place of a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.spread = nn.Sequential(nn.Linear(5, 8), nn.Tanh()), nn.Parameter(torch.zeros(3))
        self.actor, self.critic = nn.Linear(8, 3), nn.Linear(8, 1)

    def act(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, feature] -> [batch, action]."""
        return torch.normal(self.actor(self.trunk(x)).detach(), self.spread.detach().exp().expand(len(x), 3))

    def evaluate(self, x: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, feature], [batch, action] -> log-likelihood and value, each [batch]."""
        hidden = self.trunk(x)
        normal = torch.distributions.Normal(self.actor(hidden), self.spread.exp(), validate_args=False)
        return normal.log_prob(action).sum(1), self.critic(hidden).squeeze(1)


def train_policy(model: Policy, optimizer: ngopt.NGOptimizer) -> None:
    x, _ = batch(0)
    for _ in range(2):
        optimizer.zero_grad()
        likelihood, value = model.evaluate(x, model.act(x))
        (value.square().mean() - likelihood.mean()).backward()
        optimizer.step()


def hidden_neurons(optimizer: ngopt.NGOptimizer, name: str = "trunk.0.weight") -> set[bool]:
    """Whether the neurons at the rows of a weight are frozen."""
    graph = optimizer.graph
    (block,) = (block for block in graph.blocks if block.name == name)
    return {graph.group_of(int(node)).frozen for node in block.row_nodes.unique()}


def test_a_policy_of_methods_is_traced_part_by_part() -> None:
    """What passes from the trunk to the heads may be used in any way, and is no hidden layer; it warns of the rest."""
    model = Policy()
    optimizer = ngopt.NGOptimizer(model.parameters())
    with pytest.warns(UserWarning, match=r"^spread: not on the neural graph"):
        train_policy(model, optimizer)
        for _ in range(12):
            optimizer.step()
    assert {block.name for block in optimizer.graph.blocks} == set(dict(model.named_parameters())) - {"spread"}
    assert hidden_neurons(optimizer) == {True}
    assert hooks(model) == 0


def test_a_policy_with_a_forward_that_calls_its_method_is_traced_as_a_whole() -> None:
    """As the page on the optimizer, and the warning, say."""

    class Called(Policy):
        forward = Policy.evaluate

    model = Called()
    optimizer = ngopt.NGOptimizer(model, example_inputs=(batch(0)[0], torch.zeros(len(batch(0)[0]), 3)))
    train_policy(model, optimizer)
    assert {block.name for block in optimizer.graph.blocks} == set(dict(model.named_parameters()))
    assert hidden_neurons(optimizer) == {False}


def test_a_dict_of_modules() -> None:
    nets = {"encoder": make_mlp(), "decoder": nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3))}
    optimizer = ngopt.NGOptimizer([param for net in nets.values() for param in net.parameters()])
    nets["decoder"](nets["encoder"](batch(0)[0])).mean().backward()
    optimizer.step()
    assert len(optimizer.graph.blocks) == 8


def test_a_method_that_uses_parameters_alone_is_never_seen_to_run() -> None:
    """The warning says what to do; that it works is shown above."""

    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5, 3))

        def scores(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    model = Raw()
    optimizer = ngopt.NGOptimizer(model)
    model.scores(batch(0)[0]).square().mean().backward()
    optimizer.step()
    with pytest.warns(UserWarning, match="needs a forward that calls that method"):
        optimizer.step()
    assert optimizer.graph is None


def test_a_part_that_is_called_later_joins_the_graph() -> None:
    model = ActorCritic()
    optimizer = ngopt.NGOptimizer(model)
    x, _ = batch(0)
    for head in (model.actor, model.critics[0]):
        optimizer.zero_grad()
        head(x).square().mean().backward()
        optimizer.step()
    assert {block.name for block in optimizer.graph.blocks} == set(dict(model.named_parameters()))
    assert hooks(model) == 0


def test_parts_of_a_module_whose_forward_never_runs() -> None:
    """The graph is there from the second step on."""

    class Encoding(ActorCritic):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError

    model = Encoding()
    optimizer = ngopt.NGOptimizer(model)
    x, _ = batch(0)
    model.act(x).mean().backward()
    optimizer.step()
    with pytest.warns(UserWarning, match="critics.*not on the neural graph"):  # it is not waited for without end
        for _ in range(12):
            model.act(x).mean().backward()
            optimizer.step()
    assert len(optimizer.graph.blocks) == 4
    assert hooks(model) == 0


def call(model: nn.Module, index: int) -> None:
    """Forward and back, with forward called as a method."""
    x, y = batch(index)
    model.zero_grad()
    nn.functional.cross_entropy(model.forward(x), y).backward()


@pytest.mark.parametrize("part", [False, True])
def test_forward_called_as_a_method(part: bool) -> None:
    """``net.forward(x)`` calls no hooks. It is seen from the second step on, and nothing is left of that."""
    model = make_net()
    whole = nn.ModuleDict({"net": model}) if part else model
    optimizer = ngopt.NGOptimizer(whole)
    signature = inspect.signature(model.forward)
    for step in range(3):
        call(model, step)
        optimizer.step()
        if step == 0:
            assert inspect.signature(model.forward) == signature
    assert {block.name for block in optimizer.graph.blocks} == set(dict(whole.named_parameters()))
    assert hidden_neurons(optimizer, "net.wide.weight" if part else "wide.weight") == {False}
    assert hooks(model) == 0
    assert "forward" not in vars(model)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_made_while_the_method_is_watched(how: str) -> None:
    """It computes with its own weights, does not report, and is a plain module afterwards."""
    model = make_net()
    optimizer = ngopt.NGOptimizer(model)
    call(model, 0)
    optimizer.step()
    assert "forward" in vars(model)
    copied = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    nn.init.zeros_(copied.head.weight)
    out = copied.eval()(batch(0)[0])
    assert torch.equal(out, copied.head.bias.expand_as(out))
    assert "forward" not in vars(copied)
    assert optimizer.graph is None
    call(model, 1)
    assert optimizer.graph is not None


def test_another_stand_in_for_forward_is_left_alone() -> None:
    """Such as one of accelerate's, before or after."""
    model = make_net()
    before, after = lambda *args: type(model).forward(model, *args), lambda *args: type(model).forward(model, *args)
    model.forward = before
    optimizer = ngopt.NGOptimizer(model)
    call(model, 0)
    optimizer.step()
    assert model.forward is before
    del model.forward
    model.forward = after
    for step in range(3):
        model(batch(step)[0]).sum().backward()
        optimizer.step()
    assert optimizer.graph is not None
    assert model.forward is after


def test_a_module_with_a_train_of_its_own() -> None:
    """Names such as ``train`` and ``eval`` are the program's."""

    class Trainer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def train(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # pyright: ignore
            return nn.functional.cross_entropy(self(x), y)

        def eval(self) -> None:  # pyright: ignore
            raise AssertionError

    model = Trainer()
    optimizer = ngopt.NGOptimizer(model)
    model.train(*batch(0)).backward()
    optimizer.step()
    assert len(optimizer.graph.blocks) == 4


@pytest.mark.parametrize("again", [False, True])
def test_parameters_of_several_modules(again: bool) -> None:
    encoder, decoder = make_mlp(), nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = ngopt.NGOptimizer([*encoder.parameters(), *decoder.parameters()])
    if again:  # a pass that fails does not end listening
        with pytest.raises(RuntimeError, match="shape"):
            encoder(torch.zeros(4, 99))
    decoder(encoder(batch(0)[0])).mean().backward()
    optimizer.step()
    assert len(optimizer.graph.blocks) == 8
    assert hooks(encoder) == hooks(decoder) == 0


def test_parameters_of_no_module_say_so() -> None:
    with pytest.warns(UserWarning, match="belong to no module"):
        ngopt.NGOptimizer([nn.Parameter(torch.zeros(3, 3))])


def test_a_parameter_beside_a_model() -> None:
    """A coefficient that is learned with a network leaves the network its graph."""
    model, coefficient = make_mlp(), nn.Parameter(torch.tensor(0.1))
    optimizer = ngopt.NGOptimizer([*model.parameters(), coefficient])
    x, y = batch(0)
    (coefficient * nn.functional.cross_entropy(model(x), y)).backward()
    with pytest.warns(UserWarning, match=r"^param\.4: not on the neural graph.*per-tensor rule"):
        optimizer.step()
    assert {block.name for block in optimizer.graph.blocks} == set(dict(model.named_parameters()))
    assert coefficient.item() != pytest.approx(0.1)


def test_the_model_is_not_kept_alive() -> None:
    model = make_mlp()
    params = list(model.parameters())
    optimizer = ngopt.NGOptimizer(params)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert optimizer.graph is None


def tensors() -> dict[int, Tensor]:
    """All that hold memory, by id; those of a recording are fake."""
    return {id(x): x for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter)}


def trained() -> ngopt.NGOptimizer:
    """An optimizer after two steps; nobody else holds its model."""
    model = make_net()
    optimizer = ngopt.NGOptimizer(model)
    train(model, optimizer, [0, 1])
    assert optimizer.graph is not None
    return optimizer


@pytest.mark.parametrize("circle", [False, True])
def test_all_is_freed_without_a_collection(circle: bool) -> None:
    trained()  # what torch imports at first may hold on to a traceback
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        optimizer = trained()
        if circle:  # control
            optimizer.defaults["itself"] = optimizer
        del optimizer
        left = [x.shape for key, x in tensors().items() if key not in before and x.numel() > 30]
        assert bool(left) == circle, left
    finally:
        gc.enable()
        gc.collect()


# ---- when it fails


def test_a_failed_trace_warns_once_and_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ngopt.errors.TraceError("no such luck")

    monkeypatch.setattr(capture, "trace_quietly", fail)
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model)
    before = weights(model)
    with pytest.warns(UserWarning, match="TraceError: no such luck.*per-tensor rule") as caught:
        train(model, optimizer, range(3))
    assert len(caught) == 1
    assert optimizer.graph is None
    assert hooks(model) == 0
    assert set(differing(before, weights(model))) == before.keys()


def test_a_failed_trace_of_two_rows_falls_back_to_the_batch() -> None:
    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] != BATCH:
                raise ValueError("wrong batch size")
            return self.net(x)

    model = Choosy()
    optimizer = ngopt.NGOptimizer(model)
    train(model, optimizer, [0])
    assert len(optimizer.graph.blocks) == 4


def test_errors_of_the_users_model_are_the_users() -> None:
    model = make_mlp()
    ngopt.NGOptimizer(model)
    with pytest.raises(RuntimeError, match="shape"):
        model(torch.zeros(4, 99))


# ---- the small parts


def test_slimming() -> None:
    x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
    args, kwargs = slim_batch(((x, 3), {"y": [y], "scale": torch.tensor(2.0)}))
    assert args[0].tolist() == x[:2].tolist()
    assert args[1] == 3
    assert kwargs["y"][0].tolist() == [0, 1]
    assert kwargs["scale"].item() == 2.0
    assert slim_batch(((x, y[:5]), {})) is None  # no common batch
    assert slim_batch(((x[:2],), {})) is None  # nothing to gain
    assert slim_batch(((x, object()), {})) is None  # an unknown object may hold tensors of its own
    assert slim_batch(((3,), {})) is None


def test_tracing_sees_two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, trace = [], capture.trace

    def spy(model: nn.Module, args: tuple, **options: object) -> ngopt.NeuralGraph:
        seen.append(tuple(args[0].shape))
        return trace(model, args, **options)

    monkeypatch.setattr(capture, "trace", spy)
    trace_quietly(make_net(), torch.randn(50, 5))
    assert seen == [(2, 5)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("module.conv.weight", "conv.weight"),
        ("_orig_mod.module.conv.weight", "conv.weight"),
        ("blocks.0._orig_mod.weight", "blocks.0.weight"),
        ("conv.module.weight", "conv.module.weight"),
    ],
)
def test_names_without_wrappers(name: str, expected: str) -> None:
    assert canonical_name(name) == expected
