"""Large models whose sharded steps `benchmarks.cost.plan` plans: sizes, shapes and plans, without a weight anywhere."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

import ngopt
from benchmarks.models_language import LanguageModel, Sizes
from ngopt.encoder.structure import structure
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.plan import ParamPlan, choose, forms_of_param

MODELS = {
    "gpt2": Sizes(50257, 768, 12, 12, 12, 3072, positions=1024, packed=True, tied=True),
    "llama-1b": Sizes(128256, 2048, 16, 32, 8, 8192, tied=True),
    "llama-8b": Sizes(128256, 4096, 32, 32, 8, 14336),
    "moe-8x0.4b": Sizes(32000, 2048, 16, 32, 8, 4096, experts=8),
}
REPEATED = 2  # blocks that are traced; the others are like the last of these
FACTORS = ("default", "one-sided", "blocked")


@dataclass(frozen=True)
class Network:
    """What planning needs of a model.

    Attributes:
        shapes: Of all parameters.
        forms: The ways in which each can be stepped.
        active: Parameters that take part in the computation of one token.
    """

    shapes: Mapping[str, tuple[int, ...]]
    forms: Mapping[str, tuple[ParamPlan, ...]]
    active: int

    @property
    def entries(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def plans(self, factors: str, config: UpdateConfig) -> dict[str, ParamPlan]:
        """How parameters are stepped.

        Args:
            factors: ``"default"``: as `NGOptimizer` does; ``"one-sided"``: a basis for the smaller side only;
                ``"blocked"``: all long sides cut into blocks.
            config: Settings of the rule.
        """
        if factors == "default":
            return choose(self.forms, config)
        if factors == "blocked":
            return {name: forms[-1] for name, forms in self.forms.items()}
        whole = {name: forms[0] for name, forms in self.forms.items()}
        return {
            name: dataclasses.replace(plan, sides=(min(plan.sides, key=lambda side: side.length),))
            if len(plan.sides) > 1
            else plan
            for name, plan in whole.items()
        }


@functools.cache
def network(sizes: Sizes, config: UpdateConfig | None = None) -> Network:
    """Shapes and forms of a model of these sizes, from the graph of one with fewer blocks, on the meta device."""
    config = config or UpdateConfig()
    with torch.device("meta"):
        model = LanguageModel(sizes)
        few = LanguageModel(dataclasses.replace(sizes, depth=min(REPEATED, sizes.depth)))
    graph = ngopt.trace(few, torch.ones(1, 4, dtype=torch.long, device="meta"), certify=False)
    known = structure(graph)
    blocks = {name: block for block in graph.blocks for name in (block.name, *block.aliases)}
    shapes, forms = {}, {}
    for name, param in model.named_parameters():
        block = blocks[re.sub(r"blocks\.(\d+)", lambda m: f"blocks.{min(int(m[1]), REPEATED - 1)}", name)]
        shapes[name] = tuple(param.shape)
        forms[name] = forms_of_param(name, shapes[name], block, config, known)
    used = sizes.chosen / sizes.experts if sizes.experts else 1.0
    active = sum(
        math.prod(shape) * (used if ".mlp." in name and len(shape) == 3 else 1.0) for name, shape in shapes.items()
    )
    return Network(shapes, forms, round(active))
