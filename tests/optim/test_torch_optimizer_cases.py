"""The public cases of torch's own optimizers (`OptimizerInfo`), given to `NGOptimizer` as a user would who plugs it in.

They live in `torch.testing._internal`, which needs the package ``expecttest``.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import ngopt

pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch's internals warn of while they are imported
    from torch.testing._internal import common_optimizers as cases

OTHERS = ("LBFGS", "SparseAdam")  # of another kind: with closures that are called many times, for sparse gradients
# Options that belong to one optimizer, and would say nothing here. All others are known to have no effect.
UNKNOWN = {"beta2_decay", "d", "initial_accumulator_value", "lr_decay", "t0", "step_sizes"}
# torch refuses these; here a parameter without a name gets one, so that names can be given to some.
ALLOWED = ("should be with/without names",)
INPUTS = [
    pytest.param(given.kwargs, id=f"{info.optim_cls.__name__}, {given.desc}")
    for info in cases.optim_db
    if info.optim_cls.__name__ not in OTHERS
    for given in info.optim_inputs_func(device="cpu")
]


def make() -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(4, 3)


@pytest.mark.filterwarnings("ignore::UserWarning")  # options without effect, an lr of another optimizer
@pytest.mark.parametrize("kwargs", INPUTS)
def test_options_of_torchs_optimizers(kwargs: dict[str, Any]) -> None:
    model, x = make(), torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    if unknown := sorted(UNKNOWN & kwargs.keys()):
        with pytest.raises(TypeError, match=f"no option {unknown[0]}"):
            ngopt.NGOptimizer(model.parameters(), **kwargs)
        return
    optimizer = ngopt.NGOptimizer(model.parameters(), **kwargs)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] != losses[0]
    assert (losses[-1] > losses[0]) == kwargs.get("maximize", False)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.optimizer_error_input.desc)
        for case in cases.get_error_inputs_for_all_optims("cpu", torch.float32)
    ],
)
def test_errors_of_torchs_optimizers(case: Any) -> None:
    given = case.optimizer_error_input
    params = make().parameters() if given.params is None else given.params

    def build() -> ngopt.NGOptimizer:
        return ngopt.NGOptimizer(params, graph=False, **given.kwargs)

    if any(text in case.error_regex for text in ALLOWED):
        assert all(name for group in build().param_groups for name in group["param_names"])
    elif case.error_type is UserWarning:
        with pytest.warns(UserWarning, match=case.error_regex):
            build()
    else:
        with pytest.raises(case.error_type) as error:
            build()
        assert re.search(case.error_regex, str(error.value)) or "lr must be one number" in str(error.value)
