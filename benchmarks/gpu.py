"""What a first GPU should run, within nine minutes: tests, steps, a sample of the suite, throughputs.

    python -m benchmarks.gpu            # make gpu: all parts; those that are done already are not run again
    python -m benchmarks.gpu --part step
    python -m benchmarks.gpu --dry      # tiny models on the CPU, into a file that you name with --out

Each part is a process with a limit of its own, so that one that hangs or dies costs no other its rows. They are
in benchmarks/results/gpu.json as soon as they are there; the table is in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.pages import fill_pages
from benchmarks.common.results import RESULTS, put_row, read_results
from benchmarks.gpu_parts import PARTS
from ngopt.command import run_command

PAGE = Path("docs/benchmarks.md")
KEPT = 120  # lines of what a part that failed had to say
COMMAND = ["python", "-m", "benchmarks.gpu"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts that are not done yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--again", action="store_true", help="run parts that are done, too")
    parser.add_argument("--dry", action="store_true", help="tiny models on the CPU: does it run at all?")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--limit", type=float, help="seconds for each part, in place of its own")
    parser.add_argument("--inside", help=argparse.SUPPRESS)  # the name of the part that this process is
    options = parser.parse_args(argv)
    if options.inside:
        for row in PARTS[options.inside].run(options.dry):
            print(json.dumps(row), flush=True)
        return 0
    import torch

    if not options.dry and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --dry runs all parts in small on the CPU")
    if options.dry and options.out == RESULTS / "gpu.json":
        parser.error("--dry needs --out: what a CPU measured does not belong beside the results of a GPU")
    device = "cpu (dry)" if options.dry else torch.cuda.get_device_name()
    done = {row["part"] for row in stored(options.out) if row["device"] == device and row["status"] == "done"}
    failed = 0
    for name in options.part:
        if name in done and not options.again:
            print(f"{name}: done already")
            continue
        row = run_part(name, options.dry, options.limit or PARTS[name].seconds) | {"device": device}
        put_row(options.out, row, ["part", "device"], {"dry": options.dry}, COMMAND)
        failed += row["status"] != "done"
        print(f"{name}: {row['status']} after {row['seconds']:.0f} s, {len(row['rows'])} rows")
    text = table(stored(options.out))
    print(text)
    if not options.dry:
        fill_pages("gpu", text, [PAGE])
    return int(failed > 0)


def stored(path: Path) -> list[dict[str, Any]]:
    """Rows that are there."""
    return read_results(path)["rows"] if path.is_file() else []


def run_part(name: str, dry: bool, seconds: float, run: Callable[..., Any] = subprocess.run) -> dict[str, Any]:
    """Run a part in a process of its own; what it printed before it ended, in whatever way, is kept."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--inside", name, *(["--dry"] if dry else [])]
    begin, status, error = time.monotonic(), "done", ""
    try:
        process = run(command, capture_output=True, text=True, timeout=seconds)
        output = process.stdout
        if process.returncode:
            status, error = "failed", "\n".join(process.stderr.splitlines()[-KEPT:])
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        status, error = "out of time", f"limit {seconds:.0f} s"
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
    return {"part": name, "status": status, "error": error, "seconds": time.monotonic() - begin, "rows": rows}


def table(parts: list[dict[str, Any]]) -> str:
    """Markdown: one table per part, a line per row."""
    pieces = []
    for part in parts:
        pieces.append(f"**{part['part']}**, {part['device']}: {part['status']} after {part['seconds']:.0f} s")
        if part["rows"]:
            names = list(dict.fromkeys(name for row in part["rows"] for name in row))
            lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
            lines += [f"| {' | '.join(_cell(row.get(name)) for name in names)} |" for row in part["rows"]]
            pieces.append("\n".join(lines))
        if part["error"]:
            last = "\n".join(part["error"].splitlines()[-5:])
            pieces.append(f"```\n{last}\n```")
    return "\n\n".join(pieces)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_command(main)
