"""A Debian package, fetched and unpacked without root: a .deb is an ar archive that holds a tar archive."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

UPDATE_SECONDS = 120
DOWNLOAD_SECONDS = 300
AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60


def download_deb(package: str, folder: Path) -> Path:
    """Download a package with apt, which checks its signature; system files are left as they are.

    If apt has no package lists, or old ones, they are fetched into ``folder``, not into the system's.

    Raises:
        OSError: There is no apt, or it cannot find or reach the package.
    """
    if shutil.which("apt-get") is None:
        raise OSError("there is no apt-get")
    lists, cache = folder / "lists", folder / "cache"
    for path in (lists / "partial", cache / "archives" / "partial"):
        path.mkdir(parents=True)
    private = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={cache}"]
    private += ["-o", "APT::Sandbox::User=", "-o", "Acquire::Languages=none"]
    try:
        _apt(["download", package], folder, DOWNLOAD_SECONDS)
    except OSError:
        _apt([*private, "update"], folder, UPDATE_SECONDS)
        _apt([*private, "download", package], folder, DOWNLOAD_SECONDS)
    found = sorted(folder.glob(f"{package}_*.deb"))
    if not found:
        raise OSError(f"apt-get download {package} left no package")
    return found[-1]


def _apt(arguments: list[str], folder: Path, seconds: int) -> None:
    try:
        done = subprocess.run(["apt-get", "-qq", *arguments], cwd=folder, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"apt-get {arguments[-1]} took more than {seconds} s") from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise OSError(f"apt-get failed: {last[0]}")


def ar_members(data: bytes) -> dict[str, bytes]:
    """Members of an ar archive, by name.

    Raises:
        ValueError: It is not an ar archive, or it is cut off.
    """
    if not data.startswith(AR_MAGIC):
        raise ValueError(f"Not an ar archive: it begins with {data[:8]!r}.")
    members, at = {}, len(AR_MAGIC)
    while at < len(data):
        header = data[at : at + AR_HEADER]
        if len(header) < AR_HEADER or header[58:] != b"`\n":
            raise ValueError(f"The ar archive has a damaged header at byte {at}.")
        size = int(header[48:58])
        at += AR_HEADER
        if at + size > len(data):
            raise ValueError("The ar archive is cut off.")
        members[header[:16].decode().strip().rstrip("/")] = data[at : at + size]
        at += size + size % 2  # members begin at even bytes
    return members


def deb_files(deb: bytes) -> dict[str, bytes]:
    """Regular files of a .deb, by base name.

    Raises:
        ValueError: It is not a .deb, or is compressed in a way that this Python cannot read.
    """
    members = ar_members(deb)
    name = next((name for name in members if name.startswith("data.tar")), None)
    if name is None:
        raise ValueError(f"Not a .deb: it holds {sorted(members)}, and no data.tar.")
    return tar_files(members[name])


def tar_files(data: bytes) -> dict[str, bytes]:
    """Regular files of a tar archive, compressed or not, by base name. Nothing is written to disk.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            contents = {}
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)) is not None:
                    contents[Path(member.name).name] = file.read()
            return contents
    except tarfile.TarError as error:
        raise ValueError(f"The tar archive cannot be read: {error}") from error
