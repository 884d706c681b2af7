"""Read a set of networks: every file checked against the manifest, every network checked to be finite."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.manifests import not_made
from benchmarks.common.shards import read_shard
from benchmarks.inr_data.manifest import read_manifest
from benchmarks.inr_data.plan import SPLITS, folder, originals, set_name
from benchmarks.inr_data.siren import Params
from meta_train.data import load as load_images


@dataclass(frozen=True)
class InrSet:
    """The networks of one split, and what they were fitted to."""

    params: Params  # name -> [net, *shape]
    labels: Tensor  # int64 [net]
    image_index: Tensor  # int64 [net], in the official training images, or (split test) test images; -1: unknown
    psnr: Tensor  # float32 [net], dB; nan: unknown
    height: int
    width: int
    channels: int
    name: str
    split: str
    omega: float
    copy: Tensor  # int64 [net]: 0, or which of the extra fits of the same image
    root: Path | None = None  # of the images
    fetch: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> InrSet:
        """Some of the networks: integers or booleans, as tensors are indexed."""
        params = {name: tensor[index] for name, tensor in self.params.items()}
        per_net = {name: getattr(self, name)[index] for name in ("labels", "image_index", "psnr", "copy")}
        return replace(self, params=params, **per_net)

    def images(self) -> Tensor:  # float32 [net, channel, height, width]
        """The images that the networks were fitted to, from 0 to 1.

        Raises:
            ValueError: It is not known which images these were.
        """
        if (self.image_index < 0).any():
            raise ValueError(f"It is not known which images of {self.name} these networks were fitted to.")
        data = load_images(self.name, self.root, fetch=self.fetch)
        return originals(data, self.split, self.image_index)[0]


def load(
    dataset: str,
    size: str,
    root: Path | str | None = None,
    fetch: bool = True,
    *,
    init: str = "ngopt",
    below_floor: bool = False,
) -> dict[str, InrSet]:
    """Load a set of networks that was made by ``python -m benchmarks.inr_data fit``.

    Args:
        dataset: ``mnist``, ``fashion-mnist``, ``cifar10`` or ``digits``.
        size: ``smoke``, ``small``, ``medium``, ``large`` or ``full``.
        root: Data root; see `meta_train.data.data_root`.
        fetch: Whether `InrSet.images` may download images that are missing. Networks are never fetched or made here.
        init: Their kind: ``ngopt``, ``dws`` or ``nfn``; see `benchmarks.inr_data.kinds`.
        below_floor: Keep networks that stayed below the PSNR floor; the manifest names them.

    Returns:
        Splits ``train``, ``val`` and ``test``. Copies of an image are in its split.

    Raises:
        ValueError: An unknown name, or files that are not what the manifest says.
        DataMissingError: There is no such set; the message has the command that makes it.
    """
    place = folder(dataset, size, root, init)
    try:
        manifest = read_manifest(place)
    except FileNotFoundError:
        raise not_made(place, "set", _command(dataset, size, init), root) from None
    found = manifest["dataset"], manifest["size"], manifest["settings"].get("init", "ngopt")
    if found != (dataset, size, init):
        raise ValueError(f"{place} holds {set_name(found[0], found[2])}-{found[1]}. Put it where its name says.")
    parts: dict[str, list[dict[str, Tensor]]] = {split: [] for split in SPLITS}
    for entry in manifest["shards"]:
        tensors = read_shard(place / entry["file"], entry["sha256"], _shapes(manifest, entry["count"]))
        tensors["copy"] = torch.full((entry["count"],), entry["copy"])
        keep = _good(tensors, place / entry["file"], entry, below_floor)
        parts[entry["split"]].append({name: tensor[keep] for name, tensor in tensors.items()})
    sets = {split: _joined(parts[split], manifest, split, root, fetch) for split in SPLITS}
    _check_disjoint(sets)
    return sets


def _command(dataset: str, size: str, init: str) -> str:
    words = f"benchmarks.inr_data fit {dataset} --size {size}"
    return words if init == "ngopt" else f"{words} --init {init}"


def _shapes(manifest: dict[str, Any], count: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a shard with so many networks."""
    shapes = {name: (count, *shape) for name, shape in manifest["architecture"]["shapes"].items()}
    return shapes | {name: (count,) for name in ("label", "image_index", "psnr", "attempt")}


def _good(tensors: dict[str, Tensor], path: Path, entry: dict[str, Any], below_floor: bool) -> Tensor:  # bool [net]
    """Which networks to keep. The manifest owns up to some bad ones; any others are worth a warning."""
    keep = torch.ones(entry["count"], dtype=torch.bool)
    named = [bad["position"] for bad in entry["below_floor"] if not below_floor or bad["psnr"] is None]
    keep[named] = False
    finite = torch.stack(
        [t.flatten(1).isfinite().all(1) for t in tensors.values() if t.is_floating_point() and t.dim() > 1]
    )
    if len(bad := (keep & ~finite.all(0)).nonzero().flatten()):
        images = tensors["image_index"][bad].tolist()
        warnings.warn(f"{path}: {len(bad)} networks are not finite and are left out, of images {images}.", stacklevel=3)
    return keep & finite.all(0)


def _joined(
    parts: list[dict[str, Tensor]], manifest: dict[str, Any], split: str, root: Path | str | None, fetch: bool
) -> InrSet:
    if not parts:
        raise ValueError(f"The manifest of {manifest['dataset']}-{manifest['size']} has no shard of split {split}.")
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    architecture = manifest["architecture"]
    height, width, channels = architecture["image"]
    return InrSet(
        params={name: whole[name] for name in architecture["shapes"]},
        labels=whole["label"],
        image_index=whole["image_index"],
        psnr=whole["psnr"],
        height=height,
        width=width,
        channels=channels,
        name=manifest["dataset"],
        split=split,
        omega=architecture["omega"],
        copy=whole["copy"],
        root=Path(root) if root else None,
        fetch=fetch,
    )


def _check_disjoint(sets: dict[str, InrSet]) -> None:
    """Train and val are from the same official images: none may be in both, in whichever copy."""
    both = set(sets["train"].image_index.tolist()) & set(sets["val"].image_index.tolist())
    if both:
        raise ValueError(f"Images {sorted(both)[:10]} are in train and in val. Make the set again.")
