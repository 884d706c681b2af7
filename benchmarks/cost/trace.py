"""What tracing costs, once per model: CPU seconds of one thread, peak memory. ``python -m benchmarks.cost.trace``."""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
import warnings
from itertools import pairwise
from typing import Any

import torch
from torch import nn

import ngopt
from benchmarks.cost.command import Cost
from benchmarks.gpu_parts import GPT
from ngopt.command import run_command


def resnet50() -> tuple[nn.Module, object]:
    """25.6M parameters, one 224 x 224 image."""
    import timm

    return timm.create_model("resnet50"), torch.randn(1, 3, 224, 224)


def gpt2() -> tuple[nn.Module, object]:
    """GPT-2 small, 124M parameters, tied embeddings, 16 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config()), {"input_ids": torch.randint(0, 50257, (1, 16))}


def gpt_60m() -> tuple[nn.Module, object]:
    """60M parameters, 12 layers of width 512, tied embeddings, 64 tokens."""
    return GPT(512, 8, 12, 43264, 64), torch.randint(43264, (1, 64))


def llama_1b() -> tuple[nn.Module, object]:
    """A Llama configuration of 1.2B parameters on the meta device: its weights are never allocated."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        return LlamaForCausalLM(config), {"input_ids": torch.zeros(1, 16, dtype=torch.long)}


def mlp() -> tuple[nn.Module, object]:
    """784-800-512-10."""
    sizes = [784, 800, 512, 10]
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), torch.randn(2, 784)


MODELS = {"mlp": mlp, "resnet50": resnet50, "gpt_60m": gpt_60m, "gpt2": gpt2, "llama_1b": llama_1b}


def measure(name: str) -> dict[str, Any]:
    """Trace one model in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, inputs = MODELS[name]()
    wall, cpu = time.perf_counter(), time.process_time()
    graph = ngopt.trace(model, inputs)
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "nodes": graph.num_nodes,
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "certified": graph.certified,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| model | parameters | nodes | CPU seconds | peak GB | certified |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row["model"], f"{row['parameters']:,}", f"{row['nodes']:,}", f"{row['cpu_seconds']:.1f}"]
        cells += [f"{row['peak_gb']:.2f}", "yes" if row["certified"] else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


COST = Cost("trace", table)


def measured(name: str) -> dict[str, Any]:
    """`measure` in a process of its own, with one thread: its CPU time is what an idle core takes."""
    return COST.apart("--one", name, environment={**os.environ, "OMP_NUM_THREADS": "1"})


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = COST.parser(__doc__, clock=False, smoke=False)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--one", choices=list(MODELS), help=argparse.SUPPRESS)  # what this process is to measure
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(measure(options.one)))
    elif options.report:
        COST.report(options)
    else:
        results = COST.new(argv, {"threads": 1})
        for name in options.models:
            results["rows"].append(measured(name))
            COST.keep(options, results)
        COST.report(options, results)


if __name__ == "__main__":
    run_command(main)
