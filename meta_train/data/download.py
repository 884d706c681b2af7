"""One file over HTTP, with a progress bar, a limit on silence, and a limit on the whole."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

from ngopt.extras import extra

SILENCE = 15.0  # seconds without an answer or without data
WHOLE = 600.0  # seconds for a file
CHUNK = 1 << 18


def download(url: str, target: Path, *, silence: float = SILENCE, whole: float = WHOLE) -> Path:
    """Download a file.

    Raises:
        OSError: It cannot be reached (`urllib.error.URLError`), or takes too long (`TimeoutError`).
    """
    with extra("train", "downloading"):
        from tqdm import tqdm
    deadline = time.monotonic() + whole
    with urllib.request.urlopen(url, timeout=silence) as response, target.open("wb") as file:
        size = int(response.headers.get("Content-Length") or 0)
        with tqdm(desc=target.name, total=size or None, unit="B", unit_scale=True, leave=False) as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{url} took more than {whole:.0f} s")
    if size and target.stat().st_size != size:
        raise OSError(f"{url} ended after {target.stat().st_size} of {size} bytes")
    return target
