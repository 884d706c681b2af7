"""The parts of `benchmarks.gpu`: each yields rows as it has them, in full on a GPU, or in small on the CPU (`dry`)."""

from __future__ import annotations

import gc
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn

import ngopt
from ngopt.optim.fast import stack as stacking

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Something to run, and the seconds that it may take on a GPU."""

    run: Callable[[bool], Iterator[Row]]
    seconds: float


def tests(dry: bool) -> Iterator[Row]:
    """The tests that need a GPU; dry: that they are found."""
    # Another machine may have other versions, which warn of other things, and lack what other tests import.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "gpu",
        "-W",
        "default",
        "--tb=short",
    ]
    command += ["--continue-on-collection-errors", "tests", *(["--collect-only"] if dry else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    words = r"(\d+)(?:/\d+)? (passed|failed|skipped|errors?|tests collected)"
    counts = {
        word.removesuffix("s") if word == "errors" else word: int(n) for n, word in re.findall(words, done.stdout)
    }
    yield {"tests": "gpu", **counts, "failures": "; ".join(re.findall(r"^FAILED (.+)", done.stdout, re.MULTILINE))}
    if counts.get("failed"):
        print(done.stdout, file=sys.stderr)
        raise SystemExit(1)


def step(dry: bool) -> Iterator[Row]:
    """Time and peak memory of a training step: the optimizers on a ResNet-50 and a GPT-2 of 124M, in bf16."""
    failed: Exception | None = None
    for model_name, build in (("ResNet-50", _resnet), ("GPT-2 124M", _gpt2)):
        for name in ("AdamW", "NGOptimizer", "NGOptimizer, less stacked", "Muon", "SOAP"):
            row = {"model": model_name, "optimizer": name}
            try:
                yield {**row, **_measure(build, name, dry)}
            except Exception as error:  # out of memory, a package that is not there: the others go on
                traceback.print_exc()
                yield {**row, "error": f"{type(error).__name__}: {error}".splitlines()[0][:80]}
                failed = error
    if failed is not None:
        raise failed


def _measure(build: Callable[[bool], tuple[nn.Module, tuple[Any, ...]]], name: str, dry: bool) -> Row:
    device = "cpu" if dry else "cuda"
    torch.manual_seed(0)
    model, inputs = build(dry)
    model, inputs = model.to(device), tuple(x.to(device) for x in inputs)
    optimizer = _optimizer(name, model, dry)
    limit = stacking.SMALL if "less stacked" in name else stacking.SMALL_ON_GPU
    with mock.patch.object(stacking, "SMALL_ON_GPU", limit):
        return _times(model, inputs, optimizer, dry)


def _times(model: nn.Module, inputs: tuple[Any, ...], optimizer: torch.optim.Optimizer, dry: bool) -> Row:
    device = "cpu" if dry else "cuda"
    count, warm = (2, 1) if dry else (20, 5)
    before = _memory(dry)
    whole, alone = [], []

    def gradients() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(*inputs).float().square().mean()
        loss.backward()

    trace_ms = 0.0
    for k in range(warm + count):
        begin = _now(dry)
        gradients()
        middle = _now(dry)
        if not k and isinstance(optimizer, ngopt.NGOptimizer):
            assert optimizer.graph is not None  # asking for it traces the model
            trace_ms = 1e3 * (_now(dry) - middle)
        optimizer.step()
        end = _now(dry)
        whole.append(1e3 * (end - begin))
        alone.append(1e3 * (end - middle))
    begin = _now(dry)
    for _ in range(count):  # as in a training loop: the host runs ahead of the GPU
        gradients()
        optimizer.step()
    return {
        "loop_ms": 1e3 * (_now(dry) - begin) / count,
        "first_step_ms": whole[0],
        "trace_ms": trace_ms,
        "step_ms": statistics.median(whole[warm:]),
        "optimizer_ms": statistics.median(alone[warm:]),
        "worst_optimizer_ms": max(alone[warm:]),
        "peak_GiB": (_memory(dry, peak=True)) / 2**30,
        "model_GiB": before / 2**30,
        "finite": all(bool(p.isfinite().all()) for p in model.parameters()),
    }


def _optimizer(name: str, model: nn.Module, dry: bool) -> Any:
    if name == "AdamW":
        return torch.optim.AdamW(model.parameters(), lr=1e-5, fused=not dry)
    if name.startswith("NGOptimizer"):
        return ngopt.NGOptimizer(model, total_steps=1000)
    import pytorch_optimizer

    if name == "SOAP":
        return pytorch_optimizer.SOAP(model.parameters(), lr=1e-5)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "use_muon": True}, {"params": others, "use_muon": False}]
    return pytorch_optimizer.Muon(groups, lr=1e-5)


def _resnet(dry: bool) -> tuple[nn.Module, tuple[Any, ...]]:
    """A ResNet of bottlenecks, of plain torch: no torchvision is needed on the machine with the GPU."""
    depths, width, size, batch = ((1, 1), 8, 32, 2) if dry else ((3, 4, 6, 3), 64, 224, 64)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    channels = width
    for stage, depth in enumerate(depths):
        for index in range(depth):
            hidden = width * 2**stage
            layers.append(Bottleneck(channels, hidden, 2 if stage and not index else 1))
            channels = 4 * hidden
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10 if dry else 1000)]
    return nn.Sequential(*layers), (torch.randn(batch, 3, size, size),)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with norms, and a shortcut (He et al., 2016, arXiv:1512.03385)."""

    def __init__(self, ins: int, hidden: int, stride: int) -> None:
        super().__init__()
        shapes = ((ins, hidden, 1, 1), (hidden, hidden, 3, stride), (hidden, 4 * hidden, 1, 1))
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, k, s, k // 2, bias=False) for i, o, k, s in shapes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in shapes)
        self.shortcut = nn.Conv2d(ins, 4 * hidden, 1, stride, bias=False) if ins != 4 * hidden or stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [batch channel height width]
        """The same form, with other sizes."""
        y = x
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y = norm(convolution(y))
            y = y if index == 2 else y.relu()
        return (y + (x if self.shortcut is None else self.shortcut(x))).relu()


