"""Run the tests with the oldest or the newest versions that ngopt allows, each in an environment of its own.

    python -m benchmarks.versions oldest      # every floor of pyproject.toml, as it is written there
    python -m benchmarks.versions newest --tests tests/graph tests/optim

What was run, and with what, goes into benchmarks/results/versions.json and into the table of docs/developers.md. Output
of the tests goes into tests.log in the environment's folder. Downloads some GB where torch comes built for GPUs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.pages import fill_pages
from benchmarks.common.results import RESULTS, put_row, read_results

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "developers.md"
TESTS = (
    *("tests/graph", "tests/encoder", "tests/optim", "tests/meta_train", "tests/test_testing.py", "tests/test_docs.py"),
    *("tests/test_extras.py", "tests/test_files.py", "tests/test_damaged_files.py", "tests/test_hubconf.py"),
)  # benchmarks need packages of others, of newer versions
TOOLS = ("pytest>=8", "hypothesis>=6.100")
SHOWN = ("torch", "numpy", "torch_geometric", "safetensors", "einops")
FLOOR = re.compile(r'"([A-Za-z0-9_-]+)>=([0-9.]+)')


def requirements(which: str, pyproject: str) -> list[str]:
    """What to install: each dependency at its floor, or without any limit."""
    parts = re.findall(r"^(?:dependencies|encoders|train) = \[(.*?)\]", pyproject, re.MULTILINE | re.DOTALL)
    floors = [pair for part in parts for pair in FLOOR.findall(part)]
    if which == "newest":
        return [name for name, _ in floors]
    return [f"{name}=={version}" if name != "tomli" else name for name, version in floors]


def main(argv: Sequence[str] | None = None) -> int:
    """Make the environment, run the tests, keep what came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=main.__doc__)
    parser.add_argument("which", choices=("oldest", "newest"))
    parser.add_argument("--python", default=sys.executable, help="interpreter; default: this one")
    parser.add_argument("--tests", nargs="*", default=TESTS)
    parser.add_argument("--environment", type=Path, help="folder; default: .venv-WHICH")
    options = parser.parse_args(argv)
    folder = options.environment or ROOT / f".venv-{options.which}"
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        subprocess.run([options.python, "-m", "venv", str(folder)], check=True)
    wanted = requirements(options.which, (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    upgrade = ["--upgrade"] if options.which == "newest" else []
    subprocess.run([python, "-m", "pip", "install", "--quiet", *upgrade, *wanted, *TOOLS], check=True)
    log = folder / "tests.log"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [python, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-rfE", "-W", "default", *options.tests],
            cwd=ROOT,
            env={"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", **os.environ},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    output = log.read_text(encoding="utf-8")
    print(output[-4000:])
    keep(RESULTS / "versions.json", row(options.which, python, list(options.tests), output))
    return done.returncode


def row(which: str, python: str, tests: list[str], output: str) -> dict[str, Any]:
    """One line of the table: versions, tests, and how many passed, failed and were skipped."""
    code = "import json, sys; from importlib.metadata import version\n"
    code += f"print(json.dumps({{n: version(n) for n in {SHOWN}}} | {{'python': sys.version.split()[0]}}))"
    versions = json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)
    last = output.rstrip().rsplit("\n", 1)[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"which": which, "versions": versions, "date": date, "tests": tests, "counts": counts}


def keep(path: Path, new: dict[str, Any], page: Path = PAGE) -> None:
    """Store a row in place of an older one with the same versions, and put the table into the documentation."""
    command = ["python", "-m", "benchmarks.versions"]
    put_row(path, new, ["versions"], {}, command, order=lambda r: _number(r["versions"]["torch"]))
    fill_pages("versions", table(read_results(path)["rows"]), [page])


def _number(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [f"| Python | {' | '.join(SHOWN)} | date | tests | result |", "|---" * (len(SHOWN) + 4) + "|"]
    for r in rows:
        versions = [r["versions"]["python"], *(r["versions"][name] for name in SHOWN)]
        counts = ", ".join(f"{number} {word}" for word, number in r["counts"].items())
        lines.append(f"| {' | '.join(versions)} | {r['date']} | {' '.join(f'`{t}`' for t in r['tests'])} | {counts} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
