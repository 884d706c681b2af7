"""Random architectures: whatever the tracer claims to be a symmetry must be one."""

from __future__ import annotations

import torch
from hypothesis import assume, given

from ngopt.testing.architectures import OPS, RandomNet, example_input
from ngopt.testing.strategies import random_nets
from tests.graph.checks import traced, wrong_generators


@given(random_nets())
def test_random_architectures_have_no_wrong_symmetry(net: RandomNet):
    """Rules alone, without the certificate that would mend their mistakes."""
    run = traced(net, net.example(), certify=False)
    assume(all(torch.isfinite(y).all() and y.std() > 1e-6 for y in run.outputs))
    assert wrong_generators(run, limit=40) == []


def test_random_architectures_cover_every_op():
    """Each kind of step is drawn, and most architectures have symmetries: the property above is not empty."""
    generator = torch.Generator().manual_seed(0)
    seen, symmetric = set(), 0
    for i in range(60):
        kind = ("vector", "sequence", "image")[i % 3]
        numbers = torch.randint(1000, (5, 4), generator=generator).tolist()
        net = RandomNet(kind, [tuple(row) for row in numbers])
        seen |= {name.split("(")[0] for name in net.names}
        if i < 9:
            symmetric += bool(traced(net, example_input(kind), certify=False).sizes)
    assert seen == {op.name for op in OPS}
    assert symmetric >= 5
