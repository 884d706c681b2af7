"""What tracing costs, once per model: seconds and peak memory. ``python -m benchmarks.cost.trace``."""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
import warnings
from itertools import pairwise

import torch
from torch import nn

import ngopt
from ngopt.command import run_command


def resnet50() -> tuple[nn.Module, object]:
    """25.6M parameters, one 224 x 224 image."""
    import timm

    return timm.create_model("resnet50"), torch.randn(1, 3, 224, 224)


def gpt2() -> tuple[nn.Module, object]:
    """GPT-2 small, 124M parameters, tied embeddings, 16 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config()), {"input_ids": torch.randint(0, 50257, (1, 16))}


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


MODELS = {"mlp": mlp, "resnet50": resnet50, "gpt2": gpt2, "llama_1b": llama_1b}


def measure(name: str) -> dict[str, object]:
    """Trace one model in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, inputs = MODELS[name]()
    start = time.perf_counter()
    graph = ngopt.trace(model, inputs)
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "nodes": graph.num_nodes,
        "seconds": round(time.perf_counter() - start, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "certified": graph.certified,
    }


def main(argv: list[str] | None = None) -> None:
    """Trace each model in a process of its own and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost.trace", description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"any of {', '.join(MODELS)}")
    parser.add_argument("--one", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    unknown = set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"unknown models {sorted(unknown)}; there are {', '.join(MODELS)}")
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads\n")
    print("| model | parameters | nodes | seconds | peak GB | certified |")
    print("|---|---|---|---|---|---|")
    for name in options.models:
        command = [sys.executable, "-m", "benchmarks.cost.trace", "--one", name]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        row = json.loads(out.splitlines()[-1])
        cells = f"{row['parameters']:,} | {row['nodes']:,} | {row['seconds']} | {row['peak_gb']} | {row['certified']}"
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    run_command(main)