def _gpt2(dry: bool) -> tuple[nn.Module, tuple[Any, ...]]:
    width, heads, depth, vocabulary, length, batch = (32, 2, 1, 50, 8, 2) if dry else (768, 12, 12, 50257, 1024, 8)
    return GPT(width, heads, depth, vocabulary, length), (torch.randint(vocabulary, (batch, length)),)


class GPT(nn.Module):
    """A decoder with the shapes of GPT-2: pre-norm blocks, tied embeddings."""

    def __init__(self, width: int, heads: int, depth: int, vocabulary: int, length: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)
        layer = {"dim_feedforward": 4 * width, "dropout": 0.0, "activation": "gelu", "batch_first": True}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, norm_first=True, **layer) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # [batch token] -> [batch token vocabulary]
        """Logits."""
        length = ids.shape[1]
        x = self.tokens(ids) + self.places(torch.arange(length, device=ids.device))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=ids.device, dtype=x.dtype)
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        return self.norm(x) @ self.tokens.weight.T


def suite(dry: bool) -> Iterator[Row]:
    """Steps per second and final loss of NGOptimizer and AdamW on one task of meta-training's validation."""
    from meta_train.tasks import draw

    task = draw("validation-table", 0)
    steps, device = (5 if dry else 300), ("cpu" if dry else "cuda")
    for name in ("AdamW", "NGOptimizer"):
        torch.manual_seed(0)
        model = task.build().to(device)
        optimizer = (
            torch.optim.AdamW(model.parameters(), lr=3e-3)
            if name == "AdamW"
            else ngopt.NGOptimizer(model, total_steps=steps)
        )
        generator, begin, loss = torch.Generator().manual_seed(0), _now(dry), torch.zeros(())
        for _ in range(steps):
            x, y = (part[0].to(device) for part in task.batch(generator, 1))
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds = _now(dry) - begin
        yield {"task": task.name, "optimizer": name, "steps_per_second": steps / seconds, "final_loss": loss.item()}


def throughput(dry: bool) -> Iterator[Row]:
    """Networks per second that a reader trains on, and inner steps per second of a meta-training stack."""
    from ngopt.encoder import metanetwork

    device, batch, count = ("cpu", 8, 2) if dry else ("cuda", 512, 30)
    network = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    graph = ngopt.trace(network, torch.randn(2, 2), scalings=True).to(device)
    weights = {
        n: torch.randn(batch, *p.shape, device=device) * p.shape[-1] ** -0.5 for n, p in network.named_parameters()
    }
    for encoder in ("neuron_flow", "ng_gnn"):
        reader = metanetwork(graph, outputs=10, encoder=encoder, width=16 if dry else 64).to(device)
        reader.fit_statistics(graph, weights)
        optimizer, times = torch.optim.AdamW(reader.parameters(), lr=1e-3), []
        for _ in range(count):
            begin = _now(dry)
            optimizer.zero_grad()
            reader(graph, weights).square().mean().backward()
            optimizer.step()
            times.append(_now(dry) - begin)
        yield {"what": f"reading INRs, {encoder}", "per_second": batch / statistics.median(times[count // 3 :])}
    stack = {n: p.detach().expand(batch, *p.shape).clone().to(device) for n, p in network.named_parameters()}

    def loss(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network, state, (x,)).square().mean()

    gradient, x, times = torch.func.vmap(torch.func.grad(loss)), torch.randn(batch, 64, 2, device=device), []
    for _ in range(count):
        begin = _now(dry)
        gradient(stack, x)
        times.append(_now(dry) - begin)
    yield {"what": "gradients of a stack", "per_second": batch / statistics.median(times[count // 3 :])}


def _now(dry: bool) -> float:
    if not dry:
        torch.cuda.synchronize()
    return time.perf_counter()


def _memory(dry: bool, *, peak: bool = False) -> float:
    if dry:
        return 0.0
    if peak:
        return float(torch.cuda.max_memory_allocated())
    gc.collect()  # what was measured before may wait in circles
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return float(torch.cuda.memory_allocated())


PARTS = {
    "tests": Part(tests, 150),
    "step": Part(step, 240),
    "suite": Part(suite, 60),
    "throughput": Part(throughput, 90),
}
